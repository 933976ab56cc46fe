"""What figures of this page share: their look, axes of learning rates, lines with bands. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from app.formats import is_missing
from app.shared.charts import transparent
from app.shared.method_style import BLUE, DASHES, GRAY, GREEN, TEAL, VIOLET

LINE_COLORS = (BLUE, GREEN, VIOLET, TEAL, "#8f9a2b", "#cc4058")
CHOSEN = "#cc4058"
ZERO = {"color": GRAY, "width": 1, "dash": "dot"}
IDENTITY = {"color": GRAY, "width": 1.3, "dash": "dash"}


def rate_text(rate: float) -> str:
    """Return a learning rate: ``0.001``, ``1e-5``."""
    mantissa, power = f"{rate:.3e}".split("e")
    return f"{rate:g}" if int(power) >= -3 else f"{float(mantissa):g}e{int(power)}".replace("e-", "e−")


def effect_text(value: float) -> str:
    """Return an effect on a loss with three digits and a true minus sign."""
    return f"{value:.3g}".replace("-", "−")


def layout(figure: go.Figure, height: int, num_entries: int = 0) -> go.Figure:
    """Give a figure the page's look.

    Args:
        figure: The figure.
        height: Pixels without legend.
        num_entries: Of the legend, which stands below, one line each, because phones are narrow; 0: no legend.
    """
    figure.update_layout(
        height=height + 20 * num_entries,
        margin={"l": 8, "r": 12, "t": 12, "b": 8},
        hovermode="closest",
        dragmode=False,
        showlegend=num_entries > 0,
        legend={"orientation": "v", "y": -70 / max(height - 70, 1), "yanchor": "top", "x": 0, "title": None},
    )
    figure.update_xaxes(showgrid=False, ticks="outside", automargin=True, zeroline=False)
    figure.update_yaxes(zeroline=False, automargin=True)
    return figure


def rate_axis(figure: go.Figure, rates: Sequence[float], title: str = "learning rate η") -> None:
    """Make x a logarithmic axis with a tick at each learning rate."""
    figure.update_xaxes(
        type="log",
        title=title,
        tickvals=list(rates),
        ticktext=[rate_text(rate) for rate in rates],
        range=[math.log10(min(rates)) - 0.35, math.log10(max(rates)) + 0.35],
        minor={"ticks": ""},
    )


@dataclass(frozen=True)
class LineStyle:
    """Colour ``#rrggbb`` and dash of a line, and how its heights are written."""

    color: str
    dash: str
    digits: str = ".3g"


def line_style(number: int, digits: str = ".3g") -> LineStyle:
    """Return the style of the n-th line."""
    return LineStyle(LINE_COLORS[number % len(LINE_COLORS)], DASHES[number % len(DASHES)], digits)


@dataclass(frozen=True)
class Point:
    """A point of a line with the band around it; missing heights leave a gap, missing ends no band."""

    x: float
    y: float | None
    low: float | None
    high: float | None


def add_line(figure: go.Figure, points: Iterable[Point], name: str, style: LineStyle) -> None:
    """Add a line with its band.

    Args:
        figure: Where to.
        points: From left to right.
        name: Legend entry.
        style: How.
    """
    shown = [point for point in points if not is_missing(point.y)]
    known = [point for point in shown if not (is_missing(point.low) or is_missing(point.high))]
    if len(known) > 1:
        figure.add_scatter(
            x=[*(point.x for point in known), *(point.x for point in known[::-1])],
            y=[*(point.high for point in known), *(point.low for point in known[::-1])],
            fill="toself",
            mode="lines",
            fillcolor=transparent(style.color, 0.14),
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
    band = f"(%{{customdata[0]:{style.digits}}} to %{{customdata[1]:{style.digits}}})"
    figure.add_scatter(
        x=[point.x for point in shown],
        y=[point.y for point in shown],
        mode="lines+markers",
        name=name,
        line={"color": style.color, "width": 2.2, "dash": style.dash},
        marker={"size": 6, "color": style.color},
        customdata=[[point.low, point.high] for point in shown],
        hovertemplate=f"%{{x}}: %{{y:{style.digits}}} {band}<extra>{name}</extra>",
    )


def vertical_bars(values: Sequence[Point], color: str) -> dict[str, Any]:
    """Return Plotly's error bars of some points; of no length where an end is missing."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [_distance(point.y, point.high) for point in values],
        "arrayminus": [_distance(point.low, point.y) for point in values],
        "color": transparent(color, 0.7),
        "width": 4,
    }


def _distance(low: float | None, high: float | None) -> float:
    return 0.0 if low is None or high is None or math.isnan(high - low) else high - low


def log_ticks(values: Iterable[float]) -> dict[str, list]:
    """Return ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, in plain figures."""
    positive = [value for value in values if value > 0]
    if not positive:
        return {}
    low, high = min(positive), max(positive)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    ticks = [float(f"{step}e{power}") for power in powers for step in steps]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
