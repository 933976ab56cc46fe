"""Figures that compare methods: quality beside cost, scores by layer, LDS by hyper-parameter. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.charts import transparent
from app.formats import duration_text, lds_text
from app.method_style import FAMILIES, GRAY, family, method_color

LAYER_COLORS = ("#2f7fd1", "#2a9d80", "#9a63cf", "#1596b5", "#8f9a2b", "#cc4058", "#7d8795")
ROW = 26  # pixels of one method


def methods_figure(frame: pd.DataFrame, current: str, narrow: bool = False) -> go.Figure:
    """Return LDS with its interval as a dot for each method, best on top, beside the seconds it cost.

    Args:
        frame: One row per method, in the order of the figure from the top: configuration_id, method, method_title,
            lds, low, high, seconds, regularization, details. LDS may be missing.
        current: Configuration that is being looked at.
        narrow: Leave the cost out.
    """
    columns = 1 if narrow else 2
    figure = make_subplots(
        rows=1, cols=columns, shared_yaxes=True, horizontal_spacing=0.03, column_widths=[1] if narrow else [0.62, 0.38]
    )
    frame = frame.assign(method_title=frame["method_title"].str.replace("Influence function (", "IF (", regex=False))
    names = frame["method_title"].tolist()
    for name in FAMILIES:
        rows = frame[[family(method) == name for method in frame["method"]]]
        if not len(rows):
            continue
        color = method_color(rows["method"].iloc[0])
        key = {"color": color, "size": 10}  # of the legend: a ring or a missing LDS must not change it
        figure.add_scatter(x=[None], y=names[:1], mode="markers", name=name, marker=key, row=1, col=1)
        _add_dots(figure, rows[rows["lds"].notna()], name, current)
        if not narrow:
            _add_costs(figure, rows[rows["seconds"].notna()], name, current)
    height = 96 + ROW * len(names)
    figure.update_yaxes(
        type="category", categoryorder="array", categoryarray=names[::-1], showgrid=True, automargin=True, ticks="",
        range=[-0.6, len(names) - 0.4],
    )  # fmt: skip
    figure.update_xaxes(showgrid=True, zeroline=True, zerolinewidth=1, ticks="outside")
    figure.update_xaxes(title="LDS, 95 % interval", row=1, col=1)
    if not narrow:
        figure.update_xaxes(title="cost, seconds", type="log", zeroline=False, dtick=1, row=1, col=2)
    figure.update_layout(
        height=height, margin={"l": 8, "r": 12, "t": 40, "b": 8}, hovermode="closest", dragmode=False,
        clickmode="event+select", hoverdistance=40,
        legend={
            "orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "itemclick": False, "itemdoubleclick": False,
        },
    )  # fmt: skip
    return figure


def _marker(rows: pd.DataFrame, current: str) -> dict:
    is_current = [identity == current for identity in rows["configuration_id"]]
    return {
        "color": [method_color(method) for method in rows["method"]],
        "size": [13 if chosen else 10 for chosen in is_current],
        "line": {"width": [2.4 if chosen else 0 for chosen in is_current], "color": "#e8590c"},
    }


def _shared(rows: pd.DataFrame, current: str) -> dict:
    keep = {"marker": {"opacity": 1}}
    return {
        "y": rows["method_title"], "mode": "markers", "marker": _marker(rows, current), "selected": keep,
        "unselected": keep, "customdata": [[identity] for identity in rows["configuration_id"]],
        "hovertemplate": "%{text}<extra></extra>",
    }  # fmt: skip


def _add_dots(figure: go.Figure, rows: pd.DataFrame, name: str, current: str) -> None:
    if not len(rows):
        return
    color = method_color(rows["method"].iloc[0])
    figure.add_scatter(
        x=rows["lds"], name=name, showlegend=False, row=1, col=1, **_shared(rows, current),
        text=[
            f"<b>{r.method_title}</b><br>LDS {lds_text(r.lds, r.low, r.high)}<br>{r.details}" for r in rows.itertuples()
        ],
        error_x={
            "type": "data", "symmetric": False, "array": rows["high"] - rows["lds"],
            "arrayminus": rows["lds"] - rows["low"], "color": transparent(color, 0.75), "thickness": 2, "width": 0,
        },
    )  # fmt: skip


def _add_costs(figure: go.Figure, rows: pd.DataFrame, name: str, current: str) -> None:
    figure.add_scatter(
        x=rows["seconds"].clip(lower=0.01), name=name, showlegend=False, row=1, col=2, **_shared(rows, current),
        text=[f"<b>{r.method_title}</b><br>{duration_text(r.seconds)}" for r in rows.itertuples()],
    )  # fmt: skip


def layer_figure(names: Sequence[str], shares: Mapping[str, np.ndarray]) -> go.Figure:
    """Return each example's score as a bar split over layers.

    Args:
        names: c examples.
        shares: Layer → scores ``[c]``.
    """
    figure = go.Figure()
    for number, (layer, values) in enumerate(shares.items()):
        figure.add_bar(
            y=list(names), x=values, name=layer, orientation="h", marker_line_width=0,
            marker_color=LAYER_COLORS[number % len(LAYER_COLORS)],
            marker_pattern_shape="" if number < len(LAYER_COLORS) else "/",
            hovertemplate="%{y}<br>" + layer.replace("{", "(") + ": %{x:.3g}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        barmode="relative", bargap=0.25, height=90 + 19 * len(names), margin={"l": 8, "r": 12, "t": 34, "b": 8},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "traceorder": "normal"}, dragmode=False,
    )  # fmt: skip
    figure.update_xaxes(title="score, split over layers (positive helps)", zeroline=True, zerolinewidth=1)
    figure.update_yaxes(autorange="reversed", automargin=True, ticks="", tickfont={"size": 11})
    return figure


def line_figure(lines: Sequence[tuple[str, str, str, pd.DataFrame]], title: str, logarithmic: bool) -> go.Figure:
    """Return LDS with its interval against one hyper-parameter.

    Args:
        lines: (legend entry, colour, dash, frame with value (text), number (may be missing), mean, ci_low, ci_high).
        title: The hyper-parameter.
        logarithmic: Whether its values are numbers on a logarithmic axis; else categories.
    """
    figure = go.Figure()
    for name, color, dash, frame in lines:
        x = frame["number"] if logarithmic else frame["value"]
        figure.add_scatter(
            x=x, y=frame["mean"], name=name, mode="lines+markers",
            line={"color": color, "width": 2.2, "dash": dash}, marker={"size": 8, "color": color},
            customdata=frame[["ci_low", "ci_high"]].to_numpy().tolist(),
            hovertemplate="%{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})",
            error_y={
                "type": "data", "symmetric": False, "array": frame["ci_high"] - frame["mean"],
                "arrayminus": frame["mean"] - frame["ci_low"], "color": transparent(color or GRAY, 0.6), "width": 4,
            },
        )  # fmt: skip
    figure.update_layout(
        height=300, margin={"l": 8, "r": 12, "t": 34, "b": 8}, hovermode="x unified", showlegend=len(lines) > 1,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    figure.update_yaxes(title="LDS (mean over queries)", zeroline=False, automargin=True)
    figure.update_xaxes(title=title, showgrid=False, ticks="outside")
    if logarithmic:
        every = pd.concat([frame["number"] for *_, frame in lines])
        values = sorted(set(every))
        figure.update_xaxes(type="log", tickvals=values, ticktext=[f"{value:g}" for value in values])
        low, high = math.log10(min(values)), math.log10(max(values))
        margin = 0.06 * max(high - low, 0.5)
        figure.update_xaxes(range=[low - margin, high + margin])
    else:
        figure.update_xaxes(type="category")
    return figure
