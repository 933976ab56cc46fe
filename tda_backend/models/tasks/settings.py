"""What a task says about its training, checked: settings of the whole run and of each stage."""

from __future__ import annotations

import math
from dataclasses import replace
from numbers import Integral, Real
from typing import Any

from tda_backend.errors import TaskError
from tda_backend.types import Stage, Task, TrainingSettings


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
        "optimizer": settings.optimizer in ("sgd", "adam", "adamw", "rmsprop", "lbfgs"),
        "betas": isinstance(settings.betas, tuple | list)
        and len(settings.betas) == 2
        and all(_is(beta, Real) and 0 <= beta < 1 for beta in settings.betas),
        "eps": _is(settings.eps, Real) and settings.eps >= 0,
        "smoothing": _is(settings.smoothing, Real) and 0 <= settings.smoothing < 1,
        "decoupled_decay": settings.decoupled_decay is None or isinstance(settings.decoupled_decay, bool),
        "clip_norm": settings.clip_norm is None or (_is(settings.clip_norm, Real) and settings.clip_norm > 0),
        "warmup": _is(settings.warmup, Real) and 0 <= settings.warmup < 1,
    }
    for key, good in rules.items():
        if not good:
            raise TaskError(
                f'training.{key} of task "{task.name}" is {getattr(settings, key)!r}.',
                "Epochs and batch size are whole numbers ≥ 1, learning rate > 0, momentum in [0, 1), weight decay ≥ 0, "
                "schedule constant, linear or cosine, optimizer sgd, adam, adamw, rmsprop or lbfgs; betas two numbers "
                "in [0, 1), smoothing and warmup in [0, 1), eps ≥ 0, clip_norm > 0 or None, decoupled_decay True, "
                "False or None.",
            )
    _check_together(task, settings)
    if settings.finds_optimum and (settings.num_epochs != 1 or not settings.weight_decay or task.stages):
        found = f"{len(task.stages)} stages" if task.stages else f"weight decay {settings.weight_decay:g}"
        raise TaskError(
            f'Task "{task.name}" is trained to its optimum, but has {settings.num_epochs} epochs and {found}.',
            "optimizer lbfgs needs num_epochs = 1 (there is no path), weight_decay > 0 (else the optimum may not be "
            "unique) and no stages.",
        )
    _check_stages(task, settings)
    return settings


def _check_together(task: Task, settings: TrainingSettings) -> None:
    """Raise where an optimizer gets a setting that it does not have."""
    kind = settings.optimizer
    if settings.momentum and kind in ("adam", "adamw", "rmsprop"):
        moments = "no momentum here" if kind == "rmsprop" else "moments of its own: betas"
        raise TaskError(
            f'training.momentum of task "{task.name}" is {settings.momentum:g} with optimizer {kind}.',
            f"Momentum belongs to sgd; {kind} has {moments}. Leave momentum out.",
        )
    if kind == "adamw" and settings.decoupled_decay is False:
        raise TaskError(
            f'Task "{task.name}" is trained by adamw with decoupled_decay = False.',
            'AdamW is Adam with decoupled decay; without it, set optimizer = "adam".',
        )
    steps = [name for name in ("decoupled_decay", "clip_norm", "warmup") if getattr(settings, name)]
    if settings.finds_optimum and steps:
        raise TaskError(
            f'Task "{task.name}" is trained to its optimum, but sets {" and ".join(steps)}.',
            "These are about steps of an optimizer, which lbfgs does not take here. Leave them out.",
        )


def _check_stages(task: Task, settings: TrainingSettings) -> None:
    stages = task.stages
    if not stages:
        return
    for stage in stages:
        rate = stage.learning_rate if isinstance(stage, Stage) else None
        good = isinstance(stage, Stage) and _is(stage.num_epochs, Integral) and stage.num_epochs >= 1
        if not good or not (rate is None or (_is(rate, Real) and rate > 0)):
            raise TaskError(
                f'A stage of task "{task.name}" is {stage!r}.',
                "Give Stage(name, num_epochs ≥ 1, learning_rate > 0 or None).",
            )
    total = sum(stage.num_epochs for stage in stages)
    if total != settings.num_epochs:
        raise TaskError(
            f'The stages of task "{task.name}" have {total} epochs, its training settings {settings.num_epochs}.',
            "training.num_epochs counts the epochs of all stages.",
        )


def stage_settings(task: Task) -> tuple[TrainingSettings, ...]:
    """Return the settings of each stage, one for ordinary training; as :func:`training_settings`."""
    settings = training_settings(task)
    return tuple(
        replace(settings, num_epochs=stage.num_epochs, learning_rate=stage.learning_rate or settings.learning_rate)
        for stage in task.stages
    ) or (settings,)


def _is(value: Any, kind: type) -> bool:
    """Return whether ``value`` is a finite number of that kind; a truth value is none."""
    return isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
