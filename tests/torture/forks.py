"""Programs that can be killed at any moment, started fast: one process imports everything once, and forks for each.

Run as ``python -m tests.torture.forks`` it answers lines of JSON on its standard input: ``{"start": JOB}`` with the
process id of a new process that does the job, ``{"poll": PID}`` with its exit status, or null while it lives.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = (
    "tda_backend.interfaces.cli.care",
    "tda_backend.interfaces.cli.running",
    "tda_backend.studies.jobs.ingest_loop",
)
"""What every process would import again."""


@dataclass(frozen=True)
class Job:
    """What a process does.

    Attributes:
        kind: ``run``, ``serve``, ``rebuild``, or ``doctor``.
        db: The catalogue.
        words: Of the command line, after the verb.
        fault: Fault injected by :mod:`tests.torture.faults`, by name; empty: none.
        seed: Of the fault.
        at: At which operation the fault happens.
    """

    kind: str
    db: str
    words: list[str] = field(default_factory=list)
    fault: str = ""
    seed: int = 0
    at: int = 0


class Forked:
    """A process that the server has started."""

    def __init__(self, server: ForkServer, pid: int, log: Path) -> None:
        self.server, self.pid, self.log = server, pid, log
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; ``None`` while it lives."""
        if self._status is None:
            self._status = self.server.ask({"poll": self.pid})
        return self._status

    def wait(self, seconds: float = 180.0) -> int:
        """Return the exit status once it has ended."""
        deadline = time.monotonic() + seconds
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"process {self.pid} did not end: {self.said()}")
            time.sleep(0.01)
        return status

    def wait_until(self, moment: float) -> bool:
        """Return whether it still lives at a moment of the monotonic clock."""
        while self.poll() is None and time.monotonic() < moment:
            time.sleep(0.005)
        return self.poll() is None

    def kill(self) -> None:
        """Send SIGKILL, and return when it is gone."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            while self.poll() is None:
                time.sleep(0.005)

    def said(self) -> str:
        """Return what it printed."""
        return self.log.read_text(errors="replace")[-3000:]


class ForkServer:
    """The process that forks."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._number = folder, 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        assert self.ask({"ready": True}) == "ready"

    def ask(self, question: dict[str, Any]) -> Any:
        """Return the answer to one line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, job: Job) -> Forked:
        """Start a job in a process of its own."""
        self._number += 1
        log = self._folder / f"{self._number:04d}.log"
        return Forked(self, self.ask({"start": asdict(job), "log": str(log)}), log)

    def do(self, job: Job) -> Forked:
        """Do a job to its end."""
        forked = self.start(job)
        forked.wait()
        return forked

    def close(self) -> None:
        """End it; what it started ends with it or was ended before."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        if self._process.stdout is not None:
            self._process.stdout.close()


def _do(job: Job) -> int:
    from tests.torture import faults

    faults.install(job.fault, job.seed, job.at, Path(job.db).parent)
    if job.kind == "serve":
        from tda_backend.studies.jobs.ingest_loop import IngestLoop

        with IngestLoop(job.db) as loop:
            while True:
                time.sleep(0.05)
                assert loop.health().num_restarts == 0, loop.health().last_failure
    from tda_backend.interfaces.cli.main import main

    return main([job.kind, *job.words, "--db", job.db])


def _start(job: Job, log: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (descriptor, 1), (descriptor, 2)):
            os.dup2(source, target)
        status = _do(job)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _poll(pid: int) -> int | None:
    done, status = os.waitpid(pid, os.WNOHANG)
    return None if not done else os.waitstatus_to_exitcode(status)


def _serve() -> None:
    for module in PRELOADED:
        importlib.import_module(module)
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            answer: Any = _start(Job(**question["start"]), question["log"])
        elif "poll" in question:
            answer = _poll(question["poll"])
        else:
            answer = "ready"
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
