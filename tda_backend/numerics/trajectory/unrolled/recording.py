"""Recording a real training run: what is kept while it trains."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.errors import TaskError, UsageError
from tda_backend.models.probe import home_of
from tda_backend.models.tasks.contract import built
from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.fit import check_finite
from tda_backend.models.training.routes.loop import LoopTrainer
from tda_backend.models.training.routes.schedule import steps_per_epoch
from tda_backend.models.training.run import TrainingRun, reproducible
from tda_backend.numerics.trajectory.unrolled.objective import Objective
from tda_backend.numerics.trajectory.unrolled.optimizers import optimizer_of
from tda_backend.numerics.trajectory.unrolled.snapshots import (
    DiskSnapshots,
    MemorySnapshots,
    Snapshots,
    snapshot_interval,
)
from tda_backend.numerics.trajectory.unrolled.trajectory import TOLERANCE, Kept, Trajectory
from tda_backend.types import Task, TrainingSettings

Progress = Callable[[int, int], None]
"""Called after every step with (done, total)."""


def record(
    run: TrainingRun,
    *,
    settings: TrainingSettings | None = None,
    last_epoch: int | None = None,
    dtype: torch.dtype = torch.float32,
    budget_gib: float = 1.0,
    folder: Path | None = None,
    on_progress: Progress | None = None,
) -> Trajectory:
    """Train with PyTorch's optimizer and keep what is needed to visit every step again.

    Every c-th step's parameters and moments are kept; c is the smallest that the budget allows, 1 where all fits.

    Args:
        run: Task trained in one stage, rows that are all different, seed and device. Steps are those of route
            ``loop``; losses of all splits of its data can be asked for later.
        settings: Instead of the task's own, such as another learning rate.
        last_epoch: Where to stop (``None``: after all); schedules still refer to all epochs.
        dtype: float32 or float64; model and data are cast before training. In float64 the run is computed on the CPU
            beside a device that has none.
        budget_gib: For all snapshots together with the segment that one walk recomputes.
        folder: Where snapshots lie, in a folder of their own that goes with the trajectory; ``None``: in memory.
        on_progress: Called after every step with (done, total).

    Raises:
        TaskError: No settings, stages, training to the optimum, or a model whose steps are no function of θ and batch.
        UsageError: A row, epoch, dtype or budget out of range; a row is named twice.
        MachineError: The budget is too small, whatever is recomputed; or the folder cannot be written.
        NumericalError: Training diverged, or steps cannot be recomputed.
    """
    if dtype == torch.float64:
        run = replace(run, device=home_of(run.device))
    chosen = _settings(run.task, settings)
    end = _checked_end(run, chosen, last_epoch, dtype)
    objectives = {
        split: Objective(run.task, _model(run), batch, dtype=dtype, device=run.device)
        for split, batch in run.data.items()
    }
    total = steps_per_epoch(chosen, len(run.row_numbers())) * end
    state_bytes = (1 + optimizer_of(chosen).num_slots) * objectives["train"].num_parameters * dtype.itemsize
    interval = snapshot_interval(total, state_bytes, budget_gib)
    memory = _Memory(MemorySnapshots() if folder is None else DiskSnapshots(folder), interval, total)
    trajectory = Trajectory(
        run, chosen, objectives, _trained(run, chosen, end, objectives["train"], memory, on_progress)
    )
    if interval == 1:  # nothing will be recomputed, but derivatives are those of the recomputed step
        for step in sorted({1, (total + 1) // 2, total}):
            trajectory.check_step(step)
    return trajectory


def _checked_end(run: TrainingRun, settings: TrainingSettings, last_epoch: int | None, dtype: torch.dtype) -> int:
    """Return the last epoch of a run that can be recorded; raise as :func:`record` where it cannot."""
    optimizer_of(settings)
    if run.task.stages:
        raise TaskError(f'Task "{run.task.name}" is trained in stages.', "Unroll a task that is trained in one run.")
    if dtype not in TOLERANCE:
        raise UsageError(f"Runs are not recorded in {dtype}.", "Choose torch.float32 or torch.float64.")
    end = settings.num_epochs if last_epoch is None else last_epoch
    if not 1 <= end <= settings.num_epochs:
        raise UsageError(f"The last epoch is {end}.", f"The settings train epochs 1…{settings.num_epochs}.")
    rows = run.row_numbers()
    if len(np.unique(rows)) != len(rows):
        raise UsageError("A training row is named twice.", "Influence sums over the steps that saw a row.")
    return end


@dataclass(frozen=True)
class _Memory:
    """Where snapshots go, how many steps lie between them, and how many steps the run has."""

    snapshots: Snapshots
    interval: int
    total: int


def _trained(
    run: TrainingRun,
    settings: TrainingSettings,
    end: int,
    objective: Objective,
    memory: _Memory,
    on_progress: Progress | None,
) -> Kept:
    """Train to the end of epoch ``end`` and return what was kept."""
    model = _model(run).to(run.device, objective.dtype)
    with reproducible(run.device):
        trainer = LoopTrainer(replace(run, data={"train": objective.data}), model, settings)
        recorder = _Recorder(trainer, model, objective, memory, on_progress)
        trainer.on_step = recorder
        for epoch in range(1, end + 1):
            trainer.train_epoch(epoch)
            check_finite(trainer.states(), epoch)
        final = recorder.now(model.state_dict(), memory.total)
    return Kept(recorder.batches, recorder.rates, memory.snapshots, memory.interval, final)


class _Recorder:
    """The hook of a training loop: keeps batches, rates and snapshots."""

    def __init__(
        self,
        trainer: LoopTrainer,
        model: nn.Module,
        objective: Objective,
        memory: _Memory,
        on_progress: Progress | None,
    ) -> None:
        self._torch, self._objective, self._optimizer = trainer.optimizer, objective, optimizer_of(trainer.settings)
        self._parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._memory, self._on_progress = memory, on_progress
        self.batches: list[Tensor] = []
        self.rates: list[float] = []

    def __call__(self, state: Mapping[str, Tensor], rows: Tensor, rate: float) -> None:
        done = len(self.batches)
        if done % self._memory.interval == 0:
            self._memory.snapshots.put(done + 1, self.now(state, done))
        self.batches.append(rows.cpu().clone())
        self.rates.append(float(rate))
        if self._on_progress is not None and done:
            self._on_progress(done, self._memory.total)

    def now(self, state: Mapping[str, Tensor], done: int) -> Tensor:
        """Return (θ, slots) after ``done`` steps, ``[1+s, P]``."""
        self._check_used(done)
        if done == self._memory.total and self._on_progress is not None:
            self._on_progress(done, self._memory.total)
        theta = self._objective.flat({name: value.detach() for name, value in state.items()})
        parts = [theta]
        for key in self._optimizer.keys:
            parts.append(torch.cat([self._moment(p, key) for _, p in self._parameters]))
        return torch.stack(parts).clone()

    def _moment(self, parameter: nn.Parameter, key: str) -> Tensor:
        """Return one moment of one parameter; zeros before its first step."""
        value = self._torch.state.get(parameter, {}).get(key)
        return torch.zeros_like(parameter).flatten().detach() if value is None else value.detach().flatten()

    def _check_used(self, done: int) -> None:
        """PyTorch leaves a parameter without a gradient alone, decay included; our update would decay it."""
        idle = [name for name, p in self._parameters if p.grad is None]
        if done and idle and self._optimizer.weight_decay:
            raise TaskError(
                f"Parameter {idle[0]} takes no part in the loss, so that PyTorch does not decay it as the others.",
                "Set requires_grad = False on it.",
            )


def _model(run: TrainingRun) -> nn.Module:
    return built(run.task, run.seed)


def _settings(task: Task, settings: TrainingSettings | None) -> TrainingSettings:
    """Return the settings to train with, checked."""
    if settings is None:
        return training_settings(task)
    other = copy.copy(task)
    object.__setattr__(other, "training", settings)
    return training_settings(other)
