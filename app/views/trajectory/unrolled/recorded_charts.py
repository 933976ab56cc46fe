"""Losses and learning rates of recorded runs, and SOURCE's filter. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from app.shared.method_style import BLUE, GRAY, GREEN
from app.views.trajectory.charts import LineStyle, Point, add_line, layout, line_style, rate_text


def runs_figure(curves: Mapping[float, Sequence[Point]], height: int = 280) -> go.Figure:
    """Return the loss of the recorded runs over the steps; bands from the lowest to the highest seed.

    Args:
        curves: η of the runs → mean loss at each step.
        height: Pixels.
    """
    figure = go.Figure()
    for number, rate in enumerate(sorted(curves, reverse=True)):
        add_line(figure, curves[rate], f"η = {rate_text(rate)}", line_style(number))
    figure.update_xaxes(title="steps trained")
    figure.update_yaxes(title="mean loss of the queries")
    return layout(figure, height, len(curves))


def _add_plain(
    figure: go.Figure, x: Iterable[float], y: Iterable[float], name: str, style: LineStyle, hover: str
) -> None:
    """Add a line without marks; ``hover`` is Plotly's template of what a point says."""
    figure.add_scatter(
        x=x,
        y=y,
        mode="lines",
        name=name,
        line={"color": style.color, "width": 2.2, "dash": style.dash},
        hovertemplate=f"{hover}<extra>{name}</extra>",
    )


def schedule_figure(rates: Mapping[float, Sequence[float]], height: int = 280) -> go.Figure:
    """Return the learning rate of every step, a line for each run, relative to its η.

    Args:
        rates: η of the run → learning rate of every step.
        height: Pixels.
    """
    figure = go.Figure()
    for number, (rate, values) in enumerate(rates.items()):
        steps = list(range(1, len(values) + 1))
        hover = "step %{x}: %{y:.3g}"
        _add_plain(figure, steps, list(values), f"η = {rate_text(rate)}", line_style(number), hover)
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="learning rate of the step", type="log", exponentformat="power", dtick=1)
    return layout(figure, height, len(rates))


def filter_figure(products: np.ndarray, source: np.ndarray, damped: np.ndarray, height: int = 300) -> go.Figure:
    """Return SOURCE's filter beside the damped inverse, both relative to their value at σ = 0.

    Args:
        products: Eigenvalue times length of the run, cσ.
        source: F(σ)/c.
        damped: 1/(σ + 1/c), relative to c.
        height: Pixels.
    """
    figure = go.Figure()
    text = "cσ = %{x:.2g}: %{y:.3f}"
    plain = np.minimum(1 / products, 2.0)
    _add_plain(figure, products, source, "SOURCE: (1 − e^(−cσ))/σ", LineStyle(GREEN, "solid"), text)
    _add_plain(figure, products, damped, "damped inverse: 1/(σ + λ) with λ = 1/c", LineStyle(BLUE, "dash"), text)
    _add_plain(figure, products, plain, "plain inverse: 1/σ", LineStyle(GRAY, "dot"), text)
    figure.update_xaxes(type="log", title="cσ: eigenvalue × sum of the learning rates", exponentformat="power", dtick=1)
    figure.update_yaxes(title="weight, relative to c", range=[0, 1.3])
    return layout(figure, height, 3)
