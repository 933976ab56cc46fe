"""Linear datamodeling score for every λ, with a bootstrap over subsets (METHODS §7; TRAK, definition 2.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tda_backend.errors import DataError, NumericalError, UsageError
from tda_backend.numerics.evaluation.bootstrap import (
    RankBootstrap,
    double_ranks,
    multinomial_weights,
    ranks,
    standardised,
)
from tda_backend.numerics.spectral.contraction import ScoreMatrix, Source, num_queries, subset_sums


@dataclass(frozen=True)
class LDSCurve:
    """LDS(λ) with its 95 % confidence interval.

    Attributes:
        regularizations: ``[L]``; one NaN for a method without λ.
        per_query: ``[L, m]`` Spearman correlation over subsets; NaN where undefined (a constant column).
        mean: ``[L]`` mean over queries, NaN dropped.
        ci_low: ``[L]`` 2.5 % quantile of the bootstrap over subsets.
        ci_high: ``[L]`` 97.5 % quantile.
        num_undefined: ``[L]`` number of queries dropped.
        num_subsets: S.
        bootstrap_means: ``[B, L]`` on request, for paired comparisons between configurations.
        predicted_ranks: ``[L, S, m]`` uint16 on request: twice the average rank over subsets of each predicted sum.
    """

    regularizations: np.ndarray
    per_query: np.ndarray
    mean: np.ndarray
    ci_low: np.ndarray
    ci_high: np.ndarray
    num_undefined: np.ndarray
    num_subsets: int
    bootstrap_means: np.ndarray | None = None
    predicted_ranks: np.ndarray | None = None


@dataclass(frozen=True)
class GroundTruth:
    """What retraining on S subsets gave.

    Attributes:
        masks: ``[S, n]`` bool, who is in each subset.
        outputs: ``[S, m]`` retrained goodness of each query, averaged over repeats.
    """

    masks: np.ndarray
    outputs: np.ndarray


def lds_curve(
    source: Source,
    truth: GroundTruth,
    regularizations: Sequence[float] | None,
    *,
    num_bootstrap: int = 1000,
    seed: int = 0,
    keep_bootstrap: bool = False,
    keep_ranks: bool = False,
) -> LDSCurve:
    """Return Spearman's correlation over subsets between retrained goodness and summed scores, for every λ.

    Args:
        source: One spectrum per training seed, or a score matrix.
        truth: Subsets and retrained goodness.
        regularizations: L values of λ; ``None`` for a score matrix.
        num_bootstrap: Number of draws B; 0 leaves the interval NaN.
        seed: Draws of one seed and S are the same for every configuration (paired).
        keep_bootstrap: Keep the draws' means.
        keep_ranks: Keep the ranks of the predictions.

    Raises:
        UsageError: Shapes do not match, or fewer than two subsets.
        DataError: A retrained goodness is not finite (names subset and query, counts).
        NumericalError: Scores are not finite (names λ), or the LDS is undefined for every query.
    """
    targets = np.asarray(truth.outputs, dtype=np.float64)
    _check(source, np.asarray(truth.masks), targets)
    sums = subset_sums(source, truth.masks, regularizations).cpu().numpy()
    values = np.array([np.nan]) if isinstance(source, ScoreMatrix) else np.asarray(regularizations, dtype=np.float64)
    target_ranks = ranks(targets)
    bootstrap = RankBootstrap(target_ranks, multinomial_weights(len(targets), num_bootstrap, seed))
    per_query = np.empty((len(values), targets.shape[1]))
    draws = np.full((num_bootstrap, len(values)), np.nan)
    kept = np.empty((len(values), *targets.shape), dtype=np.uint16) if keep_ranks else None
    for index, prediction in enumerate(sums):
        doubled = double_ranks(prediction)
        if kept is not None:
            kept[index] = doubled
        predicted_ranks = standardised(doubled)
        per_query[index] = _correlations(predicted_ranks, target_ranks, values[index])
        if num_bootstrap:
            draws[:, index] = bootstrap.means(predicted_ranks)
    low, high = np.nanpercentile(draws, [2.5, 97.5], axis=0) if num_bootstrap else np.full((2, len(values)), np.nan)
    return LDSCurve(
        regularizations=values,
        per_query=per_query,
        mean=np.nanmean(per_query, axis=1),
        ci_low=low,
        ci_high=high,
        num_undefined=np.isnan(per_query).sum(1),
        num_subsets=len(targets),
        bootstrap_means=draws if keep_bootstrap else None,
        predicted_ranks=kept,
    )


def _correlations(predicted: np.ndarray, target: np.ndarray, regularization: float) -> np.ndarray:
    """Return the correlation of standardised ranks ``[S, m]`` for every query; NaN where one side is constant."""
    defined = (np.abs(target).sum(0) > 0) & (np.abs(predicted).sum(0) > 0)
    if not defined.any():
        raise NumericalError(
            f"The LDS is undefined for every query at λ = {regularization:g}: all values are constant over subsets.",
            "Check that the subsets differ, and that the scores are not all zero.",
        )
    return np.where(defined, (predicted * target).sum(0), np.nan)


def _check(source: Source, masks: np.ndarray, targets: np.ndarray) -> None:
    expected = (len(masks), num_queries(source))
    if targets.shape != expected:
        raise UsageError(
            f"Retrained outputs have shape {targets.shape}, but masks and queries ask for {expected}.",
            "Outputs are [S, m]: average over repeats first and take the study's queries.",
        )
    if len(targets) < 2:
        raise UsageError(f"LDS needs at least two subsets, got {len(targets)}.", "Retrain more subsets.")
    bad = ~np.isfinite(targets)
    if bad.any():
        subset, query = np.argwhere(bad)[0]
        raise DataError(
            f"{int(bad.sum())} retrained outputs are not finite (first: subset {subset}, query {query}).",
            "A retraining diverged; retrain that subset or change the training settings.",
        )
