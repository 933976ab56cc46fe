"""The built-in tasks, and the base classes for a person's own."""

from __future__ import annotations

from collections.abc import Callable

from tda_backend.training.tasks.adaptive import MnistCNNAdamW, MnistMLPAdamW, MnistMLPGelu
from tda_backend.training.tasks.base import ClassificationTask, RegressionTask, margin
from tda_backend.training.tasks.images import (
    MNIST_MEAN,
    MNIST_STD,
    FashionLR,
    FashionMLP,
    FashionMLP128,
    FashionNoisy,
    MnistLR,
    MnistLROptimum,
    MnistMLP,
    MnistMLP512,
    MnistMLPEarly,
)
from tda_backend.training.tasks.language import SotuGPT
from tda_backend.training.tasks.rotated import RotatedMnist
from tda_backend.training.tasks.tables import (
    ConcreteLinear,
    ConcreteLinearOptimum,
    ConcreteMLP,
    DiabetesLR,
    DiabetesOptimum,
)
from tda_backend.types import Task

__all__ = ["BUILT_IN", "MNIST_MEAN", "MNIST_STD", "ClassificationTask", "MnistMLP", "RegressionTask", "margin"]

BUILT_IN: dict[str, Callable[[], Task]] = {
    made.name: made
    for made in (
        MnistMLP, MnistMLPEarly, MnistLR, MnistLROptimum, MnistMLP512,
        FashionMLP, FashionNoisy, FashionMLP128, FashionLR, RotatedMnist,
        ConcreteMLP, ConcreteLinear, ConcreteLinearOptimum, DiabetesLR, DiabetesOptimum,
        MnistMLPAdamW, MnistMLPGelu, MnistCNNAdamW, SotuGPT,
    )
}  # fmt: skip
"""What ``--task NAME`` knows by name."""
