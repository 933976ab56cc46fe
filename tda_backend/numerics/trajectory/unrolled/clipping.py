"""Clipping by the global norm, and its first and second derivative: the norm's factor is differentiated too."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_SAFETY = 1e-6
"""What ``torch.nn.utils.clip_grad_norm_`` adds to the norm."""


def clipped(gradient: Tensor, clip_norm: float) -> Tensor:
    """Return g·min(1, c/(‖g‖ + 1e-6)) along the last axis, as ``torch.nn.utils.clip_grad_norm_`` does."""
    norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    return gradient * (clip_norm / (norm + _SAFETY)).clamp(max=1.0)


@dataclass(frozen=True)
class Clip:
    """Derivatives of the map g → g·s(‖g‖) at one gradient; derived here.

    With n = ‖g‖ and e = g/n the first derivative is s·I + s'·n·e eᵀ, which is symmetric. Where the gradient is not
    clipped s = 1 and both derivatives of s are 0; at the very edge the side of no clipping is taken.

    Attributes:
        unit: e, ``[P]``.
        norm: n.
        scale: s.
        slope: s' = −c/(n + 1e-6)².
        bend: s'' = 2c/(n + 1e-6)³.
    """

    unit: Tensor
    norm: float
    scale: float
    slope: float
    bend: float

    @classmethod
    def at(cls, gradient: Tensor, clip_norm: float, like: Tensor | None = None) -> Clip | None:
        """Return the derivatives at ``gradient`` ``[P]``, or ``None`` where it is not clipped.

        Args:
            gradient: Before clipping.
            clip_norm: c.
            like: A tensor of the precision and on the device that are wanted; ``None``: the gradient.
        """
        norm = float(torch.linalg.vector_norm(gradient))
        below = norm + _SAFETY
        if clip_norm >= below:
            return None
        return cls(
            (gradient / norm).to(gradient if like is None else like),
            norm,
            clip_norm / below,
            -clip_norm / below**2,
            2 * clip_norm / below**3,
        )

    def apply(self, vectors: Tensor) -> Tensor:
        """Return the first derivative times each of ``vectors`` ``[q, P]``; it is its own transpose."""
        along = vectors @ self.unit
        return torch.addr(vectors, along, self.unit, beta=self.scale, alpha=self.slope * self.norm)

    def second(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the second-order change of the clipped gradient for g + t·first + ½t²·second, ``[r, P]``."""
        along = first @ self.unit
        bent = (first.square().sum(dim=1) - along.square()) / self.norm  # of the norm, beside the part of `second`
        factor = self.bend * along.square() + self.slope * bent
        return self.apply(second) + 2 * self.slope * along[:, None] * first + (self.norm * factor)[:, None] * self.unit
