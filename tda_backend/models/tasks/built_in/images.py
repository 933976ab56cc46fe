"""The tasks on the shipped pictures: MNIST and Fashion-MNIST with the papers' models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.models.tasks.base import ClassificationTask, perceptron
from tda_backend.models.tasks.data import shipped_arrays
from tda_backend.models.tasks.noise import flip_labels
from tda_backend.types import Display, TrainingSettings

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081  # pixel mean and deviation of the full training set, as the papers use them
FASHION_MEAN, FASHION_STD = 0.2860, 0.3530
FASHION_FILES = ("fashion_mnist_train_a.npz", "fashion_mnist_train_b.npz", "fashion_mnist_test.npz")
PIXELS = 28 * 28


@cache
def joined_arrays(names: tuple[str, ...]) -> Mapping[str, np.ndarray]:
    """Return the arrays of several shipped files; those of one name are joined along the examples."""
    parts: dict[str, list[np.ndarray]] = {}
    for name in names:
        for key, array in shipped_arrays(name).items():
            parts.setdefault(key, []).append(array)
    return {key: arrays[0] if len(arrays) == 1 else np.concatenate(arrays) for key, arrays in parts.items()}


class ImageTask(ClassificationTask):
    """A shipped cut of 7 000 training and 2 000 test pictures, normalised, as flat float32 ``[N, 784]``.

    A subclass gives ``files``, the pixels' mean and deviation, and what they are called.
    """

    num_classes = 10
    files: tuple[str, ...] = ()
    pixel_mean: float = 0.0
    pixel_std: float = 1.0
    noun: str = "picture"

    def __init__(self) -> None:
        self._datasets: dict[str, Any] | None = None

    def labels(self, split: str) -> Tensor:
        """Return the classes of a split, int64 ``[N]``."""
        return torch.from_numpy(joined_arrays(self.files)[f"{split}_labels"].astype(np.int64))

    def images(self, split: str) -> np.ndarray:
        """Return the pictures of a split as a person sees them, uint8 ``[N, 28, 28]``."""
        return joined_arrays(self.files)[f"{split}_images"]

    def normalised(self, images: np.ndarray) -> Tensor:
        """Return pictures as the model sees them, float32 ``[N, 784]``."""
        pixels = torch.from_numpy(images).reshape(-1, PIXELS)
        return (pixels.float() / 255 - self.pixel_mean) / self.pixel_std

    def datasets(self) -> dict[str, Any]:
        """Return both splits as dicts of ``x`` float32 ``[N, 784]`` and ``y`` int64 ``[N]``; made once."""
        if self._datasets is None:
            self._datasets = {
                split: {"x": self.normalised(self.images(split)), "y": self.labels(split)}
                for split in ("train", "test")
            }
        return self._datasets

    def class_text(self, label: int) -> str:
        """Return the name of a class."""
        return str(self.class_names[label]) if self.class_names else str(label)

    def show(self, split: str, index: int) -> Display:
        """Return the picture, uint8 ``[28, 28]``, light on black as in the files."""
        label = self.class_text(int(self.labels(split)[index]))
        return Display("image", caption=f"{split} {self.noun} {label}, #{index}", image=self.images(split)[index])


class MnistTask(ImageTask):
    """The shipped cut of MNIST."""

    class_names: Sequence[str] = tuple(str(digit) for digit in range(10))
    files = ("mnist.npz",)
    pixel_mean, pixel_std = MNIST_MEAN, MNIST_STD
    noun = "digit"


class FashionTask(ImageTask):
    """The shipped cut of Fashion-MNIST."""

    class_names: Sequence[str] = (
        "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
    )  # fmt: skip
    files = FASHION_FILES
    pixel_mean, pixel_std = FASHION_MEAN, FASHION_STD


class MnistMLP(MnistTask):
    """MLP 784-128-64-10, ReLU, dropout 0.1 after each hidden layer; SGD 0.01, momentum 0.9, 50 epochs, batch 64.

    Source: *Taming Hyperparameter Sensitivity in Data Attribution* (arXiv 2505.24261), appendix A.
    """

    name = "mnist-mlp"
    training = TrainingSettings(num_epochs=50, batch_size=64, learning_rate=0.01, momentum=0.9)

    def build_model(self, seed: int) -> nn.Module:
        """Return the MLP with PyTorch's default initialisation from ``seed``."""
        return perceptron((PIXELS, 128, 64, 10), seed, dropout=0.1)


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
        return perceptron((PIXELS, 10), seed)


