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
    counted = np.array([(row.times_kept, row.times_seen, row.position in wrong) for row in rows], dtype=float)
    # Examples with the same numbers are drawn together: there are far fewer kinds of them than examples.
    unique, sizes = np.unique(counted.reshape(-1, 3), axis=0, return_counts=True)
    kept, seen, is_wrong = unique.T
    weights = np.random.default_rng(0).multinomial(len(rows), sizes / len(rows), NUM_BOOTSTRAP).astype(float)
    found = []
    for name, count in (("kept", kept), ("dropped", seen - kept)):
        if sizes @ count:
            totals = weights @ count
            drawn = (weights @ (count * is_wrong))[totals > 0] / totals[totals > 0]
            low, high = np.percentile(drawn, [2.5, 97.5])
            value = float(sizes @ (count * is_wrong) / (sizes @ count))
            found.append(WrongShare(name, value, float(low), float(high)))
    return found


def offered_share(rows: Sequence[SelectedExample], wrong: Collection[int]) -> float:
    """Return the share of wrong labels among what was offered, weighted by how often."""
    return float(np.average([row.position in wrong for row in rows], weights=[row.times_seen for row in rows]))
