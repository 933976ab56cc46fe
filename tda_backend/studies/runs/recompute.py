"""Compute some steps of a finished study again and compare with what is stored: is it still what the code computes?"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tda_backend.errors import ArtifactError
from tda_backend.models.training.retraining.processes import close_pool
from tda_backend.studies.pipeline.compute import compute
from tda_backend.studies.pipeline.context import RunContext, no_progress
from tda_backend.studies.pipeline.plan import Plan
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactStore

TOLERANCE = 1e-4
"""Largest difference of a float array, as a share of its largest magnitude: float32 sums in another order differ so."""


@dataclass(frozen=True)
class Recomputed:
    """A step that was computed again.

    Attributes:
        step: Name of its kind.
        label: For people.
        deviation: Largest difference, as a share of the largest magnitude in the same array; infinite where text, whole
            numbers, shapes or places without a value differ.
        where: The array or column that differs most.
        seconds: That computing took.
    """

    step: str
    label: str
    deviation: float
    where: str
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether it is what is stored, within the tolerance."""
        return self.deviation <= TOLERANCE


class _Scratch(ArtifactStore):
    """Results go to a folder of their own; inputs come from the study's store."""

    def __init__(self, folder: Path, stored: ArtifactStore) -> None:
        super().__init__(folder)
        self._stored = stored

    def open(self, key: str) -> Artifact:
        return super().open(key) if self.has(key) else self._stored.open(key)


def sampled_steps(plan: Plan, store: ArtifactStore, num: int, seed: int) -> list[Step]:
    """Return some stored steps of a plan whose inputs are stored too, drawn with a seed, in the plan's order.

    Raises:
        ArtifactError: Nothing of the plan is stored: the study is not computed, or its task's code has changed.
    """
    there = [
        step for step in plan.steps if all(store.has(key) for key in (step.key, *(i.key for i in step.all_inputs())))
    ]
    if not there:
        raise ArtifactError(
            f"No step of study {plan.name} as its code is now is stored.",
            "The task's code or data have changed since, or it was computed on another device or torch: run it again.",
        )
    chosen = {step.key for step in random.Random(seed).sample(there, min(num, len(there)))}
    return [step for step in there if step.key in chosen]


def recompute(
    plan: Plan, store: ArtifactStore, steps: list[Step], on_step: Callable[[Step], None] = lambda step: None
) -> Iterator[Recomputed]:
    """Compute steps again, one after the other, and yield how each compares; nothing of it is kept.

    Args:
        plan: Of the study.
        store: Where its results lie; nothing is written there but below ``tmp``.
        steps: Which, with all of their inputs stored.
        on_step: Told before each is computed.

    Raises:
        ArtifactError: What is stored is damaged.
        TDAError: A step cannot be computed.
    """
    folder = store.temporary("verify")
    context = RunContext.begin(plan.study, plan.facts, plan.device, _Scratch(folder, store))
    try:
        for step in steps:
            on_step(step)
            stored = step.results(store.open(step.key))
            seconds = compute(context, step, no_progress)
            again = step.results(ArtifactStore(folder).open(step.key))
            where, deviation = _largest(stored, again)
            yield Recomputed(step.NAME, step.label, deviation, where, seconds)
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        close_pool()
        context.memo.clear()
        shutil.rmtree(folder, ignore_errors=True)


def _largest(stored: dict[str, np.ndarray], again: dict[str, np.ndarray]) -> tuple[str, float]:
    """Return the array that differs most, and by how much."""
    odd = sorted(stored.keys() ^ again.keys())
    if odd:
        return odd[0], np.inf
    found = {name: deviation(values, again[name]) for name, values in stored.items()}
    return max(found.items(), key=lambda pair: pair[1], default=("", 0.0))


def deviation(stored: np.ndarray, again: np.ndarray) -> float:
    """Return the largest difference as a share of the largest magnitude; infinite where they cannot be compared."""
    if stored.shape != again.shape:
        return np.inf
    if not (np.issubdtype(stored.dtype, np.inexact) and np.issubdtype(again.dtype, np.inexact)):
        return 0.0 if np.array_equal(stored, again) else np.inf
    first, second = np.asarray(stored, np.float64), np.asarray(again, np.float64)
    finite = np.isfinite(first)
    if not np.array_equal(finite, np.isfinite(second)) or not np.array_equal(
        first[~finite], second[~finite], equal_nan=True
    ):
        return np.inf
    if not finite.any():
        return 0.0
    scale = np.abs(first[finite]).max()
    difference = np.abs(first[finite] - second[finite]).max()
    return 0.0 if difference == 0 else float(difference / scale) if scale else np.inf