class MnistLROptimum(MnistLR):
    """The same classifier at the exact optimum of its loss with an L2 penalty: where influence functions must be right.

    Source of the question: *Training Data Attribution via Approximate Unrolling* (arXiv 2405.12186), §E.3.
    """

    name = "mnist-lr-optimum"
    training = TrainingSettings(
        num_epochs=1, batch_size=32, learning_rate=0.01, weight_decay=1e-3, optimizer="lbfgs"
    )  # fmt: skip


class _SourceMLP(ImageTask):
    """MLP 784-512-256-128-10, ReLU; SGD 0.03, momentum 0.9, decay 1e-3, 20 epochs, batch 64.

    Source: *Training Data Attribution via Approximate Unrolling* (arXiv 2405.12186), §B.1.
    """

    training = TrainingSettings(num_epochs=20, batch_size=64, learning_rate=0.03, momentum=0.9, weight_decay=1e-3)

    def build_model(self, seed: int) -> nn.Module:
        """Return the MLP with PyTorch's default initialisation from ``seed``."""
        return perceptron((PIXELS, 512, 256, 128, 10), seed)


class MnistMLP512(_SourceMLP, MnistTask):
    """SOURCE's MLP 784-512-256-128-10 and settings on MNIST (arXiv 2405.12186, §B.1)."""

    name = "mnist-mlp-512"


class FashionMLP(_SourceMLP, FashionTask):
    """SOURCE's MLP 784-512-256-128-10 and settings on Fashion-MNIST (arXiv 2405.12186, §B.1)."""

    name = "fmnist-mlp"


class FashionNoisy(FashionMLP):
    """Fashion-MNIST with 30 % of the training labels changed to another class, stopped after 3 epochs.

    Source: *Training Data Attribution via Approximate Unrolling* (arXiv 2405.12186), §5.3 and §B.1 (FashionMNIST-N).
    """

    name = "fmnist-noisy"
    training = TrainingSettings(num_epochs=3, batch_size=64, learning_rate=0.01, momentum=0.9, weight_decay=3e-5)
    noise_fraction, noise_seed = 0.3, 20240520

    def __init__(self) -> None:
        super().__init__()
        clean = super().labels("train")
        classes = self.num_classes or 0
        self._noisy, self._flipped = flip_labels(
            clean, range(len(clean)), self.noise_fraction, classes, self.noise_seed
        )  # fmt: skip

    def labels(self, split: str) -> Tensor:
        """Return the classes of a split, those of the training split with noise, int64 ``[N]``."""
        return self._noisy if split == "train" else super().labels(split)

    def noisy_rows(self) -> Tensor:
        """Return which training labels were changed, bool ``[N]``."""
        return self._flipped

    def show(self, split: str, index: int) -> Display:
        """Return the picture; the caption of a wrongly labelled one also gives its true class."""
        shown = super().show(split, index)
        if split == "train" and bool(self._flipped[index]):
            truth = self.class_text(int(super().labels(split)[index]))
            return Display("image", caption=f"{shown.caption} (in truth {truth})", image=shown.image)
        return shown


class FashionMLP128(FashionTask):
    """Taming's MLP 784-128-64-10 with dropout 0.1 and its settings on Fashion-MNIST (arXiv 2505.24261, appendix A)."""

    name = "fmnist-mlp-128"
    training = MnistMLP.training

    def build_model(self, seed: int) -> nn.Module:
        """Return the MLP with PyTorch's default initialisation from ``seed``."""
        return perceptron((PIXELS, 128, 64, 10), seed, dropout=0.1)


class FashionLR(FashionTask):
    """Logistic regression 784→10 on Fashion-MNIST; SGD 0.01, 20 epochs, batch 32, as ``mnist-lr``."""

    name = "fmnist-lr"
    training = MnistLR.training

    def build_model(self, seed: int) -> nn.Module:
        """Return the linear classifier with PyTorch's default initialisation from ``seed``."""
        return perceptron((PIXELS, 10), seed)


TASKS = (
    MnistMLP,
    MnistMLPEarly,
    MnistLR,
    MnistLROptimum,
    MnistMLP512,
    FashionMLP,
    FashionNoisy,
    FashionMLP128,
    FashionLR,
)
PLACE = 1
