"""Which models the hand-written loop can train: multilayer perceptrons with an unchanged loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from tda_backend.models.tasks.base import ClassificationTask, RegressionTask
from tda_backend.types import Batch, Task

Loss = Literal["cross-entropy", "squared"]


@dataclass(frozen=True)
class MLPArchitecture:
    """Shape of a multilayer perceptron.

    Attributes:
        sizes: Widths from input to classes, ``[L+1]``.
        dropout: Drop probability after each hidden layer, ``[L−1]``; 0 for none.
        names: Parameter names in the order weight 1, bias 1, weight 2, …
        loss: ``cross-entropy`` of classes, or ``squared`` error of one output.
        keys: Keys of inputs and labels in a batch.
    """

    sizes: tuple[int, ...]
    dropout: tuple[float, ...]
    names: tuple[str, ...]
    loss: Loss = "cross-entropy"
    keys: tuple[str, str] = ("x", "y")

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.sizes) - 1

    @property
    def needed_operations(self) -> int:
        """Floating-point operations that one example's training step cannot do without: 2 per multiply-add."""
        products = [a * b for a, b in zip(self.sizes[:-1], self.sizes[1:], strict=True)]
        return 2 * (2 * sum(products) + sum(products[1:]))


def mlp_architecture(task: Task, model: nn.Module, data: Batch) -> MLPArchitecture | None:
    """Return the architecture if ``mlp.MLPTrainer`` trains ``model`` exactly as ``task`` asks for, else ``None``.

    Asked for: plain SGD; the unchanged loss of :class:`ClassificationTask` or :class:`RegressionTask`; a Sequential of
    Linear (with bias), each hidden one followed by ReLU and possibly Dropout; float inputs; no hooks, shared or frozen
    layers.
    """
    if task.training is not None and not task.training.is_plain_sgd:
        return None
    loss = _known_loss(task)
    if loss is None or not isinstance(model, nn.Sequential):
        return None
    keys = (getattr(task, "input_key", "x"), task.label_key)
    inputs, labels = (data.get(key) for key in keys)
    if inputs is None or labels is None or labels.ndim != 1:
        return None
    if labels.dtype != (torch.int64 if loss == "cross-entropy" else inputs.dtype):
        return None
    layers = [(name, module) for name, module in model.named_modules(remove_duplicate=False) if not _is_plain(module)]
    if inputs.ndim > 2:
        if not layers or type(layers[0][1]) is not nn.Flatten or layers[0][1].start_dim != 1:
            return None
        layers = layers[1:]
    sizes: list[int] = []
    dropout: list[float] = []
    names: list[str] = []
    expected: tuple[type, ...] = (nn.Linear,)
    for name, module in layers:
        if not isinstance(module, expected) or _is_hooked(module):
            return None
        if isinstance(module, nn.Linear):
            if module.bias is None or (sizes and module.in_features != sizes[-1]):
                return None
            sizes += [module.in_features] * (not sizes) + [module.out_features]
            names += [f"{name}.weight", f"{name}.bias"]
            expected = (nn.ReLU,)
        elif isinstance(module, nn.ReLU):
            dropout.append(0.0)
            expected = (nn.Linear, nn.Dropout)
        else:
            dropout[-1] = module.p
            expected = (nn.Linear,)
    parameters = dict(model.named_parameters())
    if (
        len(sizes) != len(dropout) + 2
        or expected != (nn.ReLU,)
        or set(parameters) != set(names)
        or (loss == "squared" and sizes[-1] != 1)
        or inputs[0].numel() != sizes[0]
        or any(p.dtype != inputs.dtype or not p.requires_grad for p in parameters.values())
    ):
        return None
    return MLPArchitecture(tuple(sizes), tuple(dropout), tuple(names), loss, keys)


def _known_loss(task: Task) -> Loss | None:
    """Return which loss the hand-written loop trains the task by, ``None`` if the task defines one of its own."""
    if isinstance(task, ClassificationTask):
        own = all(getattr(type(task), name) is getattr(ClassificationTask, name) for name in ("train_loss", "logits"))
        return "cross-entropy" if own else None
    if isinstance(task, RegressionTask):
        own = all(
            getattr(type(task), name) is getattr(RegressionTask, name)
            for name in ("train_loss", "output_loss", "outputs")
        )
        return "squared" if own else None
    return None


def _is_plain(module: nn.Module) -> bool:
    return type(module) in (nn.Sequential, nn.Identity) and not _is_hooked(module)


def _is_hooked(module: nn.Module) -> bool:
    if type(module) not in (nn.Sequential, nn.Identity, nn.Linear, nn.ReLU, nn.Flatten) and not isinstance(
        module, nn.Dropout
    ):
        return True  # a subclass may compute anything
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
