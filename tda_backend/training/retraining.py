"""Retraining on subsets: the ground truth of LDS, by the fastest route that a model and a machine allow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tda_backend.errors import UsageError
from tda_backend.training.contract import persons_code
from tda_backend.training.cost import autograd_operations
from tda_backend.training.data import num_rows, take
from tda_backend.training.fit import (
    Progress,
    Route,
    check_finite,
    check_route,
    goodness_of,
    reproducible,
    row_numbers,
    run_trainer,
)
from tda_backend.training.mlp import MLPArchitecture, MLPTrainer, mlp_architecture
from tda_backend.training.processes import can_start_processes, default_num_processes, num_warm_processes, shared_pool
from tda_backend.training.registry import task_folder, task_spec
from tda_backend.training.schedule import Trainer, training_settings
from tda_backend.training.stacked import StackedTrainer, why_not_stackable
from tda_backend.training.stages import StagedTrainer, StagePlan, load_states, stage_plan
from tda_backend.training.subsets import retraining_seed
from tda_backend.types import Batch, Task, TrainingSettings, to_device

STACK_SIZE = 32
"""Models per stack. The last stack is filled up with copies, so that every stack runs the same kernels."""
Reader = Callable[[Task, nn.Module, Batch], Tensor]
"""(task, retrained model in eval mode, test split) → what is kept of it."""
_PROBE_ROWS = 16
_WORTH_A_POOL = 30e9  # floating-point operations (about half a second of one core): below, starting costs more
_PASSES_TO_OPTIMUM = 100  # over the data, for a linear model
_MINIMUM_STEP_OPERATIONS = 2e6  # a step of a tiny model costs its calls, not its arithmetic


@dataclass(frozen=True)
class _Job:
    """One retraining: where its result goes, its training seed, and its rows within the study's training set."""

    row: int
    repeat: int
    seed: int
    indices: np.ndarray


@dataclass(frozen=True)
class _Plan:
    """Everything the routes need to know."""

    task: Task
    settings: TrainingSettings
    data: Batch
    jobs: tuple[_Job, ...]
    architecture: MLPArchitecture | None
    device: torch.device

    @property
    def keys(self) -> tuple[str, str]:
        return getattr(self.task, "input_key", "x"), self.task.label_key

    @property
    def stages(self) -> StagePlan | None:
        return stage_plan(self.task)


def retrain_subsets(
    task: Task,
    data: dict[str, Batch] | dict[str, dict[str, Tensor]],
    train_indices: Sequence[int] | np.ndarray | Tensor,
    masks: np.ndarray | Tensor,
    subset_ids: Sequence[int],
    *,
    repeats: int,
    seed: int,
    device: torch.device | str = "cpu",
    route: Route = "auto",
    num_processes: int | None = None,
    on_progress: Progress | None = None,
    read: Reader | None = None,
) -> np.ndarray:
    """Retrain on each subset and return the goodness of the whole test split at the final epoch.

    A result is a function of (task, data, subset, study seed, subset id, repeat, device, route): not of the number of
    processes, of how subsets are divided into calls, or of the machine's cores. To the bit one by one; stacked, a
    model's place in its stack may decide the last bits of float32.

    Args:
        data: ``{"train": batch, "test": batch}``.
        train_indices: The study's training rows within the training split, ``[n]``.
        masks: Membership of these n examples in each subset, bool ``[c, n]``.
        subset_ids: Number of each subset within the study, ``[c]``; decides its seeds.
        repeats: R retrainings per subset, with different training seeds.
        seed: Seed of the study.
        device: Where to train.
        route: ``loop`` (autograd, one by one), ``mlp`` (hand-written, one by one), ``stacked`` (M models as one), or
            ``auto``: stacked on an accelerator, else mlp, else loop; what cannot be stacked falls back by itself.
        num_processes: Processes on the CPU; default: one per core when the work is worth it. 1: in this process.
        on_progress: Called with model-epochs done and in total, at least about twice a second when processes train.
        read: What is read of each model on the test split instead of its goodness.

    Returns:
        float32 ``[c, R, N_test]``, or ``[c, R]`` and the shape of what ``read`` returns.

    Raises:
        UsageError: Shapes that do not match, an unknown route, or a route the model does not allow.
        NumericalError: A training run diverged.
        MachineError: A process was ended from outside.
    """
    plan = _plan(task, data["train"], train_indices, masks, subset_ids, repeats, seed, device, route)
    total = len(plan.jobs) * plan.settings.num_epochs
    report = on_progress or (lambda done, total: None)
    read = read or goodness_of
    outputs = np.empty((len(masks), repeats, 0), dtype=np.float32)
    states = _states(plan, route, num_processes, lambda done: report(done, total))
    model = task.build_model(0).eval()
    with contextlib.closing(states):  # an error here must end what computes for us
        for number, state in states:
            job = plan.jobs[number]
            model.load_state_dict(state)
            values = read(task, model, data["test"]).numpy()
            if not outputs.size:
                outputs = np.full((len(masks), repeats, *values.shape), np.nan, dtype=np.float32)
            outputs[job.row, job.repeat] = values
    report(total, total)
    return outputs


