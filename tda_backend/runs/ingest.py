"""The server's side of the catalogue: own it, take in what runs drop, publish the snapshot."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import psutil

from tda_backend.errors import TDAError
from tda_backend.runs import jobs
from tda_backend.store import catalogue
from tda_backend.store.ingest import ingest_inbox
from tda_backend.store.workspace import Workspace, write_json

POLL_SECONDS = 0.2
RETRY_SECONDS = 2.0
SNAPSHOT_SECONDS = 1.0
logger = logging.getLogger(__name__)


class IngestLoop:
    """Owns the catalogue from :meth:`start` to :meth:`stop` and ingests in a thread of its own.

    Every ingest is in the snapshot within two seconds. If the catalogue cannot be opened, ``error`` says why and the
    loop tries again every two seconds; reads then raise the same error, so pages show it.

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

    def _own(self, patience: float) -> bool:
        try:
            catalogue.own(self.workspace, patience)
            catalogue.publish_snapshot(self.workspace)
            process = psutil.Process()
            write_json(self.workspace.server_file, {"pid": os.getpid(), "create_time": process.create_time()})
        except TDAError as error:
            if self.error is None or self.error.message != error.message:
                logger.warning("%s %s", error.message, error.hint)
            self.error = error
            catalogue.disown(self.workspace)
            return False
        self.error = None
        return True

    def _run(self) -> None:
        published, due = time.monotonic(), False
        while not self._stop.is_set():
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
                self._stop.wait(RETRY_SECONDS)
            self._stop.wait(POLL_SECONDS)
        if due and catalogue.owned_here(self.workspace):
            try:
                catalogue.publish_snapshot(self.workspace)
            except TDAError as error:
                self._note(error)

    def _ingest(self) -> int:
        with catalogue.writing(self.workspace) as connection:
            count = ingest_inbox(self.workspace, connection)
        self.version += count
        return count

    def _note(self, error: TDAError) -> None:
        if self.error is None or self.error.message != error.message:
            logger.warning("%s %s", error.message, error.hint)
        self.error = error
