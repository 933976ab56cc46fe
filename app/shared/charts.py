"""From typed curves to figures over λ. Pure functions.

λ is drawn on a logarithmic axis; λ = 0 stands one and a half decades left of the smallest positive value, as a point
of its own that no line joins, with the tick "0".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from app.formats import regularization_text
from app.shared.curves import (
    LAMBDA_TITLE,
    LDS_TITLE,
    ZERO_GAP,
    CurvePoint,
    IndicatorCurve,
    LdsCurve,
    NamedCurve,
    lambdas,
    lds_points,
    on_grid,
    zero_position,
)
from app.shared.method_style import GRAY
from tda_backend.interfaces.reading.records.selections import Quantile


def transparent(color: str, opacity: float) -> str:
    """Return a ``#rrggbb`` colour with an opacity."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _regularization_axis(figure: go.Figure, values: Sequence[float], zero: float, title: str) -> None:
    positive = [value for value in values if value > 0] or [1.0]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    powers = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    powers = powers[:: 1 if len(powers) < 7 else 2]
    ticks, names = [10.0**power for power in powers], [f"10<sup>{power}</sup>".replace("-", "−") for power in powers]
    if 0 in values:
        ticks, names = [zero, *ticks], ["0", *names]
    span = [math.log10(min(zero, min(positive))) - 0.2, high + 0.1]
    figure.update_xaxes(type="log", title=title, tickvals=ticks, ticktext=names, range=span)


