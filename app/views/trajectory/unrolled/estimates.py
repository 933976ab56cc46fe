"""The estimates of a prediction's error that a study can have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.shared.method_style import GRAY, GREEN
from app.views.trajectory.charts import LineStyle
from app.views.trajectory.unrolled.data import Effect


@dataclass(frozen=True)
class Estimate:
    """One estimate.

    Attributes:
        name: Key in ``trajectory_errors``.
        title: For people.
        of: An effect → the estimate of its error.
        style: Of its line.
    """

    name: str
    title: str
    of: Callable[[Effect], float]
    style: LineStyle


ESTIMATES = (
    Estimate("proxy", "full second order", lambda effect: effect.proxy, LineStyle(GREEN, "solid", ".2f")),
    Estimate("cheap", "its first term alone", lambda effect: effect.cheap, LineStyle(GRAY, "dash", ".2f")),
)
