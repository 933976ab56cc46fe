"""RotatedMNIST in two stages: the case where a model goes on to be trained on other data."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import scipy
import torch

from tda_backend.models.tasks.base import perceptron
from tda_backend.models.tasks.built_in.images import PIXELS, MnistTask
from tda_backend.seeds import hashed_rng
from tda_backend.types import Display, Stage, TrainingSettings

FIRST_ANGLES, SECOND_ANGLE = (0, 15, 30, 45), 60
ANGLES = (*FIRST_ANGLES, SECOND_ANGLE)


def rotated(images: np.ndarray, degrees: float) -> np.ndarray:
    """Return pictures turned counter-clockwise about their centre by bilinear interpolation, black where nothing was.

    Args:
        images: uint8 ``[N, h, w]``.
        degrees: The angle.
    """
    if degrees % 360 == 0:
        return images
    turned = scipy.ndimage.rotate(
        images.astype(np.float32), degrees, axes=(1, 2), reshape=False, order=1, mode="grid-constant"
    )
    return np.clip(np.rint(turned), 0, 255).astype(np.uint8)


@cache
def _domains(split: str, count: int) -> np.ndarray:
    """Return the number of each example's angle: five equal shares of training data, the last angle of test data."""
    if split == "test":
        return np.full(count, len(ANGLES) - 1)
    places = np.empty(count, dtype=np.int64)
    places[hashed_rng("rotated-mnist", split).permutation(count)] = np.arange(count)
    return places % len(ANGLES)


class RotatedMnist(MnistTask):
    """MLP 784-512-256-128-10 trained on four angles, then on a fifth; queries and effects are of the fifth.

    Each training picture is turned by one angle: 0, 15, 30 or 45° (first stage, 5 600 of 7 000) or 60° (second stage);
    test pictures by 60°. SGD 0.03, momentum 0.9, decay 1e-3, batch 64, 10 + 10 epochs.

    Source: *Training Data Attribution via Approximate Unrolling* (arXiv 2405.12186), §5.3 and §B.1. The text we have
    lost its numbers there: which angle comes second, epochs and rates are ours (rates those of its MNIST model).
    """

    name = "rotated-mnist"
    training = TrainingSettings(num_epochs=20, batch_size=64, learning_rate=0.03, momentum=0.9, weight_decay=1e-3)
    stages = (Stage("0, 15, 30 and 45°", 10), Stage("60°", 10))

    def __init__(self) -> None:
        super().__init__()
        self._turned: dict[str, np.ndarray] = {}

    def images(self, split: str) -> np.ndarray:
        """Return the turned pictures of a split, uint8 ``[N, 28, 28]``; made once."""
        if split not in self._turned:
            upright = super().images(split)
            domains = _domains(split, len(upright))
            turned = np.empty_like(upright)
            for number, degrees in enumerate(ANGLES):
                members = domains == number
                if members.any():
                    turned[members] = rotated(upright[members], degrees)
            self._turned[split] = turned
        return self._turned[split]

    def datasets(self) -> dict[str, Any]:
        """Return both splits with ``x``, ``y`` and ``stage``, int64 ``[N]``: 1 where the picture is turned by 60°."""
        plain = super().datasets()
        for split, batch in plain.items():
            domains = _domains(split, len(batch["y"]))
            batch[self.stage_key] = torch.from_numpy((domains == len(ANGLES) - 1).astype(np.int64))
        return plain

    def build_model(self, seed: int) -> torch.nn.Module:
        """Return the MLP with PyTorch's default initialisation from ``seed``."""
        return perceptron((PIXELS, 512, 256, 128, 10), seed)

    def show(self, split: str, index: int) -> Display:
        """Return the turned picture; the caption gives its angle."""
        shown = super().show(split, index)
        degrees = ANGLES[_domains(split, len(self.images(split)))[index]]
        return Display("image", caption=f"{shown.caption}, turned by {degrees}°", image=shown.image)


TASKS = (RotatedMnist,)
PLACE = 2
