"""Checks that a task's values are of one example alone, and the same every time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tda_backend.models.checking.calls import Returned, why_mixed
from tda_backend.models.checking.culprit import culprit
from tda_backend.models.checking.gradients import Gradient, minus, norm, slopes, trainable
from tda_backend.models.checking.promises import (
    FUNCTIONS,
    ROWS,
    BrokenPromise,
    precision_of,
    rounding,
    same_bits,
    slope_tolerance,
)
from tda_backend.models.checking.values import refuse_not_finite, value_of, values_by_block
from tda_backend.models.tasks.data import num_rows, take
from tda_backend.types import Batch, Task

_MIXES = {
    True: "Each row must be computed on its own: no batch statistics in eval mode, no means, sums or comparisons over "
    "the batch (BatchNorm needs track_running_stats=True; attention and recurrent layers need batch_first=True; "
    "LayerNorm and GroupNorm are fine).",
    False: "Compute each row on its own, without means or sums over the batch.",
}
"""What to do about rows that depend on each other, by whether a module of the model does it."""
_BLOCK, _OTHER_BLOCK = 128, 96
"""Rows of a pass over all examples, and of the one that puts other neighbours beside each."""
_RANDOM = (
    "Switch randomness off unless model.training, e.g. F.dropout(x, p, self.training), and keep no state from one call "
    "to the next."
)


@torch.no_grad()
def per_example(task: Task, model: nn.Module, data: Batch) -> str:
    """A row's value may depend on that row alone: not on its neighbours, and not on the batch's size."""
    rows = min(ROWS, num_rows(data))
    batch = take(data, slice(0, rows))
    changed = {key: value.clone() for key, value in batch.items()}
    for key, value in data.items():  # the last row becomes another example
        changed[key][-1] = value[num_rows(data) // 2]
    largest = 0.0

    def where(name: str) -> tuple[str, str]:
        function = getattr(task, name)
        found = culprit(model, lambda: function(model, batch), lambda: function(model, changed), rows, rows - 1)
        return found or name, f"{_MIXES[bool(found)]} {why_mixed(task, model, batch, name)}".strip()

    for name in FUNCTIONS:
        function, agree = getattr(task, name), precision_of(task, model, batch, (name,)).agree
        whole = function(model, batch)

        if not agree(function(model, changed)[:-1], whole[:-1]):
            place, remedy = where(name)
            raise BrokenPromise(
                f"{name} of one example changes when another one does: examples interact in {place}.", remedy
            )
        single = _singly(task, model, batch, name)
        difference = float((single - whole).abs().max())
        if not agree(single, whole):
            place, remedy = where(name)
            raise BrokenPromise(
                f"{name} of a batch of one differs from the row of a batch of {rows} by {difference:.2g}: examples "
                f"interact in {place}.",
                remedy,
            )
        largest = max(largest, difference)
    _gradients_apart(task, model, batch, where)
    return f"A batch of one equals the row of a batch of {rows} to {largest:.1g}; a changed row changes no other."


def _singly(task: Task, model: nn.Module, batch: Batch, name: str) -> Tensor:
    """Return the values of a batch's rows, each in a batch of its own."""
    found = []
    for row in range(num_rows(batch)):
        one = take(batch, slice(row, row + 1))
        value = value_of(task, model, one, name)
        if not isinstance(value, Tensor) or value.shape != (1,):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise BrokenPromise(
                f"{name} of a batch of one has shape {shape}, not (1,).", "Use squeeze(-1), not squeeze()."
            )
        found.append(value)
    return torch.cat(found)


@torch.enable_grad()
def _gradients_apart(task: Task, model: nn.Module, batch: Batch, where: Callable[[str], tuple[str, str]]) -> None:
    """Raise unless the gradient of a batch's sum is the sum of the gradients of its rows."""
    precision, rows = precision_of(task, model, batch).dtype, num_rows(batch)
    # Signs: what is added to one row and taken from another would cancel in a plain sum.
    signs, size = [1.0 if row % 2 == 0 else -1.0 for row in range(rows)], 0.0
    for name in reversed(FUNCTIONS):
        value = getattr(task, name)(model, batch)
        parts = [minus(_signed(value, signs, model))]
        for row in range(rows):
            value = getattr(task, name)(model, take(batch, slice(row, row + 1)))
            parts.append(_signed(value, signs[row : row + 1], model))
        own, difference = sum(map(norm, parts[1:])), norm(*parts)
        # The gradient of a well fitted example's loss rounds relative to that of its measurement, which came first.
        size = max(size, own)
        if difference > slope_tolerance(precision) * own + rounding(precision) * size:
            place, remedy = where(name)
            raise BrokenPromise(
                f"The gradient of {name} of {rows} examples is not the sum of those of its rows (differs by "
                f"{difference / max(own, 1e-30):.2g}): examples interact in {place}.",
                remedy,
            )


