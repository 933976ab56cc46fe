"""Checks of a task's values: one for each example, finite, with a gradient; and what else a task computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tda_backend.errors import TDAError, ran_out_of_memory
from tda_backend.models.checking.calls import why_raises, why_shape
from tda_backend.models.checking.gradients import slopes
from tda_backend.models.checking.promises import (
    FUNCTIONS,
    ROWS,
    BrokenPromise,
    precision_of,
    same_bits,
)
from tda_backend.models.heads import one_forward
from tda_backend.models.probe import in_float64
from tda_backend.models.tasks.contract import one_line
from tda_backend.models.tasks.data import num_rows, take
from tda_backend.types import Batch, Task

_BLOCK = 128
"""Rows of a pass over all examples."""


def shapes(task: Task, model: nn.Module, batch: Batch, examples: Sequence[int] | None = None) -> str:
    """Loss and measurement are one finite number per example with a gradient, and change neither batch nor model.

    Args:
        task: Whose loss and measurement are looked at.
        model: In eval mode.
        batch: A few rows.
        examples: Which rows of the split they are; ``None``: the first.
    """
    rows = num_rows(batch)
    before = {key: value.clone() for key, value in batch.items()}
    state = {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    modes = [module.training for module in model.modules()]
    for name in FUNCTIONS:
        value = value_of(task, model, batch, name)
        if not isinstance(value, Tensor) or value.shape != (rows,):
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise BrokenPromise(f"{name} of {rows} examples is {found}, not ({rows},).", why_shape(task, batch, value))
        refuse_not_finite(name, value, range(rows) if examples is None else examples)
        if any(not torch.equal(value, before[key]) for key, value in batch.items()):
            raise BrokenPromise(f"{name} changes the batch in place.", "Work on a copy: x = x - m, not x -= m.")
        if [module.training for module in model.modules()] != modes:
            raise BrokenPromise(
                f"{name} changes the model's mode.", "Leave out model.train() and eval(): the program sets the mode."
            )
        odd = [key for key, value in model.state_dict().items() if key in state and not same_bits(value, state[key])]
        if odd:
            raise BrokenPromise(
                f"{name} changes the model in eval mode ({', '.join(odd[:3])}).",
                "Update statistics and parameters only if model.training; nn.Embedding's max_norm rescales at every "
                "call: leave it out.",
            )
    _refuse_gradients(task, model, batch)
    return f"train_loss and measurement give one finite number per example, with a gradient ({rows} tried)."


def refuse_not_finite(name: str, value: Tensor, examples: Sequence[int]) -> None:
    """Raise a BrokenPromise that names the first of some examples whose value is NaN or infinite."""
    odd = torch.nonzero(~torch.isfinite(value.detach())).flatten().tolist()
    if odd:
        raise BrokenPromise(
            f"{name} is not finite for {len(odd)} of {len(examples)} examples, first for example {examples[odd[0]]}.",
            "Look at what it holds: nothing but padding, an empty text, a log or a division by 0, or numbers beyond "
            "the range of float16.",
        )


@torch.no_grad()
def finite(task: Task, model: nn.Module, data: Batch) -> str:
    """Loss and measurement of every row are finite."""
    rows = torch.arange(num_rows(data))
    for name, found in values_by_block(task, model, data, rows.split(_BLOCK)).items():
        refuse_not_finite(name, found, rows.tolist())
    return f"train_loss and measurement of {len(rows)} examples are finite."


def values_by_block(task: Task, model: nn.Module, data: Batch, blocks: Sequence[Tensor]) -> dict[str, Tensor]:
    """Return each function's values of all rows, block by block; what both ask of the model is computed once."""
    found: dict[str, list[Tensor]] = {name: [] for name in FUNCTIONS}
    for rows in blocks:
        batch = take(data, rows)
        with one_forward(model):
            for name in FUNCTIONS:
                value = value_of(task, model, batch, name)
                assert isinstance(value, Tensor)
                found[name].append(value.detach())
    return {name: torch.cat(parts) for name, parts in found.items()}


def _refuse_gradients(task: Task, model: nn.Module, batch: Batch) -> None:
    """Raise a BrokenPromise where a gradient is missing, or comes as a sparse tensor, which passes cannot add up."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for function in FUNCTIONS:
        found = slopes(getattr(task, function)(model, batch).sum(), [parameter for _, parameter in named])
        if all(gradient is None for gradient in found):
            raise BrokenPromise(
                f"{function} has no gradient to the model's parameters.",
                "It must change smoothly with them: no accuracy, argmax or comparison, no detach(), .item() or "
                "no_grad() on the way.",
            )
        for (name, _), gradient in zip(named, found, strict=True):
            if gradient is not None and gradient.layout != torch.strided:
                raise BrokenPromise(
                    f"The gradient of {function} to {name} is sparse.",
                    "Call functional.embedding and embedding_bag with sparse=False: the numbers are the same.",
                )


def value_of(task: Task, model: nn.Module, batch: Batch, name: str) -> object:
    """Return what a function of a task gives.

    Raises:
        BrokenPromise: It raises; names the causes that fit.
    """
    try:
        return getattr(task, name)(model, batch)
    except TDAError:
        raise
    except Exception as error:  # a person's code may raise anything: that is the finding
        if ran_out_of_memory(error):
            raise
        raise BrokenPromise(
            f"{name} raises {one_line(error).rstrip('.')}.", why_raises(task, model, batch, name)
        ) from error


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
