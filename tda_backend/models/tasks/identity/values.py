"""The values that a task's code gives: what a file that it reads changes, without the code's changing.

Parameters, data and settings count to the bit. Loss, measurement and outputs are rounded: they are computed in float64
on one thread, so that what rounding leaves over is far below what is kept, on every run and every number of threads.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.errors import ran_out_of_memory
from tda_backend.models.tasks.data import num_rows, take
from tda_backend.models.tasks.threads import one_thread
from tda_backend.types import Batch, Task

ROWS = 8
"""Rows that are evaluated, spread over the data, beside one of each class."""
_CLASSES = 32
"""Classes of which one row is evaluated, at most."""
_DIGITS, _FEWER_DIGITS = 6, 3
"""Of values in float64, and of those that can only be had in less."""
_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Attributes that torch keeps: whether a module trains, its parameters, its hooks."""
_NOTHING = 1e-12
"""Values below are what rounding leaves of 0."""


def tensor_digest(value: Tensor) -> str:
    """Return type, shape and content of a tensor as text, to the bit."""
    held = value.detach().cpu()
    if held.layout is not torch.strided:
        held = held.to_dense()
    if held.is_quantized:
        held = held.dequantize()
    content = held.contiguous().reshape(-1).view(torch.uint8).numpy().data
    return f"{held.dtype} {tuple(held.shape)} {hashlib.sha256(content).hexdigest()}"


def plain(value: Any) -> Any:
    """Return the part of a value whose ``repr`` says the same in every process: numbers, text and their containers."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in sorted(value.items(), key=str) if not str(key).startswith("_")}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | Path | None) else type(value).__qualname__


def with_arrays(value: Any) -> Any:
    """Return a value with the digest of every tensor and array in it; the rest is for :func:`plain`."""
    if isinstance(value, Mapping):
        return {key: with_arrays(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_arrays(item) for item in value]
    if isinstance(value, Tensor):
        return tensor_digest(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return f"array {tensor_digest(torch.from_numpy(np.ascontiguousarray(value)))}"
    return value


def state_digest(model: nn.Module) -> str:
    """Return every parameter, buffer and plain value of a model and its modules as text, to the bit."""
    lines = [f"{name} {plain(with_arrays(value))}" for name, value in model.state_dict().items()]
    for name, module in model.named_modules():  # a rate of dropout, a temperature in training: no value in eval mode
        lines += [f"{name} {key} {tensor_digest(value)}" for key, value in module.named_buffers(recurse=False)]
        own = [(key, value) for key, value in sorted(vars(module).items()) if key not in _OF_EVERY_MODULE]
        lines += [f"{name} {key} {plain(with_arrays(value))}" for key, value in own]
    return "\n".join(lines)


def function_values(task: Task, model: nn.Module, data: Mapping[str, Batch]) -> str:
    """Return what loss, measurement and outputs give at ``model`` on some rows, rounded; what fails says so.

    It judges nothing: what is wrong with a task is found, and said, where it is checked or used.
    """
    model.eval()
    parts = []
    with one_thread(), torch.random.fork_rng(devices=[]), torch.no_grad():
        wide = _wide_copy(model)
        for split in sorted(data):
            batch = take(data[split], _rows(task, data[split]))
            for name, function in _functions(task).items():
                parts.append(f"{split} {name} {_value(function, model, wide, batch)}")
    return "\n".join(parts)


def _functions(task: Task) -> dict[str, Callable[[nn.Module, Batch], Any]]:
    found: dict[str, Callable[[nn.Module, Batch], Any]] = {
        "train_loss": task.train_loss,
        "measurement": task.measurement,
    }
    if type(task).outputs is not Task.outputs:
        found["outputs"] = task.outputs
    if type(task).output_loss is not Task.output_loss:
        found["output_loss"] = lambda model, batch: task.output_loss(task.outputs(model, batch), batch)
    return found


def _rows(task: Task, batch: Batch) -> Tensor:
    count = num_rows(batch)
    spread = torch.linspace(0, count - 1, min(ROWS, count)).round().long()
    labels = batch.get(task.label_key)
    if task.num_classes is None or labels is None or labels.ndim != 1:
        return spread.unique()
    firsts = [(labels == value).nonzero()[0] for value in labels.unique()[:_CLASSES]]
    return torch.cat([spread, *firsts]).unique()


def _wide_copy(model: nn.Module) -> nn.Module | None:
    """Return the model in float64, or ``None`` where it cannot be copied."""
    try:
        return copy.deepcopy(model).double()
    except Exception as error:  # a person's code may raise anything
        if ran_out_of_memory(error):
            raise
        return None


def _value(function: Callable[[nn.Module, Batch], Any], model: nn.Module, wide: nn.Module | None, batch: Batch) -> str:
    """Return the rounded value in float64, else in the model's own precision."""
    reason = ""
    widened = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    for each, given in ((wide, widened), (model, batch)):
        if each is None:
            continue
        torch.manual_seed(0)
        try:
            return rounded(function(each, given))
        except Exception as error:  # a person's code may raise anything
            if ran_out_of_memory(error):
                raise
            reason = type(error).__name__
    return f"fails with {reason}"


def rounded(value: Any) -> str:
    """Return a tensor's shape and values, each rounded to a fixed share of the largest of them, as text."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    digits = _DIGITS if value.dtype == torch.float64 else _FEWER_DIGITS
    wide = value.detach().double().cpu().reshape(-1).numpy()
    finite = wide[np.isfinite(wide)]
    largest = float(np.abs(finite).max()) if len(finite) else 0.0
    if largest < _NOTHING:
        largest = 0.0
    shares = np.zeros_like(wide) if not largest else wide / largest
    steps = [f"{share * 10**digits:.0f}".replace("-0", "0") if np.isfinite(share) else str(share) for share in shares]
    return f"{tuple(value.shape)} {largest:.{digits - 1}e} {' '.join(steps)}"
