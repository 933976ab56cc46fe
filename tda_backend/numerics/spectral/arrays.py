"""Stored arrays as tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_NUMBERS = 2**20
"""Looked at together: to find what is not finite takes as much memory as what is looked at."""


def all_finite(values: Tensor) -> bool:
    """Return whether all entries are finite; a few rows at a time."""
    if not values.numel():
        return True
    rows = max(1, _NUMBERS // max(1, values[0].numel()))
    return bool(torch.stack([torch.isfinite(part).all() for part in values.split(rows)]).all())


def stored_tensor(array: np.ndarray) -> Tensor:
    """Return a tensor over an array's memory, or over a copy where the memory is read-only.

    A memory map that is opened for reading is not writable; torch would warn about it.
    """
    return torch.from_numpy(array if array.flags.writeable else array.copy())
