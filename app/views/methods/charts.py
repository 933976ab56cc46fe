"""The figure that compares methods: quality beside cost. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.formats import duration_text, lds_text
from app.shared.charts import transparent
from app.shared.method_style import FAMILIES, family, method_color
from app.views.methods.best import Best

ROW = 26  # pixels of one method
RING = "#e8590c"
CHEAPEST = 0.01  # seconds: a logarithmic axis has no 0


def methods_figure(rows: Sequence[Best], current: str) -> go.Figure:
    """Return LDS with its interval as a dot for each method, best on top, beside the seconds it cost.

    Args:
        rows: In the order of the figure from the top; LDS may be missing.
        current: Configuration that is being looked at.
    """
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.03, column_widths=[0.62, 0.38])
    names = [short_name(row.row.method_title) for row in rows]
    for name in FAMILIES:
        mine = [row for row in rows if family(row.row.method) == name]
        if not mine:
            continue
        # The legend has its own trace: a ring or a missing LDS must not change it.
        key = {"color": method_color(mine[0].row.method), "size": 10}
        figure.add_scatter(x=[None], y=names[:1], mode="markers", name=name, marker=key, row=1, col=1)
        _add_dots(figure, [row for row in mine if row.lds is not None], name, current)
        _add_costs(figure, [row for row in mine if row.seconds is not None], name, current)
    _finish(figure, names)
    return figure


def short_name(title: str) -> str:
    """Return a method's title as the axis has it."""
    return title.replace("Influence function (", "IF (")


def _finish(figure: go.Figure, names: Sequence[str]) -> None:
    figure.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=names[::-1],
        showgrid=True,
        automargin=True,
        ticks="",
        range=[-0.6, len(names) - 0.4],
    )
    figure.update_xaxes(showgrid=True, zeroline=True, zerolinewidth=1, ticks="outside")
    figure.update_xaxes(title="LDS, 95 % interval", row=1, col=1)
    figure.update_xaxes(title="cost, seconds", type="log", zeroline=False, dtick=1, row=1, col=2)
    figure.update_layout(
        height=96 + ROW * len(names),
        margin={"l": 8, "r": 12, "t": 40, "b": 8},
        hovermode="closest",
        dragmode=False,
        clickmode="event+select",
        hoverdistance=40,
        legend={
            "orientation": "h",
            "y": 1.0,
            "yanchor": "bottom",
            "x": 0,
            "itemclick": False,
            "itemdoubleclick": False,
        },
    )


def _shared(rows: Sequence[Best], current: str) -> dict[str, Any]:
    """Return what dots of LDS and of cost have in common, as Plotly wants it."""
    keep = {"marker": {"opacity": 1}}
    ids = [row.row.configuration_id for row in rows]
    return {
        "y": [short_name(row.row.method_title) for row in rows],
        "mode": "markers",
        "marker": {
            "color": [method_color(row.row.method) for row in rows],
            "size": [13 if identity == current else 10 for identity in ids],
            "line": {"width": [2.4 if identity == current else 0 for identity in ids], "color": RING},
        },
        "selected": keep,
        "unselected": keep,
        "customdata": [[identity] for identity in ids],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _add_dots(figure: go.Figure, rows: Sequence[Best], name: str, current: str) -> None:
    if not rows:
        return
    figure.add_scatter(
        x=[row.lds for row in rows],
        name=name,
        showlegend=False,
        row=1,
        col=1,
        **_shared(rows, current),
        text=[
            f"<b>{short_name(row.row.method_title)}</b><br>LDS {lds_text(row.lds, row.low, row.high)}<br>{row.details}"
            for row in rows
        ],
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [_gap(row.high, row.lds) for row in rows],
            "arrayminus": [_gap(row.lds, row.low) for row in rows],
            "color": transparent(method_color(rows[0].row.method), 0.75),
            "thickness": 2,
            "width": 0,
        },
    )


def _gap(high: float | None, low: float | None) -> float | None:
    return None if high is None or low is None else high - low


def _add_costs(figure: go.Figure, rows: Sequence[Best], name: str, current: str) -> None:
    figure.add_scatter(
        x=[max(CHEAPEST, row.seconds or 0.0) for row in rows],
        name=name,
        showlegend=False,
        row=1,
        col=2,
        **_shared(rows, current),
        text=[f"<b>{short_name(row.row.method_title)}</b><br>{duration_text(row.seconds)}" for row in rows],
    )
