"""Which module of a model makes the rows of a batch depend on each other, or on chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from tda_backend.models.probe import in_float64


@dataclass(frozen=True)
class _Call:
    """One call of a module: what went in and what came out, the tensors alone."""

    name: str
    kind: str
    inputs: list[Tensor]
    outputs: list[Tensor]


def _tensors(value: Any) -> list[Tensor]:
    return [each.detach().clone() for each in tree_leaves(value) if isinstance(each, Tensor)]


def _calls(model: nn.Module, run: Callable[[], Any]) -> list[_Call]:
    """Return the calls of all modules while ``run`` runs, in the order in which they ended."""
    found: list[_Call] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, named: Any, output: Any) -> None:
            found.append(_Call(name, type(module).__name__, _tensors((arguments, named)), _tensors(output)))

        return hook

    hooks = [module.register_forward_hook(note(name), with_kwargs=True) for name, module in model.named_modules()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return found


@torch.no_grad()
def culprit(model: nn.Module, one: Callable[[], Any], other: Callable[[], Any], rows: int, kept: int) -> str:
    """Return the first module whose outputs of the first ``kept`` rows differ though its inputs agree, as text.

    Args:
        model: Whose modules are looked at.
        one: A pass over a batch of ``rows`` examples.
        other: A pass over a batch whose first ``kept`` examples are the same.
        rows: Examples of a batch.
        kept: Examples that must not change.

    Returns:
        ``module "2" (BatchNorm1d)``, or ``""`` where no module does it: then the task's own function does.
    """
    try:
        first, second = _calls(model, one), _calls(model, other)
    except RuntimeError:  # hooks are no part of a scripted module
        return ""
    for a, b in zip(first, second, strict=False):
        if a.name != b.name:
            return ""
        if _agree(a.inputs, b.inputs, rows, kept) and not _agree(a.outputs, b.outputs, rows, kept):
            return f'module "{a.name}" ({a.kind})' if a.name else f"forward of the model ({a.kind})"
    return ""


def _agree(one: list[Tensor], other: list[Tensor], rows: int, kept: int) -> bool:
    """Return whether tensors have the same first rows, along the axis that enumerates examples."""
    for a, b in zip(one, other, strict=False):
        axes = [axis for axis in range(min(a.ndim, 2)) if a.shape[axis] == rows]
        if not axes or a.shape != b.shape:
            continue
        a, b = (in_float64(each.movedim(axes[0], 0)[:kept]) for each in (a, b))
        if not torch.allclose(a, b, rtol=1e-4, atol=1e-6 * float(a.abs().max()) if a.numel() else 0.0, equal_nan=True):
            return False
    return True
