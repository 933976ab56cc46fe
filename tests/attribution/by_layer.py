"""Kronecker-factored influence by layer with dense matrices built with np.kron, in float64: the slow truth."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.numerics.curvature.kronecker.basis import kronecker_moments
from tda_backend.numerics.curvature.kronecker.fisher import Fisher, fisher_targets
from tda_backend.numerics.features.layers import TrackedLayer, tracked_layers
from tda_backend.types import Task
from tests.helpers_numerics import QUERIES, split_probe

TRAIN = range(24)


def layer_gradients(
    task: Task, model: nn.Module, layers: tuple[TrackedLayer, ...], split: str, indices, quantity: str, targets=None
) -> dict[str, np.ndarray]:
    """Return dense gradients ``[N, d_out·d_in]`` of every tracked layer, one autograd call per example."""
    model.eval()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    for position, index in enumerate(indices):
        batch = {key: value[index : index + 1] for key, value in task.datasets()[split].items()}
        if targets is not None:
            batch["y"] = targets[position : position + 1]
        if quantity == "goodness":
            value = task.measurement_sign * task.measurement(model, batch)
        else:
            value = task.train_loss(model, batch)
        grads = torch.autograd.grad(value.sum(), list(named.values()), allow_unused=True, materialize_grads=True)
        for layer in layers:
            rows[layer.name].append(layer.matrix(dict(zip(named, grads, strict=True))).flatten())
    return {name: torch.stack(part).numpy() for name, part in rows.items()}


def dense_curvature(kind: str, moments, fisher_gradients: np.ndarray) -> np.ndarray:
    """Return one layer's curvature ``[d_out·d_in, d_out·d_in]``; a row-major vec goes with S ⊗ A."""
    a, s = moments.inputs.numpy(), moments.deltas.numpy()
    if kind == "kfac":
        return np.kron(s, a)
    basis = np.eye(len(a) * len(s)) if kind == "diagonal" else np.kron(np.linalg.eigh(s)[1], np.linalg.eigh(a)[1])
    corrected = np.mean((fisher_gradients @ basis) ** 2, axis=0)
    return (basis * corrected) @ basis.T


class Reference:
    """Everything dense, by layer."""

    def __init__(
        self, task: Task, kind: str, fisher: str, model: nn.Module | None = None, train=TRAIN, query=QUERIES
    ) -> None:
        model = task.build_model(0) if model is None else model
        data = task.datasets()["train"]
        layers = tracked_layers(model, "leave-out")
        targets = fisher_targets(split_probe(task, model, data, train), seed=3)[0] if fisher == "true" else None
        moments = kronecker_moments(
            split_probe(task, model, data, train), fisher=Fisher(kind=fisher, seed=3), untracked="leave-out"
        )
        sampled = layer_gradients(task, model, layers, "train", train, "train_loss", targets)
        self.curvature = {layer.name: dense_curvature(kind, layer, sampled[layer.name]) for layer in moments.layers}
        self.loss = layer_gradients(task, model, layers, "train", train, "train_loss")
        self.query = layer_gradients(task, model, layers, "test", query, "goodness")

    def scale(self, name: str) -> float:
        return np.trace(self.curvature[name]) / len(self.curvature[name])

    def inverse(self, name: str, regularization: float, relative: bool = False) -> np.ndarray:
        matrix = self.curvature[name]
        return np.linalg.inv(matrix + regularization * (self.scale(name) if relative else 1.0) * np.eye(len(matrix)))

    def scores(self, regularization: float, relative: bool = False) -> dict[str, np.ndarray]:
        return {
            name: -self.query[name] @ self.inverse(name, regularization, relative) @ self.loss[name].T
            for name in self.curvature
        }
