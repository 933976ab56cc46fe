"""A tiny smooth task whose training examples carry weights, trained by the project's own loop: truth by differences."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.models.training.routes.loop import LoopTrainer
from tda_backend.models.training.run import TrainingRun
from tda_backend.types import Batch
from tests.training.tiny import CLASSES, NUM_TRAIN, WIDTH, TinyTask

SEED, EPOCHS = 5, 2
ROWS, NUM_STEPS = np.array([9, 4, 17, 30, 2, 51, 44, 8]), 6
"""Batches of 3, 3 and 2 in each of two epochs."""
QUERIES = (0, 3, 7, 12)
OPTIMIZERS = {
    "sgd": {"momentum": 0.0, "learning_rate": 0.2},
    "momentum": {"momentum": 0.8, "learning_rate": 0.1},
    "adam": {"momentum": 0.0, "optimizer": "adam", "betas": (0.8, 0.95), "learning_rate": 0.02},
    "rmsprop": {"momentum": 0.0, "optimizer": "rmsprop", "smoothing": 0.9, "learning_rate": 0.02},
}
DECAYS = {
    "no decay": {},
    "L2 decay": {"weight_decay": 0.1, "decoupled_decay": False},
    "decoupled decay": {"weight_decay": 0.1, "decoupled_decay": True},
}
SCHEDULES = {
    "constant": {},
    "linear": {"schedule": "linear"},
    "cosine": {"schedule": "cosine"},
    "warm-up": {"schedule": "linear", "warmup": 0.4},
}
CLIPS = {"unclipped": {}, "all clipped": {"clip_norm": 0.1}, "some clipped": {"clip_norm": 1.0}}


class WeightedTask(TinyTask):
    """A perceptron 12-4-3 with tanh; ``weights`` ``[N]`` multiply the training losses."""

    name = "weighted"
    weights: Tensor | None = None

    def __init__(self, dtype: torch.dtype = torch.float64, **settings) -> None:
        super().__init__(dtype, **{"num_epochs": EPOCHS, "batch_size": 3, **settings})

    def datasets(self):
        data = super().datasets()
        return {split: {**batch, "row": torch.arange(len(batch["y"]))} for split, batch in data.items()}

    def modules(self) -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, 4), nn.Tanh(), nn.Linear(4, CLASSES))

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        losses = super().train_loss(model, batch)
        return losses if self.weights is None else losses * self.weights[batch["row"]]


def trained(task: WeightedTask, weights: Tensor) -> nn.Module:
    """Return the model that the project's training loop makes of weighted examples."""
    model = task.build_model(SEED)
    trainer = LoopTrainer(TrainingRun(task, task.datasets(), ROWS, SEED), model, task.training)
    task.weights = weights
    for epoch in range(1, task.training.num_epochs + 1):
        trainer.train_epoch(epoch)
    task.weights = None
    return model.eval()


def query_values(task: WeightedTask, model: nn.Module, quantity: str) -> Tensor:
    """Return loss or goodness of the queries, ``[m]``."""
    batch = {key: value[list(QUERIES)] for key, value in task.datasets()["test"].items()}
    with torch.no_grad():
        return task.train_loss(model, batch) if quantity == "loss" else task.measurement(model, batch)


def derivative(task: WeightedTask, direction: Tensor, quantity: str = "loss", width: float = 1e-4) -> Tensor:
    """Return d(query value)/dh of training with weights 1 + h·direction, ``[m]``; error O(width⁴)."""

    def difference(h: float) -> Tensor:
        ahead, behind = (query_values(task, trained(task, 1 + sign * h * direction), quantity) for sign in (1, -1))
        return (ahead - behind) / (2 * h)

    return (4 * difference(width) - difference(2 * width)) / 3


def over_rows(values: Tensor) -> Tensor:
    """Return ``values`` ``[n]`` of the trained rows as a direction over the whole split, ``[N]``."""
    direction = torch.zeros(NUM_TRAIN, dtype=torch.float64)
    direction[torch.from_numpy(ROWS)] = values
    return direction
