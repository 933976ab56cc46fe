"""Effects of removed examples as the page looks at them: by example, and over the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import streamlit as st

from tda_backend.interfaces.reading.records.trajectory import RunEffects, RunPath
from tda_backend.numerics.evaluation.bootstrap import ranks
from tda_backend.numerics.evaluation.comparison import draws_from_ranks

NUM_BOOTSTRAP = 1000
UNKNOWN = "unknown"
"""Label of an example that nobody has here."""


@dataclass(frozen=True)
class Correlation:
    """Spearman's correlation with its 95 % bootstrap interval over the examples; NaN where it is not defined."""

    value: float
    low: float
    high: float


@st.cache_data(max_entries=64, show_spinner=False)
def correlation(predicted: tuple[float, ...], true: tuple[float, ...]) -> Correlation:
    """Return the rank correlation of two rows; NaN if one is constant."""
    left, right = np.asarray(predicted, dtype=np.float64)[:, None], np.asarray(true, dtype=np.float64)[:, None]
    if len(left) < 3 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return Correlation(math.nan, math.nan, math.nan)
    ranked = ranks(left)
    drawn = draws_from_ranks(ranked, right, NUM_BOOTSTRAP)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (math.nan, math.nan)
    return Correlation(float(ranked[:, 0] @ ranks(right)[:, 0]), float(low), float(high))


@dataclass(frozen=True)
class Effect:
    """What removing one training example changes; NaN where a number is missing.

    Attributes:
        position: Training position.
        label: Its label, or ``unknown``.
        true: True change of the loss.
        predicted: With the optimizer as trained.
        predicted_sgd: With SGD assumed.
        proxy: Estimate of the error.
        cheap: Its first term.
    """

    position: int
    label: str
    true: float
    predicted: float
    predicted_sgd: float
    proxy: float
    cheap: float

    @property
    def error(self) -> float:
        """True minus predicted."""
        return self.true - self.predicted


def effects_of(
    rows: Sequence[RunEffects], query: int | None, truth: str, labels: Mapping[int, str] | None = None
) -> list[Effect]:
    """Return the effects on one query (``None``: mean over queries), one for each removed example.

    Args:
        rows: Of one run.
        query: Which one.
        truth: ``fixed`` or ``smaller``: what the batch becomes without the example.
        labels: Training position → label.
    """
    row = next((row for row in rows if row.query == query), None)
    if row is None:
        return []
    true = row.truth if truth == "fixed" else row.truth_smaller
    lists = [_numbers(values, len(row.positions)) for values in (true, row.predicted, row.predicted_sgd)]
    lists += [_numbers(values, len(row.positions)) for values in (row.proxy, row.cheap)]
    known = labels or {}
    return [
        Effect(int(position), known.get(int(position), UNKNOWN), *map(float, numbers))
        for position, *numbers in zip(row.positions, *lists, strict=True)
    ]


def _numbers(values: np.ndarray | None, length: int) -> np.ndarray:
    return np.full(length, np.nan) if values is None else np.asarray(values, dtype=np.float64)


@dataclass(frozen=True)
class Prediction:
    """What was predicted under one assumption about the optimizer.

    Attributes:
        key: Of the figure's element.
        of: An effect → what was predicted.
        title: For people.
        has_scale: Whether it has the scale of the truth.
    """

    key: str
    of: Callable[[Effect], float]
    title: str
    has_scale: bool


def predictions(effects: Sequence[Effect], optimizer: str) -> list[Prediction]:
    """Return the predictions that a run has: with its own optimizer, and with SGD assumed."""
    found = [Prediction("effects-predicted", lambda effect: effect.predicted, f"{optimizer} assumed, as trained", True)]
    if not all(math.isnan(effect.predicted_sgd) for effect in effects):
        found.append(Prediction("effects-predicted_sgd", lambda effect: effect.predicted_sgd, "SGD assumed", False))
    return found


@dataclass(frozen=True)
class Paths:
    """Effects over the steps of one run, the largest true final effect first.

    Attributes:
        positions: Training positions, ``[c]``.
        steps: Steps trained, ``[s]``.
        seen: Steps whose batch holds each example.
        truth: ``[c, s]``, as predicted, proxy (NaN where there is none).
        predicted: ``[c, s]``.
        proxy: ``[c, s]``.
        sound: Whether the proxy is at most half of the prediction, ``[c]``: elsewhere neither is to be trusted.
    """

    positions: list[int]
    steps: np.ndarray
    seen: list[list[int]]
    truth: np.ndarray
    predicted: np.ndarray
    proxy: np.ndarray
    sound: list[bool]

    def of(self, position: int) -> Path:
        """Return the path of one example."""
        place = self.positions.index(position)
        return Path(
            position,
            self.steps,
            self.seen[place],
            self.truth[place],
            self.predicted[place],
            self.proxy[place],
            self.sound[place],
        )


@dataclass(frozen=True)
class Path:
    """The effect of one example over the steps; arrays ``[s]``, as in :class:`Paths`."""

    position: int
    steps: np.ndarray
    seen: list[int]
    truth: np.ndarray
    predicted: np.ndarray
    proxy: np.ndarray
    sound: bool


def paths_of(rows: Sequence[RunPath]) -> Paths | None:
    """Return the effects over the steps of one run as arrays, or ``None`` if there are none."""
    if not rows:
        return None
    ordered = sorted(rows, key=lambda row: -abs(float(row.truth[-1])))
    steps = np.asarray(ordered[0].steps, dtype=int)
    return Paths(
        positions=[row.position for row in ordered],
        steps=steps,
        seen=[[int(step) for step in row.seen] for row in ordered],
        truth=np.stack([_numbers(row.truth, len(steps)) for row in ordered]),
        predicted=np.stack([_numbers(row.predicted, len(steps)) for row in ordered]),
        proxy=np.stack([_numbers(row.proxy, len(steps)) for row in ordered]),
        sound=[row.sound is not False for row in ordered],
    )
