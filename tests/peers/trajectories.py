"""The training runs on which dattri-llm's trajectory methods and ours are compared: small, in float64, by our trainer.

Inputs are the pooled digits of :mod:`tests.peers.cases` above their background, of which some pixels are 0 in every
image: their gradients are 0 at every step, as is Adam's second moment. A perceptron 49-8-10 with tanh (490 parameters),
40 training examples in batches of 16, 16 and 8, four epochs: 12 steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from tda_backend.models.tasks import ClassificationTask
from tda_backend.types import Batch, TrainingSettings
from tests.peers.cases import PooledRegression, load_golden

NUM_TRAIN, NUM_QUERIES, TRAINING_SEED = 40, 8, 20_260_522
_SHARED = {"num_epochs": 4, "batch_size": 16, "learning_rate": 1e-2, "betas": (0.9, 0.95)}
RUNS: dict[str, TrainingSettings] = {
    "adamw": TrainingSettings(**_SHARED, optimizer="adamw"),
    "adamw-decay": TrainingSettings(**_SHARED, optimizer="adamw", weight_decay=0.5, schedule="linear", warmup=0.25),
    "adamw-clipped": TrainingSettings(**_SHARED, optimizer="adamw", clip_norm=0.7),
    "adam-coupled": TrainingSettings(**_SHARED, optimizer="adam", weight_decay=0.5),
    "sgd": TrainingSettings(num_epochs=4, batch_size=16, learning_rate=0.3),
}
"""What was trained. The last is for DVEmb, the unrolling of SGD."""
SHARE = 0.5
"""Share of each batch that the run with selection drops."""


class PooledPerceptron(ClassificationTask):
    """A perceptron on pooled digits, in float64; what is measured is the loss itself.

    Args:
        settings: How it is trained.
    """

    name = "mnist-pooled-mlp"
    num_classes = 10
    measurement_sign: Literal[-1, 1] = -1

    def __init__(self, settings: TrainingSettings) -> None:
        self.training = settings

    def datasets(self) -> dict[str, dict[str, Tensor]]:
        """Return 40 train and 8 test rows, float64 ``[N, 49]``."""
        full = PooledRegression().datasets()
        background = full["train"]["x"].min()
        return {
            split: {"x": full[split]["x"][:size] - background, "y": full[split]["y"][:size]}
            for split, size in (("train", NUM_TRAIN), ("test", NUM_QUERIES))
        }

    def build_model(self, seed: int) -> nn.Module:
        """Return the perceptron with parameters drawn from ``seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            single = {"dtype": torch.float32}  # the numbers drawn depend on it
            return nn.Sequential(nn.Linear(49, 8, **single), nn.Tanh(), nn.Linear(8, 10, **single)).double()

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss."""
        return self.train_loss(model, batch)


@dataclass(frozen=True)
class Run:
    """One stored run.

    Attributes:
        task: What was trained.
        start: θ before the first step, ``[P]``.
        end: θ after the last, ``[P]``.
        rows: The training rows of each step.
        rates: η of each step.
    """

    task: PooledPerceptron
    start: Tensor
    end: Tensor
    rows: tuple[Tensor, ...]
    rates: tuple[float, ...]


def load_run(name: str) -> Run:
    """Return a run from the golden file."""
    arrays = load_golden("dattri-llm")
    part = {key: arrays[f"{name}/{key}"] for key in ("start", "end", "rows", "sizes", "rates")}
    rows = torch.from_numpy(part["rows"].astype(np.int64)).split(part["sizes"].tolist())
    return Run(
        PooledPerceptron(RUNS[name]),
        torch.from_numpy(part["start"]),
        torch.from_numpy(part["end"]),
        tuple(rows),
        tuple(part["rates"].tolist()),
    )


def true_effects(run: Run) -> Tensor:
    """Return −d loss(query)/d weight of every occurrence, ``[occurrences, m]``, by autograd through the whole training.

    Nothing is linearised by hand here: PyTorch differentiates the twelve steps. Positive helps.
    """
    settings, data = run.task.training, run.task.datasets()
    model = run.task.build_model(0)
    shapes = {name: p.shape for name, p in model.named_parameters()}

    def losses(theta: Tensor, rows: Tensor, split: str) -> Tensor:
        parts = theta.split([shape.numel() for shape in shapes.values()])
        named = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        outputs = functional_call(model, named, (data[split]["x"][rows],))
        return cross_entropy(outputs, data[split]["y"][rows], reduction="none")

    weights = torch.ones(sum(len(rows) for rows in run.rows), dtype=torch.float64, requires_grad=True)
    theta = run.start.clone().requires_grad_()
    first, second = torch.zeros_like(theta), torch.zeros_like(theta)
    parts = weights.split([len(rows) for rows in run.rows])
    for step, (rows, rate, weight) in enumerate(zip(run.rows, run.rates, parts, strict=True), start=1):
        mean = (losses(theta, rows, "train") * weight).sum() / len(rows)
        gradient = torch.autograd.grad(mean, theta, create_graph=True)[0]
        if settings.clip_norm is not None:
            norm = gradient.square().sum().sqrt()
            gradient = gradient * (settings.clip_norm / (norm + 1e-6)).clamp(max=1)
        if settings.optimizer == "sgd":
            theta = theta - rate * gradient
            continue
        if settings.optimizer == "adam":
            gradient = gradient + settings.weight_decay * theta
        beta1, beta2 = settings.betas
        first = beta1 * first + (1 - beta1) * gradient
        second = beta2 * second + (1 - beta2) * gradient.square()
        square = second / (1 - beta2**step)
        alive = square > 0
        root = torch.where(alive, torch.where(alive, square, 1.0).sqrt(), 0.0)
        if settings.optimizer == "adamw":
            theta = theta * (1 - rate * settings.weight_decay)
        theta = theta - rate * (first / (1 - beta1**step)) / (root + settings.eps)
    assert torch.allclose(theta, run.end, atol=1e-12)
    final = losses(theta, torch.arange(NUM_QUERIES), "test")
    found = [torch.autograd.grad(loss, weights, retain_graph=True)[0] for loss in final]
    return -torch.stack(found, dim=1)
