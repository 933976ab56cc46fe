"""The built-in tasks, and the base classes for a person's own."""

from __future__ import annotations

from tda_backend.models.tasks.base import ClassificationTask, RegressionTask, margin
from tda_backend.models.tasks.built_in import BUILT_IN
from tda_backend.models.tasks.built_in.images import MNIST_MEAN, MNIST_STD, MnistMLP

__all__ = ["BUILT_IN", "MNIST_MEAN", "MNIST_STD", "ClassificationTask", "MnistMLP", "RegressionTask", "margin"]
