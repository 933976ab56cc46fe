"""What all routes share of mini-batch SGD: settings, step counts, learning rates, updates of many tensors at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real

import torch
from torch import Tensor

from tda_backend.errors import TaskError
from tda_backend.types import Task, TrainingSettings

StepHook = Callable[[Mapping[str, Tensor], Tensor, float], None]
"""Called before every step with the live parameters and buffers, the batch's rows ``[b]`` and the learning rate."""

foreach_add = torch._foreach_add_  # type: ignore[reportPrivateImportUsage]
foreach_multiply = torch._foreach_mul_  # type: ignore[reportPrivateImportUsage]


def training_settings(task: Task) -> TrainingSettings:
    """Return the task's training settings after checking their ranges.

    Raises:
        TaskError: The task has none, or a value is of another type or out of range.
    """
    settings = task.training
    if settings is None:
        raise TaskError(
            f'Task "{task.name}" has no training settings: it is an already trained model.',
            "Give training = TrainingSettings(…) to train or retrain it.",
        )
    if not isinstance(settings, TrainingSettings):
        raise TaskError(
            f'training of task "{task.name}" is a {type(settings).__name__}.', "Give training = TrainingSettings(…)."
        )
    rules = {
        "num_epochs": _is(settings.num_epochs, Integral) and settings.num_epochs >= 1,
        "batch_size": _is(settings.batch_size, Integral) and settings.batch_size >= 1,
        "learning_rate": _is(settings.learning_rate, Real) and settings.learning_rate > 0,
        "momentum": _is(settings.momentum, Real) and 0 <= settings.momentum < 1,
        "weight_decay": _is(settings.weight_decay, Real) and settings.weight_decay >= 0,
        "schedule": settings.schedule in ("constant", "linear", "cosine"),
    }
    for key, good in rules.items():
        if not good:
            raise TaskError(
                f'training.{key} of task "{task.name}" is {getattr(settings, key)!r}.',
                "Epochs and batch size are whole numbers ≥ 1, learning rate > 0, momentum in [0, 1), weight decay ≥ 0, "
                "schedule constant, linear or cosine.",
            )
    return settings


def _is(value: object, kind: type) -> bool:
    """Return whether ``value`` is a finite number of that kind; a truth value is none."""
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)  # type: ignore[arg-type]


def steps_per_epoch(settings: TrainingSettings, num_examples: int) -> int:
    """Return the number of steps in an epoch; the last partial batch is kept."""
    return -(-num_examples // settings.batch_size)


def learning_rate(settings: TrainingSettings, step: int, total_steps: int) -> float:
    """Return η of ``step`` (0-based) of ``total_steps``.

    constant: η₀; linear: η₀·(1 − t/T); cosine: η₀·(1 + cos(π·t/T))/2.
    """
    fraction = step / total_steps
    if settings.schedule == "linear":
        return settings.learning_rate * (1 - fraction)
    if settings.schedule == "cosine":
        return settings.learning_rate * (1 + math.cos(math.pi * fraction)) / 2
    return settings.learning_rate
