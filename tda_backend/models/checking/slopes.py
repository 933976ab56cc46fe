"""Checks of a task's derivatives: autograd by finite differences, and the margin identity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.models.checking.gradients import slopes
from tda_backend.models.checking.identity import identity_error, random_signs
from tda_backend.models.checking.promises import (
    FUNCTIONS,
    MOST_ROWS,
    ROWS,
    BrokenPromise,
    precision_of,
    slope_tolerance,
)
from tda_backend.models.checking.verification import identity_everywhere
from tda_backend.models.probe import Probe
from tda_backend.models.tasks.contract import built, one_line
from tda_backend.models.tasks.data import num_rows, take
from tda_backend.seeds import hashed_rng
from tda_backend.types import Batch, Task

_MOVED = 1e-2
"""How far parameters are moved first, relative to their size: units that are exactly 0 lie on the kink of a ReLU."""
_NOISY = 0.05
"""Share of a slope that rounding may be for the difference to say anything."""

_CLEAR = 0.1
"""Share of the tolerance below which no other step is tried."""


@dataclass(frozen=True)
class _Differences:
    """How finite differences are taken in one precision.

    Attributes:
        steps: Relative to the size of a parameter, in the order in which they are tried: a kink near the point spoils a
            long step, rounding a short one.
        tolerance: Relative error allowed.
    """

    steps: Sequence[float]
    tolerance: float


_DIFFERENCES: Mapping[torch.dtype, _Differences] = {
    torch.float64: _Differences((1e-5, 1e-6, 1e-7, 1e-8, 1e-4), 1e-4),
    torch.float32: _Differences((1e-2, 3e-3, 3e-2, 1e-3, 1e-1), 0.1),
}


@dataclass(frozen=True)
class Copy:
    """A model to be tried, as exact as it can run.

    Attributes:
        model: A copy in eval mode.
        dtype: What floating-point inputs are cast to; ``None``: they stay as they are.
        precision: In which loss and measurement are computed.
        note: What is said of it: empty for float64.
    """

    model: nn.Module
    dtype: torch.dtype | None
    precision: torch.dtype
    note: str

    def batch(self, batch: Batch) -> dict[str, Tensor]:
        """Return a batch as the copy takes it."""
        wide = self.dtype
        return {k: v.to(wide) if wide is not None and v.is_floating_point() else v for k, v in batch.items()}


def exact_copy(task: Task, model: nn.Module, batch: Batch) -> Copy:
    """Return a copy in float64, or in the model's own precision where such a copy cannot run."""
    wide = Copy(_copied(task, model).double(), torch.float64, torch.float64, "")
    try:
        precision = precision_of(task, wide.model, wide.batch(batch)).dtype
        reason = "it computes in it itself"
    except Exception as error:
        own = _copied(task, model)
        precision, reason = precision_of(task, own, batch).dtype, f"a float64 copy cannot run: {one_line(error)[:80]}"
        wide = Copy(own, None, precision, "")
    note = "" if precision == torch.float64 else f" In {_name(precision)} ({reason})."
    return Copy(wide.model, wide.dtype, precision, note)


def _copied(task: Task, model: nn.Module) -> nn.Module:
    """Return the same model again, in eval mode: hooks keep some modules from being copied."""
    other = built(task, 0)
    other.load_state_dict(model.state_dict())
    return other.eval()


def _name(precision: torch.dtype) -> str:
    return str(precision).removeprefix("torch.")


