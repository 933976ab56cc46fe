"""A recorded training run, of which every step can be visited again, forwards or backwards, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.trajectory.unrolled.objective import Objective
from tda_backend.numerics.trajectory.unrolled.optimizers import Optimizer, optimizer_of
from tda_backend.numerics.trajectory.unrolled.snapshots import Snapshots
from tda_backend.types import TrainingSettings

TOLERANCE = {torch.float32: 5e-2, torch.float64: 1e-6}
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


@dataclass(frozen=True)
class Kept:
    """What recording kept of a run of T steps.

    Attributes:
        batches: Rows of each step's batch, int64 ``[b]``, in the order of training.
        rates: η_1 … η_T.
        snapshots: (θ, slots) before every c-th step, from the first.
        interval: c.
        final: (θ, slots) after step T, ``[1+s, P]``.
    """

    batches: Sequence[Tensor]
    rates: Sequence[float]
    snapshots: Snapshots
    interval: int
    final: Tensor


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
        self, run: TrainingRun, settings: TrainingSettings, objectives: Mapping[str, Objective], kept: Kept
    ) -> None:
        self.task, self.settings, self.seed = run.task, settings, run.seed
        self.optimizer: Optimizer = optimizer_of(settings)
        self._objectives = dict(objectives)
        self.train_indices, self.rates = run.row_numbers(), tuple(kept.rates)
        self.batches, self.interval, self._snapshots = tuple(kept.batches), kept.interval, kept.snapshots
        self._verified: set[int] = set()
        self.final_theta, self.final_state = kept.final[0], kept.final[1:]
        self._steps: dict[int, list[int]] = {int(row): [] for row in self.train_indices}
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
        allowed = TOLERANCE[kept.dtype] * norm(kept - before, dim=1) + rounding
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
