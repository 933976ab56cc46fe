"""Curves over λ: LDS with its interval, the LDS of one query, the surrogate indicator ξ."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LdsPoint:
    """One row of :meth:`Study.curve`.

    Attributes:
        regularization: λ; ``None`` for a method without λ, whose curve is one point.
        mean: LDS, mean over queries.
        ci_low: Low end of its 95 % interval (bootstrap over subsets).
        ci_high: High end.
        num_subsets: Retrained subsets behind it.
        num_undefined: Queries whose LDS is not defined.
        is_selected: Whether this is λ* and not a value of the grid.
    """

    regularization: float | None
    mean: float
    ci_low: float
    ci_high: float
    num_subsets: int
    num_undefined: int
    is_selected: bool


@dataclass(frozen=True)
class QueryPoint:
    """LDS of one query at one λ: a row of :meth:`Study.query_curve`."""

    regularization: float | None
    lds: float


@dataclass(frozen=True)
class IndicatorPoint:
    """ξ at one λ, mean and quantiles over validation points: a row of :meth:`Study.indicator_curve`."""

    regularization: float
    mean: float
    q05: float
    q25: float
    q50: float
    q75: float
    q95: float
    num_dropped: int
    is_selected: bool


@dataclass(frozen=True)
class LdsRow:
    """LDS at one λ of one configuration: a row of :meth:`Study.lds_table`; fields as of :class:`LdsPoint`."""

    configuration_id: str
    method: str
    training_epoch: int
    projection_dim: int | None
    label: str
    has_regularization: bool
    regularization: float | None
    mean: float
    ci_low: float
    ci_high: float
    num_subsets: int
