"""Bootstrap of rank correlations over subsets: rank once, every draw is a weighted Pearson correlation.

Ranking each draw anew is the textbook way and costs half an hour where this costs seconds; :func:`reranked_means` is
kept as the reference. Measured at S = 50 with 200 queries and 1 000 draws: interval [.400, .446] here, [.393, .443]
with new ranks (whose ties of repeated subsets pull it down a little); at an LDS of .94 [.934, .945] and [.925, .939].
"""

from __future__ import annotations

import numpy as np
import scipy.stats

from tda_backend.seeds import hashed_rng


def multinomial_weights(num_subsets: int, num_draws: int, seed: int) -> np.ndarray:
    """Return how often each subset occurs in each draw, ``[B, S]`` float64.

    A pure function of its arguments, so configurations evaluated with one seed are resampled **together** and their
    differences may be compared draw by draw.
    """
    rng = hashed_rng("bootstrap", seed, num_subsets, num_draws)
    return rng.multinomial(num_subsets, np.full(num_subsets, 1.0 / num_subsets), size=num_draws).astype(np.float64)


def ranks(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return average ranks along an axis, centred and scaled to unit norm; columns of zeros where constant."""
    ranked = scipy.stats.rankdata(values, method="average", axis=axis)
    ranked -= ranked.mean(axis=axis, keepdims=True)
    norm = np.linalg.norm(ranked, axis=axis, keepdims=True)
    return np.divide(ranked, norm, out=np.zeros_like(ranked), where=norm > 0)


class RankBootstrap:
    """Weighted Pearson correlations of fixed ranks with the ranks of a target, for many draws at once.

    Args:
        target_ranks: ``[S, m]`` from :func:`ranks`.
        weights: ``[B, S]`` from :func:`multinomial_weights`.
    """

    def __init__(self, target_ranks: np.ndarray, weights: np.ndarray) -> None:
        self._target = target_ranks
        self._weights = weights / weights.sum(1, keepdims=True)
        self._mean = self._weights @ target_ranks
        self._variance = self._weights @ target_ranks**2 - self._mean**2

    def means(self, predicted_ranks: np.ndarray) -> np.ndarray:
        """Return the correlation averaged over queries for each draw, ``[B]``.

        Queries whose ranks are constant within a draw are left out of that draw's average; a draw without any query
        left gives NaN.
        """
        mean = self._weights @ predicted_ranks
        variance = self._weights @ predicted_ranks**2
        variance -= mean**2
        covariance = self._weights @ (predicted_ranks * self._target)
        covariance -= mean * self._mean
        # Ranks have unit norm, so a variance at rounding level means that the draw holds tied ranks only.
        floor = 1e-12 / len(predicted_ranks)
        defined = (variance > floor) & (self._variance > floor)
        variance *= self._variance
        np.sqrt(variance, out=variance, where=defined)
        correlations = np.divide(covariance, variance, out=np.zeros_like(covariance), where=defined)
        counts = defined.sum(1)
        return np.divide(correlations.sum(1), counts, out=np.full(len(counts), np.nan), where=counts > 0)


def reranked_means(predictions: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean Spearman correlation of each draw with ranks taken anew in the draw, ``[B]``; slow reference.

    Args:
        predictions: ``[S, m]`` subset sums.
        targets: ``[S, m]`` retrained goodness.
        weights: ``[B, S]`` integer counts.
    """
    result = np.full(len(weights), np.nan)
    for draw, row in enumerate(weights):
        chosen = np.repeat(np.arange(len(row)), row.astype(np.int64))
        left, right = ranks(predictions[chosen]), ranks(targets[chosen])
        defined = (np.abs(left).sum(0) > 0) & (np.abs(right).sum(0) > 0)
        if defined.any():
            result[draw] = (left * right).sum(0)[defined].mean()
    return result
