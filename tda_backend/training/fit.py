"""One training run to checkpoints, and what a trained model says of a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.training.contract import persons_code
from tda_backend.training.data import num_rows, take
from tda_backend.training.loop import LoopTrainer
from tda_backend.training.mlp import MLPTrainer, mlp_architecture
from tda_backend.training.optimum import OptimumTrainer
from tda_backend.training.schedule import Trainer, training_settings
from tda_backend.training.stages import StagedTrainer, epoch_learning_rate, load_states, stage_plan
from tda_backend.types import Batch, Checkpoint, Task, TrainingSettings, to_device

Progress = Callable[[int, int], None]
"""``(done, total)`` in model-epochs."""
Route = Literal["auto", "loop", "mlp", "stacked"]
ROUTES = ("auto", "loop", "mlp", "stacked")


@contextlib.contextmanager
def reproducible(device: torch.device | str = "cpu") -> Iterator[None]:
    """Compute so that the bits are a function of the inputs on one kind of device.

    On the CPU with one thread: the machine's number of cores decides nothing. On CUDA with deterministic convolutions
    and full float32 products.
    """
    before = torch.get_num_threads()
    if torch.device(device).type == "cuda":
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_route(route: str) -> None:
    """Raise :class:`UsageError` unless ``route`` is one of ``ROUTES``."""
    if route not in ROUTES:
        raise UsageError(f'There is no training route "{route}".', f"Routes: {', '.join(ROUTES)}.")


def check_finite(states: Sequence[Mapping[str, Tensor]], epoch: int) -> None:
    """Raise if training has diverged: a parameter that is NaN or infinite.

    Raises:
        NumericalError: Names the first such parameter and the epoch.
    """
    for state in states:
        for name, value in state.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise NumericalError(
                    f"Training diverged: {name} is not finite after epoch {epoch}.",
                    "Lower the learning rate, or look for extreme values in the inputs.",
                )


def train(
    task: Task,
    data: Batch,
    indices: Sequence[int] | np.ndarray | Tensor,
    seed: int,
    epochs: Sequence[int],
    device: torch.device | str = "cpu",
    on_progress: Progress | None = None,
    *,
    seed_index: int = 0,
    route: Route = "auto",
) -> list[Checkpoint]:
    """Train one model and return its checkpoints; the same arguments give the same bits on one device.

    Args:
        task: Task with training settings.
        data: The whole training split.
        indices: Rows of ``data`` to train on, ``[n]``.
        seed: Training seed: decides initialisation, order and dropout.
        epochs: Epochs at whose end to keep a checkpoint, each in 1…num_epochs; training stops after the largest
            (schedules still refer to all epochs).
        on_progress: Called after every epoch.
        seed_index: Stored in the checkpoints.
        route: ``auto`` takes the hand-written loop for perceptrons, autograd otherwise.

    Raises:
        TaskError: No training settings.
        UsageError: An epoch, index or route out of range.
        NumericalError: Training diverged.
    """
    check_route(route)
    settings = training_settings(task)
    wanted = sorted(set(epochs))
    if not wanted or wanted[0] < 1 or wanted[-1] > settings.num_epochs:
        raise UsageError(
            f"Epochs {list(epochs)} are asked for.", f'Task "{task.name}" trains epochs 1…{settings.num_epochs}.'
        )
    rows = row_numbers(indices, num_rows(data))
    with reproducible(device):
        trainer = run_trainer(task, data, rows, seed, device, route)
        checkpoints = []
        for epoch in range(1, wanted[-1] + 1):
            trainer.train_epoch(epoch)
            if epoch in wanted:
                state = trainer.states()[0]
                check_finite([state], epoch)
                rate = epoch_learning_rate(task, data, rows, epoch)
                checkpoints.append(Checkpoint(seed_index, epoch, rate, state))
            if on_progress is not None:
                on_progress(epoch, wanted[-1])
    return checkpoints


def row_numbers(indices: Sequence[int] | np.ndarray | Tensor, num_examples: int) -> np.ndarray:
    """Return ``indices`` as int64 ``[n]`` after checking them against the number of examples."""
    rows = np.asarray(indices, dtype=np.int64)
    if rows.ndim != 1 or len(rows) == 0:
        raise UsageError("No training example is named.", "Give at least one index.")
    if rows.min() < 0 or rows.max() >= num_examples:
        bad = rows[(rows < 0) | (rows >= num_examples)][0]
        raise UsageError(f"Training index {bad} is out of range.", f"Allowed: 0…{num_examples - 1}.")
    return rows


def run_trainer(
    task: Task, data: Batch, rows: np.ndarray, seed: int, device: torch.device | str, route: Route
) -> Trainer:
    """Return the trainer of one model: in steps through all stages, or to the optimum."""
    settings = training_settings(task)
    plan = stage_plan(task)
    if plan is not None:
        return StagedTrainer(
            plan, data, [rows], [seed],
            lambda settings, rows, seeds, states: _step_trainer(
                task, settings, data, rows[0], seeds[0], device, route, states
            ),
        )  # fmt: skip
    if settings.optimizer == "lbfgs":
        with persons_code(task, "build_model"):
            model = task.build_model(seed)
        return OptimumTrainer(task, model, settings, data, rows, device)
    return single_trainer(task, data, rows, seed, device, route)


def single_trainer(
    task: Task, data: Batch, rows: np.ndarray, seed: int, device: torch.device | str, route: Route
) -> LoopTrainer | MLPTrainer:
    """Return the trainer of one model by ``route``, whose steps can be looked at.

    Raises:
        TaskError: The task is trained in stages or to its optimum: there is no one run of steps.
    """
    settings = training_settings(task)
    if task.stages or settings.optimizer == "lbfgs":
        raise TaskError(
            f'Task "{task.name}" is trained {"in stages" if task.stages else "to its optimum"}, not in one run of '
            "steps.",
            "Take a method that looks at checkpoints only, or another task.",
        )
    return _step_trainer(task, settings, data, rows, seed, device, route, None)


def _step_trainer(
    task: Task,
    settings: TrainingSettings,
    data: Batch,
    rows: np.ndarray,
    seed: int,
    device: torch.device | str,
    route: Route,
    states: Sequence[Mapping[str, Tensor]] | None,
) -> LoopTrainer | MLPTrainer:
    with persons_code(task, "build_model"):
        model = task.build_model(seed)
    load_states([model], states)
    if route != "loop":
        architecture = mlp_architecture(task, model, data)
        if architecture is not None:
            keys = (getattr(task, "input_key", "x"), task.label_key)
            state = [dict(model.state_dict())]
            return MLPTrainer(architecture, settings, data, keys, state, [rows], [seed], device, stacked=False)
        if route == "mlp":
            raise UsageError(
                f'The model of task "{task.name}" is not a plain perceptron with cross-entropy or squared error, '
                "trained by plain SGD.",
                'Take route "loop".',
            )
    return LoopTrainer(task, model, settings, data, rows, seed, device)


def model_from(task: Task, state: Mapping[str, Tensor]) -> nn.Module:
    """Return the task's model with the parameters and buffers of ``state``, in eval mode, on the CPU.

    Raises:
        TaskError: The state belongs to another architecture; names what is missing, unexpected or of another shape.
    """
    with persons_code(task, "build_model"):
        model = task.build_model(0)
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


@dataclass(frozen=True)
class Evaluation:
    """What a model says of N examples, in eval mode.

    Attributes:
        goodness: measurement_sign · measurement, float32 ``[N]``; larger is better.
        loss: Training loss, float32 ``[N]``.
        prediction: Predicted class or value ``[N]``, or ``None``.
    """

    goodness: Tensor
    loss: Tensor
    prediction: Tensor | None


def evaluate(
    task: Task, model: nn.Module, batch: Batch, device: torch.device | str = "cpu", batch_size: int = 1000
) -> Evaluation:
    """Return goodness, loss and prediction of every example of ``batch``; results are on the CPU."""
    parts = list(_passes(task, model, batch, device, batch_size, ("measurement", "train_loss", "predict")))
    goodness, loss, prediction = zip(*parts, strict=True)
    has_prediction = prediction[0] is not None
    return Evaluation(
        torch.cat(goodness) * task.measurement_sign,  # type: ignore[arg-type]
        torch.cat(loss),  # type: ignore[arg-type]
        torch.cat(prediction) if has_prediction else None,  # type: ignore[arg-type]
    )


def goodness_of(
    task: Task, model: nn.Module, batch: Batch, device: torch.device | str = "cpu", batch_size: int = 1000
) -> Tensor:
    """Return the goodness of every example, float32 ``[N]`` on the CPU: :func:`evaluate` without the rest."""
    parts = [part[0] for part in _passes(task, model, batch, device, batch_size, ("measurement",))]
    return torch.cat(parts) * task.measurement_sign  # type: ignore[arg-type]


def _check_one_each(task: Task, name: str, value: object, rows: int) -> None:
    """Raise :class:`TaskError` unless a function of the task gave one value per example."""
    if value is None and name == "predict":
        return
    if not isinstance(value, Tensor) or value.shape != (rows,):
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TaskError(
            f'{name} of task "{task.name}" gives {found} for a batch of {rows}; it must be [b] = ({rows},).',
            "Return one value per example: argmax(1) of the logits." if name == "predict" else 'Use reduction="none".',
        )


def _passes(
    task: Task, model: nn.Module, batch: Batch, device: torch.device | str, batch_size: int, functions: Sequence[str]
) -> Iterator[list[Tensor | None]]:
    model = model.to(device).eval()
    with reproducible(device), torch.no_grad():
        for start in range(0, num_rows(batch), batch_size):
            part = to_device(take(batch, slice(start, start + batch_size)), device)
            results = []
            for name in functions:
                with persons_code(task, name):
                    results.append(getattr(task, name)(model, part))
                _check_one_each(task, name, results[-1], num_rows(part))
            yield [
                None if r is None else (r.detach().float() if r.is_floating_point() else r.detach()).cpu()
                for r in results
            ]
