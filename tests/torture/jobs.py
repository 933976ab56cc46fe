"""What the processes do to which faults happen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tda_backend.interfaces.cli.main import main
from tda_backend.studies.store.workspace import Workspace
from tests.forks import Job
from tests.torture import faults


def job(kind: str, workspace: Workspace, words: Sequence[str] = (), fault: str = "", seed: int = 0, at: int = 0) -> Job:
    """Return a job in a workspace.

    Args:
        kind: ``serve``, or a verb of ``tda``.
        workspace: Whose catalogue.
        words: Of the command line, after the verb.
        fault: Fault injected by :mod:`tests.torture.faults`, by name; empty: none.
        seed: Of the fault.
        at: At which operation the fault happens.
    """
    return Job("tests.torture.jobs:work", [kind, str(workspace.catalogue), list(words), fault, seed, at])


def work(kind: str, db: str, words: list[str], fault: str, seed: int, at: int) -> int:
    """Do a job in this process, and return its exit status."""
    faults.install(fault, seed, at, Path(db).parent)
    if kind == "serve":
        from tda_backend.studies.jobs.ingest_loop import IngestLoop

        with IngestLoop(db) as loop:
            while True:
                time.sleep(0.05)
                assert loop.health().num_restarts == 0, loop.health().last_failure
    return main([kind, *words, "--db", db])
