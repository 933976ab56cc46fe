"""SOURCE as a dense walk with explicitly built curvature matrices, in float64: the slow truth."""

from __future__ import annotations

import torch
from scipy.linalg import expm

from tda_backend.numerics.curvature.kronecker.basis import average, eigenbasis, kronecker_moments
from tda_backend.numerics.curvature.kronecker.fisher import Fisher
from tda_backend.numerics.features.layers import tracked_layers
from tests.helpers_numerics import dense_gradients, split_probe
from tests.trajectory.test_walk import dense_response


def model_of(task, state):
    model = task.build_model(0)
    model.load_state_dict(state)
    return model.eval()


def rows_in_layers(task, model, split, indices, quantity):
    """Return dense gradients of the tracked layers, ``[b, Σ d_out·d_in]``, by one autograd call an example."""
    flat = dense_gradients(task, model, task.datasets()[split], indices, quantity)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    result = []
    for row in flat:
        pieces = row.split([p.numel() for _, p in named])
        gradients = {name: piece.view_as(p) for (name, p), piece in zip(named, pieces, strict=True)}
        result.append(torch.cat([layer.matrix(gradients).flatten() for layer in tracked_layers(model, "leave-out")]))
    return torch.stack(result)


def dense_ekfac(task, models, rows, kind="ekfac"):
    """Return the averaged EK-FAC curvature of the empirical Fisher as one matrix [p, p]."""
    data = task.datasets()["train"]
    moments = [
        kronecker_moments(split_probe(task, m, data, rows), fisher=Fisher("empirical"), untracked="leave-out")
        for m in models
    ]
    basis = eigenbasis(average(moments), kind)
    gradients = [rows_in_layers(task, m, "train", rows, "train_loss") for m in models]
    blocks, start = [], 0
    for layer in basis.layers:
        stop = start + len(layer.deltas) * len(layer.inputs)
        rotation = torch.kron(layer.deltas, layer.inputs)
        values = sum((g[:, start:stop] @ rotation).square().mean(0) for g in gradients) / len(models)
        if kind == "kfac":
            values = torch.kron(layer.delta_eigenvalues, layer.input_eigenvalues)
        blocks.append(rotation @ torch.diag(values) @ rotation.T)
        start = stop
    return torch.block_diag(*blocks)


def forward_change(curvatures, gradients, durations, weights, scale=None):
    """Return dθ/dweight of every example at the run's end, ``[p, n]``, forwards and without eigenvectors."""
    change = torch.zeros(len(curvatures[0]), len(gradients[0]), dtype=torch.float64)
    for h, g, c, w in zip(curvatures, gradients, durations, weights, strict=True):
        change = torch.from_numpy(expm(-c * h.numpy())) @ change - w * (dense_response(h, c) @ g.T)
    return change


def reference(task, states, plan, rows, queries, kind="ekfac", decay=True):
    """Return the scores ``[m, n]`` of a walk with explicit curvature matrices."""
    curvatures, gradients, weights = [], [], []
    for segment in plan:
        models = [model_of(task, states[epoch]) for epoch in segment.epochs]
        own = list(segment.data_indices or rows)
        h = dense_ekfac(task, models, own, kind)
        curvatures.append(h + decay * segment.weight_decay * torch.eye(len(h), dtype=h.dtype))
        gradients.append(sum(rows_in_layers(task, m, "train", rows, "train_loss") for m in models) / len(models))
        weights.append(torch.tensor([float(row in own) * len(rows) / len(own) for row in rows]))
    query = rows_in_layers(task, model_of(task, states[plan[-1].epochs[-1]]), "test", queries, "goodness")
    return query @ forward_change(curvatures, gradients, [s.duration for s in plan], weights)
