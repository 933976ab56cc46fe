"""How many wrong labels a selection kept, and how many it dropped."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from tda_backend.interfaces.reading.records.lookahead import SelectedExample

NUM_BOOTSTRAP = 1000


@dataclass(frozen=True)
class WrongShare:
    """Share of wrong labels in what a selection kept or dropped, with a 95 % bootstrap interval over examples."""

    name: str
    value: float
    low: float
    high: float


def wrong_shares(rows: Sequence[SelectedExample], wrong: Collection[int]) -> list[WrongShare]:
    """Return the share of wrong labels among what was kept and what was dropped, weighted by how often.

    Args:
        rows: Of one strategy.
        wrong: Positions whose label is known to be wrong.
    """
    is_wrong = np.array([row.position in wrong for row in rows], dtype=float)
    kept = np.array([row.times_kept for row in rows], dtype=float)
    seen = np.array([row.times_seen for row in rows], dtype=float)
    weights = np.random.default_rng(0).multinomial(len(rows), np.full(len(rows), 1 / len(rows)), NUM_BOOTSTRAP)
    found = []
    for name, count in (("kept", kept), ("dropped", seen - kept)):
        if count.sum():
            totals = weights @ count
            drawn = (weights @ (count * is_wrong))[totals > 0] / totals[totals > 0]
            low, high = np.percentile(drawn, [2.5, 97.5])
            found.append(WrongShare(name, float(count @ is_wrong / count.sum()), float(low), float(high)))
    return found


def offered_share(rows: Sequence[SelectedExample], wrong: Collection[int]) -> float:
    """Return the share of wrong labels among what was offered, weighted by how often."""
    return float(np.average([row.position in wrong for row in rows], weights=[row.times_seen for row in rows]))
