"""Rows about training on examples that are selected while training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class SelectionRun:
    """One run with selection, judged on one split.

    Attributes:
        strategy: Who selects.
        horizon: K, steps looked ahead; ``None`` where the strategy has none.
        learning_rate: η of the run.
        seed_index: Its seed.
        num_steps: Steps of the run.
        split: ``selection``, ``tuning`` or ``test``.
        loss: Mean loss on it.
        accuracy: Or ``None`` without classes.
        gradient_evaluations: Examples differentiated, selection included.
        hessian_products: Products with curvatures.
        relative_cost: Operations relative to training on all examples; ``None``: not counted.
        seconds: Measured.
    """

    TABLE: ClassVar[str] = "lookahead_runs"
    strategy: str
    horizon: int | None
    learning_rate: float
    seed_index: int
    num_steps: int
    split: str
    loss: float | None
    accuracy: float | None
    gradient_evaluations: int
    hessian_products: int
    relative_cost: float | None
    seconds: float


@dataclass(frozen=True)
class SelectionCurve:
    """Losses of a run with selection while it trains; the losses are ``[s]`` after ``steps``."""

    TABLE: ClassVar[str] = "lookahead_curves"
    strategy: str
    horizon: int | None
    learning_rate: float
    seed_index: int
    steps: np.ndarray
    test_losses: np.ndarray


@dataclass(frozen=True)
class TunedStrategy:
    """A strategy with the K and learning rate of its lowest loss on the tuning set, judged on the test set (95 %)."""

    TABLE: ClassVar[str] = "lookahead_tuned"
    strategy: str
    horizon: int | None
    learning_rate: float
    tuning_loss: float
    test_loss: float
    loss_low: float | None
    loss_high: float | None
    test_accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    num_seeds: int


@dataclass(frozen=True)
class StrategyGain:
    """One tuned strategy against another on the test set, in pairs of seeds; positive: ``strategy`` is better."""

    TABLE: ClassVar[str] = "lookahead_gains"
    strategy: str
    against: str
    loss_gain: float | None
    loss_low: float | None
    loss_high: float | None
    accuracy_gain: float | None
    accuracy_low: float | None
    accuracy_high: float | None


@dataclass(frozen=True)
class SelectedExample:
    """How often a tuned strategy kept a training example of the times it was offered, over all seeds."""

    TABLE: ClassVar[str] = "lookahead_examples"
    strategy: str
    horizon: int | None
    learning_rate: float
    position: int
    times_seen: int
    times_kept: int
    mean_score: float | None

    @property
    def share(self) -> float:
        """Share of the times offered."""
        return self.times_kept / self.times_seen