def gradients(task: Task, copy: Copy, batch: Batch) -> str:
    """The slope of the summed values along two directions of each parameter, against central differences.

    One direction is random, the other is the gradient itself. A verdict needs all steps to disagree.
    """
    rule = _DIFFERENCES.get(copy.precision)
    if rule is None:
        return f"Not tried: {_name(copy.precision)} is too coarse for finite differences.{copy.note}"
    rng = hashed_rng("check", task.name)
    model, rows = _copied(task, copy.model).to(copy.dtype), copy.batch(batch)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    with torch.no_grad():
        for _, parameter in named:
            parameter += _MOVED * _size(parameter) * _random(rng, parameter)
    worst, count = 0.0, 0
    for name in FUNCTIONS:

        def values(name: str = name) -> Tensor:
            return getattr(task, name)(model, rows).double()

        found = slopes(values().sum(), [parameter for _, parameter in named])
        for (key, parameter), gradient in zip(named, found, strict=True):
            given = torch.zeros_like(parameter) if gradient is None else gradient
            for direction in _directions(rng, parameter, given):
                slope = float((given.double() * direction.double()).sum())
                error = _difference_error(values, parameter, direction, slope, rule)
                if error is None:
                    continue
                worst, count = max(worst, error.relative), count + 1
                if not error.agrees:
                    raise BrokenPromise(
                        f"The slope of {name} along {key} is {slope:.4g} by autograd, by finite differences "
                        f"{error.measured:.4g}.{copy.note}",
                        "Look for detach(), .data, no_grad() or .item() on the way, steps without a slope (argmax, "
                        "round, comparisons), or a backward of your own.",
                    )
    return f"{count} slopes agree with finite differences to {worst:.1g}.{copy.note}"


def _size(parameter: Tensor) -> float:
    """Return the root mean square of a parameter, or a small number where it is 0."""
    return max(float(parameter.detach().double().square().mean().sqrt()), _MOVED)


def _random(rng: np.random.Generator, like: Tensor) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(like.shape))).to(like)


def _directions(rng: np.random.Generator, parameter: Tensor, gradient: Tensor) -> list[Tensor]:
    size = _size(parameter)
    found = [_random(rng, parameter) * size]
    length = float(gradient.double().norm())
    if length > 0:
        found.append(gradient * (size * parameter.numel() ** 0.5 / length))
    return found


@dataclass(frozen=True)
class _Error:
    """What one step says of a slope: its relative error, whether that is rounding, and the slope it measures."""

    relative: float
    agrees: bool
    measured: float
    step: float


@torch.no_grad()
def _difference_error(
    values: Callable[[], Tensor], parameter: Tensor, direction: Tensor, slope: float, rule: _Differences
) -> _Error | None:
    """Return the error at the best of several steps; ``None``: rounding or kinks hide what they would say."""
    found: list[_Error] = []
    before, eps = parameter.clone(), torch.finfo(parameter.dtype).eps
    for step in rule.steps:
        ends = []
        for way in (step, -step):
            parameter.copy_(before + way * direction)
            ends.append(values())
        parameter.copy_(before)
        measured = float((ends[0] - ends[1]).sum()) / (2 * step)
        size = max(abs(slope), abs(measured))
        noise = 16 * eps * float((ends[0].abs() + 1).sum()) / step
        if noise > _NOISY * size:
            continue
        error = abs(measured - slope)
        found.append(_Error(error / size, error <= rule.tolerance * size + noise, measured, step))
        if found[-1].relative <= _CLEAR * rule.tolerance:
            break
    best = min(found, key=lambda each: each.relative, default=None)
    return best if best is None or best.agrees or _is_smooth(found, rule) else None


def _is_smooth(found: Sequence[_Error], rule: _Differences) -> bool:
    """Return whether the two shortest steps measure the same slope: kinks give another one at every step."""
    one, other = (*sorted(found, key=lambda each: each.step)[:2], None, None)[:2]
    if one is None or other is None:
        return False
    size = max(abs(one.measured), abs(other.measured))
    return abs(one.measured - other.measured) <= rule.tolerance * size / 2


def margin_identity(task: Task, copy: Copy, train: Batch) -> str:
    """∇ℓ = −(1 − p)∇f with p = sigmoid(f): true of the margin with cross-entropy."""
    rows = torch.arange(min(num_rows(train), MOST_ROWS))
    if task.margin_identity:
        probe = Probe(task, copy.model, {"train": copy.batch(take(train, rows))}, train=rows)
        worst = identity_everywhere(probe)
        return f"∇loss = −(1−p)·∇measurement to {worst:.1g} on {len(rows)} rows.{copy.note}"
    batch, tolerance = copy.batch(take(train, rows[:ROWS])), slope_tolerance(copy.precision)
    signs = random_signs(hashed_rng("check", task.name), num_rows(batch))
    error = identity_error(task, copy.model, batch, signs, tolerance)
    if error <= tolerance:
        return (
            f"It holds (to {error:.1g}) but is not claimed: set margin_identity = True to use TRAK and halve the work."
        )
    return "Not claimed, and does not hold: TRAK is not available for this task."
