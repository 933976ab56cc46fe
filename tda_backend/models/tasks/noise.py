"""Label noise with an exact number of wrong labels: the ground truth of finding mislabelled examples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tda_backend.errors import DataError, UsageError
from tda_backend.seeds import hashed_rng


def flip_labels(
    labels: Tensor, rows: Sequence[int] | np.ndarray | Tensor, fraction: float, num_classes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Give exactly ⌊fraction·n⌋ of ``rows`` another class, drawn evenly among the other classes.

    The flipped rows of a smaller fraction are flipped by a larger one too, to the same classes. METHODS.md §7 (noisy
    labels); SOURCE (arXiv 2405.12186) §B.1 relabels 30 % of Fashion-MNIST.

    Args:
        labels: Classes of the whole training split, int ``[N]``; stays as it is.
        rows: Rows that may be flipped (a study's training rows), distinct, ``[n]``.
        fraction: Share of ``rows`` to flip, in [0, 1].
        num_classes: Number of classes.
        seed: What the draw depends on, besides the order of ``rows``.

    Returns:
        (labels with noise, int ``[N]``; which of them changed, bool ``[N]``).

    Raises:
        UsageError: A fraction outside [0, 1], or rows that repeat or lie out of range.
        DataError: Fewer than two classes, or a label outside 0…num_classes−1.
    """
    if not 0 <= fraction <= 1:
        raise UsageError(f"The share of labels to flip is {fraction}.", "It lies in [0, 1].")
    if num_classes < 2:
        raise DataError(
            f"Labels of {num_classes} class{'' if num_classes == 1 else 'es'} cannot be flipped.",
            "Flipping gives an example another class, so at least 2 are needed.",
        )
    positions = np.asarray(rows, dtype=np.int64)
    if positions.ndim != 1 or len(np.unique(positions)) != len(positions):
        raise UsageError("The rows whose labels to flip repeat, or are no list.", "Give distinct row numbers.")
    if len(positions) and (positions.min() < 0 or positions.max() >= len(labels)):
        raise UsageError(
            f"Rows {positions.min()}…{positions.max()} are to be flipped.", f"Allowed: 0…{len(labels) - 1}."
        )
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= num_classes):
        raise DataError(
            f"Labels lie in {int(labels.min())}…{int(labels.max())}.", f"Classes are numbered 0…{num_classes - 1}."
        )
    rng = hashed_rng("label-noise", seed)
    # Everything is drawn for all rows before the count decides, so that smaller fractions are prefixes of larger ones.
    order = rng.permutation(len(positions))
    steps = rng.integers(1, num_classes, size=len(positions))
    # 0.3 · 10 is 2.9999…: the tolerance keeps the count that the person meant.
    count = math.floor(fraction * len(positions) + 1e-9)
    chosen = torch.from_numpy(positions[order[:count]]).to(labels.device)
    noisy = labels.clone()
    moved = labels[chosen].to(torch.int64) + torch.from_numpy(steps[:count]).to(labels.device)
    noisy[chosen] = (moved % num_classes).to(labels.dtype)
    flipped = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    flipped[chosen] = True
    return noisy, flipped
