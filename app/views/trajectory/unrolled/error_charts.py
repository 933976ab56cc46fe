"""How errors grow over steps and learning rates, and how well estimates follow them. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from app.shared.method_style import BLUE
from app.views.trajectory.charts import Point, add_line, layout, line_style, rate_axis, rate_text, vertical_bars
from app.views.trajectory.unrolled.estimates import ESTIMATES
from tda_backend.interfaces.reading.records.grouping import grouped
from tda_backend.interfaces.reading.records.trajectory import RunError

_TITLE = "mean |error| / mean |true effect|"


def growth_figure(rows: Sequence[RunError], height: int = 300) -> go.Figure:
    """Return the relative error of the prediction over the steps, a line for each learning rate.

    Args:
        rows: One for each rate and step.
        height: Pixels.
    """
    figure = go.Figure()
    rates = grouped(sorted(rows, key=lambda row: (-row.learning_rate, row.step)), lambda row: row.learning_rate)
    for number, (rate, mine) in enumerate(rates.items()):
        points = [Point(row.step, row.relative_error, row.error_low, row.error_high) for row in mine]
        add_line(figure, points, f"η = {rate_text(rate)}", line_style(number, ".1%"))
    figure.update_xaxes(title="steps trained")
    figure.update_yaxes(title=_TITLE, tickformat=".2~%", rangemode="tozero")
    return layout(figure, height, len(rates))


def final_error_figure(rows: Sequence[RunError], height: int = 300) -> go.Figure:
    """Return the relative error at the end of the run against the learning rate.

    Args:
        rows: One for each rate.
        height: Pixels.
    """
    figure = go.Figure()
    mine = sorted(rows, key=lambda row: row.learning_rate)
    points = [Point(row.learning_rate, row.relative_error, row.error_low, row.error_high) for row in mine]
    figure.add_scatter(
        x=[point.x for point in points],
        y=[point.y for point in points],
        mode="lines+markers",
        showlegend=False,
        line={"color": BLUE, "width": 1.6},
        marker={"size": 10, "color": BLUE},
        error_y=vertical_bars(points, BLUE),
        customdata=[[point.low, point.high] for point in points],
        hovertemplate="%{y:.1%} (%{customdata[0]:.1%} to %{customdata[1]:.1%})<extra></extra>",
    )
    rate_axis(figure, [point.x for point in points])
    figure.update_yaxes(title=_TITLE, tickformat=".2~%", rangemode="tozero")
    return layout(figure, height)


def correlation_figure(rows: Sequence[RunError], height: int = 300) -> go.Figure:
    """Return how well each estimate follows the real error over the steps.

    Args:
        rows: Of one learning rate.
        height: Pixels.
    """
    figure = go.Figure()
    by_name = grouped(sorted(rows, key=lambda row: row.step), lambda row: row.estimator)
    present = [estimate for estimate in ESTIMATES if estimate.name in by_name]
    for estimate in present:
        mine = by_name[estimate.name]
        points = [Point(row.step, row.spearman, row.spearman_low, row.spearman_high) for row in mine]
        add_line(figure, points, estimate.title, estimate.style)
    ends = [end for row in rows for end in (row.spearman, row.spearman_low) if end is not None and math.isfinite(end)]
    figure.update_xaxes(title="steps trained")
    lowest = min(ends, default=0.0) - 0.05
    figure.update_yaxes(title="Spearman with the real error", range=[min(0.0, lowest) if ends else 0.0, 1.04])
    return layout(figure, height, len(present))
