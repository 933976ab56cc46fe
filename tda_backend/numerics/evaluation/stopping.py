"""When retraining may stop: how well the LDS is known, and how many subsets would be enough.

Stopping on the width looks at the interval several times and ends where it happens to be narrow: so the last interval
is a little narrower than one from a number of subsets that was fixed before, and holds the true LDS a bit less often.
Measured on 10 000 simulated studies that stop with about 60 subsets: in 91.6 % of them, where it does in 93.1 % with 60
subsets fixed; with about 120 in 93.2 % and 93.8 %.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from tda_backend.numerics.evaluation.power import subsets_for

GROWTH = 2
"""At most so many times the subsets there are: a first width, of few of them, is itself a rough one."""


def widest_half_width(rows: pd.DataFrame) -> float:
    """Return (high − low)/2 of the widest 95 % interval of an LDS that counts: at λ*, or of a method without λ.

    Args:
        rows: ``regularization, ci_low, ci_high, is_selected`` of any number of curves, as the table ``lds`` has them.

    Returns:
        In units of LDS; infinite where an interval has no ends, 0 where there is no row that counts.
    """
    chosen = rows.loc[rows.is_selected.astype(bool) | rows.regularization.isna()]
    widths = (chosen.ci_high - chosen.ci_low).to_numpy(dtype=np.float64) / 2
    return float(np.where(np.isnan(widths), np.inf, widths).max(initial=0.0))


def next_subsets(count: int, half_width: float, wanted: float, chunk: int, most: int) -> int:
    """Return with how many subsets to look again, as the half-width falls with one over the square root of them.

    Args:
        count: S, the subsets there are, fewer than ``most``.
        half_width: Of the widest interval now, larger than ``wanted``; may be infinite.
        wanted: Half-width at which retraining stops.
        chunk: Subsets that are retrained together.
        most: Subsets that are retrained at most.

    Returns:
        In all, at least one chunk more, at most :data:`GROWTH` times as many (or one chunk), and at most ``most``.
    """
    allowed = max(1, (GROWTH - 1) * count // chunk)
    missing = (subsets_for(count, half_width, wanted) - count) / chunk
    chunks = allowed if missing >= allowed else max(1, math.ceil(missing - 1e-9))
    return min(most, count + chunks * chunk)
