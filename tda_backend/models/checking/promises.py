"""What all checks of a task share: how a broken promise is reported, how much is looked at, and how exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from tda_backend.errors import TaskError
from tda_backend.models.probe import in_float64
from tda_backend.types import Batch, Task

FUNCTIONS = ("train_loss", "measurement")
"""The functions of a task that give one number per example."""
ROWS = 6
"""Examples that most checks look at."""
MOST_ROWS = 2048
"""Examples that ``tda check`` looks at where every row counts; a run looks at all of its own."""
_RELATIVE: Mapping[torch.dtype, float] = {
    torch.float64: 1e-9,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 6e-2,
}
"""Agreement asked of values that may be summed in another order, by the precision that they are computed in."""
_ROUNDING = 32
"""ε of a value, in units of the precision's own."""
_SLOPE_ROUNDING = 16
"""ε of a slope's sum, in units of the precision's own."""


class BrokenPromise(Exception):
    """A task breaks its contract.

    Args:
        found: One sentence: what was found.
        remedy: What to do.
    """

    def __init__(self, found: str, remedy: str = "") -> None:
        super().__init__(f"{found} {remedy}".strip())
        self.found, self.remedy = found, remedy

    def refusal(self, task: Task) -> TaskError:
        """Return the error that ends a run of the task."""
        return TaskError(f'Task "{task.name}" breaks its contract: {self.found}', self.remedy)


class _Scan(TorchFunctionMode):
    """Notes the coarsest precision in which anything is computed, and the largest number that comes up."""

    def __init__(self) -> None:
        super().__init__()
        self.precision, self.largest = torch.float64, 0.0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.dtype in _RELATIVE and value.numel():
                self.precision = coarser(self.precision, value.dtype)
                found = value.detach().abs()
                self.largest = max(self.largest, float(torch.where(found.isfinite(), found, 0.0).max()))
        return result


def coarser(one: torch.dtype, other: torch.dtype) -> torch.dtype:
    """Return the precision of two that rounds more."""
    return one if torch.finfo(one).eps >= torch.finfo(other).eps else other


@dataclass(frozen=True)
class Precision:
    """How exactly a function of a task is computed on some rows.

    Attributes:
        dtype: The coarsest precision of anything on the way; autocast shows only there.
        largest: The largest number on the way: differences of such numbers round by ε of it.
    """

    dtype: torch.dtype
    largest: float

    def agree(self, found: Tensor, expected: Tensor) -> bool:
        """Return whether values of the same rows, computed in other batches, agree up to rounding."""
        found, expected = in_float64(found), in_float64(expected)
        size = expected.abs()
        allowed = _RELATIVE[self.dtype] * (size + size.mean()) + rounding(self.dtype) * self.largest
        return bool(((found - expected).abs() <= allowed).all())


@torch.no_grad()
def precision_of(task: Task, model: nn.Module, batch: Batch, names: Sequence[str] = FUNCTIONS) -> Precision:
    """Return how exactly functions of a task are computed on a few rows."""
    with _Scan() as noted:
        for name in names:
            getattr(task, name)(model, batch)
    return Precision(noted.precision, noted.largest)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors have the same numbers; NaN, as in a buffer that nothing has filled, equals NaN."""
    return torch.equal(one, other) or (
        one.is_floating_point()
        and one.shape == other.shape
        and torch.allclose(one, other.to(one), rtol=0.0, atol=0.0, equal_nan=True)
    )


def rounding(precision: torch.dtype) -> float:
    """Return what may be lost of a number that others are subtracted from, relative to it: 32·ε."""
    return _ROUNDING * torch.finfo(precision).eps


def slope_tolerance(precision: torch.dtype) -> float:
    """Return the relative agreement asked of gradients, √(16·ε): 1.4e-3 in float32, 6e-8 in float64.

    It halves the digits between what rounds and what is wrong, see :mod:`.identity`.
    """
    return math.sqrt(_SLOPE_ROUNDING * torch.finfo(precision).eps)
