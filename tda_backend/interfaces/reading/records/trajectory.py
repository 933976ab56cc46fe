"""Rows about training runs that were recorded and unrolled. ``seed_index`` ``None``: the mean over seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class RecordedRun:
    """One recorded run.

    Attributes:
        learning_rate: η of the run.
        seed_index: Its seed.
        optimizer: In words, as ``AdamW (betas 0.9, 0.95)``.
        num_steps: Steps.
        steps_per_epoch: Steps of an epoch.
        num_parameters: Parameters of the model.
        rates: Learning rate of every step.
        steps: Where losses were taken.
        losses: Mean loss of the queries there.
    """

    TABLE: ClassVar[str] = "trajectory_runs"
    learning_rate: float
    seed_index: int
    optimizer: str
    num_steps: int
    steps_per_epoch: int
    num_parameters: int
    rates: np.ndarray
    steps: np.ndarray
    losses: np.ndarray


@dataclass(frozen=True)
class RunAgreement:
    """Spearman over removed examples of predicted and true effects, mean over queries.

    Attributes:
        learning_rate: η of the run.
        seed_index: Its seed; ``None``: mean over seeds.
        assumed: Optimizer that the prediction assumes: ``as trained`` or ``sgd``.
        curvature: Second derivative of a batch.
        variant: Which truth: ``fixed`` or ``smaller`` batches.
        mean: NaN where it is not defined.
        ci_low: 95 % over removed examples.
        ci_high: Likewise.
        num_removed: Removed examples.
        num_queries: Queries.
        num_undefined: Queries without a correlation.
    """

    TABLE: ClassVar[str] = "trajectory_agreement"
    learning_rate: float
    seed_index: int | None
    assumed: str
    curvature: str
    variant: str
    mean: float
    ci_low: float
    ci_high: float
    num_removed: int
    num_queries: int
    num_undefined: int

    @property
    def is_matched(self) -> bool:
        """Whether the optimizer as trained is assumed."""
        return self.assumed == "as trained"


@dataclass(frozen=True)
class RunGain:
    """What it brings to assume the optimizer as trained instead of SGD, in pairs, with 95 % intervals."""

    TABLE: ClassVar[str] = "trajectory_gains"
    learning_rate: float
    seed_index: int | None
    curvature: str
    variant: str
    matched: float | None
    mismatched: float | None
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None


@dataclass(frozen=True)
class RunEffects:
    """Effects of removing single training examples on the loss of one query; positive: the example helps.

    Attributes:
        learning_rate: η of the run.
        seed_index: Its seed.
        query: Position; ``None``: mean over all queries.
        positions: Training positions removed, ``[c]``.
        truth: Batches keep their size in the mean, ``[c]``.
        truth_smaller: Batches are one smaller, ``[c]``.
        predicted: With the optimizer as trained, ``[c]``.
        predicted_sgd: With SGD assumed, ``[c]``.
        proxy: Estimate of truth − predicted, ``[c]``.
        cheap: Its first term, ``[c]``.
    """

    TABLE: ClassVar[str] = "trajectory_effects"
    learning_rate: float
    seed_index: int
    query: int | None
    positions: np.ndarray
    truth: np.ndarray | None
    truth_smaller: np.ndarray | None
    predicted: np.ndarray | None
    predicted_sgd: np.ndarray | None
    proxy: np.ndarray | None
    cheap: np.ndarray | None


@dataclass(frozen=True)
class RunError:
    """How large the error of the prediction is after some steps, and how well an estimate follows it.

    Attributes:
        learning_rate: η of the run.
        seed_index: Its seed; ``None``: mean over seeds.
        step: Steps trained.
        relative_error: mean |truth − predicted| / mean |truth|.
        error_low: 95 %.
        error_high: Likewise.
        estimator: ``proxy`` (full second order), ``cheap`` (its first term) or ``sound`` (the proxy where it is at
            most half of the prediction).
        pearson: Of estimate and error, with its interval.
        pearson_low: 95 %.
        pearson_high: Likewise.
        spearman: Likewise by ranks.
        spearman_low: 95 %.
        spearman_high: Likewise.
        slope: Of estimate against error.
        num_removed: Removed examples behind the row.
    """

    TABLE: ClassVar[str] = "trajectory_errors"
    learning_rate: float
    seed_index: int | None
    step: int
    mean_effect: float | None
    mean_error: float | None
    relative_error: float | None
    error_low: float | None
    error_high: float | None
    estimator: str
    pearson: float | None
    pearson_low: float | None
    pearson_high: float | None
    spearman: float | None
    spearman_low: float | None
    spearman_high: float | None
    slope: float | None
    num_removed: int

    @property
    def is_sound(self) -> bool:
        """Whether it is about the proxy where that is at most half of the prediction."""
        return self.estimator == "sound"


@dataclass(frozen=True)
class RunPath:
    """Effect of one training example on the mean loss of the queries, over the steps of a run.

    Attributes:
        learning_rate: η of the run.
        seed_index: Its seed.
        position: Training position.
        sound: The proxy is at most half of the prediction; ``None``: not known.
        seen: Steps whose batch holds it.
        steps: Steps trained, ``[s]``.
        truth: ``[s]``.
        predicted: ``[s]``.
        proxy: ``[s]``, or ``None``.
    """

    TABLE: ClassVar[str] = "trajectory_paths"
    learning_rate: float
    seed_index: int
    position: int
    sound: bool | None
    seen: np.ndarray
    steps: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    proxy: np.ndarray | None
