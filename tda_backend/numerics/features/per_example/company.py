"""Whether examples' values depend on the other examples of their batch, as a division by its size makes them.

Sums of gradients do not show it: they are those of the batch's values, whatever these are divided by.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tda_backend.errors import TaskError

_SINGLE = 0.25
"""Relative difference allowed: single precision is coarse on some devices, and a batch's size shows as a factor."""

_DOUBLE = 1e-6
"""The same in float64."""


def refuse_other_values(what: str, alone: Tensor, values: Tensor, again: Callable[[], Tensor], eps: float) -> None:
    """Raise where the same examples have other values in a larger batch; values that are random pass.

    Args:
        what: Of which values to speak.
        alone: Values of some examples by themselves, ``[a]``.
        values: Values of a batch that begins with the same examples, ``[b]``.
        again: Computes ``alone`` once more.
        eps: ε of the coarsest precision of the pass; half precision is too coarse to tell.

    Raises:
        TaskError: The values are others.
    """
    num = len(alone)
    if eps > torch.finfo(torch.float32).eps or len(values) <= num or _alike(values[:num], alone, eps):
        return
    if _alike(again(), alone, eps):
        raise TaskError(
            f"The {what} of the same examples is {_listed(alone)} in a batch of {num} and {_listed(values[:num])} in a "
            f"batch of {len(values)}.",
            "Let each example's value depend on that example alone: do not divide by the number of examples or tokens "
            "in the batch.",
        )


def _alike(values: Tensor, others: Tensor, eps: float) -> bool:
    """Return whether values differ by rounding at most; those that are not finite are named elsewhere."""
    allowed = _SINGLE if eps >= torch.finfo(torch.float32).eps else _DOUBLE
    scale = float(torch.maximum(values.abs(), others.abs()).max())
    return not float((values - others).abs().max()) > allowed * (scale + 4e-3)


def _listed(values: Tensor) -> str:
    return " and ".join(f"{value:.4g}" for value in values.tolist())
