"""Watching a run of selection: losses and predictions on the held-out parts after chosen steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError
from tda_backend.finite import all_finite
from tda_backend.models.training.outputs import Evaluation, evaluate
from tda_backend.numerics.trajectory.lookahead.results import Course
from tda_backend.numerics.trajectory.unrolled.objective import Objective
from tda_backend.types import Task


class Watch:
    """Evaluates a run after chosen steps; its own time is counted apart.

    Args:
        task: Whose losses and predictions are evaluated.
        model: Gives the architecture.
        splits: Held-out parts by name.
        steps: After which steps to evaluate.

    Attributes:
        seconds: Time that evaluating took.
    """

    def __init__(self, task: Task, model: nn.Module, splits: Mapping[str, Objective], steps: frozenset[int]) -> None:
        self._task, self._splits, self._due = task, splits, steps
        self._model = copy.deepcopy(model)
        self._layout = next(iter(splits.values())).layout
        self._found: list[tuple[int, dict[str, Evaluation]]] = []
        self.seconds = 0.0

    def __call__(self, step: int, theta: Tensor) -> None:
        if step not in self._due:
            return
        begin = time.perf_counter()
        if not all_finite(theta):
            raise NumericalError(
                f"Training diverged: a parameter is not finite after step {step}.",
                "Lower the learning rate, or look for extreme values in the inputs.",
            )
        named = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, part in zip(self._layout.names, self._layout.split(theta[None]), strict=True):
                named[name].copy_(part[0])
        self._found.append(
            (
                step,
                {
                    name: evaluate(self._task, self._model, part.data, part.device)
                    for name, part in self._splits.items()
                },
            )
        )
        self.seconds += time.perf_counter() - begin

    def rise(self, split: str, before: Tensor, after: Tensor) -> float:
        """Return how much larger a split's mean loss is at ``after`` than at ``before``."""
        begin, objective = time.perf_counter(), self._splits[split]
        rows = torch.arange(objective.num_examples, device=objective.device)
        values = [torch.cat([objective.losses(at, part) for part in rows.split(1000)]) for at in (before, after)]
        found = float((values[1].double() - values[0].double()).mean())
        self.seconds += time.perf_counter() - begin
        return found

    @property
    def last(self) -> dict[str, Evaluation]:
        """Evaluations at the end, by split."""
        return self._found[-1][1]

    def courses(self) -> dict[str, Course]:
        """Return the course of every split."""
        steps = np.array([step for step, _ in self._found])
        return {
            name: Course(
                steps,
                np.array([float(found[name].loss.double().mean()) for _, found in self._found]),
                np.array([self.correct(name, found[name]).mean() for _, found in self._found]),
            )
            for name in self._splits
        }

    def correct(self, split: str, found: Evaluation) -> np.ndarray:
        """Return 1 or 0 for every example of a split, NaN where the task has no classes."""
        if found.prediction is None or self._task.num_classes is None:
            return np.full(len(found.loss), np.nan)
        return (found.prediction == self._splits[split].data[self._task.label_key].cpu()).double().numpy()
