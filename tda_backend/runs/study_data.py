"""Which examples take part in a study, and with which labels: the split, and labels that are wrong on purpose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from tda_backend.seeds import hashed_rng, hashed_seed
from tda_backend.training.noise import flip_labels
from tda_backend.types import Batch, Task


def split_indices(settings: Mapping[str, Any], num_train: int, num_test: int) -> dict[str, np.ndarray]:
    """Draw which examples take part: ascending train indices; validation and queries disjoint in the test set."""
    train_order = hashed_rng("split", settings["seed"], "train").permutation(num_train)
    test_order = hashed_rng("split", settings["seed"], "test").permutation(num_test)
    validation, queries = settings["validation"], settings["queries"]
    return {
        "train": np.sort(train_order[: settings["train"]]),
        "validation": np.sort(test_order[:validation]),
        "queries": np.sort(test_order[validation : validation + queries]),
    }


def study_labels(task: Task, data: Mapping[str, Batch], settings: Mapping[str, Any], rows: np.ndarray) -> Tensor:
    """Return the training labels that a study works with: exactly ⌊``flip_labels``·n⌋ of its rows flipped.

    Args:
        task: Whose labels.
        data: The splits as the task gives them.
        settings: ``flip_labels`` and ``seed`` of the study.
        rows: The study's training rows within the train split, ``[n]``.
    """
    labels = data["train"][task.label_key]
    seed = hashed_seed("label-noise", settings["seed"])
    return flip_labels(labels, rows, settings["flip_labels"], int(task.num_classes or 0), seed)[0]


@dataclass(frozen=True)
class LabelNoise:
    """Which of a study's training rows carry a wrong label.

    Attributes:
        positions: Their positions among the study's training rows, ascending, int ``[w]``.
        originals: Their right labels, ``[w]``; ``None`` where nobody knows them.
    """

    positions: np.ndarray
    originals: Tensor | None


def label_noise(
    task: Task, clean_labels: Tensor | None, data: Mapping[str, Batch], rows: np.ndarray
) -> LabelNoise | None:
    """Return which of a study's training rows carry a wrong label; ``None`` where nobody says.

    Args:
        task: May know of wrong labels in its own data (``noisy_rows``).
        clean_labels: The train split's labels as the task gives them, ``[N]``; ``None``: the study flips none.
        data: What the study works with.
        rows: The study's training rows within the train split, ``[n]``.
    """
    known = task.noisy_rows()
    if clean_labels is None and known is None:
        return None
    own = np.zeros(len(rows), dtype=bool) if known is None else np.asarray(known, dtype=bool)[rows]
    if clean_labels is None:
        return LabelNoise(np.flatnonzero(own), None)
    flipped = (clean_labels != data["train"][task.label_key]).numpy()[rows]
    # A label that was wrong before and is flipped again counts as wrong; its right class is not known here.
    positions = np.flatnonzero(own | flipped)
    return LabelNoise(positions, clean_labels[rows[positions]] if known is None else None)
