"""Subset-removal counterfactuals: does taking out the examples that helped most turn a prediction? (SOURCE, app. B.3.)

For queries that all base models classify correctly, the k training examples with the highest **positive** scores are
removed, R models are retrained, and the query is *flipped* if its mean correctness is below one half; once flipped it
stays flipped for larger k and is not retrained again. The curve is the fraction of flipped queries against k; the
baseline removes random training examples of the query's class. *Taming* uses the same curve to compare choices of λ.

Nothing here trains: :func:`next_removals` says what to retrain next, from the results so far, so that a run can stop
and go on anywhere. A result is a mean correctness in [0, 1], keyed by (query, k).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tda_backend.errors import DataError, NumericalError, UsageError
from tda_backend.numerics.evaluation.bootstrap import multinomial_weights
from tda_backend.seeds import hashed_rng

Results = Mapping[tuple[int, int], float]
"""(query, number of removed examples) → mean correctness over the retrained seeds."""


def always_correct(correct: np.ndarray) -> np.ndarray:
    """Return which queries every base model classifies correctly, ``[N]`` bool, from ``[R, N]`` bool."""
    table = np.asarray(correct).astype(bool)
    if table.ndim != 2 or not len(table):
        raise UsageError(f"Correctness has shape {table.shape}.", "It is [seeds, queries].")
    return np.logical_and.reduce(table, axis=0)


def choose_queries(
    candidates: np.ndarray, num: int, seed: int, labels: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
    """Return ``num`` random queries among the candidates, ascending; with labels as evenly over classes as they allow.

    A smaller ``num`` of the same seed is a subset of a larger one.

    Args:
        candidates: ``[N]`` bool, e.g. from :func:`always_correct`.
        num: How many.
        seed: Seed of the study.
        labels: ``[N]`` class of each; ``None`` draws without regard to class.

    Raises:
        DataError: There are fewer candidates than asked for.
        UsageError: ``num`` < 1, or labels of another number.
    """
    allowed = np.asarray(candidates).astype(bool)
    if num < 1:
        raise UsageError(f"{num} queries are asked for.", "At least 1 is needed.")
    if allowed.sum() < num:
        raise DataError(
            f"Only {int(allowed.sum())} queries are classified correctly by every base model; {num} are asked for.",
            "Take fewer queries, or fewer base seeds.",
        )
    order = hashed_rng("removal queries", seed).permutation(len(allowed))
    order = order[allowed[order]]
    if labels is not None:
        of_query = np.asarray(labels)
        if of_query.shape != allowed.shape:
            raise UsageError(f"{of_query.size} labels are given for {allowed.size} queries.", "Give one each.")
        place = np.empty(len(order), dtype=np.int64)  # how many of its class come before it
        for label in np.unique(of_query[order]):
            own = of_query[order] == label
            place[own] = np.arange(own.sum())
        order = order[np.argsort(place, kind="stable")]
    return np.sort(order[:num])


def removal_order(scores: np.ndarray) -> np.ndarray:
    """Return the training positions with a positive score, highest first, ties by position.

    The k examples to remove are the first k; where fewer are positive, all of them.

    Args:
        scores: ``[n]`` scores of one query, positive = helps.

    Raises:
        UsageError: Not one row.
        NumericalError: A score is not finite.
    """
    row = np.asarray(scores, dtype=np.float64)
    if row.ndim != 1:
        raise UsageError(f"Scores have shape {row.shape}.", "Give the scores of one query, [n].")
    if not np.isfinite(row).all():
        raise NumericalError(f"{int((~np.isfinite(row)).sum())} scores are not finite.", "Use a larger λ.")
    order = np.argsort(-row, kind="stable")
    return order[: int((row > 0).sum())]


def same_class_order(train_labels: Sequence[int] | np.ndarray, label: int, query: int, seed: int) -> np.ndarray:
    """Return the training positions of one class in random order: the Random baseline, nested in k.

    Args:
        train_labels: ``[n]``.
        label: Class of the query.
        query: Position of the query; each has an order of its own.
        seed: Seed of the study.
    """
    members = np.flatnonzero(np.asarray(train_labels) == label)
    return members[hashed_rng("removal baseline", seed, int(query)).permutation(len(members))]


def removal_masks(orders: Sequence[np.ndarray], sizes: Sequence[int], num_train: int) -> np.ndarray:
    """Return who stays in the training set: all but the first k of each order, bool ``[c, n]``.

    Raises:
        UsageError: Orders and sizes differ in number, or nobody would stay.
    """
    if len(orders) != len(sizes):
        raise UsageError(f"{len(orders)} orders are given for {len(sizes)} sizes.", "Give one size per order.")
    masks = np.ones((len(orders), num_train), dtype=bool)
    for row, (order, size) in enumerate(zip(orders, sizes, strict=True)):
        masks[row, order[:size]] = False
    if len(masks) and not masks.any(axis=1).all():
        raise UsageError("A removal would leave no training example.", "Remove fewer.")
    return masks


def is_flipped(correctness: float) -> bool:
    """Return whether a query with this mean correctness over seeds counts as flipped (below one half)."""
    if not 0 <= correctness <= 1:
        raise DataError(f"Mean correctness {correctness} is outside [0, 1].", "It is a share of retrained models.")
    return correctness < 0.5


def next_removals(
    results: Results, queries: Sequence[int], sizes: Sequence[int], available: Sequence[int]
) -> list[tuple[int, int]]:
    """Return what to retrain next: for every query that is not done, its smallest size without a result.

    A query is done once flipped, or when all its sizes have results, or when a size removes all its positive examples
    (larger ones would remove the same). Retraining all that is returned and asking again until nothing is returned
    gives complete curves.

    Args:
        results: So far; may be empty.
        queries: ``[Q]``.
        sizes: k, in any order; 0 is not retrained.
        available: ``[Q]`` length of each query's :func:`removal_order`.

    Returns:
        (query, size) pairs; a size is never larger than what the query has.
    """
    wanted = []
    for query, limit in zip(queries, available, strict=True):
        for size in _steps(sizes, limit):
            known = results.get((query, size))
            if known is None:
                wanted.append((query, size))
            if known is None or is_flipped(known):
                break
    return wanted


def _steps(sizes: Sequence[int], limit: int) -> list[int]:
    """Return the distinct positive sizes in ascending order, cut at what a query has."""
    return sorted({min(int(size), int(limit)) for size in sizes} - {0})


@dataclass(frozen=True)
class RemovalCurve:
    """Fraction of flipped queries against the number of removed examples.

    Attributes:
        sizes: ``[K]`` ascending, with 0 in front (nothing removed, nothing flipped).
        flipped: ``[Q, K]`` bool, queries with complete results only.
        queries: ``[Q]`` those queries.
        fraction: ``[K]``.
        ci_low: ``[K]`` 2.5 % quantile of the bootstrap over queries.
        ci_high: ``[K]`` 97.5 % quantile.
        area: Area under the curve over its width (trapezoids, k linear): 1 if everything flipped at once, 0 if nothing.
        area_low: Lower end of its interval.
        area_high: Upper end.
        num_unfinished: Queries left out because results are missing.
    """

    sizes: np.ndarray
    flipped: np.ndarray
    queries: np.ndarray
    fraction: np.ndarray
    ci_low: np.ndarray
    ci_high: np.ndarray
    area: float
    area_low: float
    area_high: float
    num_unfinished: int


def removal_curve(
    results: Results,
    queries: Sequence[int],
    sizes: Sequence[int],
    available: Sequence[int],
    *,
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> RemovalCurve:
    """Return the curve of the queries whose results are complete, with intervals over queries.

    Args:
        results: Mean correctness by (query, size).
        queries: ``[Q]``.
        sizes: k.
        available: ``[Q]`` length of each query's :func:`removal_order`.
        num_bootstrap: Draws; 0 leaves the intervals NaN.
        seed: Seed of the draws; the same for every method (paired).

    Raises:
        DataError: No query has complete results, or a correctness is outside [0, 1].
        UsageError: No size above 0.
    """
    grid = np.array([0, *_steps(sizes, max(map(int, sizes), default=0))])
    if len(grid) < 2:
        raise UsageError("No number of removed examples is given.", "Give sizes such as 50, 100, 200.")
    rows, done = [], []
    unfinished = {query for query, _ in next_removals(results, queries, sizes, available)}
    for query, limit in zip(queries, available, strict=True):
        if query not in unfinished:
            turned = [
                size for size in _steps(sizes, limit) if (query, size) in results and is_flipped(results[query, size])
            ]
            rows.append(grid >= turned[0] if turned else np.zeros(len(grid), dtype=bool))
            done.append(query)
    if not rows:
        raise DataError("No query has been retrained for all it needs.", "Go on retraining.")
    flipped = np.array(rows)
    weights = multinomial_weights(len(rows), num_bootstrap, seed) / len(rows)
    ends = np.full((2, len(grid) + 1), np.nan)
    if num_bootstrap:
        drawn = weights @ flipped
        ends = np.percentile(np.column_stack([drawn, _area(grid, drawn)]), [2.5, 97.5], axis=0)
    fraction = flipped.mean(0)
    return RemovalCurve(
        grid,
        flipped,
        np.array(done),
        fraction,
        ends[0, :-1],
        ends[1, :-1],
        float(_area(grid, fraction)),
        float(ends[0, -1]),
        float(ends[1, -1]),
        len(unfinished),
    )


def _area(sizes: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    return np.trapezoid(fraction, sizes, axis=-1) / sizes[-1]
