"""What a run reports while it works: the job file that pages read, and the heartbeat that proves it lives."""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import psutil

from tda_backend.errors import MachineError
from tda_backend.studies.store.workspace import Workspace, overwrite_json, read_json, write_json

JOB_VARIABLE = "TDA_JOB"
HEARTBEAT_SECONDS = 2.0
WRITE_SECONDS = 0.25
logger = logging.getLogger(__name__)


def new_job_id() -> str:
    """Return a fresh job id that sorts by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"


@dataclass
class JobState:
    """A run in a process of its own: the content of its job file.

    Attributes:
        job_id: Sorts by time.
        study: Name of the study, or what was typed for it.
        study_id: Empty until the plan is made.
        status: ``running``, ``done``, ``failed``, ``stale`` or ``cancelled``.
        step: Label of the step that is running.
        step_done: Units of that step that are finished, of ``step_total`` (model-epochs for training steps).
        done: Finished steps of the plan, cached ones included, of ``total``.
        rate: Units of the present step a second; 0 while unknown.
        eta_seconds: Estimated seconds left of the whole run; ``None`` while unknown.
        fraction: Estimated share of the run's work that is done, 0..1.
        started: Seconds since 1970.
        updated: Likewise, of the last sign of life.
        message: How it ended; of a run that goes on what it has found so far, if anything.
        hint: What to do then.
        pid: Of its process; 0 while it starts.
        create_time: When that process began: process ids are reused.
        host: The machine that it runs on.
        args: Of the command line.
    """

    job_id: str
    study: str = ""
    study_id: str = ""
    status: str = "running"
    step: str = "starting"
    step_done: int = 0
    step_total: int = 0
    done: int = 0
    total: int = 0
    rate: float = 0.0
    eta_seconds: float | None = None
    fraction: float = 0.0
    started: float = field(default_factory=time.time)
    updated: float = field(default_factory=time.time)
    message: str = ""
    hint: str = ""
    pid: int = field(default_factory=os.getpid)
    create_time: float = field(default_factory=lambda: psutil.Process().create_time())
    host: str = field(default_factory=socket.gethostname)
    args: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> JobState | None:
        """Return the content of a job file; ``None`` where it is none, whoever wrote it."""
        content = read_json(path)
        if content is None or "job_id" not in content:
            return None
        known = {each.name: content[each.name] for each in fields(cls) if each.name in content}
        if not all(_fits(each.type, known[each.name]) for each in fields(cls) if each.name in known):
            return None  # nothing that a run has written
        return cls(**{"started": 0.0, "updated": 0.0, "pid": 0, "create_time": 0.0, "host": "", **known})

    @property
    def is_running(self) -> bool:
        """Whether it goes on."""
        return self.status == "running"

    @property
    def has_failed(self) -> bool:
        """Whether it ended before it was done."""
        return self.status in ("failed", "stale", "cancelled")


_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "list[str]": (list,),
}


def _fits(kind: object, value: object) -> bool:
    """Return whether a value of a job file is of its field's type, and a number if it is one."""
    if isinstance(value, bool) or not isinstance(value, _KINDS[str(kind)]):
        return False
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return not isinstance(value, int | float) or (math.isfinite(value) and abs(value) < 2**53)


class JobFile:
    """Keeps ``jobs/<id>.json`` up to date from a thread of its own until :meth:`close`.

    A full disk must not end a run because its progress cannot be written: the artifact writer meets it with a message.
    """

    def __init__(self, workspace: Workspace, study: str = "") -> None:
        job_id = os.environ.pop(JOB_VARIABLE, "") or new_job_id()  # popped: children of this run are not this job
        self.state = JobState(job_id=job_id, study=study, args=sys.argv[1:])
        self.path = workspace.create().jobs / f"{job_id}.json"
        self._changed = threading.Event()
        self._stop = threading.Event()
        self._write()
        self._thread = threading.Thread(target=self._beat, name="job-heartbeat", daemon=True)
        self._thread.start()

    def update(self, **changes: Any) -> None:
        """Change fields of the state; the file follows within a quarter of a second."""
        for name, value in changes.items():
            setattr(self.state, name, value)
        self._changed.set()

    def write(self) -> None:
        """Write the file now; see :meth:`update`."""
        self._write()

    def close(self, status: str, message: str = "", hint: str = "") -> None:
        """Write the final state and stop the heartbeat."""
        self._stop.set()
        self._changed.set()
        self._thread.join(timeout=5)
        self.state.status, self.state.message, self.state.hint = status, message, hint
        self._write()

    def _write(self) -> None:
        self.state.updated = time.time()
        try:
            write_json(self.path, asdict(self.state))
        except MachineError as error:
            logger.warning("job file not written: %s", error.message)
            if not self.state.is_running:
                overwrite_json(self.path, asdict(self.state))

    def _beat(self) -> None:
        while not self._stop.is_set():
            self._changed.wait(HEARTBEAT_SECONDS)
            self._changed.clear()
            if not self._stop.is_set():
                self._write()
                self._stop.wait(WRITE_SECONDS)
