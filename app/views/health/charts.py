"""Figures of data health: finding wrong labels, and influence by class. Pure functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.formats import lds_text, regularization_text
from app.shared.charts import Marker, add_marker, comparison_figure, transparent
from app.shared.curves import NamedCurve, lambdas, on_grid, zero_position
from app.shared.method_style import GRAY, method_color, method_dash
from app.shared.signs import SCALE, rooted
from tda_backend.interfaces.reading.influence import ClassInfluence, Usage
from tda_backend.interfaces.reading.records.noisy_labels import Detection

CHANCE = {"color": GRAY, "width": 1, "dash": "dot"}


def auc_figure(rows: Sequence[Detection], current: str) -> go.Figure:
    """Return the AUC of each configuration at its λ* as a dot with its interval, best on top.

    Args:
        rows: One for each configuration, in the order from the top.
        current: Configuration that is being looked at.
    """
    figure = go.Figure()
    names = [row.label for row in rows]
    is_current = [row.configuration_id == current for row in rows]
    keep = {"marker": {"opacity": 1}}
    figure.add_scatter(
        x=[row.auc for row in rows],
        y=names,
        mode="markers",
        customdata=[[row.configuration_id] for row in rows],
        marker={
            "color": [method_color(row.method) for row in rows],
            "size": [13 if chosen else 10 for chosen in is_current],
            "line": {"width": [2.4 if chosen else 0 for chosen in is_current], "color": "#e8590c"},
        },
        selected=keep,
        unselected=keep,
        text=[_details(row) for row in rows],
        hovertemplate="%{text}<extra></extra>",
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [row.auc_high - row.auc for row in rows],
            "arrayminus": [row.auc - row.auc_low for row in rows],
            "color": transparent(GRAY, 0.8),
            "thickness": 2,
            "width": 0,
        },
    )
    figure.add_vline(x=0.5, line=CHANCE)
    figure.update_layout(
        height=90 + 28 * len(names),
        margin={"l": 8, "r": 12, "t": 10, "b": 8},
        hovermode="closest",
        dragmode=False,
        showlegend=False,
        clickmode="event+select",
        hoverdistance=40,
    )
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=names[::-1],
        automargin=True,
        ticks="",
        showgrid=True,
        range=[-0.6, len(names) - 0.4],
    )
    figure.update_xaxes(title="AUC, 95 % interval (0.5: chance)", zeroline=False, ticks="outside", showgrid=True)
    return figure


def _details(row: Detection) -> str:
    at = "" if row.regularization is None else f"<br>λ* = {regularization_text(row.regularization)}"
    return f"<b>{row.label}</b><br>AUC {lds_text(row.auc, row.auc_low, row.auc_high)}{at}"


def recall_figure(row: Detection, shares: np.ndarray, height: int = 360) -> go.Figure:
    """Return the share of wrong labels found against the share of examples inspected, with its 95 % band.

    Args:
        row: Of one configuration.
        shares: Inspected shares.
        height: Pixels.
    """
    figure = go.Figure()
    x = [0.0, *shares, 1.0]
    color, dash = method_color(row.method), method_dash(row.method)
    low, high = [0.0, *row.recall_low, 1.0], [0.0, *row.recall_high, 1.0]
    figure.add_scatter(
        x=[*x, *x[::-1]],
        y=[*high, *low[::-1]],
        fill="toself",
        fillcolor=transparent(color, 0.15),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        mode="lines",
    )
    figure.add_scatter(
        x=x,
        y=[0.0, *row.recall, 1.0],
        name=row.label,
        mode="lines+markers",
        line={"color": color, "width": 2.2, "dash": dash},
        marker={"size": 5, "color": color},
        hovertemplate="%{x:.0%} inspected: %{y:.0%} found<extra>" + row.label + "</extra>",
    )
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="chance", line=CHANCE, hoverinfo="skip")
    figure.update_xaxes(title="inspected, highest self-influence first", tickformat=".0%", ticks="outside")
    figure.update_yaxes(title="wrong labels found", tickformat=".0%", zeroline=False, automargin=True)
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 12, "t": 10, "b": 8},
        dragmode=False,
        legend={"orientation": "v", "y": -0.25, "yanchor": "top", "x": 0},
    )
    return figure


def auc_curve_figure(curve: NamedCurve, title: str) -> go.Figure:
    """Return the AUC over λ with its band, and a line at λ*; one that lies below the grid stands at its low end.

    Args:
        curve: AUC at every λ; the point of λ* is marked.
        title: What λ is.
    """
    figure = comparison_figure([curve], title, 340, "AUC (0.5: chance)").update_layout(showlegend=False)
    selected = next((point.regularization for point in curve.points if point.is_selected), None)
    if selected:
        zero = zero_position(lambdas(on_grid(curve.points)))
        add_marker(figure, selected, Marker("λ*", curve.color, "solid"), zero)
    return figure


def class_figure(found: ClassInfluence) -> go.Figure:
    """Return the mean score of every pair of classes; colours by sign, on a scale that shows small values too."""
    shown, limit = rooted(found.means)
    texts = [[f"{value:.2g}".replace("-", "−") for value in row] for row in found.means]
    figure = go.Figure()
    figure.add_heatmap(
        z=shown,
        x=found.train,
        y=found.queries,
        zmin=-limit,
        zmax=limit,
        colorscale=SCALE,
        showscale=False,
        text=texts,
        texttemplate="%{text}" if len(found.train) <= 12 else None,
        customdata=found.means,
        xgap=1,
        ygap=1,
        hovertemplate="training class %{x} → query class %{y}<br>mean score %{customdata:.3g}<extra></extra>",
    )
    size = max(26, min(44, 420 // max(1, len(found.queries))))
    figure.update_layout(
        height=90 + size * len(found.queries),
        margin={"l": 8, "r": 12, "t": 10, "b": 8},
        dragmode=False,
        hovermode="closest",
    )
    figure.update_xaxes(title="class of the training examples", type="category", ticks="", automargin=True)
    figure.update_yaxes(title="class of the queries", type="category", ticks="", automargin=True, autorange="reversed")
    return figure


def usage_figure(usage: Usage, num_queries: int, height: int = 260) -> go.Figure:
    """Return how many training examples are among the top of how many queries.

    Args:
        usage: Of every training example.
        num_queries: m.
        height: Pixels.
    """
    num_top = usage.num_top
    largest = int(num_top.max()) if len(num_top) else 0
    edges = [0, 1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]
    edges = [edge for edge in edges if edge <= largest] + [math.inf]
    names, counts = [], []
    for low, high in itertools.pairwise(edges):
        last = min(largest, high - 1)
        names.append(f"{low}" if last == low else f"{low}–{last:g}")
        counts.append(int(((num_top >= low) & (num_top < high)).sum()))
    figure = go.Figure()
    figure.add_bar(
        x=names,
        y=counts,
        marker_line_width=0,
        marker_color=[GRAY, *["#2f7fd1"] * (len(names) - 1)],
        hovertemplate=f"top {usage.top} of %{{x}} of {num_queries} queries: %{{y}} training examples<extra></extra>",
    )
    figure.update_layout(height=height, margin={"l": 8, "r": 12, "t": 10, "b": 8}, dragmode=False, bargap=0.12)
    figure.update_xaxes(title=f"queries that have it among their top {usage.top}", type="category", ticks="outside")
    figure.update_yaxes(title="training examples", zeroline=False, automargin=True)
    return figure
