"""What passes over a task's model take on a device, in memory and time, as measured on a few rows."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.models.measuring.living import LivingBytes, kept_bytes
from tda_backend.models.measuring.machine import SERVER, Machine, machine, typical
from tda_backend.models.tasks.contract import built, persons_code
from tda_backend.models.tasks.data import num_rows, take, validate_data
from tda_backend.models.training.fit import single_trainer
from tda_backend.models.training.run import TrainingRun, reproducible
from tda_backend.types import Batch, Task, to_device

FEW, MANY = 2, 64
"""Rows of the passes whose difference is what a row takes; the latter at most."""
_COUNTED = 8
"""Rows of the larger pass whose memory is counted, where a row is cheap."""
_FUSED_SHARE = 0.5
"""Of what autograd keeps of a row: as much a forward pass holds at least, unseen where an operator is a whole layer."""
_PASS_SECONDS, _STEPS_SECONDS = 0.03, 0.05
"""What a pass that is timed may take, and so many steps of training."""
_MOST_PARAMETERS = 2e7
"""Of a model that is built once more to time its training."""


@dataclass(frozen=True)
class Line:
    """What b rows take: ``call + row·b``, in bytes or seconds."""

    call: float = 0.0
    row: float = 0.0

    def of(self, rows: float, calls: float = 1.0) -> float:
        """Return what so many rows take in so many calls."""
        return self.call * calls + self.row * rows

    @classmethod
    def through(cls, few: tuple[int, float], many: tuple[int, float]) -> Line:
        """Return the line through two points (rows, measured), with nothing negative."""
        (first, low), (last, high) = few, many
        if last <= first:
            return cls(0.0, low / first)
        row = max(0.0, (high - low) / (last - first))
        return cls(max(0.0, low - row * first), row)


@dataclass(frozen=True)
class Pace:
    """What passes over a task's model take.

    Attributes:
        machine: Rates of the device.
        kept_bytes: What autograd keeps of a row for the backward pass.
        linear_numbers: What trainable Linear layers take and give of a row, and a 1 for each bias at each position.
        forward_bytes: What a forward pass holds at most, without autograd.
        backward_bytes: What a forward and a backward pass hold at most, the parameters' gradient included.
        forward_seconds: Of a forward pass without autograd.
        backward_seconds: Of a forward and a backward pass.
        step_seconds: Of a step of training, by the route that the task takes; zero where there are no steps.
    """

    machine: Machine = SERVER
    kept_bytes: float = 0.0
    linear_numbers: int = 0
    forward_bytes: Line = Line()
    backward_bytes: Line = Line()
    forward_seconds: Line = Line()
    backward_seconds: Line = Line()
    step_seconds: Line = Line()

    def on(self, other: Machine, row_operations: float) -> Pace:
        """Return what the same passes take on another machine, as a model of ours has it.

        What calls take goes by the other's calls. Of what rows take, their operations at the measured rate of one
        thread go by that rate, and the rest by the rate of copying. Memory stays what it is.

        Args:
            other: The machine.
            row_operations: Floating-point operations of a forward and a backward pass over a row.
        """
        changed = {
            name: self._line_on(other, getattr(self, name), share * row_operations)
            for name, share in (("forward_seconds", 1 / 3), ("backward_seconds", 1.0), ("step_seconds", 1.0))
        }
        return replace(self, machine=other, **changed)

    def _line_on(self, other: Machine, line: Line, operations: float) -> Line:
        here, there = (each.single / each.threads for each in (self.machine, other))
        computed = min(line.row, operations / here)
        row = computed * here / there + (line.row - computed) * self.machine.copied / other.copied
        return Line(line.call * self.machine.calls / other.calls, row)


UNMEASURED = Pace()
_KNOWN: dict[tuple[str, str], Pace] = {}
_lock = threading.Lock()


def measured(task: Task, fingerprint: str, device: str) -> Pace:
    """Return what passes over a task's model take on a device; measured once a process.

    A task that fails gives rates of the machine alone: what is wrong with it is said where it is verified. Nothing is
    drawn from PyTorch's generators.

    Args:
        task: The task.
        fingerprint: Of what it computes.
        device: Type of device.
    """
    key = fingerprint, device
    with _lock:  # two visitors of a page must not time each other
        if key not in _KNOWN:
            cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
            _KNOWN[key] = Pace(machine(device))
            # Whatever a person's code raises, or a device that is too small: estimates stop no run.
            with contextlib.suppress(Exception), torch.random.fork_rng(devices=cuda), reproducible(device):
                _KNOWN[key] = _measured(task, device)
        return _KNOWN[key]


def _measured(task: Task, device: str) -> Pace:
    data, model = validate_data(task)["train"], built(task, 0).to(device).eval()
    parameters = [each for each in model.parameters() if each.requires_grad]

    def batch_of(rows: int) -> Batch:
        return to_device(take(data, np.arange(rows)), device)

    def loss(batch: Batch) -> Tensor:
        with persons_code(task, "train_loss"):
            return task.train_loss(model, batch)

    def forward(batch: Batch) -> Tensor:
        with torch.no_grad():
            return loss(batch)

    def backward(batch: Batch) -> Tensor:
        with torch.enable_grad(), persons_code(task, "train_loss"):
            grads = torch.autograd.grad(loss(batch).sum(), parameters, allow_unused=True)
        return next((grad for grad in reversed(grads) if grad is not None), torch.zeros(1))

    few = batch_of(min(FEW, num_rows(data)))
    kept = kept_bytes(lambda: loss(few), [*model.parameters(), *few.values()]) / num_rows(few)
    forward_seconds = _timed(forward, batch_of, num_rows(data), device)
    backward_seconds = _timed(backward, batch_of, num_rows(data), device)
    more = _COUNTED if backward_seconds.of(_COUNTED) < _PASS_SECONDS else FEW + 1
    counts = num_rows(few), min(more, num_rows(data))
    held = Line.through(*((rows, _peak(forward, batch_of(rows))) for rows in counts))
    return Pace(
        machine(device),
        kept,
        _linear_numbers(model, lambda: forward(few)) // num_rows(few),
        Line(held.call, max(held.row, kept * _FUSED_SHARE)),
        Line.through(*((rows, _peak(backward, batch_of(rows))) for rows in counts)),
        forward_seconds,
        backward_seconds,
        _step_seconds(task, model, data, device, backward_seconds),
    )


def _linear_numbers(model: nn.Module, run: Callable[[], object]) -> int:
    found: list[int] = []

    def note(layer: nn.Module, taken: tuple[Tensor, ...], given: Tensor) -> None:
        assert isinstance(layer, nn.Linear)
        ones = 0 if layer.bias is None else given.numel() // layer.out_features
        found.append(taken[0].numel() + given.numel() + ones)

    linear = [each for each in model.modules() if type(each) is nn.Linear and each.weight.requires_grad]
    hooks = [layer.register_forward_hook(note) for layer in linear]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return sum(found)


def _peak(run: Callable[[Batch], Tensor], batch: Batch) -> int:
    with LivingBytes() as living:
        run(batch)
    return living.peak


def _timed(run: Callable[[Batch], Tensor], batch_of: Callable[[int], Batch], available: int, device: str) -> Line:
    few = min(FEW, available)
    batch = batch_of(few)
    short = typical(lambda: run(batch), device, 1)
    many = max(few, min(MANY, available, int(_PASS_SECONDS / short * few)))
    short = min(short, typical(lambda: run(batch), device)) if short < _PASS_SECONDS else short
    batch = batch_of(many)
    return Line.through((few, short), (many, short if many == few else typical(lambda: run(batch), device)))


def _step_seconds(task: Task, model: nn.Module, data: Batch, device: str, backward: Line) -> Line:
    """Return what training takes, from some steps of it where they are short, else from a pass and its arithmetic."""
    settings = task.training
    if settings is None or settings.finds_optimum:
        return Line()
    numbers, size = sum(each.numel() for each in model.parameters()), min(settings.batch_size, num_rows(data))
    if task.stages or numbers > _MOST_PARAMETERS or backward.of(size) > _STEPS_SECONDS:
        updates = 6 * 4 * numbers / machine(device).copied  # gradient, momentum and parameter, read and written
        return Line(backward.call + updates, backward.row)

    def trained(steps: int) -> float:
        rows = np.arange(steps * size)
        run = TrainingRun(task, {"train": take(data, rows)}, rows, 0, device)
        trainer = single_trainer(run)

        def epoch() -> Tensor:
            trainer.train_epoch(1)
            return next(iter(trainer.states()[0].values()))

        return typical(epoch, device, 2)

    one = trained(1)
    steps = max(1, min(num_rows(data) // size, int(_STEPS_SECONDS / one)))
    each = trained(steps) / steps if steps > 1 else one
    share = min(1.0, backward.row * size / max(backward.of(size), 1e-9))
    return Line(each * (1 - share), each * share / size)
