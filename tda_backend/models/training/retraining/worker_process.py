"""The parent's end of one training process: how it starts, takes messages, and ends."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import tempfile
import threading
from multiprocessing.connection import Connection
from typing import Any

# Watches the parent before anything heavy is imported: a thread reads messages and ends the process at end of file.
# Standard output is kept for the protocol; what a task prints goes to standard error.
_BOOT = """
import os, queue, sys, threading
from multiprocessing.connection import Connection
out = os.dup(1); os.dup2(2, 1)
inbox, source = queue.SimpleQueue(), Connection(os.dup(0), writable=False)
def watch():
    while True:
        try:
            if source.poll(1):
                inbox.put(source.recv())
            elif os.getppid() != parent:
                os._exit(0)
        except (EOFError, OSError):
            os._exit(0)
parent, path = source.recv()
threading.Thread(target=watch, daemon=True).start()
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
sys.path[:] = path
from tda_backend.models.training.retraining.worker import serve
serve(inbox, Connection(out, readable=False))
"""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class WorkerProcess:
    """One process, its inbox, and a thread that forwards its messages to the pool."""

    def __init__(self, number: int, messages: queue.SimpleQueue[tuple[int, Any]]) -> None:
        self.number = number
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            # -P: no module of the current folder shadows the standard library's
            [sys.executable, "-P", "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**os.environ, **_ONE_THREAD},
            start_new_session=True,  # Ctrl-C reaches the parent alone, which ends the pool in order
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._outbox = Connection(os.dup(self.process.stdin.fileno()), readable=False)
        self._source = Connection(os.dup(self.process.stdout.fileno()), writable=False)
        self.process.stdin.close()
        self.process.stdout.close()
        self.send((os.getpid(), [path or os.getcwd() for path in sys.path]))
        threading.Thread(target=self._forward, args=(messages,), daemon=True).start()

    def _forward(self, messages: queue.SimpleQueue[tuple[int, Any]]) -> None:
        while True:
            try:
                messages.put((self.number, self._source.recv()))
            except (EOFError, OSError):
                messages.put((self.number, None))
                return

    def send(self, message: Any) -> None:
        """Send a message, if the process still lives."""
        # A dead process is reported by its end of file, with its exit status.
        with contextlib.suppress(BrokenPipeError):
            self._outbox.send(message)

    def end(self) -> None:
        """Kill the process and close its pipes."""
        self.process.kill()
        self.process.wait()
        for connection in (self._outbox, self._source):
            with contextlib.suppress(OSError):
                connection.close()
        self.errors.close()

    def last_words(self) -> str:
        """Return the last line that it wrote to standard error."""
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""
