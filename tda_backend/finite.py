"""Whether a tensor holds NaN or infinities, for less than a look at each of its entries."""

from __future__ import annotations

import torch
from torch import Tensor

_NUMBERS = 2**20
"""Entries that are looked at together: a mask of all of them would take as much memory again."""


def all_finite(values: Tensor) -> bool:
    """Return whether every entry is finite.

    A sum over any entry that is not finite is not finite either, and takes one fast pass where
    :func:`torch.isfinite` writes and reads a mask; only where finite entries overflow their sum is each looked at.
    """
    if bool(torch.isfinite(values.sum())):
        return True
    parts = values.split(max(1, _NUMBERS * len(values) // values.numel())) if values.ndim else [values]
    return all(bool(torch.isfinite(part).all()) for part in parts)
