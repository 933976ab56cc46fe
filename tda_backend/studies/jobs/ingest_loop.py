"""The server's side of the catalogue: own it, take in what runs drop, publish the snapshot, watch what was read."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tda_backend.errors import CatalogueError, MachineError, TDAError
from tda_backend.studies.jobs import jobs
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store import catalogue, owners
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.inbox import pending_drops, refused_drops
from tda_backend.studies.store.ingest import ingest_inbox
from tda_backend.studies.store.verification import changed_folders
from tda_backend.studies.store.workspace import Workspace

POLL_SECONDS = 0.2
RETRY_SECONDS = 2.0
SNAPSHOT_SECONDS = 1.0
WATCH_SECONDS = 2.0
STUCK_SECONDS = 60.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestHealth:
    """How the loop is.

    Attributes:
        is_alive: Whether its thread goes on: it lives, and turned within the last minute.
        owns_catalogue: Whether the catalogue is open for writing.
        error: Why results cannot be taken in at the moment; empty: they can.
        num_restarts: How often the loop failed in a way that nobody foresaw, and was started again.
        last_failure: How it failed last; empty: never.
        num_waiting: Drops that wait.
        num_refused: Drops that were set aside.
        num_damaged: Artifacts that were set aside.
    """

    is_alive: bool
    owns_catalogue: bool
    error: str
    num_restarts: int
    last_failure: str
    num_waiting: int
    num_refused: int
    num_damaged: int

    @property
    def is_well(self) -> bool:
        """Whether results are taken in."""
        return self.is_alive and self.owns_catalogue and not self.error


class IngestLoop:
    """Owns the catalogue from :meth:`start` to :meth:`stop` and ingests in a thread of its own.

    Every ingest is in the snapshot within two seconds. If the catalogue cannot be opened, ``error`` says why and the
    loop tries again every two seconds; reads then raise the same error, so pages show it. The thread does not end by an
    error, whatever it is: it notes it, opens the catalogue again and goes on.

    Attributes:
        version: Grows with every ingest: a token for caches.
        error: Why the catalogue cannot be owned or written at the moment, or ``None``.
    """

    def __init__(self, workspace: Workspace | str | Path | None = None) -> None:
        self.workspace = Workspace.at(workspace)
        self.version = 0
        self.error: TDAError | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._turned = time.monotonic()
        self._watched = 0.0
        self._num_restarts = 0
        self._last_failure = ""

    def start(self, patience: float = 10.0) -> IngestLoop:
        """Open the catalogue (waiting up to ``patience`` seconds for a short-lived writer) and begin."""
        try:
            self.workspace.create()
            jobs.mark_stale(self.workspace)
        except TDAError as error:
            self.error = error
        self._own(patience)
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stop, publish once more, and let go of the catalogue."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=30)
        if catalogue.owned_here(self.workspace):
            catalogue.disown(self.workspace)
            self.workspace.server_file.unlink(missing_ok=True)

    def __enter__(self) -> IngestLoop:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def health(self) -> IngestHealth:
        """Return how the loop is at this moment."""
        thread = self._thread
        turning = time.monotonic() - self._turned < STUCK_SECONDS
        error = self.error
        return IngestHealth(
            is_alive=thread is not None and thread.is_alive() and turning,
            owns_catalogue=catalogue.owned_here(self.workspace),
            error="" if error is None else str(error),
            num_restarts=self._num_restarts,
            last_failure=self._last_failure,
            num_waiting=len(pending_drops(self.workspace)),
            num_refused=len(refused_drops(self.workspace)),
            num_damaged=len(ArtifactStore(self.workspace.artifacts).set_aside_folders()),
        )

    def _own(self, patience: float) -> bool:
        try:
            catalogue.own(self.workspace, patience)
            catalogue.publish_snapshot(self.workspace)
            owners.announce(self.workspace)
        except TDAError as error:
            if self.error is None or self.error.message != error.message:
                logger.warning("%s %s", error.message, error.hint)
            self.error = error
            catalogue.disown(self.workspace)
            return False
        self.error = None
        return True

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._turn_until_stopped()
            except BaseException as error:  # nothing may end this thread unseen
                self._num_restarts += 1
                self._last_failure = f"{type(error).__name__}: {error}"[:500]
                logger.exception("taking in results failed; it is started again")
                self.error = MachineError(
                    f"Taking in results failed: {self._last_failure}", "It is tried again; see the server's log."
                )
                catalogue.disown(self.workspace)
                self._stop.wait(RETRY_SECONDS)

    def _turn_until_stopped(self) -> None:
        published, due = time.monotonic(), False
        while not self._stop.is_set():
            self._turn()
            self._watch()
            if not catalogue.owned_here(self.workspace) and not self._own(patience=0.0):
                self._stop.wait(RETRY_SECONDS)
                continue
            try:
                count = self._ingest()
                due = due or count > 0
                if due and time.monotonic() - published >= SNAPSHOT_SECONDS:
                    catalogue.publish_snapshot(self.workspace)
                    published, due = time.monotonic(), False
                self.error = None
            except TDAError as error:
                self._note(error)
                if isinstance(error, CatalogueError):
                    catalogue.disown(self.workspace)  # what DuckDB gave up must be opened again
                self._stop.wait(RETRY_SECONDS)
            self._stop.wait(POLL_SECONDS)
        if due and catalogue.owned_here(self.workspace):
            try:
                catalogue.publish_snapshot(self.workspace)
            except TDAError as error:
                self._note(error)

    def _turn(self) -> None:
        """Note that the thread goes on."""
        self._turned = time.monotonic()

    def _watch(self) -> None:
        """Verify again what has changed since this process read it, and set it aside where it is damaged."""
        if time.monotonic() - self._watched < WATCH_SECONDS:
            return
        self._watched = time.monotonic()
        for folder in changed_folders():
            self._turn()  # each may take long to read, and many are no standstill
            store = ArtifactStore(folder.parents[1])
            try:
                if folder.exists() and not store.usable(folder.name, thorough=True):
                    logger.warning("artifact %s was damaged and is set aside", folder.name)
            except TDAError as error:
                logger.warning("%s %s", error.message, error.hint)

    def _ingest(self) -> int:
        with catalogue.writing(self.workspace) as connection:
            count = ingest_inbox(self.workspace, connection, KINDS, self._turn)
        self.version += count
        return count

    def _note(self, error: TDAError) -> None:
        if self.error is None or self.error.message != error.message:
            logger.warning("%s %s", error.message, error.hint)
        self.error = error