def _plan(
    task: Task,
    train: Batch,
    train_indices: Sequence[int] | np.ndarray | Tensor,
    masks: np.ndarray | Tensor,
    subset_ids: Sequence[int],
    repeats: int,
    seed: int,
    device: torch.device | str,
    route: Route,
) -> _Plan:
    check_route(route)
    settings = training_settings(task)
    rows = row_numbers(train_indices, num_rows(train))
    members = np.asarray(masks, dtype=bool)
    if members.ndim != 2 or members.shape[1] != len(rows) or len(subset_ids) != len(members):
        raise UsageError(
            f"Masks {members.shape} do not fit {len(rows)} training examples and {len(subset_ids)} subset ids.",
            "Masks are bool [subsets, training examples], with one id per subset.",
        )
    if repeats < 1:
        raise UsageError(f"{repeats} repeats are asked for.", "At least 1 is needed.")
    empty = np.flatnonzero(~members.any(axis=1))
    if len(empty):
        raise UsageError(f"Subset {subset_ids[empty[0]]} is empty.", "A model needs at least one example.")
    jobs = tuple(
        _Job(row, repeat, retraining_seed(seed, int(subset_ids[row]), repeat), np.flatnonzero(members[row]))
        for row in range(len(members))
        for repeat in range(repeats)
    )
    chosen = to_device(take(train, rows), device)
    with persons_code(task, "build_model"):
        model = task.build_model(0)
    architecture = mlp_architecture(task, model, chosen) if route != "loop" else None
    if route == "mlp" and architecture is None:
        raise UsageError(
            f'The model of task "{task.name}" is not a plain perceptron with cross-entropy or squared error, trained '
            "by plain SGD.",
            'Take route "auto".',
        )
    return _Plan(task, settings, chosen, jobs, architecture, torch.device(device))


_Report = Callable[[int], None]
_States = Generator[tuple[int, dict[str, Tensor]], None, None]


def _states(plan: _Plan, route: Route, num_processes: int | None, report: _Report) -> _States:
    """Choose the route and yield (job number, final state) as models finish."""
    accelerated = plan.device.type != "cpu"
    if route == "stacked" or (route == "auto" and accelerated):
        rows = plan.jobs[0].indices
        sample = to_device(take(plan.data, rows[:_PROBE_ROWS]), "cpu")
        some = np.arange(len(rows[:_PROBE_ROWS]))
        if plan.settings.optimizer == "lbfgs":
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


def _num_processes(plan: _Plan, wanted: int | None) -> int:
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
        each = autograd_operations(plan.task, plan.task.build_model(0), plan.data)
    work = examples * max(each, _MINIMUM_STEP_OPERATIONS / plan.settings.batch_size)
    work *= _PASSES_TO_OPTIMUM if plan.settings.optimizer == "lbfgs" else 1
    return helpers if len(plan.jobs) > 1 and (work > _WORTH_A_POOL or num_warm_processes() >= helpers) else 1


