"""Whether ``measurement_sign`` says which way is better: goodness must rise where the loss falls."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tda_backend.models.checking.gradients import dot, norm, slopes, trainable
from tda_backend.models.checking.promises import BrokenPromise
from tda_backend.models.tasks.contract import built
from tda_backend.models.tasks.data import num_rows, take
from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.routes.optimizer import torch_optimizer
from tda_backend.types import Batch, Task, TrainingSettings

_SIGN_STEPS, _SIGN_ROWS = 20, 64
_SLOWER = (1.0, 0.1, 0.01)
"""Factors on the learning rate, until a few steps lower the loss."""
_OPPOSED = 0.1
"""The least cosine between the gradients of every row's loss and goodness that is no chance."""


def opposes_loss(task: Task, model: nn.Module, batch: Batch) -> None:
    """Raise a BrokenPromise where each row's goodness falls as its own loss does, from its gradients alone.

    Args:
        task: One that claims the margin identity has its sign proved by that.
        model: In eval mode.
        batch: A few rows.
    """
    if task.margin_identity:
        return
    parameters, cosines = trainable(model), []
    for row in range(num_rows(batch)):
        one = take(batch, slice(row, row + 1))
        goodness = slopes(task.measurement_sign * task.measurement(model, one).sum(), parameters)
        loss = slopes(task.train_loss(model, one).sum(), parameters)
        size = norm(goodness) * norm(loss)
        cosines.append(dot(goodness, loss) / size if size else 0.0)
    if min(cosines) > _OPPOSED:
        raise BrokenPromise(
            f"Goodness, measurement_sign·measurement, falls where the loss does, for each of {len(cosines)} examples "
            f"(cosines of the gradients from {min(cosines):.2g} to {max(cosines):.2g}).",
            _remedy(task),
        )


def _remedy(task: Task) -> str:
    return f"measurement_sign should be {-task.measurement_sign:+d}."


def sign(task: Task, train: Batch) -> str:
    """A few steps down the training loss must raise the goodness of those examples whose loss falls."""
    if task.measurement_sign not in (1, -1):
        raise BrokenPromise(f"measurement_sign is {task.measurement_sign!r}. Use +1 (larger is better) or −1.")
    if task.training is None:
        return f"Not tried on a trained model; measurement_sign is {task.measurement_sign:+d}."
    batch, settings = take(train, slice(0, _SIGN_ROWS)), training_settings(task)
    text = ""
    for factor in _SLOWER:
        before, after = _before_and_after(task, batch, settings, factor * settings.learning_rate)
        loss, goodness = (after[number].mean() - before[number].mean() for number in (0, 1))
        text = (
            f"{_SIGN_STEPS} steps on {num_rows(batch)} examples take the mean loss from {float(before[0].mean()):.4g} "
            f"to {float(after[0].mean()):.4g}"
        )
        if float(loss) < 0:
            break
    else:
        is_half = any(parameter.dtype == torch.float16 for parameter in built(task, 1).parameters())
        remedy = "Let build_model return float32, not float16." if is_half else ""
        raise BrokenPromise(
            f"{text}: training does not lower the loss.", f"{remedy} Look at train_loss and the learning rate.".strip()
        )
    text += f", the mean goodness from {float(before[1].mean()):.4g} to {float(after[1].mean()):.4g}"
    together = float(((after[0] - before[0]) * (after[1] - before[1])).sum())
    # Example by example: a loss that weighs some more may lower the mean goodness, and be right.
    if together > 0 or (together == 0 and float(goodness) < 0):
        raise BrokenPromise(
            f"{text}, and goodness falls where the loss does.",
            _remedy(task),
        )
    return f"{text}."


def _before_and_after(
    task: Task, batch: Batch, settings: TrainingSettings, rate: float
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return (losses, goodness) of each example before some steps, and after."""
    model = built(task, 1).eval()
    if settings.optimizer == "sgd" or settings.finds_optimum:
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    else:
        optimizer = torch_optimizer(settings, list(model.parameters()))
        for group in optimizer.param_groups:
            group["lr"] = rate

    @torch.no_grad()
    def values() -> tuple[Tensor, Tensor]:
        goodness = task.measurement_sign * task.measurement(model, batch)
        return task.train_loss(model, batch).double(), goodness.double()

    before = values()
    for _ in range(_SIGN_STEPS):
        optimizer.zero_grad(set_to_none=True)
        task.train_loss(model, batch).mean().backward()
        optimizer.step()
    return before, values()
