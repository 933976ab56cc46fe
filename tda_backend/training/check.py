"""``tda check``: does a task keep its contract? Each check says what was measured and, if it fails, what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.errors import TaskError, TDAError
from tda_backend.seeds import hashed_seed
from tda_backend.training.checkpoints import load_checkpoints
from tda_backend.training.contract import one_line
from tda_backend.training.data import num_rows, take, validate_data
from tda_backend.training.fit import model_from, reproducible
from tda_backend.training.mlp import mlp_architecture
from tda_backend.training.optimizer import torch_optimizer
from tda_backend.training.optimum import OptimumTrainer
from tda_backend.training.schedule import training_settings
from tda_backend.training.stacked import why_not_stackable
from tda_backend.types import Display, Task

_ROWS = 6  # examples that most checks look at
_RELATIVE = 1e-4  # agreement asked of float32 values that may be summed in another order
_DIFFERENCE_STEP = 1e-6
_SIGN_STEPS, _SIGN_ROWS = 20, 64


@dataclass(frozen=True)
class Check:
    """One verdict on a task.

    Attributes:
        name: What was checked.
        passed: Whether the contract holds there.
        detail: One line with numbers; on failure also what to do.
    """

    name: str
    passed: bool
    detail: str


class _Failed(Exception):
    """A broken promise; the message says what was found and what to do."""


_Batch = dict[str, Tensor]
_Data = dict[str, _Batch]


def check_task(task: Task) -> list[Check]:
    """Return the verdicts on every promise of the :class:`Task` contract; stops early if data or model fail.

    Works on a few examples, in seconds, with any model. Nothing of the task is changed.
    """
    checks: list[Check] = []

    def run(name: str, look: Callable[[], str]) -> bool:
        try:
            checks.append(Check(name, True, look()))
        except _Failed as failure:
            checks.append(Check(name, False, str(failure)))
        except TDAError as error:
            checks.append(Check(name, False, str(error)))
        except Exception as error:  # a person's code may raise anything: that is the finding
            checks.append(Check(name, False, f"Raises {one_line(error)}"))
        return checks[-1].passed

    with reproducible():
        if not run("data", lambda: _data(task)) or not run("model", lambda: _model(task)):
            return checks
        data = validate_data(task)
        model = (_trained(task) or task.build_model(0)).eval()
        batch = take(data["train"], slice(0, _ROWS))
        if not run("shapes", lambda: _shapes(task, model, batch)):
            return checks
        run("per-example values", lambda: _per_example(task, model, data["train"]))
        run("determinism", lambda: _determinism(task, model, batch))
        run("gradients", lambda: _gradients(task, model, batch))
        run("margin identity", lambda: _margin_identity(task, model, batch))
        run("sign", lambda: _sign(task, data))
        run("prediction", lambda: _prediction(task, model, batch))
        run("display", lambda: _display(task))
        if task.checkpoint_files:
            run("checkpoint files", lambda: f"{len(load_checkpoints(task))} files fit the model.")
        if task.training is not None:
            run("training route", lambda: _route(task, data))
    return checks


def _trained(task: Task) -> nn.Module | None:
    """Return the last shipped checkpoint's model, if there is a loadable one: checks then look at real gradients."""
    try:
        return model_from(task, load_checkpoints(task)[-1].state)
    except TaskError:
        return None


def _data(task: Task) -> str:
    data = validate_data(task)
    shapes = ", ".join(f"{key} {list(value.shape[1:])} {value.dtype}" for key, value in data["train"].items())
    rows = " + ".join(f"{num_rows(data[split])} {split}" for split in data)
    classes = "" if task.num_classes is None else f"; labels within 0…{task.num_classes - 1}"
    return f"{rows} examples of {shapes}; no NaN{classes}."


