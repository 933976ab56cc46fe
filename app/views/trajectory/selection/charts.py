"""Figures of training on selected data: tuned strategies, loss by K, curves, cost. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from app.formats import lds_text, signed
from app.shared.charts import transparent
from app.shared.intervals import Dot, NamedInterval, add_row, bounded_figure, finish_rows
from app.shared.method_style import GRAY
from app.views.trajectory.charts import (
    CHOSEN,
    LineStyle,
    Point,
    add_line,
    layout,
    line_style,
    log_ticks,
    rate_text,
    vertical_bars,
)
from app.views.trajectory.selection.tuned import Cost, Judged, LossCurve, Measure, Setting, mean_loss
from tda_backend.interfaces.reading.records.grouping import grouped
from tda_backend.interfaces.reading.records.lookahead import SelectionRun


def tuned_figure(judged: Sequence[Judged], measure: Measure) -> go.Figure:
    """Return each tuned strategy as a dot with its interval, a row each, its name and number above it."""
    figure = go.Figure()
    for number, each in enumerate(judged):
        value, low, high = measure.of(each.row)
        value = math.nan if value is None else value
        style = each.strategy
        title = f"<b>{style.title}</b>: {signed(value, measure.digits)} · {each.setting}"
        dot = Dot(style.color, transparent(style.color, 0.75), style.symbol)
        add_row(figure, number, NamedInterval(style.title, value, low, high), dot, title)
    return finish_rows(figure, len(judged), measure.title)


def gains_figure(gains: Sequence[NamedInterval], title: str) -> go.Figure:
    """Return the gains of strategies over others, in pairs of seeds, against 0."""
    rows = [NamedInterval(f"{row.name}: {signed(row.value, 4)}", row.value, row.low, row.high) for row in gains]
    return bounded_figure(rows, 0.0, True, title)


def horizons_figure(runs: Sequence[SelectionRun], chosen: Setting | None, num_steps: int) -> go.Figure:
    """Return the loss on the tuning set by K, a line for each learning rate; the chosen one has a ring.

    Args:
        runs: Of one strategy on the tuning split; all have a K.
        chosen: The setting with the lowest mean.
        num_steps: Of a run: K at which the whole run is looked ahead.
    """
    figure = go.Figure()
    by_rate = grouped(sorted(runs, key=lambda run: -run.learning_rate), lambda run: run.learning_rate)
    horizons = sorted({run.horizon for run in runs if run.horizon is not None})
    shifts = 10 ** (0.018 * (np.arange(len(by_rate)) - (len(by_rate) - 1) / 2))
    ring = 0
    for number, ((rate, mine), shift) in enumerate(zip(by_rate.items(), shifts.tolist(), strict=True)):
        means = _add_rate(figure, mine, line_style(number), shift)
        if chosen is not None and math.isclose(chosen.learning_rate, rate, rel_tol=1e-5) and chosen.horizon in means:
            ring = 1
            at = (chosen.horizon * shift, means[chosen.horizon])
    if ring:
        figure.add_scatter(
            x=[at[0]],
            y=[at[1]],
            mode="markers",
            name="chosen: lowest mean",
            hoverinfo="skip",
            marker={"symbol": "circle-open", "size": 19, "color": CHOSEN, "line": {"width": 2.6}},
        )
    figure.update_xaxes(
        type="log",
        title="K: steps looked ahead",
        tickvals=horizons,
        ticktext=["all" if value >= num_steps else str(value) for value in horizons],
        range=[math.log10(min(horizons)) - 0.12, math.log10(max(horizons)) + 0.12],
    )
    figure.update_yaxes(title="loss on the tuning set", nticks=7)
    return layout(figure, 330, len(by_rate) + ring)


def _add_rate(figure: go.Figure, runs: Sequence[SelectionRun], style: LineStyle, shift: float) -> dict[int, float]:
    """Draw one learning rate: a mark for each seed, and the means over seeds, which are returned by K."""
    name = f"η = {rate_text(runs[0].learning_rate)}"
    figure.add_scatter(
        x=[(run.horizon or 0) * shift for run in runs],
        y=[run.loss for run in runs],
        mode="markers",
        showlegend=False,
        marker={"color": transparent(style.color, 0.45), "size": 5},
        customdata=[[run.seed_index] for run in runs],
        hovertemplate="seed %{customdata[0]}: %{y:.4f}<extra>" + name + "</extra>",
    )
    groups = grouped(sorted(runs, key=lambda run: run.horizon or 0), lambda run: run.horizon or 0)
    means = {horizon: mean_loss(mine) for horizon, mine in groups.items()}
    figure.add_scatter(
        x=[horizon * shift for horizon in means],
        y=list(means.values()),
        mode="lines+markers",
        name=name,
        line={"color": style.color, "width": 1.8, "dash": style.dash},
        marker={"color": style.color, "size": 9},
        hovertemplate="mean over seeds: %{y:.4f}<extra>" + name + "</extra>",
    )
    return means


def curves_figure(curves: Sequence[LossCurve], height: int = 330) -> go.Figure:
    """Return the losses of tuned strategies while they train; bands from the lowest to the highest seed."""
    figure = go.Figure()
    for curve in curves:
        style = LineStyle(curve.strategy.color, curve.strategy.dash, ".4f")
        add_line(figure, curve.points, curve.strategy.title, style)
    figure.update_xaxes(title="steps trained")
    ends = [end for curve in curves for point in curve.points for end in (point.low, point.high) if end is not None]
    wide = max(ends) > 4 * min(ends) > 0
    axis = {"type": "log", **log_ticks(ends)} if wide else {"nticks": 7}
    figure.update_yaxes(title="test loss", **axis)
    return layout(figure, height, len(curves))


def cost_figure(costs: Sequence[Cost], height: int = 300) -> go.Figure:
    """Return the test loss of tuned strategies against their cost."""
    figure = go.Figure()
    for cost in costs:
        style, row = cost.judged.strategy, cost.judged.row
        loss = lds_text(row.test_loss, row.loss_low, row.loss_high)
        figure.add_scatter(
            x=[cost.relative],
            y=[row.test_loss],
            mode="markers",
            name=style.title,
            text=[f"{cost.relative:.2g} × the work; loss {loss}"],
            marker={"color": style.color, "size": 12, "symbol": style.symbol},
            hovertemplate="%{text}<extra>" + style.title + "</extra>",
            error_y=vertical_bars([Point(cost.relative, row.test_loss, row.loss_low, row.loss_high)], style.color),
        )
    works = [cost.relative for cost in costs]
    figure.add_vline(x=1.0, line={"color": GRAY, "width": 1, "dash": "dot"})
    figure.update_xaxes(
        type="log",
        title="work, 1: training on all data",
        **log_ticks(works),
        range=[math.log10(min(works)) - 0.15, math.log10(max(works)) + 0.15],
    )
    figure.update_yaxes(title="test loss", nticks=6)
    return layout(figure, height, len(costs))
