"""Programs of their own that start fast: one process imports everything once, and forks for each of them.

Importing torch and the program takes three seconds of processor time; a fork takes some milliseconds, and what it is
can be killed, signalled and awaited like any other process. Tests of how a program *starts* take a real start.

Run as ``python -m tests.forks MODULE…`` it imports the modules and answers lines of JSON on its standard input:
``{"start": JOB, "out": PATH, "err": PATH}`` with the process id of a new process that does the job, ``{"poll": PID}``
with its exit status, or null while it lives.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PRELOADED = (
    "tda_backend.interfaces.cli.care",
    "tda_backend.interfaces.cli.running",
    "tda_backend.studies.jobs.ingest_loop",
    "scipy.linalg",  # what SciPy loads as it is first used
    "scipy.ndimage",
    "scipy.optimize",
    "scipy.special",
)
"""What every process would import again."""
DRAWN_WITH = ("streamlit.web.cli", "streamlit.web.server.server", "plotly.graph_objects", "plotly.io")
"""What every dashboard would, beside its own modules: those make their caches when a server runs."""


@dataclass(frozen=True)
class Job:
    """What a process does: a function, which returns its exit status.

    Attributes:
        target: ``module:function``.
        arguments: Of the function; what JSON can say.
        environment: What its environment has beside the tests' own.
    """

    target: str
    arguments: list[Any] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


class Forked:
    """A process that the server has started."""

    def __init__(self, server: ForkServer, pid: int, out: Path, err: Path) -> None:
        self.server, self.pid = server, pid
        self._out, self._err = out, err
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

    def end(self, seconds: float = 20.0) -> None:
        """Send SIGTERM, and SIGKILL to what is still there after some seconds."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)
            self.wait_until(time.monotonic() + seconds)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL, and return when it is gone."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            while self.poll() is None:
                time.sleep(0.005)

    def said(self) -> str:
        """Return the end of what it printed."""
        return (self._out.read_text(errors="replace") + self._err.read_text(errors="replace"))[-3000:]

    def completed(self, seconds: float) -> subprocess.CompletedProcess[str]:
        """Return how it ended and what it printed, as :func:`subprocess.run` does."""
        status = self.wait(seconds)
        said = (path.read_text(errors="replace") for path in (self._out, self._err))
        return subprocess.CompletedProcess([self.pid], status, *said)


class ForkServer:
    """The process that forks.

    Args:
        folder: Where the processes' output is kept.
        modules: What is imported once for all of them.
        environment: What all environments have beside the tests' own.
    """

    def __init__(
        self, folder: Path, modules: tuple[str, ...] = PRELOADED, environment: dict[str, str] | None = None
    ) -> None:
        self._folder, self._number = folder, 0
        given = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(environment or {})}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, **given},
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
        out, err = (self._folder / f"{self._number:04d}.{name}" for name in ("out", "err"))
        return Forked(self, self.ask({"start": asdict(job), "out": str(out), "err": str(err)}), out, err)

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


@functools.cache
def session_server() -> ForkServer:
    """Return the process that forks for all tests of this session; it ends with the session."""
    folder = Path(tempfile.mkdtemp(prefix="tda-forks-"))
    server = ForkServer(folder, (*PRELOADED, *DRAWN_WITH))
    atexit.register(lambda: (server.close(), shutil.rmtree(folder, ignore_errors=True)))
    return server


def typed(words: list[str]) -> int:
    """Run ``tda`` in this process as if the words had been typed, and return its exit status."""
    from tda_backend.interfaces.cli.main import main

    sys.argv = ["tda", *words]
    return main()


def served(words: list[str]) -> int:
    """Run ``streamlit`` in this process as if the words had been typed, until it ends."""
    from streamlit.web.cli import main

    sys.argv = ["streamlit", *words]
    return main()


def _do(job: Job) -> int:
    os.environ.update(job.environment)
    module, name = job.target.split(":")
    return getattr(importlib.import_module(module), name)(*job.arguments)


def _start(job: Job, out: str, err: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        printed, complained = (os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for path in (out, err))
        for source, target in ((null, 0), (printed, 1), (complained, 2)):
            os.dup2(source, target)
        status = _do(job)
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
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
    from tda_backend.models.measuring.machine import machine

    for module in sys.argv[1:]:
        importlib.import_module(module)
    machine("cpu")  # every run would measure it again
    gc.collect()
    gc.freeze()  # a collection in a process would look through all modules, and so copy their memory
    for line in sys.stdin:
        question = json.loads(line)
        if "start" in question:
            answer: Any = _start(Job(**question["start"]), question["out"], question["err"])
        elif "poll" in question:
            answer = _poll(question["poll"])
        else:
            answer = "ready"
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    gc.unfreeze()


if __name__ == "__main__":
    _serve()
