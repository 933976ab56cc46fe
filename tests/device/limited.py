"""Steps computed where memory is short: the stand-in with as many bytes for a step as a test gives it."""

from __future__ import annotations

import math
from collections.abc import Callable

from tda_backend.studies.pipeline import compute as pipeline
from tda_backend.studies.pipeline.context import Progress, RunContext
from tda_backend.studies.pipeline.step import Step
from tests.device.standin import with_memory

Most = Callable[[Step], float]


class Limited:
    """Takes the place of ``compute``, inside ``watching()``.

    Args:
        most: Bytes that a step's tensors on the stand-in may hold; those that are left of it count.

    Attributes:
        peaks: Label → bytes that the step held at most.
        refused: Label → how often there was no room.
        left: Label → bytes that it holds when it has ended.
        remarks: Label → what was said of it.
    """

    def __init__(self, most: Most = lambda step: math.inf) -> None:
        self._most, self._compute = most, pipeline.compute
        self.peaks: dict[str, int] = {}
        self.refused: dict[str, int] = {}
        self.left: dict[str, int] = {}
        self.remarks: dict[str, list[str]] = {}

    def __call__(self, context: RunContext, step: Step, on_progress: Progress) -> float:
        with with_memory(self._most(step)) as memory:
            try:
                seconds = self._compute(context, step, on_progress)
                self.remarks[step.label] = context.open(step).remarks
            finally:
                self.peaks[step.label], self.refused[step.label] = memory.peak, memory.refused
                self.left[step.label] = memory.held
        return seconds
