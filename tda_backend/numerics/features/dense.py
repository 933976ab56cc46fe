"""Dense per-example gradients for models with any layers, streamed by parameter block in bounded memory.

The gradient of N examples is never held whole: a block is some columns (parameters) for all N examples, from which
Gram matrices and projections accumulate. A model of p parameters takes about N·p/budget passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.models.probe import Group, Probe
from tda_backend.numerics.features.projection import (
    KRONECKER,
    Projection,
    random_rows,
    refuse_gram_kind,
    refuse_larger_than_parameters,
)
from tda_backend.numerics.features.streaming import Quantity, batches, evaluation_mode, values_of
from tda_backend.numerics.features.structured import SparseProjection
from tda_backend.types import Batch, Task

BUDGET_NUMBERS = 2**26
"""Numbers (256 MiB of float32) in one block of gradients."""

_BATCH = 64
"""Examples per pass: one gradient per example is held on the device."""

_PROJECTION_ROWS = 2048


class Request(NamedTuple):
    """One group of gradient vectors: whose, and what is differentiated."""

    group: Group
    quantity: Quantity


@dataclass(frozen=True)
class GradientBlock:
    """Gradients of N examples with respect to some parameters.

    Attributes:
        parameter: Name of the parameter tensor.
        start: First entry of the flattened tensor.
        values: ``[N, c]``.
    """

    parameter: str
    start: int
    values: Tensor


class _Value(nn.Module):
    """Makes a task's value of a batch the forward pass, so that parameters can be substituted under vmap."""

    def __init__(self, task: Task, model: nn.Module, quantity: Quantity) -> None:
        super().__init__()
        self.model = model
        self._task = task
        self._quantity: Quantity = quantity

    def forward(self, batch: Batch) -> Tensor:
        return values_of(self._task, self.model, batch, self._quantity)


