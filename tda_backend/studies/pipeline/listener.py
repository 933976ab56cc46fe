"""Who is told about a run's progress."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from tda_backend.errors import TDAError
from tda_backend.studies.pipeline.plan import Plan
from tda_backend.studies.pipeline.step import Step


class Listener(Protocol):
    """What is told about a run's progress."""

    def planned(self, plan: Plan) -> None:
        """The plan's record is stored: it says what the run needs, so that nothing of it is removed."""

    def looked_at(self, done: int, total: int) -> None:
        """So many of the plan's steps have been looked at: are their results stored, and whole?"""

    def begin(self, plan: Plan, cached: Mapping[str, bool]) -> None: ...

    def step_started(self, step: Step) -> None: ...

    def step_progress(self, step: Step, done: int, total: int) -> None: ...

    def step_finished(self, step: Step, seconds: float, cached: bool) -> None: ...

    def step_remarked(self, step: Step, remark: str) -> None:
        """What is worth saying of how a step was computed that has just finished."""

    def step_failed(self, step: Step, error: TDAError) -> None: ...
