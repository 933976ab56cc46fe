"""Tasks of any number of made-up examples: a perceptron, whose gradients have factors, and a CNN, whose have none."""

from __future__ import annotations

from pathlib import Path

CODE = '''
import torch
from torch import nn
from tda_backend.models.tasks import ClassificationTask
from tda_backend.types import TrainingSettings

NUM_TRAIN, NUM_TEST = {num_train}, {num_test}


def made_up(shape, num, seed):
    """Ten overlapping classes with one label in ten wrong, so that gradients do not vanish."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (num,), generator=generator)
    centres = torch.randn(10, *shape, generator=torch.Generator().manual_seed(0))
    x = torch.randn(num, *shape, generator=generator)
    for rows in torch.arange(num).split(1000):  # no second copy: peaks are measured
        x[rows[0] : rows[-1] + 1].add_(centres[labels[rows]], alpha=0.2)
    wrong = torch.rand(num, generator=generator) < 0.1
    return {{"x": x, "y": torch.where(wrong, torch.randint(10, (num,), generator=generator), labels)}}


class Scale(ClassificationTask):
    num_classes = 10
    training = TrainingSettings(num_epochs=1, batch_size=64, learning_rate=0.01, momentum=0.9)
    _datasets = None

    def datasets(self):
        if self._datasets is None:
            self._datasets = {{
                "train": made_up(self.shape, NUM_TRAIN, 1), "test": made_up(self.shape, NUM_TEST, 2)
            }}
        return self._datasets

    def build_model(self, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.layers()


class Perceptron(Scale):
    name = "scale-perceptron"
    shape = (784,)

    def layers(self):
        return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


class Convolutional(Scale):
    name = "scale-cnn"
    shape = (1, 28, 28)

    def layers(self):
        return nn.Sequential(
            nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10),
        )


class LargeConvolutional(Scale):
    """1.7 million parameters."""
    name = "scale-large-cnn"
    shape = (1, 28, 28)

    def layers(self):
        return nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(9216, 184), nn.ReLU(), nn.Linear(184, 10),
        )


def perceptron():
    return Perceptron()


def cnn():
    return Convolutional()


def large_cnn():
    return LargeConvolutional()
'''

STUDY = """
name = "scale"
task = "scale_task.py:{task}"
[data]
train = {num_train}
validation = {num_validation}
queries = {num_queries}
[training]
epochs = [1]
[ground_truth]
subsets = 0
[projection]
kind = "{kind}"
max_dim = {max_dim}
[regularization]
count = 20
include_zero = false
[methods.iffim]
projection_dim = [{dim}]
[methods.trak]
projection_dim = [{dim}]
"""


def write_study(
    folder: Path,
    task: str,
    num_train: int,
    *,
    dim: int | str = 512,
    num_queries: int = 200,
    num_validation: int = 500,
    kind: str = "sparse",
) -> Path:
    """Write a task of ``num_train`` examples and a study of it into ``folder``: IFFIM and TRAK at 20 λ, no retraining.

    Args:
        folder: Where.
        task: ``perceptron``, ``cnn``, or ``large_cnn``.
        num_train: n.
        dim: k, or ``none``.
        num_queries: m.
        num_validation: v.
        kind: Of projection.
    """
    code = CODE.format(num_train=num_train, num_test=num_queries + num_validation)
    (folder / "scale_task.py").write_text(code, encoding="utf-8")
    text = STUDY.format(
        task=task,
        num_train=num_train,
        num_validation=num_validation,
        num_queries=num_queries,
        kind=kind,
        dim=f'"{dim}"' if isinstance(dim, str) else dim,
        max_dim=512 if isinstance(dim, str) else dim,
    )
    path = folder / "scale.toml"
    path.write_text(text, encoding="utf-8")
    return path
