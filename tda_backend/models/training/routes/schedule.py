"""What all routes share of mini-batch training: order, step counts, learning rates, many tensors at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tda_backend.seeds import hashed_rng
from tda_backend.types import TrainingSettings

StepHook = Callable[[Mapping[str, Tensor], Tensor, float], None]
"""Called before every step with the live parameters and buffers, the batch's rows ``[b]`` and the learning rate."""


class Trainer(Protocol):
    """What every route offers: one epoch at a time for one or several models."""

    def train_epoch(self, epoch: int) -> None:
        """Run one epoch, 1-based."""
        ...

    def states(self) -> list[dict[str, Tensor]]:
        """Return a copy of each model's state dict, on the CPU."""
        ...


foreach_add = torch._foreach_add_  # type: ignore[reportPrivateImportUsage]  # torch has no public name for it
foreach_multiply = torch._foreach_mul_  # type: ignore[reportPrivateImportUsage]  # likewise


def training_order(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    """Return the order in which one epoch visits its examples: a permutation of 0…N−1, int64 ``[N]``."""
    return hashed_rng("order", seed, epoch).permutation(num_examples)


def steps_per_epoch(settings: TrainingSettings, num_examples: int) -> int:
    """Return the number of steps in an epoch; the last partial batch is kept."""
    return -(-num_examples // settings.batch_size)


def learning_rate(settings: TrainingSettings, step: int, total_steps: int) -> float:
    """Return η of ``step`` (0-based) of ``total_steps``.

    constant: η₀; linear: η₀·(1 − t/T); cosine: η₀·(1 + cos(π·t/T))/2; each times min(1, (t + 1)/(warmup·T)).
    """
    fraction, rate = step / total_steps, settings.learning_rate
    if settings.schedule == "linear":
        rate = settings.learning_rate * (1 - fraction)
    elif settings.schedule == "cosine":
        rate = settings.learning_rate * (1 + math.cos(math.pi * fraction)) / 2
    rising = settings.warmup * total_steps
    return rate * (step + 1) / rising if step + 1 < rising else rate
