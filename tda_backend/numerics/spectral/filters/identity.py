"""The filter of methods without curvature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tda_backend.numerics.spectral.filters.base import Filter


@dataclass(frozen=True)
class Identity(Filter):
    """φ(σ) = 1."""

    NAME: ClassVar[str] = "identity"
    HAS_TWIN: ClassVar[bool] = True

    def phi(self, sigma: Tensor, regularization: float, num_train: int) -> Tensor:
        """Return ones, ``[r]``."""
        return torch.ones_like(sigma)
