"""What goes wrong in a call of a task's functions: the causes that fit what was found, each with what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from tda_backend.errors import TDAError
from tda_backend.models.tasks.contract import persons_code
from tda_backend.models.tasks.data import num_rows
from tda_backend.types import Batch, Task

_COLUMN = "take squeeze(-1) of whichever of the model's output and the target has shape [n, 1]."


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
        return f"{target}[n] combined with [n, 1] gives [n, n]: {_COLUMN}"
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


class _Squares(TorchFunctionMode):
    """Notes whether a vector [b] met a column [b, 1], which gives a square [b, b]."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self._rows, self.found = rows, False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        shapes = {tuple(each.shape) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        self.found = self.found or {(self._rows,), (self._rows, 1)} <= shapes
        return result


@torch.no_grad()
def why_mixed(task: Task, model: nn.Module, batch: Batch, name: str) -> str:
    """Return why a function's rows depend on each other, with what to do; empty where no cause is known."""
    with _Squares(num_rows(batch)) as noted:
        getattr(task, name)(model, batch)
    if not noted.found:
        return ""
    return (
        f"A tensor [n] is combined with one of [n, 1] on the way, which gives [n, n]; if that is not meant, {_COLUMN}"
    )


class _Deepest:
    """Notes the innermost module that was called and did not return, and what went into it."""

    def __init__(self, model: nn.Module) -> None:
        self._open: list[tuple[str, nn.Module, list[Tensor]]] = []
        self.failed: tuple[str, nn.Module, list[Tensor]] | None = None
        self._hooks = [
            hook
            for name, module in model.named_modules()
            for hook in (
                module.register_forward_pre_hook(self._enter(name), with_kwargs=True),
                module.register_forward_hook(self._leave),
            )
        ]

    def _enter(self, name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, named: Any) -> None:
            given = [each for each in tree_leaves((arguments, named)) if isinstance(each, Tensor)]
            self._open.append((name, module, given))

        return hook

    def _leave(self, module: nn.Module, arguments: Any, output: Any) -> None:
        self._open.pop()

    def close(self) -> None:
        """Take the hooks away, and keep what was not left."""
        for hook in self._hooks:
            hook.remove()
        self.failed = self._open[-1] if self._open else None


@torch.no_grad()
def why_raises(task: Task, model: nn.Module, batch: Batch, name: str) -> str:
    """Return the causes that fit a function of a task that raises, with what to do; empty where none is known."""
    returned = Returned()
    hook, deepest = model.register_forward_hook(returned), _Deepest(model)
    try:
        with contextlib.suppress(TDAError), persons_code(task, name):  # it raises again, after the model has returned
            getattr(task, name)(model, batch)
    finally:
        hook.remove()
        deepest.close()
    causes = list(_causes(task, model, batch, returned.value))
    if deepest.failed is not None:
        causes.append(_why_module_fails(*deepest.failed))
    return " ".join(causes)


def _why_module_fails(name: str, module: nn.Module, given: list[Tensor]) -> str:
    kind = f"{type(module).__name__}{f' {name!r}' if name else ''}"
    table = getattr(module, "num_embeddings", None)
    for value in given:
        if isinstance(table, int) and not value.is_floating_point() and value.numel():
            low, high = int(value.min()), int(value.max())
            if low < 0 or high >= table:
                return (
                    f"Module {kind} has rows 0…{table - 1}, and is asked for {high if high >= table else low}: make it "
                    "larger, map unknown tokens to one that it has, or cut sequences that are longer than it."
                )
    shapes = " and ".join(f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}" for value in given)
    return f"It fails in module {kind}, which is given {shapes or 'no tensor'}."


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
    key, rows = task.label_key, num_rows(batch)
    if isinstance(output, Tensor) and output.shape == (rows,):
        yield "The model returns [n], where one column for each output is wanted, [n, 1] for one: leave out squeeze()."
    elif isinstance(output, Tensor) and classes is not None and output.ndim > 2 and len(output) == rows:
        yield f"The model returns {list(output.shape)}, where [n, {classes}] is wanted: pool or flatten what is before."
    elif isinstance(output, Tensor) and classes is not None and output.ndim == 2 and output.shape[1] < classes:
        yield f"The model returns {list(output.shape)}, where num_classes = {classes} wants [n, {classes}]."
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
