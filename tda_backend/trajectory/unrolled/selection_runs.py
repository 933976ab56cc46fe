"""Training while choosing what to train on: one loop for K-step look-ahead, alignment, random draws and full data.

Every strategy sees the same initialisation, batches, schedule and number of steps under one seed, those of ordinary
training; it only decides which candidates of a batch the step is taken on. A run with a share of one half thus takes
as many steps as full data on half the examples each; ``random`` is what that alone does.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.training.contract import persons_code
from tda_backend.training.data import num_rows
from tda_backend.training.fit import Evaluation, evaluate, reproducible
from tda_backend.training.schedule import learning_rate, steps_per_epoch, training_settings
from tda_backend.training.subsets import training_order
from tda_backend.trajectory.unrolled.lookahead import Counts, PlannedStep, Scorer
from tda_backend.trajectory.unrolled.objective import Objective
from tda_backend.trajectory.unrolled.optimizers import Optimizer, optimizer_of
from tda_backend.trajectory.unrolled.selection_results import (
    SPLITS,
    Cost,
    Course,
    SelectionData,
    SelectionRun,
    WindowCheck,
)
from tda_backend.trajectory.unrolled.selection_strategy import Strategy, keep, predicted_change
from tda_backend.types import Task, TrainingSettings


def select_while_training(
    task: Task,
    data: SelectionData,
    strategy: Strategy,
    seed: int,
    *,
    rate: float | None = None,
    num_evaluations: int = 10,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    budget_gib: float = 1.0,
    check_windows: bool = False,
) -> SelectionRun:
    """Train one model and choose its examples window by window (METHODS.md §6, K-step look-ahead; derived here).

    Window: keep (θ, state), take K steps on all candidates, sweep back over them, keep the top share of each batch,
    go back, take the K steps on what was kept. The last window may be shorter.

    Args:
        task: With training settings of one stage.
        data: Candidates and held-out parts; ``take`` them from the task's splits.
        strategy: How to choose.
        seed: Initialisation and order, as in ordinary training.
        rate: η₀ instead of the task's.
        num_evaluations: How often to evaluate during the run, besides before it.
        dtype: Of parameters and losses.
        device: Where to compute.
        budget_gib: What the states of a window may take (:class:`Scorer`).
        check_windows: Compare what the scores of ``look-ahead`` predict with what came (:class:`WindowCheck`); two more
            passes over the selection set per window, counted as evaluation.

    Raises:
        TaskError: No training settings, stages, an optimum, or a model that is no function of θ and its batch.
        UsageError: A learning rate or number of evaluations out of range.
        NumericalError: Training diverged.
        MachineError: A window does not fit into the budget.
    """
    settings = _settings(task, rate)
    if num_evaluations < 1:
        raise UsageError(f"{num_evaluations} evaluations are asked for.", "At least 1: at the end.")
    with persons_code(task, "build_model"):
        model = task.build_model(seed)
    candidates = Objective(task, model, data.candidates, dtype=dtype, device=device)
    held_out = {
        name: Objective(task, model, getattr(data, name), dtype=dtype, device=device) for name in SPLITS
    }  # fmt: skip
    optimizer = optimizer_of(settings)
    plan = planned_steps(settings, num_rows(data.candidates), seed, candidates.device)
    scorer = Scorer(candidates, held_out["selection"], optimizer, strategy, seed, budget_gib)
    watch = _Watch(task, model, held_out, _evaluation_steps(len(plan), num_evaluations))
    theta = candidates.theta()
    state = optimizer.initial(theta)
    found: list[tuple[list[Tensor] | None, list[Tensor] | None]] = []
    check: list[tuple[int, float, float]] = []
    length = strategy.window(len(plan))
    with reproducible(device):
        watch(0, theta)
        begin, watch.seconds = time.perf_counter(), 0.0
        for first in range(0, len(plan), length):
            window = plan[first : first + length]
            scores = scorer.scores(window, theta, state)
            masks = None if scores is None else keep(scores, strategy.share, strategy.scope)
            found.append((scores, masks))
            theta, state = chosen_training(candidates, optimizer, window, masks, theta, state, scorer.counts, watch)
            if check_windows and scores is not None and masks is not None and scorer.reached is not None:
                real = watch.rise("selection", scorer.reached, theta)
                check.append((window[0].number, predicted_change(scores, masks), real))
        seconds = time.perf_counter() - begin - watch.seconds
    rows = torch.cat([step.rows for step in plan]).cpu().numpy()
    scored = strategy.kind in ("look-ahead", "alignment")
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
        scores=_joined([scores if scored else None for scores, _ in found], np.full(len(rows), np.nan)),
        kept=_joined([masks for _, masks in found], np.ones(len(rows), dtype=bool)),
        num_candidates=num_rows(data.candidates),
        theta=theta.cpu(),
        cost=_cost(scorer.counts, len(rows), seconds),
        check=WindowCheck(*(np.array(column) for column in zip(*check, strict=True))) if check else None,
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


def chosen_training(
    candidates: Objective,
    optimizer: Optimizer,
    window: Sequence[PlannedStep],
    masks: Sequence[Tensor] | None,
    theta: Tensor,
    state: Tensor,
    counts: Counts,
    after: Callable[[int, Tensor], None],
) -> tuple[Tensor, Tensor]:
    """Train through a window on what was kept, the mean over it in every step; return (θ, state) after it.

    Args:
        candidates: As :class:`Scorer`.
        optimizer: As :class:`Scorer`.
        window: The steps.
        masks: Which candidates of each are kept; ``None``: all.
        theta: Before the first step, ``[P]``.
        state: Before the first step, ``[s, P]``.
        counts: Grows by the gradients taken.
        after: Called with the number of each step and θ after it.
    """
    for place, step in enumerate(window):
        rows = step.rows if masks is None else step.rows[masks[place].to(step.rows.device)]
        gradient = candidates.mean_gradient(theta, rows)
        counts.gradients += len(rows)
        theta, state = optimizer.update(theta, state, gradient, step.rate, step.number)
        after(step.number, theta)
    return theta, state


class _Watch:
    """Evaluates a run after chosen steps; its own time is counted apart."""

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
        if not bool(torch.isfinite(theta).all()):
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
    return frozenset(round(total * number / min(wanted, total)) for number in range(min(wanted, total) + 1))


def _joined(parts: list[list[Tensor] | None], default: np.ndarray) -> np.ndarray:
    """Return values of all windows end to end, or ``default`` where there are none."""
    values = [value for part in parts if part is not None for value in part]
    return torch.cat(values).cpu().numpy() if values else default


def _cost(counts: Counts, full_data: int, seconds: float) -> Cost:
    return Cost(counts.gradients, counts.products, counts.slopes, counts.in_gradients, full_data, seconds)
