"""The slow truth of unrolling: the real training loop, PyTorch's optimizers and weights on examples, one run each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.models.tasks.data import take, validate_data
from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.routes.optimizer import optimizer_step, torch_optimizer
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.trajectory.unrolled.recording import record
from tda_backend.numerics.trajectory.unrolled.trajectory import Trajectory
from tests.training.tiny import TinyTask

ROWS = np.arange(4, 36)
POINTS = torch.tensor([0, 3, 5, 11, 20])
REMOVED = torch.tensor([30, 7, 12, 35])
PLAIN = {"num_epochs": 2, "batch_size": 7, "momentum": 0.0, "learning_rate": 0.05}
MOMENTS = {**PLAIN, "learning_rate": 0.02, "betas": (0.8, 0.9), "eps": 1e-3}
CASES: dict[str, dict[str, Any]] = {
    "sgd": PLAIN,
    "sgd, L2 decay, clipped": {**PLAIN, "weight_decay": 0.2, "clip_norm": 0.3, "schedule": "linear"},
    "momentum, L2 decay": {**PLAIN, "momentum": 0.8, "weight_decay": 0.2},
    "momentum, decoupled decay, clipped": {
        **PLAIN,
        "momentum": 0.8,
        "weight_decay": 0.2,
        "decoupled_decay": True,
        "clip_norm": 0.3,
    },
    "adam, L2 decay": {**MOMENTS, "optimizer": "adam", "weight_decay": 0.2},
    "adamw": {**MOMENTS, "optimizer": "adamw"},
    "adamw, decay, clipped, cosine, warm-up": {
        **MOMENTS,
        "optimizer": "adamw",
        "weight_decay": 0.2,
        "clip_norm": 0.3,
        "schedule": "cosine",
        "warmup": 0.3,
    },
    "rmsprop, L2 decay": {
        **PLAIN,
        "learning_rate": 0.02,
        "optimizer": "rmsprop",
        "smoothing": 0.9,
        "eps": 1e-3,
        "weight_decay": 0.2,
    },
    "rmsprop, decoupled decay, clipped": {
        **PLAIN,
        "learning_rate": 0.02,
        "optimizer": "rmsprop",
        "smoothing": 0.9,
        "eps": 1e-3,
        "weight_decay": 0.2,
        "decoupled_decay": True,
        "clip_norm": 0.3,
    },
}


class Smooth(TinyTask):
    """A perceptron 12-5-3 with tanh, so that every derivative exists."""

    name = "smooth"

    def modules(self) -> nn.Module:
        return nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3))


@cache
def recorded(name: str) -> Trajectory:
    """Return a recorded run of two epochs of five batches, the last of four examples, in float64."""
    task = Smooth(**CASES[name])
    return record(TrainingRun(task, validate_data(task), ROWS, 3), dtype=torch.float64)


def reweighted(trajectory: Trajectory, weights: Mapping[int, float], smaller: bool = False) -> Tensor:
    """Train again on the recorded batches with weights on examples; return θ after every step, ``[T, P]``.

    Args:
        trajectory: Gives task, settings, seed, batches and rates.
        weights: Weight of a training row, 1 where not named.
        smaller: Divide by the sum of weights instead of |B|.
    """
    task, settings = trajectory.task, training_settings(trajectory.task)
    model, data = task.build_model(trajectory.seed), validate_data(task)["train"]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch_optimizer(settings, parameters)
    path = []
    for rows, rate in zip(trajectory.batches, trajectory.rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        weight = torch.tensor([weights.get(row, 1.0) for row in rows.tolist()], dtype=torch.float64)
        size = max(float(weight.sum()), 1.0) if smaller else len(rows)
        ((task.train_loss(model, take(data, rows)) * weight).sum() / size).backward()
        optimizer_step(settings, optimizer, parameters)
        path.append(torch.nn.utils.parameters_to_vector(parameters).detach())
    return torch.stack(path)


def outcome(trajectory: Trajectory, theta: Tensor, quantity: str = "losses") -> Tensor:
    """Return losses (or goodness) of the evaluation examples, ``[m]``, or ``[R, m]`` of θ ``[R, P]``."""
    return getattr(trajectory.objective_of("test"), quantity)(theta, POINTS)