def finish(figure: go.Figure, height: int, legend: bool = True) -> go.Figure:
    """Return a figure over one axis with the margins, grid and legend that all of them have."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 12, "t": 34, "b": 8},
        hovermode="x unified" if legend else "closest",
        showlegend=legend,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "title": None},
    )
    figure.update_xaxes(showgrid=False, ticks="outside", automargin=True)
    figure.update_yaxes(zeroline=False, automargin=True)
    return figure


def _band(figure: go.Figure, points: Sequence[CurvePoint], color: str, name: str) -> None:
    lines = [point for point in points if point.regularization]
    figure.add_scatter(
        x=[*lambdas(lines), *lambdas(lines[::-1])],
        y=[*(point.high for point in lines), *(point.low for point in lines[::-1])],
        fill="toself",
        fillcolor=transparent(color, 0.16),
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        name=name,
        mode="lines",
    )


def _curve(figure: go.Figure, curve: NamedCurve, zero: float) -> None:
    """Draw a curve with its band, and the point at λ = 0 with its interval."""
    lines = [point for point in curve.points if point.regularization]
    _band(figure, lines, curve.color, f"{curve.name}, band")
    template = "%{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})"
    figure.add_scatter(
        x=lambdas(lines),
        y=[point.mean for point in lines],
        name=curve.name,
        mode="lines",
        line={"color": curve.color, "width": 2.2, "dash": curve.dash},
        customdata=[[point.low, point.high] for point in lines],
        hovertemplate=template,
    )
    for point in [point for point in curve.points if point.regularization == 0][:1]:
        figure.add_scatter(
            x=[zero],
            y=[point.mean],
            name=f"{curve.name}, λ = 0",
            mode="markers",
            showlegend=False,
            marker={"color": curve.color, "size": 7},
            customdata=[[point.low, point.high]],
            hovertemplate=template,
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [point.high - point.mean],
                "arrayminus": [point.mean - point.low],
                "color": transparent(curve.color, 0.5),
                "width": 3,
            },
        )


@dataclass(frozen=True)
class Marker:
    """A vertical line at a λ; its label stands above the plot.

    Attributes:
        text: The label; empty for none.
        color: ``#rrggbb``.
        dash: As Plotly names it.
        anchor: Which side of the label stands at the line.
    """

    text: str
    color: str
    dash: str
    anchor: str = "center"


def add_marker(figure: go.Figure, value: float | None, marker: Marker, zero: float) -> None:
    """Add a vertical line at a λ. Below the axis it stands at its low end."""
    if value is None or math.isnan(value):
        return
    lowest = zero * 10 ** (ZERO_GAP / 2)
    at = zero if value <= 0 else max(value, lowest)
    is_below = bool(marker.text) and 0 < value < lowest
    text = f"← {marker.text} = {regularization_text(value)}" if is_below else marker.text
    line = {"color": marker.color, "width": 1.3, "dash": marker.dash}
    figure.add_shape(type="line", x0=at, x1=at, y0=0, y1=1, yref="paper", line=line)
    if text:
        figure.add_annotation(
            x=math.log10(at),
            y=1,
            yref="paper",
            text=text,
            showarrow=False,
            xanchor=marker.anchor,
            yanchor="bottom",
            font={"color": marker.color, "size": 12},
        )


def _quantile_lines(figure: go.Figure, quantiles: Sequence[Quantile], highest: float) -> None:
    for entry in quantiles:
        if entry.regularization and entry.regularization <= highest:
            figure.add_vline(x=entry.regularization, line={"color": transparent(GRAY, 0.55), "width": 1})
            figure.add_annotation(
                x=math.log10(entry.regularization),
                y=0.98,
                yref="paper",
                text=f"{entry.share:.0%}".replace("%", " %"),
                showarrow=False,
                textangle=-90,
                yanchor="top",
                xanchor="right",
                font={"size": 10, "color": GRAY},
            )


def lds_figure(curve: LdsCurve, height: int = 300) -> go.Figure:
    """Return LDS(λ) with its 95 % band."""
    points = on_grid(lds_points(curve.points))
    values = lambdas(points)
    zero = zero_position(values)
    figure = go.Figure()
    _quantile_lines(figure, curve.quantiles, max(values, default=0.0) * 1.2)
    _curve(figure, NamedCurve(curve.name, curve.color, "solid", points), zero)
    # The two labels turn away from each other, for the lines are often close.
    left = curve.selected is not None and curve.best is not None and curve.best < curve.selected
    add_marker(figure, curve.best, Marker("best", GRAY, "dot", "right" if left else "left"), zero)
    add_marker(figure, curve.selected, Marker("λ*", curve.color, "solid", "left" if left else "right"), zero)
    add_marker(figure, curve.current, Marker("", GRAY, "dash"), zero)
    _regularization_axis(figure, values, zero, curve.title)
    figure.update_yaxes(title=LDS_TITLE, range=curve.span)
    return finish(figure, height, legend=False)


def comparison_figure(
    curves: Sequence[NamedCurve], title: str = LAMBDA_TITLE, height: int = 260, y_title: str = LDS_TITLE
) -> go.Figure:
    """Return several curves over λ with their bands in one figure.

    Args:
        curves: LDS(λ), or what ``y_title`` says.
        title: What λ is.
        height: Pixels.
        y_title: What the curves are.
    """
    shown = [NamedCurve(curve.name, curve.color, curve.dash, on_grid(curve.points)) for curve in curves]
    values = [value for curve in shown for value in lambdas(curve.points)]
    zero = zero_position(values)
    figure = go.Figure()
    for curve in shown:
        _curve(figure, curve, zero)
    _regularization_axis(figure, values, zero, title)
    figure.update_yaxes(title=y_title)
    return finish(figure, height)


def indicator_figure(curve: IndicatorCurve, height: int = 300) -> go.Figure:
    """Return ξ̄(λ) with the spread q05 to q95 over validation points and the threshold."""
    rows = on_grid(curve.points)
    values = lambdas(rows)
    zero = zero_position(values)
    wide = [CurvePoint(row.regularization, row.mean, row.q05, row.q95) for row in rows]
    figure = go.Figure()
    half = [CurvePoint(row.regularization, row.mean, row.q25, row.q75) for row in rows]
    _band(figure, half, curve.color, "middle half")
    _curve(figure, NamedCurve(curve.name, curve.color, "solid", wide), zero)
    figure.add_hline(y=curve.threshold, line={"color": GRAY, "width": 1, "dash": "dot"})
    add_marker(figure, curve.selected, Marker("λ*", curve.color, "solid"), zero)
    add_marker(figure, curve.current, Marker("", GRAY, "dash"), zero)
    _regularization_axis(figure, values, zero, curve.title)
    figure.update_yaxes(title="ξ̄ (mean over validation points)", range=[-0.02, 1.05])
    return finish(figure, height, legend=False)
