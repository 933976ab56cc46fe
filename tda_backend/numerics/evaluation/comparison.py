"""Is configuration A better than B? Differences of LDS with paired intervals, from stored ranks or stored draws.

Stored ranks are ``uint16 [..., S, m]``: twice the average rank, from 1, of each predicted subset sum over the S subsets
of a query (``double_ranks``). LDS needs nothing else of a prediction, and the
ranks among the first s subsets follow from them.

Two configurations that are judged by the same retrainings err together: an easy draw of subsets is easy for both. The
paired difference keeps that out (METHODS §7). Measured on MNIST with a perceptron, 50 subsets, exact IFFIM: ±.017
paired and ±.030 unpaired between epochs 5 and 50; ±.005 and ±.030 between neighbouring λ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tda_backend.errors import DataError, UsageError
from tda_backend.numerics.evaluation.bootstrap import RankBootstrap, multinomial_weights, ranks, standardised
from tda_backend.seeds import hashed_rng

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """A minus B.

    Attributes:
        lds_a: Mean LDS of A over queries.
        lds_b: Mean LDS of B.
        difference: ``lds_a − lds_b``; over the queries that both know, where ranks were compared.
        ci_low: 2.5 % quantile of the difference over draws of subsets.
        ci_high: 97.5 % quantile.
        ci_low_queries: The same where queries are drawn anew too (statement about other queries); NaN if not known.
        ci_high_queries: Upper end.
        probability: Share of draws of subsets in which A is better; equal draws count half.
        num_draws: Draws the interval rests on.
    """

    lds_a: float
    lds_b: float
    difference: float
    ci_low: float
    ci_high: float
    ci_low_queries: float
    ci_high_queries: float
    probability: float
    num_draws: int

    @property
    def verdict(self) -> str:
        """``"A"`` or ``"B"`` where the interval over subsets leaves out 0, else ``"undecided"``."""
        if self.ci_low > 0:
            return "A"
        return "B" if self.ci_high < 0 else "undecided"


def lds_from_ranks(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation over subsets of every query.

    Args:
        predicted: ``[..., S, m]`` ranks of predicted subset sums, any multiple of them.
        target: ``[S, m]`` retrained goodness.

    Returns:
        ``[..., m]`` float64; NaN where predictions or targets are constant.

    Raises:
        UsageError: Shapes do not match, or fewer than two subsets.
        DataError: A target is not finite.
    """
    checked = _checked_target(predicted, target)
    known = np.ptp(checked, axis=0) > 0
    truth = ranks(checked)
    result = np.empty((*predicted.shape[:-2], predicted.shape[-1]))
    for index in np.ndindex(*predicted.shape[:-2]):
        own = standardised(predicted[index])
        defined = known & (np.abs(own).sum(0) > 0)
        result[index] = np.where(defined, (own * truth).sum(0), np.nan)
    return result


def draws_from_ranks(predicted: np.ndarray, target: np.ndarray, num_bootstrap: int = 1000, seed: int = 0) -> np.ndarray:
    """Return the mean LDS of every bootstrap draw of subsets; draws of one seed and S are shared (paired).

    Args:
        predicted: ``[..., S, m]`` ranks.
        target: ``[S, m]`` retrained goodness.
        num_bootstrap: B.
        seed: Seed of the draws.

    Returns:
        ``[B, ...]`` float64.

    Raises:
        UsageError, DataError: As :func:`lds_from_ranks`.
    """
    checked = _checked_target(predicted, target)
    bootstrap = RankBootstrap(ranks(checked), multinomial_weights(len(checked), num_bootstrap, seed))
    result = np.empty((num_bootstrap, *predicted.shape[:-2]))
    for index in np.ndindex(*predicted.shape[:-2]):
        result[(slice(None), *index)] = bootstrap.means(standardised(predicted[index]))
    return result


def compare_ranks(
    predicted_a: np.ndarray,
    predicted_b: np.ndarray,
    target: np.ndarray,
    *,
    num_bootstrap: int = 1000,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Comparison:
    """Compare two configurations on the same retrainings, query by query.

    Every draw resamples subsets once for both. The second interval also resamples queries, the same for both: it is
    about other queries as well, and wider. Queries that are undefined for one of the two are left out of both.

    Args:
        predicted_a: ``[S, m]`` ranks of A's predicted subset sums.
        predicted_b: ``[S, m]`` ranks of B's.
        target: ``[S, m]`` retrained goodness.
        num_bootstrap: Draws B.
        seed: Seed of the draws.
        confidence: Of the intervals.

    Raises:
        UsageError: Shapes do not match, fewer than two subsets, or no query is defined for both.
        DataError: A target is not finite.
    """
    per_query = lds_from_ranks(np.stack([predicted_a, predicted_b]), target)
    both = np.isfinite(per_query).all(0)
    if not both.any():
        raise UsageError(
            "No query has an LDS for both configurations.", "Compare configurations whose scores are not constant."
        )
    bootstrap = RankBootstrap(
        ranks(np.asarray(target, dtype=np.float64)[:, both]), multinomial_weights(len(target), num_bootstrap, seed)
    )
    a, known_a = bootstrap.correlations(standardised(predicted_a[:, both]))
    b, known_b = bootstrap.correlations(standardised(predicted_b[:, both]))
    known = known_a & known_b
    gap = np.where(known, a.astype(np.float64) - b, 0.0)
    over_subsets = _ratio(gap.sum(1), known.sum(1))
    num_queries = int(both.sum())
    counts = hashed_rng("bootstrap queries", seed, num_queries, num_bootstrap).multinomial(
        num_queries, np.full(num_queries, 1 / num_queries), size=num_bootstrap
    )
    over_both = _ratio((gap * counts).sum(1), (known * counts).sum(1))
    mean_a, mean_b = per_query[:, both].mean(1)
    low, high = _interval(over_subsets, confidence)
    return Comparison(
        float(mean_a),
        float(mean_b),
        float(mean_a - mean_b),
        low,
        high,
        *_interval(over_both, confidence),
        _share_better(over_subsets),
        num_draws=num_bootstrap,
    )


def _checked_target(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    checked = np.asarray(target, dtype=np.float64)
    if checked.ndim != 2 or predicted.ndim < 2 or predicted.shape[-2:] != checked.shape:
        raise UsageError(
            f"Ranks have shape {predicted.shape} and targets {checked.shape}.",
            "Ranks are [..., subsets, queries] and targets [subsets, queries].",
        )
    if len(checked) < 2:
        raise UsageError(f"LDS needs at least two subsets, got {len(checked)}.", "Retrain more subsets.")
    if not np.isfinite(checked).all():
        raise DataError(
            f"{int((~np.isfinite(checked)).sum())} retrained outputs are not finite.",
            "A retraining diverged; retrain that subset or change the training settings.",
        )
    return checked


def _interval(draws: np.ndarray, confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise UsageError(f"The confidence {confidence} is outside (0, 1).", "The usual value is 0.95.")
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        raise UsageError("No draw is defined for both configurations.", "Retrain more subsets.")
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _share_better(gap: np.ndarray) -> float:
    finite = gap[np.isfinite(gap)]
    return float(((finite > 0) + 0.5 * (finite == 0)).mean())


def _ratio(total: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(total, counts, out=np.full(len(total), np.nan), where=counts > 0)
