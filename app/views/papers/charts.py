"""Figures beside the claims of papers: curves with the λ compared, points, rules, removals. Pure functions.

Names stand above their rows, not beside them: they are long, and telephones are narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from app.formats import regularization_text, signed
from app.shared.charts import comparison_figure, transparent
from app.shared.curves import LAMBDA_TITLE, ZERO_GAP, CurvePoint, NamedCurve, lambdas, on_grid, zero_position
from app.shared.intervals import Dot, NamedInterval, add_name, add_row, finish_rows
from app.shared.method_style import BLUE, DASHES, GRAY, GREEN, TEAL, VIOLET
from tda_backend.interfaces.papers.figures import RemovalShares, RulePoint
from tda_backend.interfaces.reading.records.grouping import grouped

PALETTE = (BLUE, GREEN, VIOLET, TEAL, "#8f9a2b", "#cc4058", GRAY)


@dataclass(frozen=True)
class RuleMark:
    """How the LDS of a rule for λ is drawn: Plotly's symbol, colour, size, and its name in the legend."""

    symbol: str
    color: str
    size: int
    legend: str
    rank: int = 0


_RULE_MARKS = {
    "λ*": RuleMark("circle", BLUE, 13, "λ*"),
    "best λ": RuleMark("diamond-open", GRAY, 13, "best λ", 1),
    "λ = 0": RuleMark("x-thin-open", "#cc4058", 11, "λ = 0"),
}
_QUANTILE = RuleMark("line-ns-open", GRAY, 15, "quantiles of the spectrum", 2)


def rule_mark(rule: str) -> RuleMark:
    """Return how a rule is drawn; all quantiles of the spectrum look the same."""
    return _RULE_MARKS.get(rule, _QUANTILE)


def style(number: int) -> tuple[str, str]:
    """Return colour and dash of the n-th curve: the left side of a claim is blue and solid."""
    return PALETTE[number % len(PALETTE)], DASHES[number % len(DASHES)]


@dataclass(frozen=True)
class Mark:
    """A point that is marked on a curve, with its words."""

    text: str
    regularization: float
    mean: float


def claim_curves_figure(
    curves: Sequence[NamedCurve], marks: Mapping[str, Sequence[Mark]], title: str = LAMBDA_TITLE
) -> go.Figure:
    """Return LDS(λ) of the configurations that a claim compares, what it compares marked.

    Args:
        curves: The left side of the claim first.
        marks: Name of a curve → the points marked on it.
        title: What λ is.
    """
    figure = comparison_figure(curves, title, 320)
    zero = zero_position([value for curve in curves for value in lambdas(on_grid(curve.points))])
    for curve in curves:
        marked = marks.get(curve.name, [])
        figure.add_scatter(
            x=[_on_axis(mark.regularization, zero) for mark in marked],
            y=[mark.mean for mark in marked],
            mode="markers",
            showlegend=False,
            name=f"{curve.name}, compared",
            text=[f"{curve.name}: {mark.text}" for mark in marked],
            hovertemplate="%{text}: %{y:.3f}<extra></extra>",
            marker={"color": curve.color, "size": 13, "symbol": "diamond", "line": {"width": 1.6, "color": "white"}},
        )
    return figure


def _on_axis(regularization: float, zero: float) -> float:
    """Return where a λ is drawn: λ = 0 at its tick, what is smaller than the grid between that and the grid."""
    return zero if regularization <= 0 else max(regularization, zero * 10 ** (ZERO_GAP / 2))


def highest_and_lowest(points: Sequence[CurvePoint]) -> list[Mark]:
    """Return the points of a curve's grid with the highest and the lowest value over λ > 0."""
    known = [
        Mark("", point.regularization, point.mean)
        for point in points
        if point.regularization and not point.is_selected and not math.isnan(point.mean)
    ]
    if not known:
        return []
    high, low = max(known, key=lambda mark: mark.mean), min(known, key=lambda mark: mark.mean)
    return [Mark("highest", high.regularization, high.mean), Mark("lowest", low.regularization, low.mean)]


def points_figure(rows: Sequence[NamedInterval], title: str = "LDS, 95 % interval") -> go.Figure:
    """Return a dot with its interval for each row, the name above it.

    Args:
        rows: The first one on top.
        title: Of the axis.
    """
    figure = go.Figure()
    for number, row in enumerate(rows):
        color, _ = style(number)
        dot = Dot(color, transparent(color, 0.75), cap=0)
        add_row(figure, number, row, dot, f"{row.name}: {signed(row.value, 3)}")
    return finish_rows(figure, len(rows), title)


def rules_figure(points: Sequence[RulePoint]) -> go.Figure:
    """Return the LDS of every rule for λ in every configuration, one row each, the mean over them on top."""
    names = list(dict.fromkeys(point.label for point in points))
    first = int(len(names) > 1)  # row of the first configuration: above it stands the mean
    figure = go.Figure()
    shown: set[str] = set()
    by_rule = grouped(sorted(points, key=lambda point: rule_mark(point.rule).rank), lambda point: point.rule)
    for rule, mine in by_rule.items():
        mark = rule_mark(rule)
        rows = [(first + names.index(point.label), point.mean, _at(point)) for point in mine]
        # A rule's mean counts only where every configuration has a value: else it is a mean over others.
        if first and len(mine) == len(names):
            rows.insert(0, (0, sum(point.mean for point in mine) / len(mine), rule))
        figure.add_scatter(
            x=[mean for _, mean, _ in rows],
            y=[-row for row, *_ in rows],
            mode="markers",
            name=mark.legend,
            text=[f"{at}: {signed(mean, 3)}" for _, mean, at in rows],
            hovertemplate="%{text}<extra></extra>",
            legendgroup=mark.legend,
            showlegend=mark.legend not in shown,
            marker={
                "symbol": mark.symbol,
                "color": mark.color,
                "size": mark.size,
                "line": {"width": 2, "color": mark.color},
            },
        )
        shown.add(mark.legend)
    titles = [f"<b>mean of {len(names)} configurations</b>", *names] if first else names
    for number, title in enumerate(titles):
        add_name(figure, number, title)
    figure = finish_rows(figure, len(titles), "LDS (mean over queries)", top=44)
    figure.update_layout(
        showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "title": None}
    )
    return figure


def _at(point: RulePoint) -> str:
    """Return a rule with the λ that it chose."""
    return f"{point.rule}, λ = {regularization_text(point.regularization)}" if point.regularization else point.rule


def removal_figure(curves: Sequence[RemovalShares]) -> go.Figure:
    """Return the share of queries that are still predicted right after removing their most helpful examples."""
    figure = go.Figure()
    for number, curve in enumerate(curves):
        color, dash = style(number)
        figure.add_scatter(
            x=curve.sizes,
            y=curve.shares,
            mode="lines+markers",
            name=curve.label,
            line={"color": color, "dash": dash},
            hovertemplate="%{y:.0%} after removing %{x}<extra></extra>",
        )
    figure.update_layout(
        height=300,
        margin={"l": 8, "r": 12, "t": 34, "b": 8},
        dragmode=False,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    figure.update_yaxes(title="queries not flipped", range=[0, 1.03], tickformat=".0%", zeroline=False)
    figure.update_xaxes(title="training examples removed", showgrid=False, ticks="outside")
    return figure