def _signed(values: Tensor, signs: Sequence[float], model: nn.Module) -> Gradient:
    """Return the gradient of the sum of values times their signs."""
    return slopes((values * torch.tensor(signs).to(values)).sum(), trainable(model))


@torch.no_grad()
def anywhere(task: Task, model: nn.Module, data: Batch, rows: Tensor) -> int:
    """Return how many rows were seen twice, in blocks of other sizes, with other neighbours and in another order.

    Args:
        task: Whose loss (on rows of the train split) and measurement are looked at.
        model: In eval mode.
        data: The split, on the model's device.
        rows: Rows of it that a run uses, ``[n]``.

    Raises:
        BrokenPromise: A row's value depends on its neighbours; names the row.
    """
    rng = np.random.default_rng(len(rows))
    order = torch.from_numpy(rng.permutation(len(rows)))
    # A few rows must not all be in one batch: then the neighbours would be the same.
    sizes = min(_BLOCK, -(-len(rows) // 2)), min(_OTHER_BLOCK, -(-len(rows) // 3))
    first = values_by_block(task, model, data, rows.split(sizes[0]))
    second = values_by_block(task, model, data, rows[order].split(sizes[1]))
    for name in FUNCTIONS:
        agree = precision_of(task, model, take(data, rows[:ROWS]), (name,)).agree
        refuse_not_finite(name, first[name], rows.tolist())
        found, expected = second[name], first[name][order.to(first[name].device)]
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            if not agree(found[part], expected[part]):
                worst = start + int((found[part] - expected[part]).abs().argmax())
                raise BrokenPromise(
                    f"{name} of example {int(rows[order[worst]])} changes with its neighbours from "
                    f"{float(expected[worst]):.5g} to {float(found[worst]):.5g}.",
                    _MIXES[False],
                )
    return len(rows)


@torch.no_grad()
def determinism(task: Task, model: nn.Module, batch: Batch) -> str:
    """Two evaluations in eval mode agree: to the bit on a CPU, elsewhere to rounding; training has the same loss."""
    rows, on_cpu = num_rows(batch), next(iter(batch.values())).device.type == "cpu"
    for name in FUNCTIONS:
        function = getattr(task, name)
        one, other = function(model, batch), function(model, batch)
        same = torch.equal(one, other) if on_cpu else torch.allclose(one, other, rtol=1e-5, atol=1e-6)
        if not same:
            run = functools.partial(function, model, batch)
            place = culprit(model, run, run, rows, rows)
            raise BrokenPromise(
                f"{name} in eval mode differs between two calls{f': look at {place}' if place else ''}.", _RANDOM
            )
    _same_in_training(task, model, batch)
    return "Two evaluations in eval mode agree to the bit."


@torch.no_grad()
def _same_in_training(task: Task, model: nn.Module, batch: Batch) -> None:
    """Raise where the loss itself, not the model, is another one while the model trains."""
    found: list[tuple[list[Tensor], Tensor]] = []
    returned = Returned()
    hook = model.register_forward_hook(returned)
    before, buffers = model.training, [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        for mode in (False, True):
            model.training = mode  # the model's own flag alone: its modules, dropout among them, stay as they are
            loss = value_of(task, model, batch, "train_loss")
            if not isinstance(loss, Tensor):
                return
            found.append(([each for each in tree_leaves(returned.value) if isinstance(each, Tensor)], loss))
    finally:
        model.training = before
        hook.remove()
        for buffer, value in buffers:  # statistics that the model itself keeps while it trains
            buffer.copy_(value)
    (outputs, loss), (others, trained) = found
    is_same = len(outputs) == len(others) and all(torch.equal(a, b) for a, b in zip(outputs, others, strict=True))
    if outputs and is_same and not same_bits(loss, trained):
        raise BrokenPromise(
            "train_loss is another one while the model trains, for the same outputs: what is attributed would not be "
            "what was trained.",
            "Compute the same loss whatever model.training is: class weights and label smoothing too.",
        )
