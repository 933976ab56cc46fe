"""Checks of a task's values: one per example, of that example alone, the same every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tda_backend.errors import TDAError
from tda_backend.models.checking.causes import Returned, why_raises, why_shape
from tda_backend.models.checking.culprit import culprit
from tda_backend.models.checking.gradients import Gradient, minus, norm, slopes, trainable
from tda_backend.models.checking.heads import one_forward
from tda_backend.models.checking.promises import (
    FUNCTIONS,
    ROWS,
    BrokenPromise,
    in_float64,
    precision_of,
    rounding,
    same_bits,
    slope_tolerance,
)
from tda_backend.models.tasks.contract import one_line
from tda_backend.models.tasks.data import num_rows, take
from tda_backend.types import Batch, Task

_MIXES = {
    True: "Each row must be computed on its own: no batch statistics in eval mode, no means, sums or comparisons over "
    "the batch (BatchNorm needs track_running_stats=True; LayerNorm and GroupNorm are fine).",
    False: "Compute each row on its own, without means or sums over the batch.",
}
"""What to do about rows that depend on each other, by whether a module of the model does it."""
_BLOCK, _OTHER_BLOCK = 128, 96
"""Rows of a pass over all examples, and of the one that puts other neighbours beside each."""
_RANDOM = "Switch randomness off unless model.training, e.g. F.dropout(x, p, self.training)."


def shapes(task: Task, model: nn.Module, batch: Batch) -> str:
    """Loss and measurement are one finite number per example, and a function of them alone is changed: nothing."""
    rows = num_rows(batch)
    before = {key: value.clone() for key, value in batch.items()}
    state = {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    for name in FUNCTIONS:
        value = _value(task, model, batch, name)
        if not isinstance(value, Tensor) or value.shape != (rows,):
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise BrokenPromise(f"{name} of {rows} examples is {found}, not ({rows},).", why_shape(task, batch, value))
        if not bool(torch.isfinite(value).all()):
            raise BrokenPromise(f"{name} is not finite for {int((~torch.isfinite(value)).sum())} of {rows} examples.")
        if any(not torch.equal(value, before[key]) for key, value in batch.items()):
            raise BrokenPromise(f"{name} changes the batch in place.", "Work on a copy: x = x - m, not x -= m.")
        if any(not same_bits(value, state[key]) for key, value in model.state_dict().items() if key in state):
            raise BrokenPromise(
                f"{name} changes the model in eval mode.", "Update statistics and parameters only if model.training."
            )
    _refuse_sparse(task, model, batch)
    return f"train_loss and measurement give one finite number per example ({rows} tried)."


def _refuse_sparse(task: Task, model: nn.Module, batch: Batch) -> None:
    """Raise a BrokenPromise where a gradient comes as a sparse tensor, which passes cannot add up."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for function in FUNCTIONS:
        total = getattr(task, function)(model, batch).sum()
        if not total.requires_grad:
            continue
        found = torch.autograd.grad(total, [parameter for _, parameter in named], allow_unused=True)
        for (name, _), gradient in zip(named, found, strict=True):
            if gradient is not None and gradient.layout != torch.strided:
                raise BrokenPromise(
                    f"The gradient of {function} to {name} is sparse.",
                    "Call functional.embedding and embedding_bag with sparse=False: the numbers are the same.",
                )


def _value(task: Task, model: nn.Module, batch: Batch, name: str) -> object:
    try:
        return getattr(task, name)(model, batch)
    except TDAError:
        raise
    except Exception as error:  # a person's code may raise anything: that is the finding
        raise BrokenPromise(f"{name} raises {one_line(error)}.", why_raises(task, model, batch, name)) from error


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
        return found or name, _MIXES[bool(found)]

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
        value = _value(task, model, one, name)
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
    first = _values_by_block(task, model, data, rows.split(sizes[0]))
    second = _values_by_block(task, model, data, rows[order].split(sizes[1]))
    for name in FUNCTIONS:
        agree = precision_of(task, model, take(data, rows[:ROWS]), (name,)).agree
        found, expected = second[name], first[name][order.to(first[name].device)]
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            finite = torch.isfinite(found[part]) & torch.isfinite(expected[part])
            if not bool(finite.all()):
                continue  # those who use the values name the row
            if not agree(found[part], expected[part]):
                worst = start + int((found[part] - expected[part]).abs().argmax())
                raise BrokenPromise(
                    f"{name} of example {int(rows[order[worst]])} changes with its neighbours from "
                    f"{float(expected[worst]):.5g} to {float(found[worst]):.5g}.",
                    _MIXES[False],
                )
    return len(rows)


def _values_by_block(task: Task, model: nn.Module, data: Batch, blocks: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return each function's values of all rows, block by block; what both ask of the model is computed once."""
    found: dict[str, list[Tensor]] = {name: [] for name in FUNCTIONS}
    for rows in blocks:
        batch = take(data, rows)
        with one_forward(model):
            for name in FUNCTIONS:
                found[name].append(getattr(task, name)(model, batch).detach())
    return {name: torch.cat(parts) for name, parts in found.items()}


@torch.no_grad()
def determinism(task: Task, model: nn.Module, batch: Batch) -> str:
    """Two evaluations in eval mode agree: to the bit on a CPU, elsewhere to rounding; training has the same loss."""
    rows, on_cpu = num_rows(batch), next(iter(batch.values())).device.type == "cpu"
    for name in FUNCTIONS:
        function = getattr(task, name)
        one, other = function(model, batch), function(model, batch)
        same = torch.equal(one, other) if on_cpu else torch.allclose(one, other, rtol=1e-5, atol=1e-6)
        if not same:
            run = lambda function=function: function(model, batch)  # noqa: E731
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
            loss = _value(task, model, batch, "train_loss")
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


@torch.no_grad()
def prediction(task: Task, model: nn.Module, batch: Batch) -> str:
    """A prediction is one class, within the task's classes, or one value per example."""
    found = task.predict(model, batch)
    if found is None:
        return "predict gives nothing: pages will not say right or wrong."
    rows = num_rows(batch)
    if found.shape != (rows,):
        raise BrokenPromise(f"predict of {rows} examples has shape {tuple(found.shape)}, not ({rows},).")
    if task.num_classes is not None:
        if found.is_floating_point():
            raise BrokenPromise("predict of a classification task is not an integer. Take argmax of the logits.")
        if int(found.min()) < 0 or int(found.max()) >= task.num_classes:
            raise BrokenPromise(f"predict leaves 0…{task.num_classes - 1}: it gives {found.tolist()}.")
    return f"One {'class' if task.num_classes is not None else 'value'} per example."


@torch.no_grad()
def outputs(task: Task, model: nn.Module, batch: Batch) -> str:
    """Where a task says what its loss is a function of, that function is the training loss."""
    if type(task).outputs is Task.outputs:
        return "Not given: Gauss–Newton methods and the true Fisher are not available for this task."
    found = task.output_loss(task.outputs(model, batch), batch)
    trained = task.train_loss(model, batch)
    if found.shape != trained.shape:
        raise BrokenPromise(f"output_loss has shape {tuple(found.shape)}, not ({num_rows(batch)},).")
    largest = float((in_float64(found) - in_float64(trained)).abs().max())
    if precision_of(task, model, take(batch, slice(0, ROWS))).agree(found, trained):
        return f"output_loss of outputs is train_loss to {largest:.1g}."
    return (
        f"output_loss is not train_loss (differs by {largest:.2g}): Gauss–Newton methods and the true Fisher refuse "
        "this task. Define output_loss(outputs, batch) to use them."
    )
