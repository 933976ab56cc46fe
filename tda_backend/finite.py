"""Whether a tensor holds NaN or infinities, for less than a look at each of its entries."""

from __future__ import annotations

import torch
from torch import Tensor


def all_finite(values: Tensor) -> bool:
    """Return whether every entry is finite.

    A sum over any entry that is not finite is not finite either, and takes one fast pass where
    :func:`torch.isfinite` writes and reads a mask; only where finite entries overflow their sum is each looked at.
    """
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())
