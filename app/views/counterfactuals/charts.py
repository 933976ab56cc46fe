"""Figures of counterfactual retraining: points behind an LDS, removal curves, leave-one-out. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import plotly.graph_objects as go

from app.formats import signed
from app.shared.charts import transparent
from app.shared.method_style import BLUE, DASHES, GRAY, GREEN, TEAL, VIOLET
from app.views.counterfactuals.data import LeftOut
from tda_backend.interfaces.reading.influence import SubsetPoints
from tda_backend.interfaces.reading.records.grouping import grouped
from tda_backend.interfaces.reading.records.removals import Removal, RemovalPoint

CURVE_COLORS = (BLUE, GREEN, VIOLET, TEAL, "#8f9a2b", "#cc4058")
RANDOM_LABEL = "random, same class"
ZERO = {"color": GRAY, "width": 1, "dash": "dot"}


def curve_styles(labels: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return colour and dash of each removal curve; the random baseline is grey and dotted."""
    chosen = [label for label in labels if label != RANDOM_LABEL]
    styles = {
        label: (CURVE_COLORS[number % len(CURVE_COLORS)], DASHES[number // len(CURVE_COLORS) % len(DASHES)])
        for number, label in enumerate(chosen)
    }
    return {**styles, RANDOM_LABEL: (GRAY, "dot")}


def _layout(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 12, "t": 34, "b": 8},
        hovermode="closest",
        dragmode=False,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "title": None},
    )
    figure.update_xaxes(showgrid=False, ticks="outside", automargin=True, zeroline=False)
    figure.update_yaxes(zeroline=False, automargin=True)
    return figure


def _below(figure: go.Figure, num_entries: int) -> go.Figure:
    """Put the legend below the axis, one line for each entry: the labels are long and a telephone is narrow."""
    height = figure.layout.height + 20 * num_entries
    return figure.update_layout(
        height=height, margin={"t": 10}, legend={"orientation": "v", "y": -0.2, "yanchor": "top", "x": 0}
    )


def points_figure(points: SubsetPoints, color: str, height: int = 360) -> go.Figure:
    """Return retrained goodness against the summed scores of each subset, one dot for each subset.

    Args:
        points: Of one query.
        color: ``#rrggbb``.
        height: Pixels.
    """
    figure = go.Figure()
    predicted, actual = points.predicted, points.actual
    if len(predicted) > 2 and np.ptp(predicted) > 0:
        slope, start = np.polyfit(predicted, actual, 1)
        ends = np.array([predicted.min(), predicted.max()])
        figure.add_scatter(
            x=ends,
            y=start + slope * ends,
            mode="lines",
            name="straight line",
            hoverinfo="skip",
            line={"color": GRAY, "width": 1.3, "dash": "dash"},
            showlegend=False,
        )
    figure.add_scatter(
        x=predicted,
        y=actual,
        mode="markers",
        name="retrained subset",
        showlegend=False,
        marker={"color": transparent(color, 0.75), "size": 8},
        customdata=[[subset] for subset in range(len(predicted))],
        hovertemplate="subset %{customdata[0]}<br>predicted %{x:.3g}<br>retrained %{y:.3f}<extra></extra>",
    )
    figure.update_xaxes(title="predicted: mean score of what is in the subset")
    figure.update_yaxes(title="goodness after retraining")
    return _layout(figure, height)


def removal_figure(points: Sequence[RemovalPoint], height: int = 380) -> go.Figure:
    """Return the share of flipped queries against the number removed, with 95 % bands.

    Args:
        points: Of all curves, in the order of the legend.
        height: Pixels.
    """
    figure = go.Figure()
    curves = grouped(points, lambda point: point.label)
    styles = curve_styles(curves)
    for label, rows in curves.items():
        color, dash = styles[label]
        sizes = [row.size for row in rows]
        figure.add_scatter(
            x=[*sizes, *sizes[::-1]],
            y=[*(row.ci_high for row in rows), *(row.ci_low for row in rows[::-1])],
            fill="toself",
            fillcolor=transparent(color, 0.13),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
            mode="lines",
        )
        figure.add_scatter(
            x=sizes,
            y=[row.fraction for row in rows],
            name=label,
            mode="lines+markers",
            line={"color": color, "width": 2.2, "dash": dash},
            marker={"size": 7, "color": color},
            customdata=[[row.ci_low, row.ci_high] for row in rows],
            hovertemplate="%{x} removed: %{y:.0%} flipped (%{customdata[0]:.0%} to %{customdata[1]:.0%})"
            f"<extra>{label}</extra>",
        )
    figure.update_xaxes(
        title="training examples removed for each query", tickvals=sorted({point.size for point in points})
    )
    figure.update_yaxes(title="queries flipped", tickformat=".0%", range=[-0.03, 1.03])
    return _below(_layout(figure, height), len(curves))


def goodness_figure(rows: Sequence[Removal], height: int = 320) -> go.Figure:
    """Return one query's goodness after retraining against the number removed; rings where it has flipped.

    Args:
        rows: Of the query.
        height: Pixels.
    """
    figure = go.Figure()
    curves = grouped(sorted(rows, key=lambda row: row.size), lambda row: row.label)
    labels = list(dict.fromkeys(row.label for row in rows))
    styles = curve_styles(labels)
    for label in labels:
        color, dash = styles[label]
        own = curves[label]
        figure.add_scatter(
            x=[row.size for row in own],
            y=[row.mean_goodness for row in own],
            name=label,
            mode="lines+markers",
            line={"color": color, "width": 2, "dash": dash},
            text=[
                f"{row.size} removed: {signed(row.mean_goodness, 2)}{', flipped' if row.flipped else ''}" for row in own
            ],
            hovertemplate="%{text}<extra></extra>",
            marker={
                "size": [11 if row.flipped else 7 for row in own],
                "color": color,
                "symbol": ["circle-open" if row.flipped else "circle" for row in own],
            },
        )
    figure.add_hline(y=0, line=ZERO)
    figure.update_xaxes(title="training examples removed", tickvals=sorted({row.size for row in rows}))
    figure.update_yaxes(title="goodness after retraining")
    return _below(_layout(figure, height), len(labels))


def effects_figure(points: Sequence[LeftOut], color: str, height: int = 340) -> go.Figure:
    """Return the measured effect of leaving out each example on one query against its score.

    Args:
        points: The examples left out.
        color: ``#rrggbb``.
        height: Pixels.
    """
    figure = go.Figure()
    errors = [point.standard_error for point in points]
    known = not any(math.isnan(error) for error in errors)
    figure.add_scatter(
        x=[point.score for point in points],
        y=[point.effect for point in points],
        mode="markers",
        showlegend=False,
        marker={"color": transparent(color, 0.8), "size": 9},
        customdata=[[point.position, point.label] for point in points],
        hovertemplate="training example %{customdata[0]}, label %{customdata[1]}<br>score %{x:.3g}<br>"
        "goodness lost without it %{y:.3g}<extra></extra>",
        error_y={"type": "data", "array": errors, "color": transparent(color, 0.45), "width": 3} if known else None,
    )
    figure.add_hline(y=0, line=ZERO)
    figure.add_vline(x=0, line=ZERO)
    figure.update_xaxes(title="score divided by n (positive: helps)")
    figure.update_yaxes(title="goodness lost without it")
    return _layout(figure, height)
