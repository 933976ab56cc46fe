"""How many models are trained: one by one, in processes, or stacked as one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.torch
from torch import Tensor

from tda_backend.blocks import in_blocks
from tda_backend.errors import UsageError
from tda_backend.models.tasks.contract import built
from tda_backend.models.tasks.data import take
from tda_backend.models.tasks.registry import task_folder, task_spec
from tda_backend.models.training.fit import check_finite, run_trainer
from tda_backend.models.training.retraining.cost import autograd_operations
from tda_backend.models.training.retraining.plan import Job, RetrainingPlan
from tda_backend.models.training.retraining.processes import (
    can_start_processes,
    default_num_processes,
    num_warm_processes,
    shared_pool,
)
from tda_backend.models.training.retraining.workload import Workload
from tda_backend.models.training.routes.mlp import MLPTrainer
from tda_backend.models.training.routes.schedule import Trainer
from tda_backend.models.training.routes.stacked import StackedTrainer, why_not_stackable
from tda_backend.models.training.routes.stages import StagedTrainer, load_states
from tda_backend.models.training.run import Route, RunGroup, reproducible
from tda_backend.types import TrainingSettings, to_device

Report = Callable[[int], None]
"""Called with the model-epochs done."""
States = Generator[tuple[int, dict[str, Tensor]], None, None]
"""(job number, final state) as models finish."""
Trained = list[dict[str, Tensor]]
STACK_SIZE = 32
"""Models per stack. The last stack is filled up with copies, so that every stack runs the same kernels."""
_UNIT = "models trained side by side"
_PROBE_ROWS = 16
_WORTH_A_POOL = 30e9  # floating-point operations (about half a second of one core): below, starting costs more
_PASSES_TO_OPTIMUM = 100  # over the data, for a linear model
_MINIMUM_STEP_OPERATIONS = 2e6  # a step of a tiny model costs its calls, not its arithmetic


def final_states(plan: RetrainingPlan, route: Route, num_processes: int | None, report: Report) -> States:
    """Choose the route and yield (job number, final state) as models finish.

    Raises:
        UsageError: The models cannot be stacked, or fewer than one process is asked for.
    """
    accelerated = plan.device.type != "cpu"
    if route == "stacked" or (route == "auto" and accelerated):
        rows = plan.jobs[0].indices
        sample = to_device(take(plan.data, rows[:_PROBE_ROWS]), "cpu")
        some = np.arange(len(rows[:_PROBE_ROWS]))
        if plan.settings.finds_optimum:
            reason = "they are trained to their optimum"
        else:
            reason = None if plan.architecture else why_not_stackable(plan.task, plan.settings, sample, some)
        if reason is None:
            return _stacked(plan, report)
        if route == "stacked":
            raise UsageError(f'Models of task "{plan.task.name}" cannot be stacked: {reason}.', 'Take route "auto".')
    helpers = 1 if accelerated else _num_processes(plan, num_processes)
    if helpers > 1:
        return _in_processes(plan, helpers, report)
    return _one_by_one(plan, "loop" if route == "loop" else "auto", report)


def _num_processes(plan: RetrainingPlan, wanted: int | None) -> int:
    if wanted is not None and wanted < 1:
        raise UsageError(f"{wanted} processes are asked for.", "At least 1 is needed.")
    loadable = plan.architecture is not None or task_spec(plan.task) is not None
    if not loadable or not can_start_processes():
        return 1
    if wanted is not None:
        return wanted
    helpers = default_num_processes()
    examples = sum(len(job.indices) for job in plan.jobs) * plan.settings.num_epochs
    if plan.architecture is not None:
        each = plan.architecture.needed_operations
    else:
        each = autograd_operations(plan.task, built(plan.task, 0), plan.data)
    work = examples * max(each, _MINIMUM_STEP_OPERATIONS / plan.settings.batch_size)
    work *= _PASSES_TO_OPTIMUM if plan.settings.finds_optimum else 1
    return helpers if len(plan.jobs) > 1 and (work > _WORTH_A_POOL or num_warm_processes() >= helpers) else 1


def _one_by_one(plan: RetrainingPlan, route: Route, report: Report) -> States:
    epochs = plan.settings.num_epochs
    for number, job in enumerate(plan.jobs):
        with reproducible(plan.device):
            trainer = run_trainer(plan.run(job, route))
            _train(trainer, epochs, lambda epoch, number=number: report(number * epochs + epoch))
        yield number, trainer.states()[0]


def _train(trainer: Trainer, epochs: int, on_epoch: Callable[[int], None]) -> None:
    for epoch in range(1, epochs + 1):
        trainer.train_epoch(epoch)
        on_epoch(epoch)
    check_finite(trainer.states(), epochs)


def _in_processes(plan: RetrainingPlan, helpers: int, report: Report) -> States:
    epochs = plan.settings.num_epochs
    finished = 0

    def jobs() -> Iterator[tuple[int, tuple[Any, ...]]]:
        for number, job in enumerate(plan.jobs):
            state = None
            if plan.architecture is not None:
                state = safetensors.torch.save(dict(built(plan.task, job.seed).state_dict()))
            yield number, (job.seed, job.indices, state)

    spec, folder = task_spec(plan.task), task_folder(plan.task)
    shared = Workload(plan.settings, plan.architecture, spec, folder, plan.stages)

    def beat(running: Mapping[int, int]) -> None:
        report(finished * epochs + sum(running.values()))

    with contextlib.closing(
        shared_pool().run(shared, plan.data, jobs(), min(helpers, len(plan.jobs)), beat)
    ) as results:
        for number, state in results:
            finished += 1
            report(finished * epochs)
            yield number, state


def _stacked(plan: RetrainingPlan, report: Report) -> States:
    """Train stacks of ``STACK_SIZE`` models of equal subset size."""
    epochs = plan.settings.num_epochs
    sizes: dict[tuple[int, ...], list[int]] = {}
    for number, job in enumerate(plan.jobs):
        parts = [job.indices] if plan.stages is None else plan.stages.rows(plan.data, job.indices)
        sizes.setdefault(tuple(len(part) for part in parts), []).append(number)
    finished = 0
    for numbers in sizes.values():
        filled = [*numbers, *numbers[-1:] * (-len(numbers) % STACK_SIZE)]

        def train(
            part: slice, done: int = finished, numbers: list[int] = numbers, filled: list[int] = filled
        ) -> Trained:
            count = len(numbers[part])
            if not count:
                return []
            with reproducible(plan.device):
                trainer = _stack(plan, [plan.jobs[number] for number in filled[part]])
                before = done + part.start
                _train(trainer, epochs, lambda epoch: report(before * epochs + epoch * count))
            return trainer.states()[:count]  # without the copies that filled the stack

        for part, states in in_blocks(len(filled), STACK_SIZE, train, _UNIT):
            yield from zip(numbers[part], states, strict=True)
        finished += len(numbers)


def _stack(plan: RetrainingPlan, jobs: Sequence[Job]) -> Trainer:
    group = RunGroup(plan.data, [job.indices for job in jobs], [job.seed for job in jobs], plan.device)

    def build(settings: TrainingSettings, group: RunGroup, states: Sequence[Mapping[str, Tensor]] | None) -> Trainer:
        models = [built(plan.task, seed) for seed in group.seeds]
        load_states(models, states)
        if plan.architecture is None:
            return StackedTrainer(plan.task, models, settings, group)
        return MLPTrainer(plan.architecture, settings, group, [dict(model.state_dict()) for model in models])

    if plan.stages is not None:
        return StagedTrainer(plan.stages, group, build)
    return build(plan.settings, group, None)
