"""Leave-one-out (LOO) and expected leave-one-out (ELOO): one training example is really taken out (METHODS §7).

    effect(z, z') = mean over seeds r of f_r(z'; D) − f_r(z'; D∖z),   f goodness, positive = z helps

with the same list of training seeds on both sides; one seed is LOO, several are ELOO. Effects of one example are small
and training noise is large, so the noise is measured beside them: with effects of c examples under R seeds, an analysis
of variance without the seeds' common shift (which cancels in every correlation over examples) gives

    reliability = 1 − MS_residual / MS_examples,   signal-to-noise = reliability / (1 − reliability),

both of the mean over seeds (Cronbach's α). No ranking can be expected to correlate with measured effects by more than
√reliability (Spearman 1904), which is reported as the ceiling.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tda_backend.errors import DataError, UsageError
from tda_backend.numerics.evaluation.bootstrap import multinomial_weights, ranks, standardised

_DRAWS_AT_ONCE = 50


@dataclass(frozen=True)
class LeaveOneOutEffects:
    """What taking out each example did.

    Attributes:
        effects: ``[c, m]``, mean over seeds; positive = the example helped.
        standard_errors: ``[c, m]`` of those means, over seeds; NaN with one seed. They hold the noise of the base
            models too, which all examples share.
        reliability: ``[m]`` share of the variance over examples that is no seed noise, in [0, 1]; NaN with one seed.
        num_seeds: R.
    """

    effects: np.ndarray
    standard_errors: np.ndarray
    reliability: np.ndarray
    num_seeds: int

    @property
    def signal_to_noise(self) -> np.ndarray:
        """Variance of the true effects over variance of the noise of their means, ``[m]``; inf without noise."""
        noise = 1 - self.reliability
        return np.divide(self.reliability, noise, out=np.full(len(noise), np.inf), where=noise != 0)

    @property
    def ceiling(self) -> np.ndarray:
        """√reliability: the correlation that perfect scores could reach, ``[m]``."""
        return np.sqrt(self.reliability)


@dataclass(frozen=True)
class Agreement:
    """One kind of correlation between scores and effects.

    Attributes:
        values: Per query ``[m]`` (over the removed examples) or per example ``[c]`` (over queries); NaN if constant.
        mean: Over those defined.
        ci_low: 2.5 % quantile of the bootstrap over what the correlation runs over.
        ci_high: 97.5 % quantile.
    """

    values: np.ndarray
    mean: float
    ci_low: float
    ci_high: float


@dataclass(frozen=True)
class LeaveOneOutAgreement:
    """How well scores foretell what taking out an example does.

    Attributes:
        spearman_per_query: Over removed examples: whom to blame for one query.
        pearson_per_query: The same with magnitudes.
        spearman_per_example: Over queries: whom one example helps.
        pearson_per_example: The same with magnitudes.
        ceiling: Mean √reliability over queries; NaN with one seed.
    """

    spearman_per_query: Agreement
    pearson_per_query: Agreement
    spearman_per_example: Agreement
    pearson_per_example: Agreement
    ceiling: float


def leave_one_out_effects(base: np.ndarray, removed: np.ndarray) -> LeaveOneOutEffects:
    """Return ``mean_r f_r(D) − f_r(D∖z)`` and how much of it is seed noise.

    Args:
        base: ``[R, m]`` goodness of each query, trained on all examples.
        removed: ``[c, R, m]`` goodness without one example, under the same training seeds in the same order.

    Raises:
        UsageError: Shapes do not match.
        DataError: An output is not finite.
    """
    whole, without = np.asarray(base, dtype=np.float64), np.asarray(removed, dtype=np.float64)
    if whole.ndim != 2 or without.ndim != 3 or without.shape[1:] != whole.shape or not without.size:
        raise UsageError(
            f"Outputs have shapes {whole.shape} (all examples) and {without.shape} (one taken out).",
            "They are [seeds, queries] and [examples, seeds, queries], with the same seeds.",
        )
    for name, outputs in (("with all examples", whole), ("with one taken out", without)):
        bad = int((~np.isfinite(outputs)).sum())
        if bad:
            raise DataError(
                f"{bad} retrained outputs {name} are not finite.",
                "A retraining diverged; retrain it or change the training settings.",
            )
    gaps = whole - without
    seeds = gaps.shape[1]
    effects = gaps.mean(1)
    errors = np.full(effects.shape, np.nan)
    if seeds > 1:
        errors = gaps.std(axis=1, ddof=1) / np.sqrt(seeds)
    return LeaveOneOutEffects(effects, errors, _reliability(gaps), seeds)


def _reliability(gaps: np.ndarray) -> np.ndarray:
    """Return ``1 − MS_residual/MS_examples`` per query, clipped to [0, 1]; NaN where it cannot be known."""
    count, seeds, queries = gaps.shape
    if seeds < 2 or count < 2:
        return np.full(queries, np.nan)
    own = gaps.mean(1, keepdims=True)
    between = seeds * np.square(own - own.mean(0)).sum((0, 1)) / (count - 1)
    rest = gaps - own - gaps.mean(0, keepdims=True) + own.mean(0)
    within = np.square(rest).sum((0, 1)) / ((count - 1) * (seeds - 1))
    ratio = np.divide(within, between, out=np.full(queries, np.nan), where=between > 0)
    return np.clip(1 - ratio, 0, 1)


def leave_one_out_agreement(
    scores: np.ndarray, found: LeaveOneOutEffects, *, num_bootstrap: int = 1000, seed: int = 0
) -> LeaveOneOutAgreement:
    """Return the correlations between scores and measured effects, per query and per example, with intervals.

    The interval of the mean per query is over draws of removed examples (shared by all queries), that of the mean per
    example over draws of queries; draws of one seed are the same for every method (paired).

    Args:
        scores: ``[m, c]`` of the removed examples, positive = helps.
        found: Their effects.
        num_bootstrap: Draws; 0 leaves the intervals NaN.
        seed: Seed of the draws.

    Raises:
        UsageError: Shapes do not match, or fewer than two examples or queries.
        DataError: A score is not finite.
    """
    predicted = np.asarray(scores, dtype=np.float64).T
    if predicted.shape != found.effects.shape:
        raise UsageError(
            f"Scores have shape {np.shape(scores)}; effects {found.effects.shape}.",
            "Scores are [queries, removed examples], effects [removed examples, queries].",
        )
    if min(predicted.shape) < 2:
        raise UsageError(
            f"{predicted.shape[0]} examples and {predicted.shape[1]} queries give no correlation.",
            "At least two of each are needed.",
        )
    if not np.isfinite(predicted).all():
        raise DataError(f"{int((~np.isfinite(predicted)).sum())} scores are not finite.", "Use a larger λ.")
    both = (predicted, found.effects), (predicted.T, found.effects.T)
    (by_query, by_query_linear), (by_example, by_example_linear) = (
        [_agreement(kind(left), kind(right), num_bootstrap, seed) for kind in (ranks, standardised)]
        for left, right in both
    )
    reliability = found.ceiling[np.isfinite(found.ceiling)]
    return LeaveOneOutAgreement(
        by_query,
        by_query_linear,
        by_example,
        by_example_linear,
        float(reliability.mean()) if len(reliability) else float("nan"),
    )


def _agreement(left: np.ndarray, right: np.ndarray, num_bootstrap: int, seed: int) -> Agreement:
    """Correlate columns of ``[a, b]`` (centred, of unit norm, 0 where constant) over a; float64 throughout.

    Not :class:`RankBootstrap`: effects have heavy tails, and its float32 floor is made for ranks.
    """
    defined = (np.abs(left).sum(0) > 0) & (np.abs(right).sum(0) > 0)
    values = np.where(defined, (left * right).sum(0), np.nan)
    if not defined.any():
        return Agreement(values, float("nan"), float("nan"), float("nan"))
    ends = (float("nan"), float("nan"))
    if num_bootstrap:
        left, right = left[:, defined], right[:, defined]
        weights = multinomial_weights(len(left), num_bootstrap, seed) / len(left)
        drawn = np.concatenate(
            [
                _weighted_means(left, right, weights[start : start + _DRAWS_AT_ONCE])
                for start in range(0, num_bootstrap, _DRAWS_AT_ONCE)
            ]
        )
        drawn = drawn[np.isfinite(drawn)]
        if len(drawn):
            ends = tuple(float(end) for end in np.percentile(drawn, [2.5, 97.5]))
    return Agreement(values, float(np.nanmean(values)), *ends)


def _weighted_means(left: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean over columns of the weighted Pearson correlation for each row of weights, ``[B]``."""
    mean_left, mean_right = weights @ left, weights @ right
    var_left = weights @ np.square(left) - np.square(mean_left)
    var_right = weights @ np.square(right) - np.square(mean_right)
    covariance = weights @ (left * right) - mean_left * mean_right
    known = (var_left > 1e-13) & (var_right > 1e-13)
    correlation = np.divide(covariance, np.sqrt(np.where(known, var_left * var_right, 1.0)))
    counts = known.sum(1)
    total = np.where(known, correlation, 0.0).sum(1)
    return np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)
