"""Where the steps of a plan are computed: what the executor asks of a backend, and the one that is this process."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tda_backend.errors import DataError, NumericalError, OutOfMemory, TaskError, TDAError, UsageError
from tda_backend.models.training.retraining.processes import close_pool
from tda_backend.studies.pipeline.compute import compute
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.listener import Listener
from tda_backend.studies.pipeline.plan import Plan
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.store.artifacts import ArtifactStore

FAILURES = (NumericalError, TaskError, DataError, UsageError, OutOfMemory)
"""What is wrong with one configuration alone; a full disk or a lost catalogue ends a run."""


@dataclass(frozen=True)
class Ended:
    """A step that a backend has done with.

    Attributes:
        key: Of the step.
        seconds: That it took.
        error: Why there is no artifact; ``None``: there is one.
    """

    key: str
    seconds: float = 0.0
    error: TDAError | None = None


class Backend(Protocol):
    """Computes steps whose inputs are there, and tells the listener which ones it works on and how far they are."""

    def open(self, plan: Plan, store: ArtifactStore, listener: Listener) -> None:
        """Take notice of a plan, before all else; another one may follow once the backend was closed."""
        ...

    @property
    def room(self) -> int:
        """How many steps may be started now."""
        ...

    def start(self, steps: Sequence[Step], later: Sequence[Step]) -> None:
        """Start some steps, at most as many as there is room for.

        Args:
            steps: All that are ready, in the plan's order.
            later: What is to be computed after them, in the plan's order.
        """
        ...

    def wait(self) -> Sequence[Ended]:
        """Return steps that have ended since, at least one of those that were started."""
        ...

    def cancel(self) -> None:
        """End what is still computed."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


class LocalBackend:
    """This process: one step at a time, in the plan's order."""

    def __init__(self) -> None:
        self._context: RunContext | None = None
        self._steps: list[Step] = []
        self._later: Sequence[Step] = ()

    def open(self, plan: Plan, store: ArtifactStore, listener: Listener) -> None:
        """Clear what killed runs have left: whoever writes here is a process of this machine."""
        self._plan, self._store, self._listener = plan, store, listener
        store.clear_leftovers()

    @property
    def room(self) -> int:
        """One step."""
        return 1 - len(self._steps)

    def start(self, steps: Sequence[Step], later: Sequence[Step]) -> None:
        """Note what to compute."""
        self._steps.extend(steps)
        self._later = later

    def wait(self) -> Sequence[Ended]:
        """Compute it."""
        step = self._steps.pop()
        if self._context is None:
            plan = self._plan
            self._context = RunContext.begin(plan.study, plan.facts, plan.device, self._store, plan.block_share)
        self._context.later = self._later
        self._listener.step_started(step)
        try:
            seconds = compute(self._context, step, functools.partial(self._listener.step_progress, step))
        except TDAError as error:
            return [Ended(step.key, error=error)]
        if not _pool_is_wanted(self._later):
            close_pool()  # their memory is wanted for the spectra
        return [Ended(step.key, seconds)]

    def cancel(self) -> None:
        """Do nothing: an interrupt ends the step that is computed."""

    def close(self) -> None:
        """End the training processes and free the matrices that steps share."""
        close_pool()
        if self._context is not None:
            self._context.memo.clear()
            self._context = None


def _pool_is_wanted(later: Sequence[Step]) -> bool:
    """Return whether a step that trains comes so soon that the training processes are kept for it."""
    return any(step.POOL_REACH is not None and ahead < step.POOL_REACH for ahead, step in enumerate(later))
