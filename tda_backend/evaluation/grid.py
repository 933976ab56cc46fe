"""The λ grid that all configurations share."""

from __future__ import annotations

import numpy as np

DEFAULT_REGULARIZATIONS: tuple[float, ...] = (0.0, *(float(value) for value in np.logspace(-7, 1, 32)))
"""{0} ∪ 32 log-spaced values from 1e-7 to 10, in units of the mean Gram (METHODS §0)."""
