"""A real training run, recorded so that every step can be visited again, forwards or backwards, in bounded memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.training.contract import persons_code
from tda_backend.training.data import num_rows
from tda_backend.training.fit import check_finite, reproducible, row_numbers
from tda_backend.training.loop import LoopTrainer
from tda_backend.training.schedule import steps_per_epoch, training_settings
from tda_backend.trajectory.unrolled.objective import Objective
from tda_backend.trajectory.unrolled.optimizers import Optimizer, optimizer_of
from tda_backend.trajectory.unrolled.snapshots import DiskSnapshots, MemorySnapshots, Snapshots, snapshot_interval
from tda_backend.types import Batch, Task, TrainingSettings

_TOLERANCE = {torch.float32: 5e-2, torch.float64: 1e-6}
"""How far a recomputed segment may end from the recorded run, as a share of how far the run went in it. Adam divides
gradients that are rounding noise by their own size, so float32 is generous; another step rule is wrong by about 1."""
_ROUNDING = 20  # roundings of the values themselves that are always allowed: at tiny rates they outweigh the steps


@dataclass(frozen=True)
class RecordedStep:
    """One step of a recorded run, before it is taken.

    Attributes:
        step: t, from 1.
        rows: Rows of the train split in the batch, int64 ``[b]``, in the order of training.
        rate: η_t.
        theta: θ before the step, ``[P]``; must not be changed.
        state: The optimizer's slots before the step, ``[s, P]``; must not be changed.
    """

    step: int
    rows: Tensor
    rate: float
    theta: Tensor
    state: Tensor


class Trajectory:
    """A recorded run. Walks are independent of each other; each holds at most one segment of recomputed steps.

    Attributes:
        task: What was trained.
        settings: With which settings.
        seed: With which training seed.
        optimizer: The update rule and its derivatives.
        objective: Losses of the train split as functions of θ.
        train_indices: Rows of the train split that were trained on, int64 ``[n]``.
        num_steps: T.
        batches: Rows of each step's batch, int64 ``[b]``.
        rates: η_1 … η_T.
        interval: c: every c-th step has a snapshot, what lies between is recomputed.
        final_theta: θ after step T, ``[P]``.
        final_state: Slots after step T, ``[s, P]``.
    """

    def __init__(
        self,
        task: Task,
        settings: TrainingSettings,
        seed: int,
        objectives: Mapping[str, Objective],
        train_indices: np.ndarray,
        batches: Sequence[Tensor],
        rates: Sequence[float],
        snapshots: Snapshots,
        interval: int,
        final: Tensor,
    ) -> None:
        self.task, self.settings, self.seed = task, settings, seed
        self.optimizer: Optimizer = optimizer_of(settings)
        self._objectives = dict(objectives)
        self.train_indices, self.rates = train_indices, tuple(rates)
        self.batches, self.interval, self._snapshots = tuple(batches), interval, snapshots
        self._verified: set[int] = set()
        self.final_theta, self.final_state = final[0], final[1:]
        self._steps: dict[int, list[int]] = {int(row): [] for row in train_indices}
        for step, rows in enumerate(self.batches, start=1):
            for row in rows.tolist():
                self._steps[row].append(step)

    @property
    def objective(self) -> Objective:
        """Losses of the train split as functions of θ."""
        return self._objectives["train"]

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.batches)

    @property
    def num_parameters(self) -> int:
        """P."""
        return self.objective.num_parameters

    def objective_of(self, split: str) -> Objective:
        """Return the losses of a split that was given to :func:`record`.

        Raises:
            UsageError: It was not.
        """
        if split not in self._objectives:
            raise UsageError(f'There is no split "{split}".', f"Splits: {', '.join(self._objectives)}.")
        return self._objectives[split]

    def rows_of(self, step: int) -> Tensor:
        """Return the rows of the batch of ``step`` (from 1), int64 ``[b]``."""
        return self.batches[step - 1]

    def steps_of(self, row: int) -> tuple[int, ...]:
        """Return the steps, from 1, whose batch held a row of the train split: one per epoch.

        Raises:
            UsageError: The run did not train on it.
        """
        if row not in self._steps:
            raise UsageError(f"Row {row} was not trained on.", "Give one of train_indices.")
        return tuple(self._steps[row])

    def forward(self, first: int = 1, last: int | None = None) -> Iterator[RecordedStep]:
        """Yield the steps ``first`` … ``last`` (``None``: T), as they were before they were taken.

        Raises:
            UsageError: The steps do not lie in 1…T in this order.
            NumericalError: Recomputed steps do not end in the next snapshot.
        """
        first, last = self._bounds(first, last)
        step = self._before(first)
        while step <= last:
            end = min(step + self.interval - 1, self.num_steps)
            for recorded in self._segment(step, min(end, last)):
                if recorded.step >= first:
                    yield recorded
            step = end + 1

    def backward(self, first: int = 1, last: int | None = None) -> Iterator[RecordedStep]:
        """Yield the steps ``last`` (``None``: T) … ``first``; raises as :meth:`forward`."""
        first, last = self._bounds(first, last)
        start = self._before(last)
        while start + self.interval > first and start >= 1:
            segment = list(self._segment(start, min(start + self.interval - 1, last)))
            while segment:
                recorded = segment.pop()
                if recorded.step >= first:
                    yield recorded
            start -= self.interval

    def advance(self, recorded: RecordedStep) -> tuple[Tensor, Tensor]:
        """Return (θ, state) after a recorded step, recomputed."""
        gradient = self.objective.mean_gradient(recorded.theta, recorded.rows)
        return self.optimizer.update(recorded.theta, recorded.state, gradient, recorded.rate, recorded.step)

    def _bounds(self, first: int, last: int | None) -> tuple[int, int]:
        last = self.num_steps if last is None else last
        if not 1 <= first <= last <= self.num_steps:
            raise UsageError(f"Steps {first}…{last} are asked for.", f"The run has steps 1…{self.num_steps}.")
        return first, last

    def _before(self, step: int) -> int:
        """Return the step of the snapshot at or before ``step``."""
        return step - (step - 1) % self.interval

    def _kept(self, step: int) -> Tensor:
        """Return (θ, state) before ``step``, which has a snapshot or is T + 1."""
        if step > self.num_steps:
            return torch.cat([self.final_theta[None], self.final_state])
        return self._snapshots.get(step).to(self.objective.device)

    def _segment(self, start: int, last: int) -> Iterator[RecordedStep]:
        """Yield steps ``start``, which has a snapshot, … ``last``; compare with the next snapshot once, if met."""
        kept = self._kept(start)
        theta, state = kept[0], kept[1:]
        end = min(start + self.interval - 1, self.num_steps)
        check = last == end and start not in self._verified
        for step in range(start, last + 1):
            recorded = RecordedStep(step, self.batches[step - 1], self.rates[step - 1], theta, state)
            if step == last and check and self.interval > 1:
                self._check(kept, self._kept(end + 1), *self.advance(recorded), steps=(start, end))
                self._verified.add(start)
            yield recorded
            if step < last:
                theta, state = self.advance(recorded)

    def check_step(self, step: int) -> None:
        """Recompute one step between two kept states; raises as :meth:`forward`. For runs that keep every step."""
        kept = self._kept(step)
        recorded = RecordedStep(step, self.batches[step - 1], self.rates[step - 1], kept[0], kept[1:])
        self._check(kept, self._kept(step + 1), *self.advance(recorded), steps=(step, step))

    def _check(self, before: Tensor, kept: Tensor, theta: Tensor, state: Tensor, *, steps: tuple[int, int]) -> None:
        found = torch.cat([theta[None], state])
        norm = torch.linalg.vector_norm
        rounding = _ROUNDING * torch.finfo(kept.dtype).eps * norm(kept, dim=1)
        allowed = _TOLERANCE[kept.dtype] * norm(kept - before, dim=1) + rounding
        off = norm(found - kept, dim=1)
        if not bool((off <= allowed).all()):
            worst = int((off / allowed.clamp(min=torch.finfo(kept.dtype).tiny)).argmax())
            what = ("the parameters", *self.optimizer.slots)[worst]
            share = float(off[worst] / norm(kept - before, dim=1)[worst].clamp(min=torch.finfo(kept.dtype).tiny))
            raise NumericalError(
                f"Recomputing steps {steps[0]}…{steps[1]} of the run leads elsewhere than training did: {what} differ "
                f"by {share:.2g} of how far they moved.",
                "The loss is not the same function in every call (random numbers, dropout by function call, state of "
                "its own), or the run is too unstable in this precision: record it in float64.",
            )


def record(
    task: Task,
    data: Mapping[str, Batch],
    train_indices: Sequence[int] | np.ndarray | Tensor,
    seed: int,
    *,
    settings: TrainingSettings | None = None,
    last_epoch: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    budget_gib: float = 1.0,
    folder: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Trajectory:
    """Train with PyTorch's optimizer and keep what is needed to visit every step again.

    Every c-th step's parameters and moments are kept; c is the smallest that the budget allows, 1 where all fits.

    Args:
        task: Task with training settings, trained in one stage.
        data: Splits; ``train`` is trained on.
        train_indices: Rows of the train split to train on, n.
        seed: Training seed: initialisation and order.
        settings: Instead of the task's own, such as another learning rate.
        last_epoch: Where to stop (``None``: after all); schedules still refer to all epochs.
        dtype: float32 or float64; model and data are cast before training.
        device: Where to train and to compute later.
        budget_gib: For all snapshots together with the segment that one walk recomputes.
        folder: Where snapshots lie, in a folder of their own that goes with the trajectory; ``None``: in memory.
        on_progress: Called after every step with (done, total).

    Raises:
        TaskError: No settings, stages, training to the optimum, or a model whose steps are no function of θ and batch.
        UsageError: A row, epoch, dtype or budget out of range; a row is named twice.
        MachineError: The budget is too small, whatever is recomputed; or the folder cannot be written.
        NumericalError: Training diverged, or steps cannot be recomputed.
    """
    chosen = _settings(task, settings)
    optimizer = optimizer_of(chosen)
    if task.stages:
        raise TaskError(f'Task "{task.name}" is trained in stages.', "Unroll a task that is trained in one run.")
    if dtype not in _TOLERANCE:
        raise UsageError(f"Runs are not recorded in {dtype}.", "Choose torch.float32 or torch.float64.")
    end = chosen.num_epochs if last_epoch is None else last_epoch
    if not 1 <= end <= chosen.num_epochs:
        raise UsageError(f"The last epoch is {end}.", f"The settings train epochs 1…{chosen.num_epochs}.")
    rows = row_numbers(train_indices, num_rows(data["train"]))  # type: ignore[arg-type]
    if len(np.unique(rows)) != len(rows):
        raise UsageError("A training row is named twice.", "Influence sums over the steps that saw a row.")
    objectives = {
        split: Objective(task, _model(task, seed), batch, dtype=dtype, device=device) for split, batch in data.items()
    }
    objective = objectives["train"]
    total = steps_per_epoch(chosen, len(rows)) * end
    state_bytes = (1 + optimizer.num_slots) * objective.num_parameters * dtype.itemsize
    interval = snapshot_interval(total, state_bytes, budget_gib)
    snapshots: Snapshots = MemorySnapshots() if folder is None else DiskSnapshots(folder)
    model = _model(task, seed).to(device, dtype)
    with reproducible(device):
        trainer = LoopTrainer(task, model, chosen, objective.data, rows, seed, device)
        recorder = _Recorder(trainer.optimizer, model, objective, optimizer, snapshots, interval, total, on_progress)
        trainer.on_step = recorder
        for epoch in range(1, end + 1):
            trainer.train_epoch(epoch)
            check_finite(trainer.states(), epoch)
        final = recorder.now(model.state_dict(), total)
    trajectory = Trajectory(
        task, chosen, seed, objectives, rows, recorder.batches, recorder.rates, snapshots, interval, final
    )
    if interval == 1:  # nothing will be recomputed, but derivatives are those of the recomputed step
        for step in sorted({1, (total + 1) // 2, total}):
            trajectory.check_step(step)
    return trajectory


class _Recorder:
    """The hook of a training loop: keeps batches, rates and snapshots."""

    def __init__(
        self,
        torch_optimizer: torch.optim.Optimizer,
        model: nn.Module,
        objective: Objective,
        optimizer: Optimizer,
        snapshots: Snapshots,
        interval: int,
        total: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self._torch, self._objective, self._optimizer = torch_optimizer, objective, optimizer
        self._parameters = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        self._snapshots, self._interval, self._total = snapshots, interval, total
        self._on_progress = on_progress
        self.batches: list[Tensor] = []
        self.rates: list[float] = []

    def __call__(self, state: Mapping[str, Tensor], rows: Tensor, rate: float) -> None:
        done = len(self.batches)
        if done % self._interval == 0:
            self._snapshots.put(done + 1, self.now(state, done))
        self.batches.append(rows.cpu().clone())
        self.rates.append(float(rate))
        if self._on_progress is not None and done:
            self._on_progress(done, self._total)

    def now(self, state: Mapping[str, Tensor], done: int) -> Tensor:
        """Return (θ, slots) after ``done`` steps, ``[1+s, P]``."""
        self._check_used(done)
        if done == self._total and self._on_progress is not None:
            self._on_progress(done, self._total)
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


def _model(task: Task, seed: int) -> nn.Module:
    with persons_code(task, "build_model"):
        return task.build_model(seed)


def _settings(task: Task, settings: TrainingSettings | None) -> TrainingSettings:
    """Return the settings to train with, checked."""
    if settings is None:
        return training_settings(task)
    other = copy.copy(task)
    object.__setattr__(other, "training", settings)
    return training_settings(other)
