"""Brittleness: the smallest number of removed training examples that flips a query (METHODS §7).

The ascending sizes of the removal curve find a bracket, bisection narrows it; results are shared with
:mod:`~tda_backend.numerics.evaluation.removal`, and nothing here trains either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tda_backend.numerics.evaluation.removal import Results, is_flipped, next_removals


@dataclass(frozen=True)
class Brittleness:
    """What is known of the smallest number of removed examples that flips a query.

    Attributes:
        query: The query.
        flips_at: Smallest k known to flip it; ``None`` if none does.
        holds_at: Largest k below it known not to flip it (0 without any).
        done: Nothing more to retrain.
    """

    query: int
    flips_at: int | None
    holds_at: int
    done: bool


def brittleness(
    results: Results, query: int, sizes: Sequence[int], available: int, resolution: float = 0.0
) -> Brittleness:
    """Return the bracket of one query from the results so far.

    Bisection takes flipping to be monotone in k; the smallest k is sure only as far as that holds.

    Args:
        results: Mean correctness by (query, k).
        query: The query.
        sizes: Ascending sizes tried before bisection.
        available: Length of the query's :func:`removal_order`.
        resolution: Bisection stops when the bracket is at most this share of its upper end; 0: to the single example.
    """
    low, high = _bracket(results, query, sizes, available)
    if high is None:
        missing = next_removals(results, [query], sizes, [available])
        return Brittleness(query, None, low, done=not missing)
    return Brittleness(query, high, low, done=high - low <= max(1.0, resolution * high))


def next_brittleness(
    results: Results, queries: Sequence[int], sizes: Sequence[int], available: Sequence[int], resolution: float = 0.0
) -> list[tuple[int, int]]:
    """Return what to retrain next, at most one (query, k) for each query that is not done; empty when all are.

    First the sizes in ascending order until one flips, then the middle of the bracket.
    """
    wanted = []
    for query, limit in zip(queries, available, strict=True):
        known = brittleness(results, query, sizes, limit, resolution)
        if known.flips_at is None:
            wanted += next_removals(results, [query], sizes, [limit])
        elif not known.done:
            wanted.append((query, (known.holds_at + known.flips_at) // 2))
    return wanted


def _bracket(results: Results, query: int, sizes: Sequence[int], available: int) -> tuple[int, int | None]:
    """Return (largest k below the flip that holds, smallest k that flips), all results of the query considered."""
    low, high = 0, None
    for size in sorted(size for owner, size in results if owner == query and size <= available):
        if is_flipped(results[query, size]):
            high = size
            break
        low = size
    return low, high
