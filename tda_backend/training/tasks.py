"""The built-in tasks, and the base class that makes a person's own classification task short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tda_backend.training.data import shipped_arrays
from tda_backend.types import Batch, Display, Task, TrainingSettings

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081  # pixel mean and deviation of the full training set, as the papers use them


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the classification margin f = log(p_y / (1 − p_y)) of each row, ``[b]``.

    Computed as ``logit_y − logsumexp(other logits)``: the form log p − log(1 − p) overflows as p → 1
    (METHODS.md §0; Park et al. 2023, TRAK, §3).

    Args:
        logits: ``[b, classes]``.
        labels: Integer ``[b]``.
    """
    rows = labels[:, None]
    others = logits.scatter(1, rows, -torch.inf)
    return logits.gather(1, rows)[:, 0] - others.logsumexp(dim=1)


class ClassificationTask(Task):
    """Cross-entropy training, the margin as measurement, and images as display.

    A subclass gives ``name``, ``num_classes``, ``training``, :meth:`datasets` with keys ``x`` and ``y``, and
    :meth:`build_model`. Override :meth:`logits` for models that take more than ``x``.
    """

    measurement_sign = 1
    margin_identity = True
    input_key = "x"

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the class scores, ``[b, classes]``."""
        return model(batch[self.input_key])

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the cross-entropy −log p_y of each example, ``[b]``."""
        return functional.cross_entropy(self.logits(model, batch), batch[self.label_key], reduction="none")

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the :func:`margin` of each example, ``[b]``."""
        return margin(self.logits(model, batch), batch[self.label_key])

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits, ``[b, classes]``."""
        return self.logits(model, batch)

    def output_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the cross-entropy of given logits, ``[b]``."""
        return functional.cross_entropy(outputs, batch[self.label_key], reduction="none")

    def sample_targets(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return labels drawn from the softmax of the logits, int64 ``[b]``."""
        return torch.multinomial(outputs.softmax(dim=1), 1, generator=generator)[:, 0]

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the most likely class of each example, int64 ``[b]``."""
        return self.logits(model, batch).argmax(dim=1)


class MnistTask(ClassificationTask):
    """The shipped cut of MNIST: 7 000 training and 2 000 test images, normalised, as flat float32 ``[N, 784]``."""

    num_classes = 10
    class_names: Sequence[str] = tuple(str(digit) for digit in range(10))

    def __init__(self) -> None:
        self._datasets: dict[str, Any] | None = None

    def datasets(self) -> dict[str, Any]:
        """Return both splits as dicts of ``x`` float32 ``[N, 784]`` and ``y`` int64 ``[N]``; made once."""
        if self._datasets is None:
            arrays = shipped_arrays("mnist.npz")
            self._datasets = {}
            for split in ("train", "test"):
                pixels = torch.from_numpy(arrays[f"{split}_images"]).reshape(-1, 28 * 28)
                labels = torch.from_numpy(arrays[f"{split}_labels"].astype(np.int64))
                self._datasets[split] = {"x": (pixels.float() / 255 - MNIST_MEAN) / MNIST_STD, "y": labels}
        return self._datasets

    def show(self, split: str, index: int) -> Display:
        """Return the picture, uint8 ``[28, 28]``, white ink on black as in the files."""
        arrays = shipped_arrays("mnist.npz")
        label = int(arrays[f"{split}_labels"][index])
        return Display("image", caption=f"{split} digit {label}, #{index}", image=arrays[f"{split}_images"][index])


def _initialised(seed: int, build: Any) -> nn.Module:
    """Build a module from ``seed`` and leave the caller's random state as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


class MnistMLP(MnistTask):
    """MLP 784-128-64-10, ReLU, dropout 0.1 after each hidden layer; SGD 0.01, momentum 0.9, 50 epochs, batch 64.

    Source: *Taming Hyperparameter Sensitivity in Data Attribution* (arXiv 2505.24261), appendix A.
    """

    name = "mnist-mlp"
    training = TrainingSettings(num_epochs=50, batch_size=64, learning_rate=0.01, momentum=0.9)

    def build_model(self, seed: int) -> nn.Module:
        """Return the MLP with PyTorch's default initialisation from ``seed``."""

        def build() -> nn.Module:
            return nn.Sequential(
                nn.Linear(784, 128), nn.ReLU(), nn.Dropout(0.1),
                nn.Linear(128, 64), nn.ReLU(), nn.Dropout(0.1),
                nn.Linear(64, 10),
            )  # fmt: skip

        return _initialised(seed, build)


class MnistMLPEarly(MnistMLP):
    """The same MLP stopped after 3 epochs, far from convergence: where unrolling should beat influence functions.

    Source of the question: *Training Data Attribution via Approximate Unrolling* (arXiv 2405.12186), §5.
    """

    name = "mnist-mlp-early"
    training = TrainingSettings(num_epochs=3, batch_size=64, learning_rate=0.01, momentum=0.9)


class MnistLR(MnistTask):
    """Logistic regression 784→10; SGD 0.01, 20 epochs, batch 32.

    Source: *Taming Hyperparameter Sensitivity in Data Attribution* (arXiv 2505.24261), appendix A.
    """

    name = "mnist-lr"
    training = TrainingSettings(num_epochs=20, batch_size=32, learning_rate=0.01)

    def build_model(self, seed: int) -> nn.Module:
        """Return the linear classifier with PyTorch's default initialisation from ``seed``."""
        return _initialised(seed, lambda: nn.Sequential(nn.Linear(784, 10)))
