"""Conjugate gradients as the books have them, on a dense matrix."""

from __future__ import annotations

import numpy as np
import torch


def textbook(matrix, vector, steps):
    """Return x_t from x₀ = v, as the books have it, in extended precision.

    Conjugate gradients amplify rounding from step to step: in float64 the reference itself is off by 7e-10 after seven
    steps on the transformer, more than what is tested.
    """
    operator, start = matrix.numpy().astype(np.longdouble), vector.numpy().astype(np.longdouble)
    x, r = start.copy(), start - operator @ start
    p = r.copy()
    for _ in range(steps):
        if r @ r < 1e-30 * (start @ start):
            break
        step = (r @ r) / (p @ operator @ p)
        x, previous = x + step * p, r @ r
        r = r - step * (operator @ p)
        p = r + (r @ r) / previous * p
    return torch.from_numpy(x.astype(np.float64))
