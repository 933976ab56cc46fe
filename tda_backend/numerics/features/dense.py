"""Per-example gradients of models with any layers: their projections in one pass, their entries block by block.

Projections take one forward and backward pass over the rows (``features.per_example``): a batch's gradients are formed
from what its calls recorded, added to the projections, and forgotten.

What needs the entries of all N gradients at once (the exact Gram matrix) takes blocks: some columns (parameters) for
all N examples. A model of p parameters takes about N·p/budget passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from tda_backend.blocks import block_size, spans
from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.finite import all_finite
from tda_backend.models.probe import Group, Probe
from tda_backend.numerics.features.per_example.stream import BATCH_NUMBERS, GradientStream, NamedContributions
from tda_backend.numerics.features.per_example.sums import summing
from tda_backend.numerics.features.per_example.vmapped import differentiator
from tda_backend.numerics.features.projection import (
    KRONECKER,
    Projection,
    refuse_gram_kind,
    refuse_larger_than_parameters,
)
from tda_backend.numerics.features.streaming import Quantity, gradient_pass, over_batches

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
    for block in _blocks(probe, requests, budget_numbers):
        _refuse_non_finite(block.values, block.parameter)
        yield block


def _blocks(probe: Probe, requests: Sequence[Request], budget_numbers: int) -> Iterator[GradientBlock]:
    model = probe.model.to(probe.device)
    num = _num_vectors(probe, requests)
    least, entries = block_size(_PROJECTION_ROWS), sum(p.numel() for p in model.parameters() if p.requires_grad)
    numbers = block_size(min(budget_numbers, num * (entries + least)))  # where memory ran out, half of what there is
    step = max(least, numbers // max(num, 1) // least * least)
    for pieces in _groups(model, step):
        sizes = [(name, *span) for name, span in pieces]
        values = {(n, a): torch.empty(num, b - a, dtype=probe.dtype, device=probe.home) for n, a, b in sizes}
        first = 0
        for request in requests:
            gradient = differentiator(probe, request.quantity, [name for name, _, _ in sizes])
            with gradient_pass(probe):
                for rows, result in over_batches(probe, request.group, lambda _, batch, of=gradient: of(batch)):
                    for name, start, stop in sizes:
                        part = result[name].reshape(rows.stop - rows.start, -1)[:, start:stop]
                        values[name, start][first + rows.start : first + rows.stop] = part.detach()
            first += probe.count(request.group)
        for name, start, _ in sizes:
            yield GradientBlock(name, start, values.pop((name, start)))


def dense_gram(probe: Probe, requests: Sequence[Request], *, budget_numbers: int = BUDGET_NUMBERS) -> Tensor:
    """Return the raw inner products of all requested gradients, ``[N, N]`` float64 (see :func:`gram_matrix`)."""
    num = _num_vectors(probe, requests)
    gram = torch.zeros(num, num, dtype=torch.float64, device=probe.home)
    for block in dense_gradient_blocks(probe.in_batches(_BATCH), requests, budget_numbers=budget_numbers):
        for columns in spans(block.values.shape[1], _PROJECTION_ROWS):
            part = block.values[:, columns].to(torch.float64)
            gram.addmm_(part, part.T)
    return gram


def project_gradients(
    probe: Probe, requests: Sequence[Request], projection: Projection, *, budget_numbers: int = BATCH_NUMBERS
) -> Tensor:
    """Return P g_i of all requested gradients, ``[N, k_max]``, for models with any layers, in one pass over the rows.

    Beside the result, memory holds what a batch records and one slab of its gradients; ``sparse`` keeps two or four
    bytes for each parameter, the other kinds draw their blocks again for each batch.

    Args:
        probe: Any model without interaction between examples in eval mode.
        requests: Groups of examples; rows of the result follow their order.
        projection: Of kind ``sparse``, ``rademacher`` or ``gaussian-dense``.
        budget_numbers: Numbers that a batch's recorded calls may hold, from which its size follows.

    Raises:
        UsageError: Kind ``gaussian``, which is drawn from the Gram matrix; ``kronecker``, which needs rank-one factors;
            k_max above the number of parameters.
        TaskError: The model has no trainable parameters, or its examples interact.
        NumericalError: A gradient is not finite; names the parameter, the count and the first row.
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
    sizes = {name: p.numel() for name, p in probe.model.to(probe.device).named_parameters() if p.requires_grad}
    result = torch.empty(_num_vectors(probe, requests), projection.max_dim, dtype=probe.dtype, device=probe.home)
    empty = summing(projection, sizes, probe.dtype, probe.device)

    def project(rows: slice, gradients: NamedContributions) -> Tensor:
        sums = empty(rows.stop - rows.start)
        for name, contributions in gradients:
            for contribution in contributions:
                contribution.give(sums.of(name))
        return sums.features()

    first = 0
    for request in requests:
        for rows, features in GradientStream(probe, *request, budget_numbers=budget_numbers).each(project):
            if not all_finite(features):
                _refuse_batch(probe, request, rows, first)
            result[first + rows.start : first + rows.stop] = features
        first += probe.count(request.group)
    return result


def _refuse_batch(probe: Probe, request: Request, rows: slice, first: int) -> NoReturn:
    """Raise for a batch whose projections are not finite; its gradients are taken again to name the parameter."""
    chosen = probe.only(request.group, probe.rows(request.group)[rows])
    for block in _blocks(chosen, [request], BUDGET_NUMBERS):
        _refuse_non_finite(block.values, block.parameter, first + rows.start)
    raise NumericalError(
        f"The projected gradients of the {request.group} examples overflow in a batch that begins at row "
        f"{first + rows.start}.",
        "Their gradients are finite but too large to be summed; look for a training run that diverged.",
    )


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


def _refuse_non_finite(values: Tensor, name: str, first: int = 0) -> None:
    bad = ~torch.isfinite(values).all(1)
    if bool(bad.any()):
        raise NumericalError(
            f"The gradient of {int(bad.sum())} of {len(bad)} examples with respect to {name!r} is not finite "
            f"(first at row {first + int(bad.nonzero()[0])}).",
            "Look for NaN in the data, or for a training run that diverged.",
        )