def dense_gradient_blocks(
    probe: Probe, requests: Sequence[Request], *, budget_numbers: int = BUDGET_NUMBERS
) -> Iterator[GradientBlock]:
    """Yield the per-example gradients of all requests together, block of parameters by block, in eval mode.

    Blocks are whole parameter tensors, or pieces of one that are multiples of 2 048 entries; their sizes never change
    a projection. Examples that ``vmap`` cannot handle (data-dependent control flow) are differentiated one by one.

    Args:
        probe: Any model without interaction between examples in eval mode.
        requests: Groups of examples; rows of the blocks follow their order.
        budget_numbers: Numbers in one block.

    Raises:
        NumericalError: A gradient is not finite; names the parameter, the count and the first row.
    """
    task, model = probe.task, probe.model.to(probe.device)
    num = _num_vectors(probe, requests)
    step = max(_PROJECTION_ROWS, budget_numbers // max(num, 1) // _PROJECTION_ROWS * _PROJECTION_ROWS)
    with evaluation_mode(model):
        for pieces in _groups(model, step):
            sizes = [(name, *span) for name, span in pieces]
            values = {(n, a): torch.empty(num, b - a, dtype=probe.dtype, device=probe.home) for n, a, b in sizes}
            first = 0
            for request in requests:
                gradient = _differentiator(task, model, request.quantity, [name for name, _, _ in sizes])
                for rows, batch in batches(probe, request.group):
                    result = gradient(batch)
                    for name, start, stop in sizes:
                        part = result[name].flatten(1)[:, start:stop]
                        values[name, start][first + rows.start : first + rows.stop] = part.detach()
                first += probe.count(request.group)
            for name, start, _ in sizes:
                block = values.pop((name, start))
                _refuse_non_finite(block, name)
                yield GradientBlock(name, start, block)


def dense_gram(probe: Probe, requests: Sequence[Request], *, budget_numbers: int = BUDGET_NUMBERS) -> Tensor:
    """Return the raw inner products of all requested gradients, ``[N, N]`` float64 (see :func:`gram_matrix`)."""
    num = _num_vectors(probe, requests)
    gram = torch.zeros(num, num, dtype=torch.float64, device=probe.home)
    for block in dense_gradient_blocks(probe.in_batches(_BATCH), requests, budget_numbers=budget_numbers):
        for start in range(0, block.values.shape[1], _PROJECTION_ROWS):
            part = block.values[:, start : start + _PROJECTION_ROWS].to(torch.float64)
            gram.addmm_(part, part.T)
    return gram


def project_gradients(
    probe: Probe, requests: Sequence[Request], projection: Projection, *, budget_numbers: int = BUDGET_NUMBERS
) -> Tensor:
    """Return P g_i of all requested gradients by explicit products, ``[N, k_max]``, for models with any layers.

    Raises:
        UsageError: Kind ``gaussian``, which is drawn from the Gram matrix; ``kronecker``, which needs rank-one factors;
            k_max above the number of parameters.
        TaskError: The model has no trainable parameters.
    """
    refuse_gram_kind(projection)
    if projection.kind == KRONECKER:
        raise UsageError(
            "Projection kind 'kronecker' needs the rank-one gradients of Linear layers; this model has others.",
            "Use kind 'sparse', which works for any parameter and has less variance.",
        )
    num_parameters = sum(parameter.numel() for parameter in probe.model.parameters() if parameter.requires_grad)
    if num_parameters == 0:
        raise TaskError("The model has no trainable parameters.", "Nothing can be attributed without gradients.")
    refuse_larger_than_parameters(projection.max_dim, num_parameters)
    num = _num_vectors(probe, requests)
    blocks = dense_gradient_blocks(probe.in_batches(_BATCH), requests, budget_numbers=budget_numbers)
    if projection.kind == "sparse":
        sparse = SparseProjection(projection.max_dim, projection.seed, num, probe.dtype, probe.home)
        for block in blocks:
            sparse.add(block.parameter, block.start, block.values)
        return sparse.features()
    result: Tensor | None = None
    for block in blocks:
        if result is None:
            result = block.values.new_zeros(num, projection.max_dim)
        for first in range(0, block.values.shape[1], _PROJECTION_ROWS):
            part = block.values[:, first : first + _PROJECTION_ROWS]
            index = (block.start + first) // _PROJECTION_ROWS
            result.addmm_(part, random_rows(projection, block.parameter, index, part.shape[1]).to(part))
    assert result is not None
    return result.div_(projection.max_dim**0.5)


def _num_vectors(probe: Probe, requests: Sequence[Request]) -> int:
    return sum(probe.count(request.group) for request in requests)


def _groups(model: nn.Module, step: int) -> Iterator[list[tuple[str, tuple[int, int]]]]:
    """Yield lists of (parameter name, entry range) of at most ``step`` entries together."""
    group: list[tuple[str, tuple[int, int]]] = []
    used = 0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        for start in range(0, parameter.numel(), step):
            stop = min(start + step, parameter.numel())
            if used + stop - start > step and group:
                yield group
                group, used = [], 0
            group.append((name, (start, stop)))
            used += stop - start
    if group:
        yield group


def _differentiator(
    task: Task, model: nn.Module, quantity: Quantity, names: Sequence[str]
) -> Callable[[Batch], dict[str, Tensor]]:
    """Return a function from a batch to per-example gradients ``[b, *shape]`` of the named parameters."""
    value = _Value(task, model, quantity)
    parameters = dict(model.named_parameters())
    chosen = {f"model.{name}": parameters[name].detach() for name in dict.fromkeys(names)}

    def single(substitute: dict[str, Tensor], example: Batch) -> Tensor:
        batch = {key: tensor[None] for key, tensor in example.items()}
        return torch.func.functional_call(value, substitute, (batch,))[0]

    vectorised = torch.func.vmap(torch.func.grad(single), in_dims=(None, 0))

    def one_by_one(batch: Batch) -> dict[str, Tensor]:
        targets = [parameters[name.removeprefix("model.")] for name in chosen]
        rows = []
        with torch.enable_grad():
            for index in range(len(next(iter(batch.values())))):
                total = value({key: tensor[index : index + 1] for key, tensor in batch.items()}).sum()
                rows.append(torch.autograd.grad(total, targets, allow_unused=True, materialize_grads=True))
        return {name: torch.stack([row[i] for row in rows]) for i, name in enumerate(chosen)}

    fallback = False

    def gradient(batch: Batch) -> dict[str, Tensor]:
        nonlocal fallback
        if not fallback:
            try:
                result = vectorised(chosen, dict(batch))
                return {name.removeprefix("model."): tensor for name, tensor in result.items()}
            except RuntimeError:
                # Data-dependent control flow or an operation without a batching rule; one by one is always right, and
                # raises the model's own error if that was the cause.
                fallback = True
        return {name.removeprefix("model."): tensor for name, tensor in one_by_one(batch).items()}

    return gradient


def _refuse_non_finite(values: Tensor, name: str) -> None:
    bad = ~torch.isfinite(values).all(1)
    if bool(bad.any()):
        raise NumericalError(
            f"The gradient of {int(bad.sum())} of {len(bad)} examples with respect to {name!r} is not finite "
            f"(first at row {int(bad.nonzero()[0])}).",
            "Look for NaN in the data, or for a training run that diverged.",
        )
