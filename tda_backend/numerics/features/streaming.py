"""Passing examples through a model in eval mode, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, TypeVar

from torch import Tensor, nn

from tda_backend.blocks import EXAMPLES, in_blocks, spans
from tda_backend.errors import NumericalError, TaskError
from tda_backend.models.precision import forward_in, products_in
from tda_backend.models.probe import Group, Probe
from tda_backend.types import Batch, Task, to_device

Quantity: TypeAlias = Literal["goodness", "train_loss"]
T = TypeVar("T")


def values_of(task: Task, model: nn.Module, batch: Batch, quantity: Quantity) -> Tensor:
    """Return goodness (measurement times its sign) or the training loss of each example, ``[b]``.

    Raises:
        TaskError: The task returned another shape.
    """
    if quantity == "goodness":
        values = task.measurement_sign * task.measurement(model, batch)
    else:
        values = task.train_loss(model, batch)
    size = len(next(iter(batch.values())))
    if values.shape != (size,):
        raise TaskError(
            f"Task {task.name!r} returned {quantity} of shape {tuple(values.shape)} for a batch of {size}.",
            "train_loss and measurement return one number per example, [b], not reduced.",
        )
    return values


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode and restore each one's own mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def gradient_pass(probe: Probe) -> Iterator[None]:
    """Be in eval mode, with products in the probe's precision: around a forward pass and what differentiates it."""
    with evaluation_mode(probe.model), products_in(probe.precision, probe.device):
        yield


def graph_values(probe: Probe, batch: Batch, quantity: Quantity) -> Tensor:
    """Return :func:`values_of` a batch for a backward pass: computed in the probe's precision; raises the same."""
    with forward_in(probe.precision, probe.device):
        return values_of(probe.task, probe.model, batch, quantity)


def batches(probe: Probe, group: Group) -> Iterator[tuple[slice, dict[str, Tensor]]]:
    """Yield (positions among the group's rows, batch on the device); the model is moved there first."""
    probe.model.to(probe.device)
    rows = probe.rows(group)
    for part in spans(len(rows), probe.batch_size):
        yield part, examples_of(probe, group, rows[part])


def over_batches(
    probe: Probe, group: Group, compute: Callable[[slice, dict[str, Tensor]], T]
) -> Iterator[tuple[slice, T]]:
    """Yield (positions among the group's rows, what ``compute`` makes of them and their batch on the device).

    A batch for which memory runs out is passed again in halves, so ``compute`` leaves nothing but what it returns.
    """
    probe.model.to(probe.device)
    rows = probe.rows(group)

    def of(part: slice) -> T:
        return compute(part, examples_of(probe, group, rows[part]))

    return in_blocks(len(rows), probe.batch_size, of, EXAMPLES)


def examples_of(probe: Probe, group: Group, rows: Tensor) -> dict[str, Tensor]:
    """Return some rows of the split that holds a group's examples, on the device."""
    return to_device({key: value[rows] for key, value in probe.split(group).items()}, probe.device)


@contextmanager
def naming_group(group: str) -> Iterator[None]:
    """Say in the error of a value that is not finite which group of examples it lies in."""
    try:
        yield
    except NumericalError as error:
        raise NumericalError(f"In the {group} examples: {error.message}", error.hint) from error