def _one_by_one(plan: _Plan, route: Route, report: _Report) -> _States:
    epochs = plan.settings.num_epochs
    for number, job in enumerate(plan.jobs):
        with reproducible(plan.device):
            trainer = run_trainer(plan.task, plan.data, job.indices, job.seed, plan.device, route)
            _train(trainer, epochs, lambda epoch, number=number: report(number * epochs + epoch))
        yield number, trainer.states()[0]


def _train(trainer: Trainer, epochs: int, on_epoch: Callable[[int], None]) -> None:
    for epoch in range(1, epochs + 1):
        trainer.train_epoch(epoch)
        on_epoch(epoch)
    check_finite(trainer.states(), epochs)


def _in_processes(plan: _Plan, helpers: int, report: _Report) -> _States:
    epochs = plan.settings.num_epochs
    finished = 0

    def jobs() -> Iterator[tuple[int, tuple[Any, ...]]]:
        for number, job in enumerate(plan.jobs):
            state = None
            if plan.architecture is not None:
                state = safetensors.torch.save(dict(plan.task.build_model(job.seed).state_dict()))
            yield number, (job.seed, job.indices, state)

    setup = {
        "settings": plan.settings,
        "architecture": plan.architecture,
        "keys": plan.keys,
        "spec": task_spec(plan.task),
        "folder": task_folder(plan.task),
        "stages": plan.stages,
    }
    beat = lambda running: report(finished * epochs + sum(running.values()))  # noqa: E731
    with contextlib.closing(shared_pool().run(setup, plan.data, jobs(), min(helpers, len(plan.jobs)), beat)) as results:
        for number, state in results:
            finished += 1
            report(finished * epochs)
            yield number, state


def _stacked(plan: _Plan, report: _Report) -> _States:
    """Train stacks of ``STACK_SIZE`` models of equal subset size."""
    epochs = plan.settings.num_epochs
    sizes: dict[tuple[int, ...], list[int]] = {}
    for number, job in enumerate(plan.jobs):
        parts = [job.indices] if plan.stages is None else plan.stages.rows(plan.data, job.indices)
        sizes.setdefault(tuple(len(part) for part in parts), []).append(number)
    finished = 0
    for numbers in sizes.values():
        for start in range(0, len(numbers), STACK_SIZE):
            group = numbers[start : start + STACK_SIZE]
            filled = [plan.jobs[number] for number in group]
            filled += [filled[-1]] * (STACK_SIZE - len(group))
            with reproducible(plan.device):
                trainer = _stack(plan, filled)
                done, count = finished, len(group)
                _train(trainer, epochs, lambda epoch, done=done, count=count: report(done * epochs + epoch * count))
            finished += len(group)
            yield from zip(group, trainer.states(), strict=False)  # the copies that filled the stack are left out


def _stack(plan: _Plan, jobs: Sequence[_Job]) -> Trainer:
    indices = [job.indices for job in jobs]
    seeds = [job.seed for job in jobs]

    def build(
        settings: TrainingSettings,
        indices: Sequence[np.ndarray],
        seeds: Sequence[int],
        states: Sequence[Mapping[str, Tensor]] | None,
    ) -> Trainer:
        with persons_code(plan.task, "build_model"):
            models: list[nn.Module] = [plan.task.build_model(seed) for seed in seeds]
        load_states(models, states)
        if plan.architecture is None:
            return StackedTrainer(plan.task, models, settings, plan.data, indices, seeds, plan.device)
        initial = [dict(model.state_dict()) for model in models]
        return MLPTrainer(
            plan.architecture, settings, plan.data, plan.keys, initial, indices, seeds, plan.device, stacked=True
        )

    if plan.stages is not None:
        return StagedTrainer(plan.stages, plan.data, indices, seeds, build)
    return build(plan.settings, indices, seeds, None)
