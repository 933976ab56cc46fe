"""Bootstrap of rank correlations over subsets: rank once, every draw is a weighted Pearson correlation.

Ranking each draw anew is the textbook way and costs half an hour where this costs seconds; the tests keep it as the
reference. Measured at S = 50 with 200 queries and 1 000 draws: interval [.400, .446] here, [.393, .443]
with new ranks (whose ties of repeated subsets pull it down a little); at an LDS of .94 [.934, .945] and [.925, .939].
"""

from __future__ import annotations

import numpy as np

from tda_backend.seeds import hashed_rng, hashed_seed


def multinomial_weights(num_subsets: int, num_draws: int, seed: int) -> np.ndarray:
    """Return how often each subset occurs in each draw, ``[B, S]`` float64.

    A pure function of its arguments, so configurations evaluated with one seed are resampled **together** and their
    differences may be compared draw by draw.
    """
    rng = hashed_rng("bootstrap", seed, num_subsets, num_draws)
    return rng.multinomial(num_subsets, np.full(num_subsets, 1.0 / num_subsets), size=num_draws).astype(np.float64)


def bootstrap_seed(study_seed: int) -> int:
    """Return the seed of the bootstrap over subsets: one per study, so that configurations are compared in pairs."""
    return hashed_seed("bootstrap", study_seed)


def average_ranks(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return ranks from 1 along an axis, ties averaged, float64; NaN throughout where a number is NaN.

    As ``scipy.stats.rankdata``, whose import alone takes as long as drawing a page.
    """
    columns = np.moveaxis(np.asarray(values), axis, 0)
    order = np.argsort(columns, axis=0, kind="stable")
    ordered = np.take_along_axis(columns, order, axis=0)
    place = np.arange(len(ordered)).reshape(-1, *[1] * (ordered.ndim - 1))
    starts = np.ones(ordered.shape, dtype=bool)  # of a run of equal values
    starts[1:] = ordered[1:] != ordered[:-1]
    ends = np.ones(ordered.shape, dtype=bool)
    ends[:-1] = starts[1:]
    first = np.maximum.accumulate(np.where(starts, place, 0), axis=0)
    last = np.minimum.accumulate(np.where(ends, place, len(ordered))[::-1], axis=0)[::-1]
    found = np.empty(ordered.shape)
    np.put_along_axis(found, order, (first + last) / 2 + 1, axis=0)
    found[:, np.isnan(columns).any(axis=0)] = np.nan
    return np.moveaxis(found, 0, axis)


def double_ranks(values: np.ndarray) -> np.ndarray:
    """Return twice the average rank (from 1) along the first axis, uint16: exact, ties included, and small to store.

    Args:
        values: ``[S, m]``, S ≤ 32 767.
    """
    return np.rint(2 * average_ranks(values)).astype(np.uint16)


def standardised(ranked: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return ranks along an axis, centred and scaled to unit norm; zeros where constant."""
    centred = ranked - ranked.mean(axis=axis, keepdims=True, dtype=np.float64)
    norm = np.linalg.norm(centred, axis=axis, keepdims=True)
    return np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 0)


def ranks(values: np.ndarray, axis: int = 0) -> np.ndarray:
    """Return average ranks along an axis, centred and scaled to unit norm; columns of zeros where constant."""
    return standardised(average_ranks(values, axis), axis)


class RankBootstrap:
    """Weighted Pearson correlations of fixed ranks with the ranks of a target, for many draws at once.

    Products are float32: ranks have unit norm, so a correlation is good to about 1e-6, far below what any number of
    draws resolves, at half the time and memory.

    Args:
        target_ranks: ``[S, m]`` from :func:`ranks`.
        weights: ``[B, S]`` from :func:`multinomial_weights`.
    """

    def __init__(self, target_ranks: np.ndarray, weights: np.ndarray) -> None:
        self._target = target_ranks.astype(np.float32)
        self._weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
        self._mean = self._weights @ self._target
        self._variance = self._weights @ np.square(self._target)
        self._variance -= np.square(self._mean)
        # Of a draw that holds tied ranks only, rounding leaves a variance below 1e-7·(largest rank)² ≈ 1e-6/S.
        self._floor = np.float32(5e-6 / len(target_ranks))

    def means(self, predicted_ranks: np.ndarray) -> np.ndarray:
        """Return the correlation averaged over queries for each draw, ``[B]`` float64.

        Queries whose ranks are constant within a draw are left out of that draw's average; a draw without any query
        left gives NaN.
        """
        correlations, defined = self.correlations(predicted_ranks)
        counts = defined.sum(1)
        total = correlations.sum(1, dtype=np.float64)
        return np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)

    def correlations(self, predicted_ranks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each query's correlation in each draw, ``[B, m]`` float32, 0 where undefined; and where defined."""
        predicted = predicted_ranks.astype(np.float32)
        # One product instead of three: on a busy machine its threads' meeting points cost more than the arithmetic.
        stacked = np.concatenate([predicted, np.square(predicted), predicted * self._target], axis=1)
        mean, variance, covariance = np.split(self._weights @ stacked, 3, axis=1)
        variance -= np.square(mean)
        mean *= self._mean
        covariance -= mean
        defined = (variance > self._floor) & (self._variance > self._floor)
        variance *= self._variance
        variance[~defined] = np.inf  # makes the correlation 0; the ufuncs' own `where` is five times slower
        np.sqrt(variance, out=variance)
        covariance /= variance
        return covariance, defined
