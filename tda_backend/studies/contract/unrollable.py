"""Which tasks have a training run that can be unrolled."""

from __future__ import annotations

from tda_backend.errors import StudyError
from tda_backend.models.tasks.contract import built
from tda_backend.numerics.trajectory.unrolled.repeatable import check_repeatable
from tda_backend.types import Task


def check_unrollable(task: Task, section: str) -> None:
    """Raise where a section of a study unrolls a training run that the task does not have.

    Raises:
        StudyError: No run, or not one run of an optimizer.
        TaskError: Its steps are no function of parameters and batch (dropout, batch norm).
    """
    lacks = _lacks(task)
    if lacks:
        raise StudyError(
            f"[{section}] unrolls a training run, but the task {task.name!r} {lacks}.", f"Leave [{section}] out."
        )
    check_repeatable(task, built(task, 0))


def _lacks(task: Task) -> str:
    """Return why a task has no run of an optimizer, in words; empty where it has one."""
    if task.training is None:
        return "is an already trained model"
    if task.stages:
        return "is trained in stages"
    return "is trained to its optimum, without a path" if task.training.optimizer == "lbfgs" else ""
