"""How well unrolling foretells removals, and how well the proxies foretell its errors (METHODS §6, ground truth).

Everything is resampled over removed examples, which are what was drawn at random; the evaluation examples share the
draws. Draws of one seed are the same for every prediction, so that two of them are compared draw by draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike

from tda_backend.errors import DataError, UsageError
from tda_backend.numerics.evaluation.bootstrap import RankBootstrap, multinomial_weights, ranks, standardised

NUM_BOOTSTRAP = 1000


@dataclass(frozen=True)
class Estimate:
    """One number with its 95 % bootstrap interval; NaN where it is not defined.

    Attributes:
        value: From all removed examples.
        low: 2.5 % quantile of the draws.
        high: 97.5 % quantile.
        draws: The draws, ``[B]``: paired where two estimates resample the same removed examples.
    """

    value: float
    low: float
    high: float
    draws: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False, compare=False)


@dataclass(frozen=True)
class RankAgreement:
    """Spearman's correlation over removed examples between predicted and true effects.

    Attributes:
        per_point: Of each evaluation example, ``[m]``; NaN where an effect or prediction is constant.
        mean: Over the evaluation examples where it is defined, with its interval.
        draws: That mean in each draw, ``[B]``.
        num_undefined: Evaluation examples without a value.
    """

    per_point: np.ndarray
    mean: Estimate
    draws: np.ndarray
    num_undefined: int


@dataclass(frozen=True)
class MatchingGain:
    """What it brings to assume the optimizer that trained instead of another one, in pairs.

    Attributes:
        matched: Mean Spearman correlation with the right optimizer.
        mismatched: With the other one.
        difference: matched − mismatched.
        ratio: matched / mismatched, 1.1 for ten per cent more; NaN where mismatched ≤ 0. A draw where mismatched ≤ 0
            counts as infinite where matched > 0.
    """

    matched: float
    mismatched: float
    difference: Estimate
    ratio: Estimate


@dataclass(frozen=True)
class ErrorAgreement:
    """How an estimate of the error compares with the real error, over removed (and evaluation) examples together.

    Attributes:
        pearson: Correlation.
        spearman: Correlation of ranks.
        slope: Σ|estimate|·|error| / Σ error²: sizes of estimates over sizes of errors, least squares through 0. 1: as
            large as the error; 0.5: half as large.
    """

    pearson: Estimate
    spearman: Estimate
    slope: Estimate


@dataclass(frozen=True)
class ErrorSize:
    """How large the error of a prediction is.

    Attributes:
        mean_effect: Mean |true effect|.
        mean_error: Mean |true − predicted|.
        relative: mean_error / mean_effect.
    """

    mean_effect: float
    mean_error: float
    relative: Estimate


def effect_agreement(
    predicted: ArrayLike, true: ArrayLike, *, num_bootstrap: int = NUM_BOOTSTRAP, seed: int = 0
) -> RankAgreement:
    """Return Spearman's ρ over removed examples for every evaluation example, and the mean over them.

    Args:
        predicted: ``[R, m]``, or ``[R]`` for one evaluation example.
        true: The same shape.
        num_bootstrap: Draws; 0 leaves the interval NaN.
        seed: Of the draws.

    Raises:
        UsageError: Shapes differ, or fewer than two removed examples.
        DataError: A number is not finite.
    """
    left, right = _pair(predicted, true)
    first, second = ranks(left), ranks(right)
    defined = (np.abs(first).sum(0) > 0) & (np.abs(second).sum(0) > 0)
    per_point = np.where(defined, (first * second).sum(0), np.nan)
    draws = np.empty(0)
    if num_bootstrap:
        draws = RankBootstrap(second, multinomial_weights(len(left), num_bootstrap, seed)).means(first)
    mean = float(per_point[defined].mean()) if defined.any() else float("nan")
    return RankAgreement(per_point, _estimate(mean, draws), draws, int((~defined).sum()))


def mean_agreement(agreements: Sequence[RankAgreement]) -> RankAgreement:
    """Return the mean over training seeds, of the values and draw by draw.

    The interval is that of the removed examples, given these seeds: it holds no spread between seeds. Seeds' draws are
    independent only where they were drawn with different ``seed``.

    Raises:
        UsageError: None is given, or their numbers of draws or evaluation examples differ.
    """
    if len({(len(each.draws), len(each.per_point)) for each in agreements}) != 1:
        raise UsageError(
            f"{len(agreements)} agreements of different sizes have no mean.", "Give one per seed, equally resampled."
        )
    points = np.stack([each.per_point for each in agreements])
    known = ~np.isnan(points)
    per_point = np.divide(
        np.where(known, points, 0).sum(0), known.sum(0), out=np.full(points.shape[1], np.nan), where=known.any(0)
    )
    draws = np.mean([each.draws for each in agreements], axis=0)
    mean = float(np.mean([each.mean.value for each in agreements]))
    return RankAgreement(per_point, _estimate(mean, draws), draws, sum(each.num_undefined for each in agreements))


def mean_estimate(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean over training seeds, of the values and draw by draw; as :func:`mean_agreement`.

    Raises:
        UsageError: None is given, or their numbers of draws differ.
    """
    if len({len(each.draws) for each in estimates}) != 1:
        raise UsageError(f"{len(estimates)} estimates have no mean.", "Give one per seed, equally resampled.")
    return _estimate(float(np.mean([each.value for each in estimates])), np.mean([each.draws for each in estimates], 0))


