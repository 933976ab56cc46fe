"""Which examples take part in a study, and with which labels: the split, and labels that are wrong on purpose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tda_backend.models.tasks.noise import flip_labels
from tda_backend.seeds import hashed_rng, hashed_seed
from tda_backend.types import Task


@dataclass(frozen=True)
class Draw:
    """How many examples take part in a study, and by which seed they are drawn.

    Attributes:
        train: n, from the train split.
        validation: v, from the test split.
        queries: m, from the rest of the test split.
        seed: Of the study.
        flip_labels: Share of the n labels that are flipped on purpose, ``None`` for a study that flips none.
    """

    train: int
    validation: int
    queries: int
    seed: int
    flip_labels: float | None = None


@dataclass(frozen=True)
class Split:
    """Which examples take part, ascending.

    Attributes:
        train: Rows of the train split, ``[n]``.
        validation: Rows of the test split, ``[v]``.
        queries: Rows of the test split, ``[m]``, none of them in ``validation``.
    """

    train: np.ndarray
    validation: np.ndarray
    queries: np.ndarray


def split_indices(draw: Draw, num_train: int, num_test: int) -> Split:
    """Draw which examples take part; a smaller draw of one seed is a part of a larger one."""
    train_order = hashed_rng("split", draw.seed, "train").permutation(num_train)
    test_order = hashed_rng("split", draw.seed, "test").permutation(num_test)
    return Split(
        train=np.sort(train_order[: draw.train]),
        validation=np.sort(test_order[: draw.validation]),
        queries=np.sort(test_order[draw.validation : draw.validation + draw.queries]),
    )


def study_labels(task: Task, labels: Tensor, draw: Draw, rows: np.ndarray) -> Tensor:
    """Return the training labels that a study works with: exactly ⌊``flip_labels``·n⌋ of its rows flipped.

    Args:
        task: Whose classes.
        labels: Of the train split as the task gives them, ``[N]``.
        draw: Share and seed.
        rows: The study's training rows within the train split, ``[n]``.
    """
    seed = hashed_seed("label-noise", draw.seed)
    return flip_labels(labels, rows, draw.flip_labels or 0.0, int(task.num_classes or 0), seed)[0]


@dataclass(frozen=True)
class LabelNoise:
    """Which of a study's training rows carry a wrong label.

    Attributes:
        positions: Their positions among the study's training rows, ascending, int ``[w]``.
        originals: Their right labels, ``[w]``; ``None`` where nobody knows them.
    """

    positions: np.ndarray
    originals: Tensor | None


def label_noise(task: Task, clean_labels: Tensor | None, labels: Tensor, rows: np.ndarray) -> LabelNoise | None:
    """Return which of a study's training rows carry a wrong label; ``None`` where nobody says.

    Args:
        task: May know of wrong labels in its own data (``noisy_rows``).
        clean_labels: The train split's labels as the task gives them, ``[N]``; ``None``: the study flips none.
        labels: Those that the study works with, ``[N]``.
        rows: The study's training rows within the train split, ``[n]``.
    """
    known = task.noisy_rows()
    if clean_labels is None and known is None:
        return None
    own = np.zeros(len(rows), dtype=bool) if known is None else np.asarray(known, dtype=bool)[rows]
    if clean_labels is None:
        return LabelNoise(np.flatnonzero(own), None)
    flipped = (clean_labels != labels).numpy()[rows]
    # A label that was wrong before and is flipped again counts as wrong; its right class is not known here.
    positions = np.flatnonzero(own | flipped)
    return LabelNoise(positions, clean_labels[rows[positions]] if known is None else None)
