"""One training run to checkpoints, by the route that fits its task and model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.finite import all_finite
from tda_backend.models.tasks.contract import built
from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.routes.loop import LoopTrainer
from tda_backend.models.training.routes.mlp import MLPTrainer
from tda_backend.models.training.routes.optimum import OptimumTrainer
from tda_backend.models.training.routes.perceptron import mlp_architecture
from tda_backend.models.training.routes.schedule import Trainer
from tda_backend.models.training.routes.stages import StagedTrainer, epoch_learning_rate, load_states, stage_plan
from tda_backend.models.training.run import RunGroup, TrainingRun, check_route, reproducible
from tda_backend.types import Checkpoint, Task, TrainingSettings

Progress = Callable[[int, int], None]
"""``(done, total)`` in model-epochs."""


def check_finite(states: Sequence[Mapping[str, Tensor]], epoch: int) -> None:
    """Raise if training has diverged: a parameter that is NaN or infinite.

    Raises:
        NumericalError: Names the first such parameter and the epoch.
    """
    for state in states:
        for name, value in state.items():
            if value.is_floating_point() and not all_finite(value):
                half = "Let build_model return float32: an optimizer's steps leave the range of float16. "
                raise NumericalError(
                    f"Training diverged: {name} is not finite after epoch {epoch}.",
                    (half if value.dtype == torch.float16 else "")
                    + "Lower the learning rate, or look for extreme values in the inputs.",
                )


def train(
    run: TrainingRun, epochs: Sequence[int], on_progress: Progress | None = None, *, seed_index: int = 0
) -> list[Checkpoint]:
    """Train one model and return its checkpoints.

    Args:
        run: What to train.
        epochs: Epochs at whose end to keep a checkpoint, each in 1…num_epochs; training stops after the largest
            (schedules still refer to all epochs).
        on_progress: Called after every epoch.
        seed_index: Stored in the checkpoints.

    Raises:
        TaskError: No training settings.
        UsageError: An epoch, row or route out of range.
        NumericalError: Training diverged.
    """
    check_route(run.route)
    settings = training_settings(run.task)
    wanted = sorted(set(epochs))
    if not wanted or wanted[0] < 1 or wanted[-1] > settings.num_epochs:
        raise UsageError(
            f"Epochs {list(epochs)} are asked for.", f'Task "{run.task.name}" trains epochs 1…{settings.num_epochs}.'
        )
    rows = run.row_numbers()
    with reproducible(run.device):
        trainer = run_trainer(run)
        checkpoints = []
        for epoch in range(1, wanted[-1] + 1):
            trainer.train_epoch(epoch)
            if epoch in wanted:
                state = trainer.states()[0]
                check_finite([state], epoch)
                rate = epoch_learning_rate(run.task, run.train_data, rows, epoch)
                checkpoints.append(Checkpoint(seed_index, epoch, rate, state))
            if on_progress is not None:
                on_progress(epoch, wanted[-1])
    return checkpoints


def run_trainer(run: TrainingRun) -> Trainer:
    """Return the trainer of one run: in steps through all stages, or to the optimum."""
    settings = training_settings(run.task)
    plan = stage_plan(run.task)
    if plan is not None:

        def build(
            settings: TrainingSettings, group: RunGroup, states: Sequence[Mapping[str, Tensor]] | None
        ) -> LoopTrainer | MLPTrainer:
            return _step_trainer(replace(run, rows=group.rows[0], seed=group.seeds[0]), settings, states)

        return StagedTrainer(plan, RunGroup(run.train_data, [run.row_numbers()], [run.seed], run.device), build)
    if settings.finds_optimum:
        return OptimumTrainer(run, built(run.task, run.seed), settings)
    return single_trainer(run)


def single_trainer(run: TrainingRun) -> LoopTrainer | MLPTrainer:
    """Return the trainer of one run by its route, whose steps can be looked at.

    Raises:
        TaskError: The task is trained in stages or to its optimum: there is no one run of steps.
    """
    task, settings = run.task, training_settings(run.task)
    if task.stages or settings.finds_optimum:
        raise TaskError(
            f'Task "{task.name}" is trained {"in stages" if task.stages else "to its optimum"}, not in one run of '
            "steps.",
            "Take a method that looks at checkpoints only, or another task.",
        )
    return _step_trainer(run, settings, None)


def _step_trainer(
    run: TrainingRun, settings: TrainingSettings, states: Sequence[Mapping[str, Tensor]] | None
) -> LoopTrainer | MLPTrainer:
    task = run.task
    model = built(task, run.seed)
    load_states([model], states)
    if run.route != "loop":
        architecture = mlp_architecture(task, model, run.train_data)
        if architecture is not None:
            group = RunGroup(run.train_data, [run.row_numbers()], [run.seed], run.device)
            return MLPTrainer(architecture, settings, group, [dict(model.state_dict())], stacked=False)
        if run.route == "mlp":
            raise UsageError(
                f'The model of task "{task.name}" is not a plain perceptron with cross-entropy or squared error, '
                "trained by plain SGD.",
                'Take route "loop".',
            )
    return LoopTrainer(run, model, settings)


def model_from(task: Task, state: Mapping[str, Tensor]) -> nn.Module:
    """Return the task's model with the parameters and buffers of ``state``, in eval mode, on the CPU.

    Raises:
        TaskError: The state belongs to another architecture; names what is missing, unexpected or of another shape.
    """
    model = built(task, 0)
    check_state(task, model, state, "The checkpoint")
    model.load_state_dict(dict(state))
    return model.eval()


def check_state(task: Task, model: nn.Module, state: Mapping[str, Any], what: str) -> None:
    """Raise :class:`TaskError` unless ``state`` has exactly the names and shapes of ``model``'s state dict."""
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and tuple(state[name].shape) != tuple(value.shape)
    ]
    problems = [
        f"{label} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
        for label, names in (("it lacks", missing), ("it has unknown", unexpected), ("shapes differ:", shapes))
        if names
    ]
    if problems:
        raise TaskError(
            f'{what} does not fit the model of task "{task.name}": {"; ".join(problems)}.',
            "build_model() must return the architecture that the checkpoint was saved from.",
        )
