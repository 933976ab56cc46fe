"""Small synthetic tasks: one per kind of model that the training routes must tell apart."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from tda_backend.models.tasks import ClassificationTask
from tda_backend.types import Batch, Task, TrainingSettings

NUM_TRAIN, NUM_TEST, WIDTH, CLASSES = 60, 21, 12, 3
SETTINGS = TrainingSettings(num_epochs=3, batch_size=8, learning_rate=0.1, momentum=0.9)


def made(seed: int, count: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return ``count`` noisy examples of a linear rule."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    rule = torch.randn(WIDTH, CLASSES, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    return {"x": x.to(dtype), "y": (x @ rule).argmax(1)}


class TinyTask(ClassificationTask):
    """A perceptron 12-9-7-3 with dropout, like mnist-mlp but small; float64 unless told."""

    name = "tiny"
    num_classes = CLASSES

    def __init__(self, dtype: torch.dtype = torch.float64, **settings) -> None:
        self.dtype = dtype
        self.training = replace(SETTINGS, **settings)

    def datasets(self):
        return {"train": made(1, NUM_TRAIN, self.dtype), "test": made(2, NUM_TEST, self.dtype)}

    def modules(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(WIDTH, 9),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(9, 7),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(7, CLASSES),
        )

    def build_model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.modules().to(self.dtype)


class Residual(nn.Module):
    """Not Sequential: the hand-written route does not fit, ``vmap`` does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.dropout = nn.Dropout(0.3)
        self.frozen = nn.Parameter(torch.ones(WIDTH), requires_grad=False)
        self.register_buffer("shift", torch.full((WIDTH,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = x + self.dropout(torch.tanh(self.first(x + self.shift) * self.frozen))
        return self.second(self.dropout(hidden))


class ResidualTask(TinyTask):
    """Stackable by ``torch.func``; calls one dropout layer twice."""

    name = "tiny-residual"

    def modules(self) -> nn.Module:
        return Residual()


class NormTask(TinyTask):
    """Running statistics: not stackable."""

    name = "tiny-norm"

    def modules(self) -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, CLASSES))


class Branching(nn.Module):
    """Control flow that depends on the data: not stackable."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if float(x.sum()) > 0 else self.linear(-x)


class BranchingTask(TinyTask):
    """See :class:`Branching`."""

    name = "tiny-branching"

    def modules(self) -> nn.Module:
        return Branching()


class OwnRandomness(nn.Module):
    """Dropout by function call, from PyTorch's generator: reproducible one by one, not stackable."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(functional.dropout(x, 0.2, self.training))


class OwnRandomnessTask(TinyTask):
    """See :class:`OwnRandomness`."""

    name = "tiny-own-randomness"

    def modules(self) -> nn.Module:
        return OwnRandomness()


class RegressionTask(Task):
    """Linear regression measured by absolute error: smaller is better, no margin."""

    name = "tiny-regression"
    measurement_sign = -1
    training = TrainingSettings(num_epochs=2, batch_size=16, learning_rate=0.05)

    def datasets(self):
        def split(seed: int, count: int) -> dict[str, Tensor]:
            x = made(seed, count, torch.float32)["x"]
            return {"x": x, "y": x[:, 0] - 2 * x[:, 1]}

        return {"train": split(1, NUM_TRAIN), "test": split(2, NUM_TEST)}

    def build_model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Linear(WIDTH, 1)

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch["x"])[:, 0] - batch["y"]).square()

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        return (model(batch["x"])[:, 0] - batch["y"]).abs()


class DivergingTask(TinyTask):
    """A learning rate at which float32 parameters overflow."""

    name = "tiny-diverging"

    def __init__(self) -> None:
        super().__init__(torch.float32, learning_rate=1e30, num_epochs=4)