def matching_gain(matched: RankAgreement, mismatched: RankAgreement) -> MatchingGain:
    """Return the difference and the ratio of two predictions of the same removals, in pairs of draws.

    Raises:
        UsageError: Their numbers of draws differ.
    """
    ours, others = matched.draws, mismatched.draws
    if len(ours) != len(others):
        raise UsageError(f"{len(ours)} and {len(others)} draws cannot be paired.", "Resample both equally.")
    value, other = matched.mean.value, mismatched.mean.value
    above = others > 0
    ratios = np.divide(ours, others, out=np.where(ours > 0, np.inf, np.nan), where=above)
    ratio = value / other if other > 0 else float("nan")
    return MatchingGain(value, other, _estimate(value - other, ours - others), _estimate(ratio, ratios))


def error_agreement(
    estimate: ArrayLike, error: ArrayLike, *, num_bootstrap: int = NUM_BOOTSTRAP, seed: int = 0
) -> ErrorAgreement:
    """Return correlations and slope of an estimated against the real error, all entries together.

    Entries of one removed example are drawn together, since they depend on each other.

    Args:
        estimate: ``[R, m]``, or ``[R]`` for means over evaluation examples.
        error: True effect − prediction, the same shape.
        num_bootstrap: Draws; 0 leaves the intervals NaN.
        seed: Of the draws.

    Raises:
        UsageError: Shapes differ, or fewer than two removed examples.
        DataError: A number is not finite.
    """
    left, right = _pair(estimate, error)
    weights = multinomial_weights(len(left), num_bootstrap, seed) if num_bootstrap else np.empty((0, len(left)))
    shape = left.shape
    linear, ranked = (
        _correlation(kind(left.ravel()).reshape(shape), kind(right.ravel()).reshape(shape), weights)
        for kind in (standardised, ranks)
    )
    products, squares = np.abs(left * right).sum(1), np.square(right).sum(1)
    return ErrorAgreement(linear, ranked, _quotient(products, squares, weights))


def error_size(
    predicted: ArrayLike, true: ArrayLike, *, num_bootstrap: int = NUM_BOOTSTRAP, seed: int = 0
) -> ErrorSize:
    """Return how large the error of a prediction is beside the effects; arguments as :func:`effect_agreement`."""
    left, right = _pair(predicted, true)
    weights = multinomial_weights(len(left), num_bootstrap, seed) if num_bootstrap else np.empty((0, len(left)))
    errors, effects = np.abs(right - left), np.abs(right)
    return ErrorSize(float(effects.mean()), float(errors.mean()), _quotient(errors.sum(1), effects.sum(1), weights))


def _pair(left: ArrayLike, right: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64 ``[R, m]``."""
    first, second = np.asarray(left, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if first.shape != second.shape or first.ndim not in (1, 2) or not first.size or len(first) < 2:
        raise UsageError(
            f"Shapes {first.shape} and {second.shape}.",
            "Give two arrays [removed, evaluation] of one shape, with at least two removed examples.",
        )
    for name, values in (("first", first), ("second", second)):
        bad = int((~np.isfinite(values)).sum())
        if bad:
            raise DataError(f"{bad} of {values.size} numbers of the {name} array are not finite.", "Record in float64.")
    return first.reshape(len(first), -1), second.reshape(len(second), -1)


def _correlation(left: np.ndarray, right: np.ndarray, weights: np.ndarray) -> Estimate:
    """Return Pearson's correlation of ``[R, m]`` (each of unit norm and mean 0, or 0 where constant) and its draws."""
    if not (left.any() and right.any()):
        return _estimate(float("nan"), np.full(len(weights), np.nan))
    share = weights / left.size
    mean_left, mean_right = share @ left.sum(1), share @ right.sum(1)
    var_left = share @ np.square(left).sum(1) - np.square(mean_left)
    var_right = share @ np.square(right).sum(1) - np.square(mean_right)
    covariance = share @ (left * right).sum(1) - mean_left * mean_right
    known = (var_left > 1e-12 / left.size) & (var_right > 1e-12 / left.size)
    draws = np.divide(
        covariance, np.sqrt(np.where(known, var_left * var_right, 1.0)), out=np.full(len(weights), np.nan), where=known
    )
    return _estimate(float((left * right).sum()), draws)


def _quotient(above: np.ndarray, below: np.ndarray, weights: np.ndarray) -> Estimate:
    """Return Σabove/Σbelow over removed examples and its draws; NaN where nothing is below."""
    total = float(below.sum())
    value = float(above.sum()) / total if total > 0 else float("nan")
    drawn = weights @ below
    draws = np.divide(weights @ above, drawn, out=np.full(len(weights), np.nan), where=drawn > 0)
    return _estimate(value, draws)


def _estimate(value: float, draws: np.ndarray) -> Estimate:
    """Return a value with the quantiles of the draws where it is defined."""
    known = draws[~np.isnan(draws)]
    if not len(known) or np.isnan(value):
        return Estimate(value, float("nan"), float("nan"), draws)
    # Not interpolated: half-way to an infinite ratio lies nothing.
    low, high = np.quantile(known, [0.025, 0.975], method="inverted_cdf")
    return Estimate(value, float(low), float(high), draws)
