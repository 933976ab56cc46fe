"""Agreement of predicted with true effects against the learning rate. Pure functions.

The optimizer that a prediction assumes is told by colour, the curvature by the symbol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from app.formats import lds_text
from app.shared.charts import transparent
from app.shared.method_style import BLUE, VIOLET
from app.views.trajectory.charts import Point, layout, rate_axis, rate_text, vertical_bars
from tda_backend.interfaces.reading.records.grouping import grouped
from tda_backend.interfaces.reading.records.trajectory import RunAgreement

MATCHED, MISMATCHED = BLUE, VIOLET


@dataclass(frozen=True)
class CurvatureStyle:
    """How the curvature of a batch is called and drawn: name, Plotly's symbol and dash."""

    title: str
    symbol: str
    dash: str


CURVATURES = {
    "hessian": CurvatureStyle("exact Hessian", "circle", "solid"),
    "gauss-newton": CurvatureStyle("Gauss–Newton", "diamond", "dash"),
    "fisher": CurvatureStyle("Fisher", "square", "dot"),
    "none": CurvatureStyle("no curvature", "x", "dashdot"),
}


def assumed_text(row: RunAgreement, optimizer: str) -> str:
    """Return the optimizer that a prediction assumes."""
    return optimizer if row.is_matched else "SGD"


def agreement_figure(rows: Sequence[RunAgreement], optimizer: str, height: int = 360) -> go.Figure:
    """Return the agreement with the truth against learning rate, a line for each assumption.

    Args:
        rows: Of single seeds, and means over them.
        optimizer: As trained, in a word.
        height: Pixels.
    """
    figure = go.Figure()
    order = list(CURVATURES)
    kinds = grouped(
        sorted(rows, key=lambda row: (not row.is_matched, order.index(row.curvature), row.learning_rate)),
        lambda row: (row.is_matched, row.curvature),
    )
    shifts = 10 ** (0.05 * (np.arange(len(kinds)) - (len(kinds) - 1) / 2))
    for mine, shift in zip(kinds.values(), shifts.tolist(), strict=True):
        _add_kind(figure, mine, optimizer, shift)
    rate_axis(figure, sorted({row.learning_rate for row in rows}))
    top = max(1.0, *_finite(row.ci_high for row in rows)) + 0.03
    figure.update_yaxes(
        title="rank correlation with the truth", range=[min(0.0, *_finite(row.ci_low for row in rows)), top]
    )
    return layout(figure, height, len(kinds))


def _finite(values) -> list[float]:
    return [value for value in values if np.isfinite(value)] or [0.0]


def _add_kind(figure: go.Figure, mine: Sequence[RunAgreement], optimizer: str, shift: float) -> None:
    """Draw one assumption: a mark for each seed, and the means with their intervals."""
    style = CURVATURES[mine[0].curvature]
    color = MATCHED if mine[0].is_matched else MISMATCHED
    name = f"{assumed_text(mine[0], optimizer)} assumed, {style.title}"
    seeds = [row for row in mine if row.seed_index is not None]
    figure.add_scatter(
        x=[row.learning_rate * shift for row in seeds],
        y=[row.mean for row in seeds],
        mode="markers",
        showlegend=False,
        name=name,
        marker={"color": transparent(color, 0.45), "size": 5, "symbol": style.symbol},
        customdata=[[row.seed_index, row.ci_low, row.ci_high] for row in seeds],
        hovertemplate="seed %{customdata[0]:d}: %{y:.3f} (%{customdata[1]:.3f} to %{customdata[2]:.3f})"
        f"<extra>{name}</extra>",
    )
    means = [row for row in mine if row.seed_index is None]
    points = [Point(row.learning_rate * shift, row.mean, row.ci_low, row.ci_high) for row in means]
    figure.add_scatter(
        x=[point.x for point in points],
        y=[point.y for point in points],
        mode="lines+markers",
        name=name,
        line={"color": color, "width": 1.6, "dash": style.dash},
        marker={"color": color, "size": 10, "symbol": style.symbol},
        error_y=vertical_bars(points, color),
        text=[f"η = {rate_text(row.learning_rate)}: {lds_text(row.mean, row.ci_low, row.ci_high)}" for row in means],
        hovertemplate="%{text}<extra>" + name + "</extra>",
    )
