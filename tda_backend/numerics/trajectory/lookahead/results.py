"""What a comparison of selection strategies needs and gives: data in four parts, and one run's course, choice, cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from tda_backend.errors import UsageError
from tda_backend.models.tasks.data import num_rows
from tda_backend.numerics.trajectory.lookahead.strategy import Strategy
from tda_backend.types import Batch

SPLITS = ("selection", "tuning", "test")


@dataclass(frozen=True)
class SelectionData:
    """What a comparison of strategies needs; no example should be in two of these.

    Attributes:
        candidates: Examples to choose from, n.
        selection: Scores look at the gradient of its mean loss.
        tuning: Horizon and learning rate are chosen by its loss.
        test: Seen by neither; only reported.
    """

    candidates: Batch
    selection: Batch
    tuning: Batch
    test: Batch

    def __post_init__(self) -> None:
        """Raise :class:`UsageError` if a part is empty or lacks a key."""
        keys = set(self.candidates)
        for name in ("candidates", *SPLITS):
            part = getattr(self, name)
            if set(part) != keys or not keys or num_rows(part) == 0:
                raise UsageError(
                    f'The part "{name}" of the data has keys {sorted(part)} and '
                    f"{num_rows(part) if part else 0} examples.",
                    f"Every part needs at least one example and the keys {sorted(keys)}.",
                )


@dataclass(frozen=True)
class Course:
    """How a run went on one split.

    Attributes:
        steps: After how many steps, ``[E]``; from 0 to T.
        loss: Mean training loss, ``[E]``.
        accuracy: Share of correct predictions, ``[E]``; NaN where the task has no classes.
    """

    steps: np.ndarray
    loss: np.ndarray
    accuracy: np.ndarray


@dataclass(frozen=True)
class Cost:
    """What a run took, without evaluating it.

    Attributes:
        gradients: Gradients of single examples: training, windows and the selection set.
        products: Hessian products of single examples.
        slopes: Derivatives of a single example's loss along one direction.
        in_gradients: All of these in gradients, by operations (:attr:`Counts.in_gradients`).
        full_data: Gradients that full-data training takes.
        seconds: Wall time.
    """

    gradients: int
    products: int
    slopes: int
    in_gradients: float
    full_data: int
    seconds: float

    @property
    def relative(self) -> float:
        """Operations relative to full-data training."""
        return self.in_gradients / self.full_data


@dataclass(frozen=True)
class WindowCheck:
    """Whether choosing did to the selection loss what its scores said, window by window.

    Scores are of first order and of one example each. The more is dropped at once, and the longer the window, the
    further what happens is from their sum: then a shorter horizon or a larger share is called for.

    Attributes:
        first_steps: First step of each window, from 1, ``[W]``.
        predicted: Change of the mean selection loss at the window's end, kept against all, that the scores add up to,
            ``[W]``: −Σ_t Σ_i w_ti·s_ti with w = |B|/k − 1 for the k kept examples of a batch and −1 for the others.
        real: The same as it came, ``[W]``; below 0 = choosing helped.
    """

    first_steps: np.ndarray
    predicted: np.ndarray
    real: np.ndarray


@dataclass(frozen=True)
class SelectionRun:
    """One training run of one strategy.

    Attributes:
        strategy: How examples were chosen.
        learning_rate: η₀.
        seed: Training seed.
        num_steps: T.
        courses: By split: ``selection``, ``tuning``, ``test``.
        test_losses: Of every test example at the end, float64 ``[m]``.
        test_correct: 1 or 0 for every test example at the end, ``[m]``; NaN where the task has no classes.
        rows: Candidate of each occurrence in the order of training, ``[O]``.
        steps: Its step, from 1, ``[O]``.
        scores: Its score, ``[O]``; NaN where none was computed. A score is of the candidate's gradient divided by
            its batch's size; larger = the strategy rather keeps it.
        kept: Whether it was trained on, bool ``[O]``.
        num_candidates: n.
        theta: Final parameters, ``[P]``.
        cost: What it took.
        check: Predicted and real effect of each window, where asked for.
    """

    strategy: Strategy
    learning_rate: float
    seed: int
    num_steps: int
    courses: Mapping[str, Course]
    test_losses: np.ndarray
    test_correct: np.ndarray
    rows: np.ndarray
    steps: np.ndarray
    scores: np.ndarray
    kept: np.ndarray
    num_candidates: int
    theta: Tensor
    cost: Cost
    check: WindowCheck | None = None

    @property
    def times_seen(self) -> np.ndarray:
        """How often each candidate came up, ``[n]``."""
        return np.bincount(self.rows, minlength=self.num_candidates)

    @property
    def times_kept(self) -> np.ndarray:
        """How often each candidate was trained on, ``[n]``."""
        return np.bincount(self.rows[self.kept], minlength=self.num_candidates)

    @property
    def mean_scores(self) -> np.ndarray:
        """Mean score of each candidate over its occurrences, ``[n]``; NaN where it has none."""
        total = np.bincount(self.rows, weights=self.scores, minlength=self.num_candidates)
        seen = self.times_seen
        return np.divide(total, seen, out=np.full(len(total), np.nan), where=seen > 0)

    def share_kept(self, marked: np.ndarray) -> float:
        """Return which share of the occurrences of marked candidates (bool ``[n]``) was kept; NaN if there is none."""
        chosen = np.asarray(marked, dtype=bool)[self.rows]
        return float(self.kept[chosen].mean()) if chosen.any() else math.nan
