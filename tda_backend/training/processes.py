"""A pool of single-threaded training processes that outlive single calls and never outlive their parent.

Small matrix products gain nothing from a second thread, so two models in two processes use two cores where one model
in two threads uses little more than one. The processes are persistent (importing torch costs them about two seconds)
and are told to end by the end of file on their standard input, which the system delivers even if the parent is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from tda_backend.errors import MachineError
from tda_backend.types import Batch

# Watches the parent before anything heavy is imported: a thread reads messages and ends the process at end of file.
# Standard output is kept for the protocol; what a task prints goes to standard error.
_BOOT = """
import os, queue, sys, threading
from multiprocessing.connection import Connection
out = os.dup(1); os.dup2(2, 1)
inbox, source = queue.SimpleQueue(), Connection(os.dup(0), writable=False)
path = source.recv()
def watch():
    while True:
        try:
            inbox.put(source.recv())
        except (EOFError, OSError):
            os._exit(0)
threading.Thread(target=watch, daemon=True).start()
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
sys.path[:] = path
from tda_backend.training.worker import serve
serve(inbox, Connection(out, readable=False))
"""
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_HEARTBEAT = 0.4  # seconds


def default_num_processes() -> int:
    """Return the number of CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def can_start_processes() -> bool:
    """Return whether this interpreter can start another one and talk to it over pipes."""
    return os.name == "posix" and bool(sys.executable) and Path(sys.executable).exists()


class _Worker:
    """One process, its inbox, and a thread that forwards its messages to the pool."""

    def __init__(self, number: int, messages: queue.SimpleQueue[tuple[int, Any]]) -> None:
        self.number = number
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            [sys.executable, "-c", _BOOT],
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
        self.send([path or os.getcwd() for path in sys.path])
        threading.Thread(target=self._forward, args=(messages,), daemon=True).start()

    def _forward(self, messages: queue.SimpleQueue[tuple[int, Any]]) -> None:
        while True:
            try:
                messages.put((self.number, self._source.recv()))
            except (EOFError, OSError):
                messages.put((self.number, None))
                return

    def send(self, message: Any) -> None:
        # A dead process is reported by its end of file, with its exit status.
        with contextlib.suppress(BrokenPipeError):
            self._outbox.send(message)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for connection in (self._outbox, self._source):
            with contextlib.suppress(OSError):
                connection.close()

    def last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""


class ProcessPool:
    """Persistent training processes. One retraining at a time; any failure ends the pool."""

    def __init__(self, num_processes: int) -> None:
        self.owner = os.getpid()
        self.num_processes = num_processes
        self._messages: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._tokens = itertools.count(1)
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        try:
            for number in range(num_processes):
                self._workers.append(_Worker(number, self._messages))
        except OSError as error:
            self.close()
            raise MachineError(
                f"A training process cannot be started: {error.strerror}.", "Ask for fewer processes."
            ) from error

    @property
    def alive(self) -> bool:
        return bool(self._workers) and all(worker.process.poll() is None for worker in self._workers)

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def run(
        self,
        setup: dict[str, Any],
        data: Batch,
        jobs: Iterable[tuple[int, tuple[Any, ...]]],
        on_beat: Callable[[dict[int, int]], None],
    ) -> Generator[tuple[int, dict[str, Tensor]], None, None]:
        """Train every job and yield (job number, state) as they finish.

        Args:
            setup: What all jobs share, see ``worker._Workload``.
            data: Training batch, given to the processes as one mapped file.
            jobs: (number, arguments) of each job; taken from lazily, so building initial models overlaps training.
            on_beat: Called at least every 0.4 s with the epochs done of each running job.

        Raises:
            TDAError: What a process raised, as it was.
            MachineError: A process ended.
        """
        with self._lock:
            try:
                yield from self._run(next(self._tokens), setup, data, iter(jobs), on_beat)
            except BaseException:  # includes Ctrl-C and a consumer that stops early: no process computes for nobody
                self.close()
                raise

    def _run(
        self,
        token: int,
        setup: dict[str, Any],
        data: Batch,
        jobs: Iterator[tuple[int, tuple[Any, ...]]],
        on_beat: Callable[[dict[int, int]], None],
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        running: dict[int, int] = {}

        def give(worker: _Worker) -> None:
            job = next(jobs, None)
            if job is not None:
                running[job[0]] = 0
                worker.send(("job", token, job[0], *job[1]))

        with tempfile.TemporaryDirectory(prefix="tda-training-") as folder:
            path = Path(folder) / "data.safetensors"
            safetensors.torch.save_file({key: value.cpu().contiguous() for key, value in data.items()}, path)
            for worker in self._workers:
                worker.send(("setup", token, {**setup, "token": token, "data": str(path)}))
            ready = 0
            while ready < len(self._workers):
                ready += self._next(token, on_beat, running)[1] == "ready"
        for _ in range(2):  # one job in hand and one waiting, so that no process idles between two jobs
            for worker in self._workers:
                give(worker)
        while running:
            number, kind, job, content = self._next(token, on_beat, running)
            if kind == "progress":
                running[job] = content
                on_beat(running)
            elif kind == "done":
                del running[job]
                give(self._workers[number])
                yield job, safetensors.torch.load(content)

    def _next(
        self, token: int, on_beat: Callable[[dict[int, int]], None], running: dict[int, int]
    ) -> tuple[int, str, int, Any]:
        """Return (worker, kind, job, content) of the next message of this retraining."""
        while True:
            try:
                number, message = self._messages.get(timeout=_HEARTBEAT)
            except queue.Empty:
                on_beat(running)
                continue
            if message is None:
                raise self._ended(self._workers[number])
            kind, its_token, job, content = message
            if its_token != token:
                continue
            if kind == "error":
                raise content
            return number, kind, job, content

    def _ended(self, worker: _Worker) -> MachineError:
        status = worker.process.wait()
        words = worker.last_words()
        if status == -signal.SIGKILL:
            hint = "The system may have run out of memory: close other programs or ask for fewer processes."
        else:
            hint = f"Its last words: {words}" if words else "Ask for one process to train without helpers."
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return MachineError(f"A training process {how}.", hint)


_pools: dict[int, ProcessPool] = {}
_pools_lock = threading.Lock()


def has_pool(num_processes: int) -> bool:
    """Return whether a pool of that size is alive, so that using it costs no start."""
    pool = _pools.get(num_processes)
    return pool is not None and pool.owner == os.getpid() and pool.alive


def shared_pool(num_processes: int) -> ProcessPool:
    """Return this process's pool of that size, started if need be; it lasts until :func:`close_pools` or exit."""
    with _pools_lock:
        if not has_pool(num_processes):
            stale = _pools.pop(num_processes, None)
            if stale is not None and stale.owner == os.getpid():
                stale.close()
            _pools[num_processes] = ProcessPool(num_processes)
        return _pools[num_processes]


@atexit.register
def close_pools() -> None:
    """End all pools of this process."""
    with _pools_lock:
        for pool in _pools.values():
            if pool.owner == os.getpid():
                pool.close()
        _pools.clear()
