"""The way of finished steps from a run to the catalogue."""

from __future__ import annotations

import math
import time

from tda_backend.errors import CatalogueError
from tda_backend.studies.pipeline.plan import Plan
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.store import catalogue, faults, owners, repository
from tda_backend.studies.store.drop import Kinds
from tda_backend.studies.store.inbox import FinishedStep, pending_drops, write_drop
from tda_backend.studies.store.ingest import check_writable, ingest_inbox
from tda_backend.studies.store.workspace import Workspace

FINAL_PATIENCE_SECONDS = 10.0
INGEST_SECONDS = 0.5
"""Between two openings of the catalogue: each takes longer than a short step, so those are taken in together."""
LONG_SECONDS = 5.0
"""What a step may take, as its plan expects, for which results wait."""
STUDY = "study"


def take_in(workspace: Workspace, kinds: Kinds, patience: float = 0.0) -> None:
    """Ingest what waits in the inbox, unless a server does or somebody has the catalogue open: then it waits on."""
    if owners.server_lives(workspace):
        return
    try:
        with catalogue.writing(workspace, patience) as connection:
            ingest_inbox(workspace, connection, kinds)
    except catalogue.LockedError:
        return


class Courier:
    """Brings finished steps to the catalogue: drops them, and ingests them if no server does.

    Args:
        workspace: Whose catalogue.
        plan: Whose steps.
        kinds: What each kind of step says about its rows.

    Raises:
        CatalogueError: The catalogue cannot be used.
    """

    def __init__(self, workspace: Workspace, plan: Plan, kinds: Kinds) -> None:
        self._workspace, self._plan, self._kinds = workspace, plan, kinds
        self._known = self._prepare()
        self._dropped: set[str] = set()  # of this run; what was known may be replaced by it
        self._is_due, self._ingested = False, -math.inf

    def _prepare(self) -> set[str]:
        """Check the catalogue (creating it where nobody else has it) and return what it holds of this study."""
        if not owners.server_lives(self._workspace):
            try:
                with catalogue.writing(self._workspace, patience=1.0) as connection:
                    check_writable(self._workspace, connection)
                    ingest_inbox(self._workspace, connection, self._kinds)
            except catalogue.LockedError:
                pass  # somebody reads or owns it at the moment: drops wait
        try:
            known = {step.key: step.label for step in repository.ingested_steps(self._workspace, self._plan.study_id)}
        except catalogue.LockedError:
            return set()
        except CatalogueError:
            if owners.server_lives(self._workspace):
                return set()
            raise
        if self._plan.key in known:
            return set(known)
        # Another plan of the same study (the task's code changed) replaces it: then everything is delivered again, but
        # for what stays of one that this plan continues.
        stays = self._plan.record.get("continues") in known
        return {step.key for step in self._plan.steps if stays and known.get(step.key) == step.label}

    def deliver_study(self) -> None:
        """Drop the study itself, which the catalogue takes in before its steps."""
        self._is_due = self._drop(STUDY, FinishedStep(self._plan.study_id, self._plan.key, STUDY))

    def deliver(self, step: Step) -> None:
        """Drop one finished step unless the catalogue has it; :meth:`take_in` has it taken in."""
        is_new = self._drop(step.NAME, FinishedStep(self._plan.study_id, step.key, step.label, step.context()))
        self._is_due = self._is_due or is_new

    def take_in(self, expected_seconds: float) -> None:
        """Have taken in what was dropped, unless the last time was just now.

        Args:
            expected_seconds: How long nothing else will come, as far as one knows.
        """
        is_time = time.monotonic() - self._ingested >= INGEST_SECONDS or expected_seconds >= LONG_SECONDS
        if self._is_due and is_time:
            take_in(self._workspace, self._kinds)
            self._is_due, self._ingested = False, time.monotonic()

    def _drop(self, name: str, drop: FinishedStep) -> bool:
        """Return whether there was something to drop."""
        if drop.key in self._known and not drop.provisional:
            return False
        faults.reach(name, "undropped")
        write_drop(self._workspace, drop)
        self._known.add(drop.key)
        self._dropped.add(drop.key)
        return True

    def finish(self) -> int:
        """Wait a little until readers see everything; return how many drops, or studies, still wait."""
        deadline = time.monotonic() + FINAL_PATIENCE_SECONDS
        while self._is_awaited() and time.monotonic() < deadline:
            if owners.server_lives(self._workspace):
                time.sleep(0.1)
            else:
                take_in(self._workspace, self._kinds, deadline - time.monotonic())
        return len(pending_drops(self._workspace)) or int(self._is_awaited())

    def _is_awaited(self) -> bool:
        """Return whether drops wait, or a server has taken them in and not published what readers see meanwhile."""
        if pending_drops(self._workspace):
            return True
        return owners.server_lives(self._workspace) and not self._dropped <= self._seen()

    def _seen(self) -> set[str]:
        """Return what readers see of this study."""
        try:
            return repository.ingested(self._workspace, self._plan.study_id)
        except CatalogueError:
            return set()
