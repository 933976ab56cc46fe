"""Rows of dots with their intervals, each name above its row: names are long, and telephones are narrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from app.formats import is_missing, lds_text
from app.shared.charts import transparent
from app.shared.method_style import BLUE, GREEN

ROW = 48  # pixels of a row with its name above it


@dataclass(frozen=True)
class NamedInterval:
    """A number with its 95 % interval; ``None`` or NaN where it has none."""

    name: str
    value: float
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """The number with its interval, in words."""
        return lds_text(self.value, self.low, self.high)


@dataclass(frozen=True)
class Dot:
    """How a row is drawn: colours of dot and bar, Plotly's symbol, width of the bar's caps in pixels."""

    color: str
    bar_color: str
    symbol: str = "circle"
    cap: int = 5


def error_bar(value: float, low: float | None, high: float | None, **more: Any) -> dict[str, Any]:
    """Return Plotly's error bar of one point from ``low`` to ``high``; of no length where these are missing."""
    known = low is not None and high is not None and not (is_missing(low) or is_missing(high))
    above, below = (high - value, value - low) if known else (0, 0)
    return {"type": "data", "symmetric": False, "array": [above], "arrayminus": [below], **more}


def add_row(figure: go.Figure, row: int, interval: NamedInterval, dot: Dot, title: str | None = None) -> None:
    """Draw one row.

    Args:
        figure: Where to.
        row: Number of the row, 0 on top.
        interval: What is drawn.
        dot: How.
        title: What stands above it; default: its name.
    """
    figure.add_scatter(
        x=[interval.value],
        y=[-row],
        mode="markers",
        marker={"color": dot.color, "size": 11, "symbol": dot.symbol},
        showlegend=False,
        name=interval.name,
        text=[interval.text],
        hovertemplate=f"%{{text}}<extra>{interval.name if title else ''}</extra>",
        error_x=error_bar(
            interval.value, interval.low, interval.high, color=dot.bar_color, thickness=2.4, width=dot.cap
        ),
    )
    add_name(figure, row, title or interval.name)


def add_name(figure: go.Figure, row: int, text: str) -> None:
    """Write a name above a row."""
    figure.add_annotation(
        x=0,
        xref="paper",
        xanchor="left",
        y=-row,
        yanchor="bottom",
        yshift=7,
        text=text.replace("Influence function (", "IF ("),
        showarrow=False,
        align="left",
        font={"size": 12},
    )


def finish_rows(figure: go.Figure, num: int, title: str, top: int = 10) -> go.Figure:
    """Give a figure of ``num`` rows its size and axes.

    Args:
        figure: The figure.
        num: Rows.
        title: Of the horizontal axis.
        top: Pixels above the first row.
    """
    figure.update_layout(
        height=top + 62 + ROW * num, margin={"l": 8, "r": 12, "t": top, "b": 8}, hovermode="closest", dragmode=False
    )
    figure.update_yaxes(visible=False, range=[0.35 - num, 0.75], fixedrange=True)
    figure.update_xaxes(title=title, showgrid=True, ticks="outside", automargin=True)
    return figure


def bounded_figure(rows: Sequence[NamedInterval], bound: float, above: bool, title: str) -> go.Figure:
    """Return intervals against a bound that each of them must pass.

    Args:
        rows: The first one on top.
        bound: What each must pass.
        above: Whether they must lie above it.
        title: Of the axis.
    """
    figure = go.Figure()
    ends = [end for row in rows for end in (row.low, row.high) if end is not None and not is_missing(end)]
    edges = [*(row.value for row in rows), *ends, bound]
    margin = 0.08 * (max(edges) - min(edges) or 0.1)
    low, high = min(edges) - margin, max(edges) + margin
    figure.add_shape(
        type="rect",
        x0=bound if above else low,
        x1=high if above else bound,
        y0=0,
        y1=1,
        yref="paper",
        layer="below",
        line={"width": 0},
        fillcolor=transparent(GREEN, 0.10),
    )
    for number, row in enumerate(rows):
        figure.add_shape(  # a piece in each row: a whole line would cross the names
            type="line", x0=bound, x1=bound, y0=-number - 0.22, y1=-number + 0.14, line={"color": GREEN, "width": 2}
        )
        add_row(figure, number, row, Dot(BLUE, BLUE, "square"))
    figure = finish_rows(figure, len(rows), title)
    figure.update_xaxes(range=[low, high], zeroline=bound != 0)
    return figure
