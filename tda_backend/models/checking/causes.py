"""Why a promise is broken: the causes that fit what was found, each with what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tda_backend.errors import TDAError
from tda_backend.models.checking.gradients import RowSlopes
from tda_backend.models.checking.promises import in_float64
from tda_backend.models.tasks.base import margin
from tda_backend.models.tasks.contract import persons_code
from tda_backend.models.tasks.data import num_rows
from tda_backend.types import Batch, Task

_SAME = 1e-2
"""Relative difference of factors that are called the same; also of gradients that are called parallel."""


def why_identity_fails(task: Task, model: nn.Module, batch: Batch, rows: Sequence[RowSlopes]) -> str:
    """Return which loss or measurement has gradients that lie to each other as those of ``rows`` do."""
    known = [row for row in rows if np.isfinite(row.factor)]
    odd = _odd_functions(task, model, batch)
    if not known or max(row.rest for row in known) > _SAME:
        return odd or "the two gradients are not parallel (label smoothing, a penalty, or another measurement)"
    factors = np.array([row.factor for row in known])
    if np.allclose(factors * [row.weight for row in known], 1, rtol=_SAME):
        return "∇measurement is −∇train_loss (a log-probability or the loss itself is measured, not the margin)"
    if np.ptp(factors) <= _SAME * np.abs(factors).max():
        return f"train_loss is {factors.mean():.3g} times the cross-entropy"
    labels = batch.get(task.label_key)
    if labels is not None and labels.ndim == 1:
        found = labels[[row.row for row in known]].cpu().numpy()
        by_label = {label: factors[found == label] for label in np.unique(found).tolist()}
        if all(np.ptp(each) <= _SAME * np.abs(each).max() for each in by_label.values()):
            weights = ", ".join(f"{each.mean():.3g} for {label}" for label, each in list(by_label.items())[:4])
            return f"the loss weighs classes ({weights})"
    return (
        f"the loss weighs examples (factors {factors.min():.2g} to {factors.max():.2g}, as a focal loss or weights of "
        "examples give)"
    )


@torch.no_grad()
def _odd_functions(task: Task, model: nn.Module, batch: Batch) -> str:
    """Return which of loss and measurement is not that of the logits that the task names as outputs."""
    labels = batch.get(task.label_key)
    if type(task).outputs is Task.outputs or task.num_classes is None or labels is None:
        return ""
    logits = in_float64(task.outputs(model, batch))
    if logits.ndim != 2 or labels.shape != (len(logits),):
        return ""
    labels = labels.to(logits.device).long()
    expected = {
        "train_loss is not the cross-entropy of outputs (label smoothing, a penalty or another loss?)": (
            task.train_loss(model, batch),
            functional.cross_entropy(logits, labels, reduction="none"),
        ),
        "measurement is not the margin of outputs": (task.measurement(model, batch), margin(logits, labels)),
    }
    odd = [name for name, (one, other) in expected.items() if not torch.allclose(in_float64(one), other, rtol=_SAME)]
    return " and ".join(odd)


def why_shape(task: Task, batch: Batch, value: Any) -> str:
    """Return what to do where a function of a task gives ``value`` instead of one number for each of b rows."""
    rows = num_rows(batch)
    if not isinstance(value, Tensor):
        return "Return a tensor [b], one number per example."
    labels = batch.get(task.label_key)
    column = labels is not None and labels.shape == (rows, 1)
    target = f'The target "{task.label_key}" has shape [n, 1]. ' if column else ""
    if value.shape == (rows, 1):
        return f"{target}The last axis of [n, 1] is one too many: take squeeze(-1) of the model's output and target."
    if value.shape == (rows, rows) and rows > 1:
        return (
            f"{target}[n] combined with [n, 1] gives [n, n]: take squeeze(-1) of whichever of the model's output and "
            "the target has shape [n, 1]."
        )
    if value.ndim == 0 or value.shape == (1,):
        return 'It is summed or averaged over the batch. Use reduction="none".'
    if value.ndim > 1 and len(value) == rows:
        return "Sum or average the axes after the first, e.g. .flatten(1).mean(1)."
    return 'Give one number per example, with reduction="none".'


class Returned:
    """Notes what kind of thing a model returns."""

    def __init__(self) -> None:
        self.value: Any = None

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self.value = output


@torch.no_grad()
def why_raises(task: Task, model: nn.Module, batch: Batch, name: str) -> str:
    """Return the causes that fit a function of a task that raises, with what to do; empty where none is known."""
    returned = Returned()
    hook = model.register_forward_hook(returned)
    try:
        with contextlib.suppress(TDAError), persons_code(task, name):  # it raises again, after the model has returned
            getattr(task, name)(model, batch)
    finally:
        hook.remove()
    return " ".join(_causes(task, model, batch, returned.value))


def _causes(task: Task, model: nn.Module, batch: Batch, output: Any) -> Iterator[str]:
    if output is not None and not isinstance(output, Tensor):
        kind = type(output).__name__
        if isinstance(output, Mapping):
            keys = ", ".join(map(str, list(output)[:5]))
            yield f'The model returns a {kind} of {keys}: take the tensor out, e.g. model(batch["x"])["logits"].'
        else:
            where = ".logits" if hasattr(output, "logits") else "[0]"
            yield f'The model returns a {kind}: take the tensor out, e.g. model(batch["x"]){where}.'
    labels, classes = batch.get(task.label_key), task.num_classes
    key = task.label_key
    if labels is not None and classes is not None:
        if classes > 1 and labels.ndim == 2 and labels.shape[1] == classes:
            yield f'The labels "{key}" are one-hot, [n, {classes}]: take argmax(1) in datasets().'
        elif labels.ndim == 2 and labels.shape[1] == 1:
            yield f'The labels "{key}" have shape [n, 1]: take squeeze(-1) in datasets().'
        if not labels.is_floating_point() and labels.dtype != torch.int64:
            yield f'The labels "{key}" are {labels.dtype}, where torch\'s losses want int64: use .long() in datasets().'
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if output is None and len(dtypes) == 1:
        (own,) = dtypes
        for name, value in batch.items():
            if name != key and value.dtype != own and (value.is_floating_point() or value.dtype == torch.uint8):
                yield f'batch["{name}"] is {value.dtype}, the parameters are {own}: convert it in datasets().'
