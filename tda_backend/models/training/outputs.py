"""What a trained model says of a batch: goodness, loss and prediction of every example."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tda_backend.blocks import EXAMPLES, in_blocks
from tda_backend.errors import TaskError
from tda_backend.models.heads import one_forward
from tda_backend.models.tasks.contract import persons_code
from tda_backend.models.tasks.data import num_rows, take
from tda_backend.models.training.run import reproducible
from tda_backend.types import Batch, Task, to_device


@dataclass(frozen=True)
class Evaluation:
    """What a model says of N examples, in eval mode.

    Attributes:
        goodness: measurement_sign · measurement, float32 ``[N]``; larger is better.
        loss: Training loss, float32 ``[N]``.
        prediction: Predicted class or value ``[N]``, or ``None``.
    """

    goodness: Tensor
    loss: Tensor
    prediction: Tensor | None


def evaluate(
    task: Task, model: nn.Module, batch: Batch, device: torch.device | str = "cpu", batch_size: int = 1000
) -> Evaluation:
    """Return goodness, loss and prediction of every example of ``batch``; results are on the CPU."""
    parts = list(_passes(task, model, batch, device, batch_size, ("measurement", "train_loss", "predict")))
    goodness, loss, prediction = zip(*parts, strict=True)
    has_prediction = prediction[0] is not None
    return Evaluation(
        torch.cat(goodness) * task.measurement_sign,
        torch.cat(loss),
        torch.cat(prediction) if has_prediction else None,
    )


def goodness_of(
    task: Task, model: nn.Module, batch: Batch, device: torch.device | str = "cpu", batch_size: int = 1000
) -> Tensor:
    """Return the goodness of every example, float32 ``[N]`` on the CPU: :func:`evaluate` without the rest."""
    passes = _passes(task, model, batch, device, batch_size, ("measurement",))
    return torch.cat([part for (part,) in passes if part is not None]) * task.measurement_sign


def _check_one_each(task: Task, name: str, value: object, rows: int) -> None:
    """Raise :class:`TaskError` unless a function of the task gave one value per example."""
    if value is None and name == "predict":
        return
    if not isinstance(value, Tensor) or value.shape != (rows,):
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TaskError(
            f'{name} of task "{task.name}" gives {found} for a batch of {rows}; it must be [b] = ({rows},).',
            "Return one value per example: argmax(1) of the logits." if name == "predict" else 'Use reduction="none".',
        )


def _passes(
    task: Task, model: nn.Module, batch: Batch, device: torch.device | str, batch_size: int, functions: Sequence[str]
) -> Iterator[list[Tensor | None]]:
    model = model.to(device).eval()

    def of(rows: slice) -> list[Tensor | None]:
        part = to_device(take(batch, rows), device)
        results = []
        with one_forward(model) if len(functions) > 1 else contextlib.nullcontext():
            for name in functions:
                with persons_code(task, name):
                    results.append(getattr(task, name)(model, part))
                _check_one_each(task, name, results[-1], num_rows(part))
        return [
            None if r is None else (r.detach().float() if r.is_floating_point() else r.detach()).cpu() for r in results
        ]

    with reproducible(device), torch.no_grad():
        for _, results in in_blocks(num_rows(batch), batch_size, of, EXAMPLES):
            yield results
