"""Training while choosing what to train on: one loop for K-step look-ahead, alignment, random draws and full data.

Every strategy sees the same initialisation, batches, schedule and number of steps under one seed, those of ordinary
training; it only decides which candidates of a batch the step is taken on. A run with a share of one half thus takes
as many steps as full data on half the examples each; ``random`` is what that alone does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.errors import TaskError, UsageError
from tda_backend.models.tasks.contract import built
from tda_backend.models.tasks.data import num_rows
from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.routes.schedule import learning_rate, steps_per_epoch, training_order
from tda_backend.models.training.run import reproducible
from tda_backend.numerics.trajectory.lookahead.results import (
    SPLITS,
    Cost,
    SelectionData,
    SelectionRun,
    WindowCheck,
)
from tda_backend.numerics.trajectory.lookahead.scorer import Counts, PlannedStep, Scorer
from tda_backend.numerics.trajectory.lookahead.strategy import Strategy, keep, predicted_change
from tda_backend.numerics.trajectory.lookahead.watch import Watch
from tda_backend.numerics.trajectory.unrolled.objective import Objective
from tda_backend.numerics.trajectory.unrolled.optimizers import optimizer_of
from tda_backend.types import Batch, Task, TrainingSettings


@dataclass(frozen=True)
class SelectionTask:
    """What is trained while choosing: a task, its data in four parts, and where.

    Attributes:
        task: With training settings of one stage.
        data: Candidates and held-out parts; ``take`` them from the task's splits.
        device: Where to compute.
        dtype: Of parameters and losses.
        budget_gib: What the states of a window may take (:class:`Scorer`).
    """

    task: Task
    data: SelectionData
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    budget_gib: float = 1.0

    def objective(self, model: nn.Module, data: Batch) -> Objective:
        """Return the losses of one part as functions of θ."""
        return Objective(self.task, model, data, dtype=self.dtype, device=self.device)


def select_while_training(
    what: SelectionTask,
    strategy: Strategy,
    seed: int,
    *,
    rate: float | None = None,
    num_evaluations: int = 10,
    check_windows: bool = False,
) -> SelectionRun:
    """Train one model and choose its examples window by window (METHODS.md §6, K-step look-ahead; derived here).

    Window: keep (θ, state), take K steps on all candidates, sweep back over them, keep the top share of each batch,
    go back, take the K steps on what was kept. The last window may be shorter.

    Args:
        what: Task and data.
        strategy: How to choose.
        seed: Initialisation and order, as in ordinary training.
        rate: η₀ instead of the task's.
        num_evaluations: How often to evaluate during the run, besides before it.
        check_windows: Compare what the scores of ``look-ahead`` predict with what came (:class:`WindowCheck`); two more
            passes over the selection set per window, counted as evaluation.

    Raises:
        TaskError: No training settings, stages, an optimum, or a model that is no function of θ and its batch.
        UsageError: A learning rate or number of evaluations out of range.
        NumericalError: Training diverged.
        MachineError: A window does not fit into the budget.
    """
    task, data = what.task, what.data
    settings = _settings(task, rate)
    model = built(task, seed)
    candidates = what.objective(model, data.candidates)
    held_out = {name: what.objective(model, getattr(data, name)) for name in SPLITS}
    plan = planned_steps(settings, num_rows(data.candidates), seed, candidates.device)
    scorer = Scorer(candidates, held_out["selection"], optimizer_of(settings), strategy, seed, what.budget_gib)
    watch = Watch(task, model, held_out, _evaluation_steps(len(plan), num_evaluations))
    choices = _Choices(scorer, strategy, watch, check_windows=check_windows)
    with reproducible(what.device):
        theta, seconds = choices.train(plan)
    rows = torch.cat([step.rows for step in plan]).cpu().numpy()
    last = watch.last["test"]
    return SelectionRun(
        strategy=strategy,
        learning_rate=settings.learning_rate,
        seed=seed,
        num_steps=len(plan),
        courses=watch.courses(),
        test_losses=last.loss.double().numpy(),
        test_correct=watch.correct("test", last),
        rows=rows,
        steps=np.repeat([step.number for step in plan], [len(step.rows) for step in plan]),
        scores=_joined(choices.scores if strategy.has_scores else [], np.full(len(rows), np.nan)),
        kept=_joined(choices.masks, np.ones(len(rows), dtype=bool)),
        num_candidates=num_rows(data.candidates),
        theta=theta.cpu(),
        cost=_cost(scorer.counts, len(rows), seconds),
        check=choices.check(),
    )


def planned_steps(
    settings: TrainingSettings, num_candidates: int, seed: int, device: torch.device | str = "cpu"
) -> list[PlannedStep]:
    """Return the batches and rates of a run, those of ordinary training on ``num_candidates`` examples."""
    steps = steps_per_epoch(settings, num_candidates)
    total = steps * settings.num_epochs
    batches = [
        rows
        for epoch in range(1, settings.num_epochs + 1)
        for rows in torch.from_numpy(training_order(seed, epoch, num_candidates)).to(device).split(settings.batch_size)
    ]
    return [
        PlannedStep(number + 1, rows, learning_rate(settings, number, total)) for number, rows in enumerate(batches)
    ]


class _Choices:
    """Trains window by window on what a strategy keeps, and remembers what it chose.

    Args:
        scorer: Scores the candidates of a window.
        strategy: How to choose.
        watch: Called with the number of each step and θ after it.
        check_windows: Whether to compare each window's prediction with what came.

    Attributes:
        scores: Of each step ``[b]``, where the strategy scores.
        masks: Which candidates of each step were kept, bool ``[b]``; none where all are.
    """

    def __init__(self, scorer: Scorer, strategy: Strategy, watch: Watch, *, check_windows: bool) -> None:
        self._scorer, self._strategy, self._watch, self._checks = scorer, strategy, watch, check_windows
        self.scores: list[Tensor] = []
        self.masks: list[Tensor] = []
        self._found: list[tuple[int, float, float]] = []

    def train(self, plan: Sequence[PlannedStep]) -> tuple[Tensor, float]:
        """Return θ after all steps, and the seconds that training and choosing took."""
        scorer, watch = self._scorer, self._watch
        theta = scorer.candidates.theta()
        state = scorer.optimizer.initial(theta)
        length = self._strategy.window(len(plan))
        watch(0, theta)
        begin, watch.seconds = time.perf_counter(), 0.0
        for first in range(0, len(plan), length):
            window = plan[first : first + length]
            scores = scorer.scores(window, theta, state)
            masks = None if scores is None else keep(scores, self._strategy.share, self._strategy.scope)
            theta, state = self._take(window, masks, theta, state)
            if scores is None or masks is None:
                continue
            self.scores += scores
            self.masks += masks
            if self._checks and scorer.reached is not None:
                real = watch.rise("selection", scorer.reached, theta)
                self._found.append((window[0].number, predicted_change(scores, masks), real))
        return theta, time.perf_counter() - begin - watch.seconds

    def check(self) -> WindowCheck | None:
        """Return predictions and what came, if they were compared."""
        return WindowCheck(*(np.array(column) for column in zip(*self._found, strict=True))) if self._found else None

    def _take(
        self, window: Sequence[PlannedStep], masks: Sequence[Tensor] | None, theta: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Take the steps of a window on what was kept, the mean over it in each; return (θ, state) after it."""
        scorer = self._scorer
        for place, step in enumerate(window):
            rows = step.rows if masks is None else step.rows[masks[place].to(step.rows.device)]
            gradient = scorer.candidates.mean_gradient(theta, rows)
            scorer.counts.gradients += len(rows)
            theta, state = scorer.optimizer.update(theta, state, gradient, step.rate, step.number)
            self._watch(step.number, theta)
        return theta, state


def _settings(task: Task, rate: float | None) -> TrainingSettings:
    settings = training_settings(task)
    if task.stages:
        raise TaskError(
            f'Task "{task.name}" is trained in stages, each with a fresh optimizer.',
            "Choose data for a task that is trained in one run of steps.",
        )
    if rate is None:
        return settings
    if not (math.isfinite(rate) and rate > 0):
        raise UsageError(f"The learning rate is {rate}.", "It is a finite number above 0.")
    return replace(settings, learning_rate=rate)


def _evaluation_steps(total: int, wanted: int) -> frozenset[int]:
    if wanted < 1:
        raise UsageError(f"{wanted} evaluations are asked for.", "At least 1: at the end.")
    return frozenset(round(total * number / min(wanted, total)) for number in range(min(wanted, total) + 1))


def _joined(values: Sequence[Tensor], default: np.ndarray) -> np.ndarray:
    """Return values of all steps end to end, or ``default`` where there are none."""
    return torch.cat(list(values)).cpu().numpy() if values else default


def _cost(counts: Counts, full_data: int, seconds: float) -> Cost:
    return Cost(counts.gradients, counts.products, counts.slopes, counts.in_gradients, full_data, seconds)
