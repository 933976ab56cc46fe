"""Multi-stage training: one trainer after the other, each with its own examples and a fresh optimizer.

SOURCE (arXiv 2405.12186) §3.3 and §5.3: a model trained on one data set goes on to be trained on another, and what is
attributed are the examples of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tda_backend.errors import UsageError
from tda_backend.models.tasks.settings import stage_settings
from tda_backend.models.training.routes.schedule import Trainer, learning_rate, steps_per_epoch
from tda_backend.models.training.run import RunGroup
from tda_backend.seeds import hashed_seed
from tda_backend.types import Batch, Task, TrainingSettings

Build = Callable[[TrainingSettings, RunGroup, Sequence[Mapping[str, Tensor]] | None], Trainer]
"""(settings, the stage's rows and seeds of each model, states to go on from) → trainer of one stage."""


@dataclass(frozen=True)
class StagePlan:
    """What another process needs to know of a task's stages.

    Attributes:
        key: Key of the stage numbers in the data.
        names: Names of the stages.
        settings: Settings of each stage.
    """

    key: str
    names: tuple[str, ...]
    settings: tuple[TrainingSettings, ...]

    def rows(self, data: Batch, rows: np.ndarray) -> list[np.ndarray]:
        """Return those of ``rows`` that each stage trains on, in their order.

        Raises:
            UsageError: A stage has none.
        """
        stage = data[self.key].cpu().numpy()[rows]
        parts = [rows[stage == number] for number in range(len(self.names))]
        for name, part in zip(self.names, parts, strict=True):
            if not len(part):
                raise UsageError(f'Stage "{name}" of the training has no example left.', "Keep at least one of each.")
        return parts


def stage_plan(task: Task) -> StagePlan | None:
    """Return the stages of a task, or ``None`` for ordinary training."""
    if not task.stages:
        return None
    settings = stage_settings(task)  # checks the stages first
    return StagePlan(task.stage_key, tuple(stage.name for stage in task.stages), settings)


def attributed_rows(task: Task, data: Batch, rows: np.ndarray | Sequence[int]) -> np.ndarray:
    """Return which of ``rows`` a retraining may leave out, bool ``[n]``: all, or those of the first stage.

    Args:
        task: The task.
        data: The training split.
        rows: Rows of it, ``[n]``.
    """
    positions = np.asarray(rows, dtype=np.int64)
    if not task.stages:
        return np.ones(len(positions), dtype=bool)
    return data[task.stage_key].cpu().numpy()[positions] == 0


class StagedTrainer:
    """Trains through the stages; epochs are counted on, so that it looks like one trainer.

    Within a stage everything is as in ordinary training of that stage alone: its steps, its schedule, its order. The
    seed of a later stage is hashed from the training seed and the stage's number.

    Args:
        plan: The stages.
        group: Data, rows (of all stages) and seeds of each model.
        build: Makes the trainer of one stage.
    """

    def __init__(self, plan: StagePlan, group: RunGroup, build: Build) -> None:
        self._plan, self._group, self._build = plan, group, build
        split = [plan.rows(group.data, each) for each in group.rows]
        self._rows = [[parts[stage] for parts in split] for stage in range(len(plan.settings))]
        self._first = np.cumsum([0] + [settings.num_epochs for settings in plan.settings])
        self._stage = -1
        self._trainer: Trainer | None = None

    def train_epoch(self, epoch: int) -> None:
        """Run one epoch (1-based over all stages) of every model."""
        stage = int(np.searchsorted(self._first, epoch) - 1)
        while self._stage < stage:
            states = self.states() if self._trainer is not None else None
            self._stage += 1
            number = self._stage
            seeds = [hashed_seed("stage", seed, number) if number else seed for seed in self._group.seeds]
            own = replace(self._group, rows=self._rows[number], seeds=seeds)
            self._trainer = self._build(self._plan.settings[number], own, states)
        assert self._trainer is not None
        self._trainer.train_epoch(epoch - int(self._first[stage]))

    def states(self) -> list[dict[str, Tensor]]:
        """Return a copy of each model's state dict, on the CPU."""
        if self._trainer is None:
            raise UsageError("No epoch has been trained yet.", "Call train_epoch(1) first.")
        return self._trainer.states()


def epoch_learning_rate(task: Task, data: Batch, rows: np.ndarray, epoch: int) -> float:
    """Return η of the last step of ``epoch``, 1-based over all stages."""
    plan = stage_plan(task)
    parts = [rows] if plan is None else plan.rows(data, rows)
    before = 0
    for settings, part in zip(stage_settings(task), parts, strict=True):
        if epoch <= before + settings.num_epochs:
            steps = steps_per_epoch(settings, len(part))
            return learning_rate(settings, (epoch - before) * steps - 1, steps * settings.num_epochs)
        before += settings.num_epochs
    raise UsageError(f"Epoch {epoch} is asked for.", f'Task "{task.name}" trains epochs 1…{before}.')


def load_states(models: Sequence[torch.nn.Module], states: Sequence[Mapping[str, Tensor]] | None) -> None:
    """Let models go on from ``states``; ``None`` leaves them as they were initialised."""
    for model, state in zip(models, states or [], strict=bool(states)):
        model.load_state_dict(dict(state))
