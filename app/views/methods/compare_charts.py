"""Figures that set two configurations against each other. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from app.formats import lds_text
from app.shared.charts import transparent
from app.shared.method_style import BLUE, GREEN, ORANGE
from tda_backend.interfaces.reading.comparison import ClassLds, Overlap

ROW = 34  # pixels of a class
Interval = tuple[float, float, float]


@dataclass(frozen=True)
class _Side:
    """How one of the two is drawn.

    Attributes:
        name: A or B.
        color: ``#rrggbb``.
        symbol: As Plotly names it.
        shift: Above the middle of the class's row.
        of: What it reads of a class: LDS, low and high end.
    """

    name: str
    color: str
    symbol: str
    shift: float
    of: Callable[[ClassLds], Interval]


SIDES = (
    _Side("A", BLUE, "circle", 0.16, lambda row: (row.a, row.a_low, row.a_high)),
    _Side("B", GREEN, "diamond", -0.16, lambda row: (row.b, row.b_low, row.b_high)),
)


def by_class_figure(rows: Sequence[ClassLds]) -> go.Figure:
    """Return the LDS of A and of B with intervals for the queries of each class."""
    figure = go.Figure()
    for side in SIDES:
        _add_side(figure, rows, side)
    figure.update_yaxes(
        tickvals=[-place for place in range(len(rows))],
        range=[0.6 - len(rows), 0.6],
        zeroline=False,
        ticktext=[f"{row.name} ({row.num_queries})" for row in rows],
        automargin=True,
        ticks="",
    )
    figure.update_xaxes(title="LDS of the queries of the class, 95 % interval", ticks="outside", automargin=True)
    figure.update_layout(
        height=92 + ROW * len(rows),
        margin={"l": 8, "r": 12, "t": 30, "b": 8},
        hovermode="closest",
        dragmode=False,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "itemclick": False},
    )
    return figure


def _add_side(figure: go.Figure, rows: Sequence[ClassLds], side: _Side) -> None:
    """Draw the dots of A or of B; a class without a defined LDS has none."""
    found = [(place, row.name, *side.of(row)) for place, row in enumerate(rows)]
    found = [each for each in found if each[2] == each[2]]
    figure.add_scatter(
        x=[mean for _, _, mean, _, _ in found],
        y=[-place + side.shift for place, *_ in found],
        mode="markers",
        name=side.name,
        marker={"color": side.color, "size": 9, "symbol": side.symbol},
        text=[f"{side.name}, {label}: {lds_text(mean, low, high)}" for _, label, mean, low, high in found],
        hovertemplate="%{text}<extra></extra>",
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [high - mean for _, _, mean, _, high in found],
            "arrayminus": [mean - low for _, _, mean, low, _ in found],
            "color": transparent(side.color, 0.7),
            "thickness": 2,
            "width": 0,
        },
    )


def overlap_figure(rows: Sequence[Overlap]) -> go.Figure:
    """Return the share of top examples that both configurations name, for both signs."""
    figure = go.Figure()
    helpful, harmful = [row.helpful for row in rows], [row.harmful for row in rows]
    for name, color, pattern, shares in (("helpful", BLUE, "", helpful), ("harmful", ORANGE, "/", harmful)):
        figure.add_bar(
            x=[f"top {row.top}" for row in rows],
            y=shares,
            name=name,
            marker_color=color,
            marker_pattern_shape=pattern,
            marker_line_width=0,
            hovertemplate="%{x}: %{y:.0%}",
        )
    figure.update_layout(
        barmode="group",
        height=240,
        margin={"l": 8, "r": 12, "t": 30, "b": 8},
        dragmode=False,
        hovermode="x unified",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "itemclick": False},
    )
    figure.update_yaxes(title="named by both", range=[0, 1], tickformat=".0%", zeroline=False, automargin=True)
    return figure
