"""Curves over λ as values: their points, how they are drawn and what is marked on them. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from app.shared.method_style import BLUE, VIOLET
from tda_backend.interfaces.reading.records.curves import IndicatorPoint, LdsPoint
from tda_backend.interfaces.reading.records.selections import Quantile

ZERO_GAP = 1.5  # decades between the point for λ = 0 and the smallest positive λ
LDS_HELP = (
    "LDS is the rank correlation between what the attribution predicts for a model retrained on a random subset of the "
    "training data and what that model does. The band is a 95 % bootstrap interval over subsets; higher is better."
)
XI_HELP = (
    "ξ̄ needs no retraining: near 0 the ranking is ruled by tiny eigenvalues, near 1 the curvature no longer counts. "
    "λ* stands where it crosses the threshold."
)
LAMBDA_TITLE = "λ (units of the mean Gram)"
RELATIVE_TITLE = "λ relative to each layer's mean curvature"
BOTH_TITLE = "λ (absolute or relative, by damping)"
LDS_TITLE = "LDS (mean over queries)"


class Placed(Protocol):
    """A row of a curve over λ; the row of λ* is marked, for it need not lie on the grid."""

    @property
    def regularization(self) -> float | None: ...

    @property
    def is_selected(self) -> bool: ...


Row = TypeVar("Row", bound=Placed)


@dataclass(frozen=True)
class CurvePoint:
    """One point of a curve with its interval.

    Attributes:
        regularization: λ.
        mean: Height.
        low: Low end of the interval.
        high: High end.
        is_selected: Whether this is λ* and not a value of the grid.
    """

    regularization: float | None
    mean: float
    low: float
    high: float
    is_selected: bool = False


@dataclass(frozen=True)
class NamedCurve:
    """A curve as a figure shows it.

    Attributes:
        name: Legend entry.
        color: ``#rrggbb``.
        dash: As Plotly names it.
        points: In any order.
    """

    name: str
    color: str
    dash: str
    points: Sequence[CurvePoint]


@dataclass(frozen=True)
class LdsCurve:
    """LDS(λ) of one configuration and what is marked on it.

    Attributes:
        name: Legend entry.
        points: LDS with its 95 % interval.
        color: ``#rrggbb``.
        title: What λ is.
        current: λ being looked at.
        selected: λ*.
        best: λ with the highest LDS.
        quantiles: Spectrum baselines, grey lines.
        span: Range of the LDS axis; the same for figures that stand side by side.
    """

    name: str
    points: Sequence[LdsPoint]
    color: str = BLUE
    title: str = LAMBDA_TITLE
    current: float | None = None
    selected: float | None = None
    best: float | None = None
    quantiles: Sequence[Quantile] = ()
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class IndicatorCurve:
    """ξ̄(λ) of one configuration and what is marked on it.

    Attributes:
        name: Legend entry.
        points: ξ over validation points.
        color: ``#rrggbb``.
        title: What λ is.
        threshold: Drawn as a level.
        current: λ being looked at.
        selected: λ where ξ̄ crosses the threshold.
    """

    name: str
    points: Sequence[IndicatorPoint]
    color: str = VIOLET
    title: str = LAMBDA_TITLE
    threshold: float = 0.5
    current: float | None = None
    selected: float | None = None


def lds_points(rows: Iterable[LdsPoint]) -> list[CurvePoint]:
    """Return LDS rows as points of a figure."""
    return [CurvePoint(row.regularization, row.mean, row.ci_low, row.ci_high, row.is_selected) for row in rows]


def zero_position(regularizations: Iterable[float]) -> float:
    """Return where on the logarithmic axis λ = 0 is drawn."""
    positive = [value for value in regularizations if value > 0]
    return min(positive) / 10**ZERO_GAP if positive else 1e-9


def on_grid(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of a curve that lie within the study's grid of λ, ascending.

    The row of λ* may lie decades below it; it gets a line of its own and must not stretch the axis.
    """
    known = sorted((row for row in rows if row.regularization is not None), key=lambda row: row.regularization or 0.0)
    grid = [row.regularization or 0.0 for row in known if not row.is_selected]
    if len(grid) in (0, len(known)):
        return known
    low, high = min((value for value in grid if value > 0), default=0.0), max(grid)
    return [row for row in known if row.regularization == 0 or low <= (row.regularization or 0.0) <= high]


def lambda_title(are_relative: Iterable[bool]) -> str:
    """Return what λ is for configurations whose λ is relative to each layer, or not."""
    known = set(are_relative)
    return BOTH_TITLE if len(known) > 1 else RELATIVE_TITLE if known == {True} else LAMBDA_TITLE


def lambdas(rows: Iterable[Placed]) -> list[float]:
    """Return the values of λ of some rows."""
    return [row.regularization for row in rows if row.regularization is not None]