def _model(task: Task) -> str:
    first, again, other = (task.build_model(seed) for seed in (11, 11, 12))
    if not isinstance(first, nn.Module):
        raise _Failed(f"build_model returns a {type(first).__name__}. Return an nn.Module.")
    states = [model.state_dict() for model in (first, again, other)]
    if any(not torch.equal(value, states[1][name]) for name, value in states[0].items()):
        raise _Failed("build_model(11) twice gives different parameters. Call torch.manual_seed(seed) first.")
    count = sum(p.numel() for p in first.parameters())
    if count == 0:
        raise _Failed("The model has no parameters.")
    equal = all(torch.equal(value, states[2][name]) for name, value in states[0].items())
    if task.pretrained:
        if not equal:
            raise _Failed("build_model(11) and build_model(12) differ. Set pretrained = False, or load all weights.")
        return f"{count:,} parameters; every seed starts from the same pre-trained weights."
    if not task.checkpoint_files and equal:
        raise _Failed(
            "build_model(11) and build_model(12) are equal. Initialise the parameters from the seed, or set "
            "pretrained = True if they start from given weights."
        )
    return f"{count:,} parameters; the seed decides them."


_FUNCTIONS = ("train_loss", "measurement")


def _shapes(task: Task, model: nn.Module, batch: _Batch) -> str:
    rows = num_rows(batch)
    for name in _FUNCTIONS:
        value = getattr(task, name)(model, batch)
        if not isinstance(value, Tensor) or value.shape != (rows,):
            found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise _Failed(f'{name} of {rows} examples is {found}, not ({rows},). Use reduction="none".')
        if not bool(torch.isfinite(value).all()):
            raise _Failed(f"{name} is not finite for {int((~torch.isfinite(value)).sum())} of {rows} examples.")
    return f"train_loss and measurement give one finite number per example ({rows} tried)."


def _close(found: Tensor, expected: Tensor) -> bool:
    return bool(((found - expected).abs() <= _RELATIVE * (1 + expected.abs())).all())


