"""Figures of data health: finding wrong labels, and influence by class. Pure functions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.charts import transparent
from app.method_style import GRAY, ORANGE, method_color, method_dash

CHANCE = {"color": GRAY, "width": 1, "dash": "dot"}
SCALE = [[0.0, ORANGE], [0.5, "rgba(125,135,149,0.12)"], [1.0, "#2f7fd1"]]
"""Orange hurts, blue helps, as everywhere."""


def auc_figure(rows: pd.DataFrame, current: str) -> go.Figure:
    """Return the AUC of each configuration at its λ* as a dot with its interval, best on top.

    Args:
        rows: configuration_id, method, label, auc, auc_low, auc_high, regularization (text); in the order from the top.
        current: Configuration that is being looked at.
    """
    figure = go.Figure()
    names = rows["label"].tolist()
    is_current = [identity == current for identity in rows["configuration_id"]]
    colors = [method_color(str(name)) for name in rows["method"]]
    keep = {"marker": {"opacity": 1}}
    figure.add_scatter(
        x=rows["auc"], y=names, mode="markers", customdata=[[identity] for identity in rows["configuration_id"]],
        marker={"color": colors, "size": [13 if chosen else 10 for chosen in is_current],
                "line": {"width": [2.4 if chosen else 0 for chosen in is_current], "color": "#e8590c"}},
        selected=keep, unselected=keep, text=rows["details"], hovertemplate="%{text}<extra></extra>",
        error_x={
            "type": "data", "symmetric": False, "array": rows["auc_high"] - rows["auc"],
            "arrayminus": rows["auc"] - rows["auc_low"], "color": transparent(GRAY, 0.8), "thickness": 2, "width": 0,
        },
    )  # fmt: skip
    figure.add_vline(x=0.5, line=CHANCE)
    figure.update_layout(
        height=90 + 28 * len(names), margin={"l": 8, "r": 12, "t": 10, "b": 8}, hovermode="closest", dragmode=False,
        showlegend=False, clickmode="event+select", hoverdistance=40,
    )  # fmt: skip
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=names[::-1], automargin=True, ticks="", showgrid=True,
        range=[-0.6, len(names) - 0.4],
    )  # fmt: skip
    figure.update_xaxes(title="AUC, 95 % interval (0.5: chance)", zeroline=False, ticks="outside", showgrid=True)
    return figure


def recall_figure(rows: pd.DataFrame, shares: np.ndarray, height: int = 340) -> go.Figure:
    """Return the share of wrong labels found against the share of examples inspected.

    Args:
        rows: method, label, recall, recall_low, recall_high (lists over shares); a band for a single row.
        shares: Inspected shares.
        height: Pixels.
    """
    figure = go.Figure()
    x = [0.0, *shares, 1.0]
    for row in rows.to_dict("records"):
        color, dash = method_color(str(row["method"])), method_dash(str(row["method"]))
        if len(rows) == 1:
            low, high = [0.0, *row["recall_low"], 1.0], [0.0, *row["recall_high"], 1.0]
            figure.add_scatter(
                x=[*x, *x[::-1]], y=[*high, *low[::-1]], fill="toself", fillcolor=transparent(color, 0.15),
                line={"width": 0}, hoverinfo="skip", showlegend=False, mode="lines",
            )  # fmt: skip
        figure.add_scatter(
            x=x, y=[0.0, *row["recall"], 1.0], name=str(row["label"]), mode="lines+markers",
            line={"color": color, "width": 2.2, "dash": dash}, marker={"size": 5, "color": color},
            hovertemplate="%{x:.0%} inspected: %{y:.0%} found<extra>" + str(row["label"]) + "</extra>",
        )  # fmt: skip
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="chance", line=CHANCE, hoverinfo="skip")
    figure.update_xaxes(title="inspected, highest self-influence first", tickformat=".0%", ticks="outside")
    figure.update_yaxes(title="wrong labels found", tickformat=".0%", zeroline=False, automargin=True)
    figure.update_layout(
        height=height + 20 * len(rows), margin={"l": 8, "r": 12, "t": 10, "b": 8}, dragmode=False,
        legend={"orientation": "v", "y": -0.25, "yanchor": "top", "x": 0},
    )  # fmt: skip
    return figure


def class_figure(query_names: list[str], train_names: list[str], means: np.ndarray) -> go.Figure:
    """Return the mean score of every pair of classes; colours by sign, on a scale that shows small values too.

    Args:
        query_names: Up.
        train_names: Along.
        means: ``[query class, train class]``.
    """
    shown = np.sign(means) * np.sqrt(np.abs(means))
    limit = float(np.abs(shown).max()) or 1.0
    texts = [[f"{value:.2g}".replace("-", "−") for value in row] for row in means]
    figure = go.Figure()
    figure.add_heatmap(
        z=shown, x=train_names, y=query_names, zmin=-limit, zmax=limit, colorscale=SCALE, showscale=False,
        text=texts, texttemplate="%{text}" if len(train_names) <= 12 else None, customdata=means, xgap=1, ygap=1,
        hovertemplate="training class %{x} → query class %{y}<br>mean score %{customdata:.3g}<extra></extra>",
    )  # fmt: skip
    size = max(26, min(44, 420 // max(1, len(query_names))))
    figure.update_layout(
        height=90 + size * len(query_names), margin={"l": 8, "r": 12, "t": 10, "b": 8}, dragmode=False,
        hovermode="closest",
    )  # fmt: skip
    figure.update_xaxes(title="class of the training examples", type="category", ticks="", automargin=True)
    figure.update_yaxes(title="class of the queries", type="category", ticks="", automargin=True, autorange="reversed")
    return figure


def usage_figure(num_top: np.ndarray, top: int, num_queries: int, height: int = 260) -> go.Figure:
    """Return how many training examples are among the top of how many queries.

    Args:
        num_top: Number of queries, by training example.
        top: Length of each query's list.
        num_queries: m.
        height: Pixels.
    """
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
        x=names, y=counts, marker_line_width=0, marker_color=[GRAY, *["#2f7fd1"] * (len(names) - 1)],
        hovertemplate=f"top {top} of %{{x}} of {num_queries} queries: %{{y}} training examples<extra></extra>",
    )  # fmt: skip
    figure.update_layout(height=height, margin={"l": 8, "r": 12, "t": 10, "b": 8}, dragmode=False, bargap=0.12)
    figure.update_xaxes(title=f"queries that have it among their top {top}", type="category", ticks="outside")
    figure.update_yaxes(title="training examples", zeroline=False, automargin=True)
    return figure
