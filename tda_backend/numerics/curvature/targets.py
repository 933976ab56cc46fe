"""What curvature takes from a task beside its loss: the outputs that it is a function of, and targets drawn there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, TaskError
from tda_backend.models.probe import Probe, in_float64
from tda_backend.numerics.features.streaming import evaluation_mode, over_batches, values_of
from tda_backend.types import Batch, Task

_SAME_LOSS = 1e-3
"""Relative difference of two losses that are the same but for rounding."""


def drawn_targets(probe: Probe, num_samples: int, seed_of: Callable[[int, int], int]) -> Tensor:
    """Return targets drawn from the model for the train examples, ``[num_samples, n, ...]`` on the CPU.

    Every draw has a generator of its own, so batch size and order never matter.

    Args:
        probe: Task (with ``outputs`` and ``sample_targets``), model and train rows.
        num_samples: Draws per example.
        seed_of: (row of the dataset, number of the draw) → seed of that draw.

    Raises:
        TaskError: The task has no ``outputs`` or ``sample_targets``, or its ``output_loss`` is not its training loss.
        NumericalError: Outputs are not finite.
    """
    refuse_other_loss(probe)
    rows, generator = probe.rows("train"), torch.Generator()
    draws: list[list[Tensor]] = [[] for _ in range(num_samples)]

    def outputs_of(where: slice, batch: Batch) -> Tensor:
        with evaluation_mode(probe.model), torch.no_grad():
            return probe.task.outputs(probe.model, batch).cpu()

    for where, outputs in over_batches(probe, "train", outputs_of):
        refuse_non_finite_outputs(outputs, rows[where], probe.task)
        for row, output in zip(rows[where].tolist(), outputs, strict=True):
            for sample, drawn in enumerate(draws):
                generator.manual_seed(seed_of(row, sample))
                drawn.append(probe.task.sample_targets(output[None], generator))
    return torch.stack([torch.cat(drawn) for drawn in draws])


def refuse_other_loss(probe: Probe) -> None:
    """Refuse curvature of ``output_loss`` where that is not the training loss, on every train row.

    A subclass that overrides ``train_loss`` alone (class weights, label smoothing) inherits the ``output_loss`` of the
    plain loss: the curvature would be that of a loss which nobody trains.

    Raises:
        TaskError: The two differ, or ``output_loss`` has another shape.
    """
    task, rows = probe.task, probe.rows("train")

    def losses(where: slice, batch: Batch) -> tuple[Tensor, Tensor]:
        with evaluation_mode(probe.model), torch.no_grad():
            trained = values_of(task, probe.model, batch, "train_loss")
            return in_float64(trained), in_float64(task.output_loss(task.outputs(probe.model, batch), batch))

    for where, (trained, other) in over_batches(probe, "train", losses):
        if other.shape != trained.shape:
            raise TaskError(
                f"Task {task.name!r} returned output_loss of shape {tuple(other.shape)} for {len(trained)} examples.",
                "output_loss returns one number per example, [b], not reduced.",
            )
        bad = (other - trained).abs() > _SAME_LOSS * (1 + trained.abs())
        if bool(bad.any()):
            row = int(bad.nonzero()[0])
            raise TaskError(
                f"output_loss of task {task.name!r} is not its train_loss: {float(other[row]):.4g} and "
                f"{float(trained[row]):.4g} at train example {int(rows[where][row])}.",
                "Define output_loss(outputs, batch) as the loss that train_loss computes, or take the empirical "
                "Fisher.",
            )


def refuse_non_finite_outputs(outputs: Tensor, rows: Tensor, task: Task) -> None:
    """Raise a NumericalError that names how many outputs are not finite, and the first one's row of the dataset."""
    bad = ~torch.isfinite(outputs.detach()).flatten(1).all(1) if outputs.ndim > 1 else ~torch.isfinite(outputs)
    if bool(bad.any()):
        raise NumericalError(
            f"The outputs of {int(bad.sum())} train examples of task {task.name!r} are not finite "
            f"(first at index {int(rows[int(bad.nonzero()[0])])}).",
            "Look for NaN in the data, or for a training run that diverged.",
        )