@torch.no_grad()
def _per_example(task: Task, model: nn.Module, data: _Batch) -> str:
    """A row's value may depend on that row alone: not on its neighbours, and not on the batch's size."""
    rows = min(_ROWS, num_rows(data))
    batch = take(data, slice(0, rows))
    changed = {key: value.clone() for key, value in batch.items()}
    for key, value in data.items():  # the last row becomes another example
        changed[key][-1] = value[num_rows(data) // 2]
    largest = 0.0
    for name in _FUNCTIONS:
        function = getattr(task, name)
        whole = function(model, batch)
        single = torch.cat([function(model, take(batch, slice(row, row + 1))) for row in range(rows)])
        largest = max(largest, float((whole - single).abs().max()))
        if not _close(single, whole):
            raise _Failed(
                f"{name} of a batch of one differs from the row of a batch of {rows} by {largest:.2g}. "
                "Do not mix examples (batch statistics in eval mode, sums or means over the batch)."
            )
        if not _close(function(model, changed)[:-1], whole[:-1]):
            raise _Failed(f"{name} of one example changes when another one does. Compute each row on its own.")
    return f"A batch of one equals the row of a batch of {rows} to {largest:.1g}; a changed row changes no other."


@torch.no_grad()
def _determinism(task: Task, model: nn.Module, batch: _Batch) -> str:
    for name in _FUNCTIONS:
        function = getattr(task, name)
        if not torch.equal(function(model, batch), function(model, batch)):
            raise _Failed(
                f"{name} in eval mode differs between two calls. Switch randomness off unless model.training."
            )
    return "Two evaluations in eval mode agree to the bit."


def _double(model: nn.Module, batch: _Batch) -> tuple[nn.Module, _Batch]:
    wide = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    return deepcopy(model).double().eval(), wide


def _gradients(task: Task, model: nn.Module, batch: _Batch) -> str:
    """∂/∂θ_j of the summed values against central differences in float64, at random parameters of each tensor."""
    wide, rows = _double(model, batch)
    rng = np.random.default_rng(hashed_seed("check", task.name))
    worst, count = 0.0, 0
    for name in _FUNCTIONS:
        parameters = [(key, p) for key, p in wide.named_parameters() if p.requires_grad]

        def total(name: str = name) -> Tensor:
            return getattr(task, name)(wide, rows).sum()

        found = torch.autograd.grad(total(), [p for _, p in parameters], allow_unused=True)
        for (key, parameter), gradient in zip(parameters, found, strict=True):
            slope = torch.zeros_like(parameter) if gradient is None else gradient
            scale = float(slope.abs().max())
            for position in rng.integers(parameter.numel(), size=2):
                measured = _central_difference(total, parameter, int(position))
                error = abs(measured - float(slope.reshape(-1)[position])) / (scale + 1e-3)
                worst, count = max(worst, error), count + 1
                if error > _RELATIVE:
                    raise _Failed(
                        f"The gradient of {name} to {key}[{position}] is {float(slope.reshape(-1)[position]):.4g}, by "
                        f"finite differences {measured:.4g}. Look for detach(), no_grad(), or steps without a slope."
                    )
    return f"{count} partial derivatives agree with finite differences to {worst:.1g} of the largest."


@torch.no_grad()
def _central_difference(total: Callable[[], Tensor], parameter: Tensor, position: int) -> float:
    flat = parameter.data.reshape(-1)
    if flat.data_ptr() != parameter.data_ptr():
        raise _Failed("A parameter is not contiguous in memory. Call .contiguous() on it.")
    before = float(flat[position])
    values = []
    for step in (_DIFFERENCE_STEP, -_DIFFERENCE_STEP):
        flat[position] = before + step
        values.append(float(total()))
    flat[position] = before
    return (values[0] - values[1]) / (2 * _DIFFERENCE_STEP)


def _margin_identity(task: Task, model: nn.Module, batch: _Batch) -> str:
    """∇ℓ = −(1 − p)∇f with p = sigmoid(f): true of the margin with cross-entropy."""
    wide, rows = _double(model, batch)
    parameters = [p for p in wide.parameters() if p.requires_grad]
    worst = 0.0
    for row in range(num_rows(rows)):
        one = take(rows, slice(row, row + 1))
        value = task.measurement(wide, one).sum()
        right = [_or_zero(g, p) for g, p in zip(_slopes(value, parameters), parameters, strict=True)]
        left = [
            _or_zero(g, p)
            for g, p in zip(_slopes(task.train_loss(wide, one).sum(), parameters), parameters, strict=True)
        ]
        weight = torch.sigmoid(-value.detach())
        difference = torch.cat([(a + weight * b).reshape(-1) for a, b in zip(left, right, strict=True)]).norm()
        size = torch.cat([a.reshape(-1) for a in left]).norm()
        worst = max(worst, float(difference / (size + 1e-12)))
    holds = worst < 1e-6
    if task.margin_identity and not holds:
        raise _Failed(
            f"margin_identity is claimed, but ∇loss and −(1−p)·∇measurement differ by {worst:.2g} of the gradient. "
            "Set margin_identity = False, or measure the margin logit_y − logsumexp(others)."
        )
    if task.margin_identity:
        return f"∇loss = −(1−p)·∇measurement to {worst:.1g}."
    if holds:
        return (
            f"It holds (to {worst:.1g}) but is not claimed: set margin_identity = True to use TRAK and halve the work."
        )
    return "Not claimed, and does not hold: TRAK is not available for this task."


def _slopes(value: Tensor, parameters: list[Any]) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(value, parameters, allow_unused=True)


def _or_zero(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if gradient is None else gradient


def _sign(task: Task, data: _Data) -> str:
    """A few steps down the training loss must raise the mean goodness of the same examples."""
    if task.measurement_sign not in (1, -1):
        raise _Failed(f"measurement_sign is {task.measurement_sign!r}. Use +1 (larger is better) or −1.")
    if task.training is None:
        return f"Not tried on a trained model; measurement_sign is {task.measurement_sign:+d}."
    batch = take(data["train"], slice(0, _SIGN_ROWS))
    model = task.build_model(1).eval()
    settings = training_settings(task)
    if settings.optimizer in ("sgd", "lbfgs"):
        optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate)
    else:
        optimizer = torch_optimizer(settings, list(model.parameters()))
    before, after = [
        (float(loss), float(goodness)) for loss, goodness in _before_and_after(task, model, batch, optimizer)
    ]
    loss = (
        f"{_SIGN_STEPS} steps on {num_rows(batch)} examples take the mean loss from {before[0]:.4g} to {after[0]:.4g}"
    )
    change = f"the mean goodness from {before[1]:.4g} to {after[1]:.4g}"
    if not after[0] < before[0]:
        raise _Failed(f"{loss}: training does not lower the loss. Lower the learning rate or look at train_loss.")
    if not after[1] > before[1]:
        raise _Failed(f"{loss} but {change}. measurement_sign should be {-task.measurement_sign:+d}.")
    return f"{loss}, {change}."


def _before_and_after(
    task: Task, model: nn.Module, batch: _Batch, optimizer: torch.optim.Optimizer
) -> Iterator[tuple[Tensor, Tensor]]:
    for steps in (0, _SIGN_STEPS):
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            task.train_loss(model, batch).mean().backward()
            optimizer.step()
        with torch.no_grad():
            yield (
                task.train_loss(model, batch).mean(),
                task.measurement_sign * task.measurement(model, batch).mean(),
            )


@torch.no_grad()
def _prediction(task: Task, model: nn.Module, batch: _Batch) -> str:
    prediction = task.predict(model, batch)
    if prediction is None:
        return "predict gives nothing: pages will not say right or wrong."
    rows = num_rows(batch)
    if prediction.shape != (rows,):
        raise _Failed(f"predict of {rows} examples has shape {tuple(prediction.shape)}, not ({rows},).")
    if task.num_classes is not None:
        if prediction.is_floating_point():
            raise _Failed("predict of a classification task is not an integer. Take argmax of the logits.")
        if int(prediction.min()) < 0 or int(prediction.max()) >= task.num_classes:
            raise _Failed(f"predict leaves 0…{task.num_classes - 1}: it gives {prediction.tolist()}.")
    return f"One {'class' if task.num_classes is not None else 'value'} per example."


def _display(task: Task) -> str:
    for split in ("train", "test"):
        shown = task.show(split, 0)
        if not isinstance(shown, Display):
            raise _Failed(f'show("{split}", 0) returns a {type(shown).__name__}. Return a Display.')
        if shown.kind == "image":
            image = shown.image
            good = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3)
            if not good or (image is not None and image.ndim == 3 and image.shape[2] != 3):
                found = "none" if image is None else f"{getattr(image, 'dtype', '?')} {np.shape(image)}"
                raise _Failed(f'show("{split}", 0) has an image of {found}. Give uint8 [h, w] or [h, w, 3].')
        elif shown.kind == "text" and not shown.text:
            raise _Failed(f'show("{split}", 0) is an empty text. Give the text of the example.')
        elif shown.kind == "row" and not shown.row:
            raise _Failed(f'show("{split}", 0) is an empty row. Give the columns of the example.')
        elif shown.kind not in ("image", "text", "row"):
            raise _Failed(f'show("{split}", 0) has the kind {shown.kind!r}. Use image, text or row.')
    return f"Examples are shown as {shown.kind}."


def _route(task: Task, data: _Data) -> str:
    settings = training_settings(task)
    if settings.optimizer == "lbfgs":
        model = task.build_model(0)
        OptimumTrainer(task, model, settings, data["train"], np.arange(min(num_rows(data["train"]), _ROWS)))
        return f"Trained to the optimum of loss + ½·{settings.weight_decay:g}·‖θ‖² by L-BFGS in float64."
    stages = f" In {len(task.stages)} stages." if task.stages else ""
    if mlp_architecture(task, task.build_model(0), data["train"]) is not None:
        return f"Perceptron: trained by the hand-written loop, stacked on a GPU.{stages}"
    if not settings.is_plain_sgd:
        return f"Trained by autograd with {settings.optimizer_text}, one model per process on the CPU.{stages}"
    reason = why_not_stackable(task, settings, data["train"], np.arange(min(num_rows(data["train"]), 16)))
    if reason is None:
        return f"Trained by autograd, one model per process on the CPU, stacked on a GPU.{stages}"
    return f"Trained by autograd, one model at a time (not stackable: {reason}).{stages}"
