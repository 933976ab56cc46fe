"""Gradients of a task's values, as checks compare them: one tensor for each trainable parameter, in model order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import torch
from torch import Tensor, nn

from tda_backend.models.probe import in_float64
from tda_backend.models.tasks.data import take
from tda_backend.types import Batch, Task

Gradient: TypeAlias = Sequence[Tensor | None]
"""``None`` where a parameter takes no part."""


@dataclass(frozen=True)
class RowSlopes:
    """How the gradients of one example's loss ℓ and measurement f lie to each other.

    Attributes:
        row: Position in the block.
        weight: 1 − p, with p = sigmoid(f).
        factor: c in ∇ℓ ≈ −c·(1−p)·∇f; 1 where the margin identity holds, NaN where ∇f is 0.
        rest: ‖∇ℓ + c·(1−p)·∇f‖/‖∇ℓ‖: 0 where the gradients are parallel.
    """

    row: int
    weight: float
    factor: float
    rest: float


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that gradients are taken of."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def slopes(value: Tensor, parameters: Sequence[Tensor], *, keep: bool = False) -> Gradient:
    """Return the gradient of a scalar.

    Args:
        value: The scalar.
        parameters: What it is differentiated by.
        keep: Whether its graph is needed again.
    """
    if not value.requires_grad:
        return [None] * len(parameters)
    return torch.autograd.grad(value, list(parameters), allow_unused=True, retain_graph=keep)


def norm(*gradients: Gradient) -> float:
    """Return the norm of a sum of gradients."""
    total = 0.0
    for parts in zip(*gradients, strict=True):
        given = [part for part in parts if part is not None]
        if given:
            added = in_float64(reduce(torch.add, given))
            total += float(torch.linalg.vector_norm(added)) ** 2
    return total**0.5


def dot(one: Gradient, other: Gradient) -> float:
    """Return the inner product of two gradients, in float64."""
    pairs = zip(one, other, strict=True)
    return sum(float((in_float64(a) * in_float64(b)).sum()) for a, b in pairs if a is not None and b is not None)


def minus(gradient: Gradient) -> Gradient:
    """Return −1 times a gradient."""
    return [None if part is None else -part for part in gradient]


def row_slopes(task: Task, model: nn.Module, batch: Batch, row: int) -> RowSlopes:
    """Return how the two gradients of one row of a batch lie to each other."""
    one, parameters = take(batch, slice(row, row + 1)), trainable(model)
    value = task.measurement(model, one).sum()
    right = slopes(value, parameters)
    left = slopes(task.train_loss(model, one).sum(), parameters)
    weight = float(torch.sigmoid(-in_float64(value)))
    square, along, size = dot(right, right), dot(left, right), dot(left, left)
    across = max(0.0, size - along**2 / square) if square else size
    rest = (across / size) ** 0.5 if size else 0.0
    return RowSlopes(row, weight, -along / (weight * square) if weight * square else float("nan"), rest)
