"""Stored arrays as tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def stored_tensor(array: np.ndarray) -> Tensor:
    """Return a tensor over an array's memory, or over a copy where the memory is read-only.

    A memory map that is opened for reading is not writable; torch would warn about it.
    """
    return torch.from_numpy(array if array.flags.writeable else array.copy())
