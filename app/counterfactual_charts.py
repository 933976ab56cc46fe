"""Figures of counterfactual retraining: points behind an LDS, removal curves, leave-one-out. Pure functions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.charts import transparent
from app.formats import signed
from app.method_style import BLUE, DASHES, GRAY, GREEN, TEAL, VIOLET

CURVE_COLORS = (BLUE, GREEN, VIOLET, TEAL, "#8f9a2b", "#cc4058")
RANDOM_LABEL = "random, same class"


def curve_styles(labels: list[str]) -> dict[str, tuple[str, str]]:
    """Return colour and dash of each removal curve; the random baseline is grey and dotted."""
    chosen = [label for label in labels if label != RANDOM_LABEL]
    styles = {
        label: (CURVE_COLORS[number % len(CURVE_COLORS)], DASHES[number // len(CURVE_COLORS) % len(DASHES)])
        for number, label in enumerate(chosen)
    }
    return {**styles, RANDOM_LABEL: (GRAY, "dot")}


def _layout(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        height=height, margin={"l": 8, "r": 12, "t": 34, "b": 8}, hovermode="closest", dragmode=False,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "title": None},
    )  # fmt: skip
    figure.update_xaxes(showgrid=False, ticks="outside", automargin=True, zeroline=False)
    figure.update_yaxes(zeroline=False, automargin=True)
    return figure


def _below(figure: go.Figure, num_entries: int) -> go.Figure:
    """Put the legend below the axis, one line an entry: the labels are long and a telephone is narrow."""
    height = figure.layout.height + 20 * num_entries
    return figure.update_layout(
        height=height, margin={"t": 10}, legend={"orientation": "v", "y": -0.2, "yanchor": "top", "x": 0}
    )


def points_figure(points: pd.DataFrame, color: str, height: int = 360) -> go.Figure:
    """Return retrained goodness against the summed scores of each subset, one dot per subset.

    Args:
        points: subset, predicted, actual.
        color: ``#rrggbb``.
        height: Pixels.
    """
    figure = go.Figure()
    predicted, actual = points["predicted"].to_numpy(), points["actual"].to_numpy()
    if len(points) > 2 and np.ptp(predicted) > 0:
        slope, start = np.polyfit(predicted, actual, 1)
        ends = np.array([predicted.min(), predicted.max()])
        figure.add_scatter(
            x=ends, y=start + slope * ends, mode="lines", name="straight line", hoverinfo="skip",
            line={"color": GRAY, "width": 1.3, "dash": "dash"}, showlegend=False,
        )  # fmt: skip
    figure.add_scatter(
        x=predicted, y=actual, mode="markers", name="retrained subset", showlegend=False,
        marker={"color": transparent(color, 0.75), "size": 8}, customdata=points[["subset"]].to_numpy().tolist(),
        hovertemplate="subset %{customdata[0]}<br>predicted %{x:.3g}<br>retrained %{y:.3f}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title="predicted: mean score of what is in the subset")
    figure.update_yaxes(title="goodness after retraining")
    return _layout(figure, height)


def removal_figure(curves: pd.DataFrame, height: int = 380) -> go.Figure:
    """Return the share of flipped queries against the number removed, with 95 % bands.

    Args:
        curves: label, size, fraction, ci_low, ci_high, num_queries; in the order of the legend.
        height: Pixels.
    """
    figure = go.Figure()
    styles = curve_styles(list(dict.fromkeys(curves["label"])))
    for label, rows in curves.groupby("label", sort=False):
        color, dash = styles[str(label)]
        figure.add_scatter(
            x=[*rows["size"], *rows["size"][::-1]], y=[*rows["ci_high"], *rows["ci_low"][::-1]], fill="toself",
            fillcolor=transparent(color, 0.13), line={"width": 0}, hoverinfo="skip", showlegend=False, mode="lines",
        )  # fmt: skip
        figure.add_scatter(
            x=rows["size"], y=rows["fraction"], name=str(label), mode="lines+markers",
            line={"color": color, "width": 2.2, "dash": dash}, marker={"size": 7, "color": color},
            customdata=rows[["ci_low", "ci_high"]].to_numpy().tolist(),
            hovertemplate="%{x} removed: %{y:.0%} flipped (%{customdata[0]:.0%} to %{customdata[1]:.0%})"
            f"<extra>{label}</extra>",
        )  # fmt: skip
    figure.update_xaxes(title="training examples removed for each query", tickvals=sorted(set(curves["size"])))
    figure.update_yaxes(title="queries flipped", tickformat=".0%", range=[-0.03, 1.03])
    return _below(_layout(figure, height), curves["label"].nunique())


def goodness_figure(rows: pd.DataFrame, height: int = 320) -> go.Figure:
    """Return one query's goodness after retraining against the number removed; rings where it has flipped.

    Args:
        rows: label, size, mean_goodness, flipped, mean_correct.
        height: Pixels.
    """
    figure = go.Figure()
    styles = curve_styles(list(dict.fromkeys(rows["label"])))
    for label, own in rows.groupby("label", sort=False):
        color, dash = styles[str(label)]
        own = own.sort_values("size")
        texts = [
            f"{size} removed: {signed(value, 2)}{', flipped' if flipped else ''}"
            for size, value, flipped in zip(own["size"], own["mean_goodness"], own["flipped"], strict=True)
        ]
        figure.add_scatter(
            x=own["size"], y=own["mean_goodness"], name=str(label), mode="lines+markers",
            line={"color": color, "width": 2, "dash": dash}, text=texts, hovertemplate="%{text}<extra></extra>",
            marker={
                "size": [11 if flipped else 7 for flipped in own["flipped"]], "color": color,
                "symbol": ["circle-open" if flipped else "circle" for flipped in own["flipped"]],
            },
        )  # fmt: skip
    figure.add_hline(y=0, line={"color": GRAY, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="training examples removed", tickvals=sorted(set(rows["size"])))
    figure.update_yaxes(title="goodness after retraining")
    return _below(_layout(figure, height), rows["label"].nunique())


def effects_figure(points: pd.DataFrame, color: str, height: int = 340) -> go.Figure:
    """Return the measured effect of leaving out each example on one query against its score.

    Args:
        points: position, score, effect, standard_error (may be NaN), label.
        color: ``#rrggbb``.
        height: Pixels.
    """
    figure = go.Figure()
    known = bool(points["standard_error"].notna().all())
    figure.add_scatter(
        x=points["score"], y=points["effect"], mode="markers", showlegend=False,
        marker={"color": transparent(color, 0.8), "size": 9},
        customdata=points[["position", "label"]].to_numpy().tolist(),
        hovertemplate="training example %{customdata[0]}, label %{customdata[1]}<br>score %{x:.3g}<br>"
        "goodness lost without it %{y:.3g}<extra></extra>",
        error_y={"type": "data", "array": points["standard_error"], "color": transparent(color, 0.45), "width": 3}
        if known
        else None,
    )  # fmt: skip
    figure.add_hline(y=0, line={"color": GRAY, "width": 1, "dash": "dot"})
    figure.add_vline(x=0, line={"color": GRAY, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="score divided by n (positive: helps)")
    figure.update_yaxes(title="goodness lost without it")
    return _layout(figure, height)
