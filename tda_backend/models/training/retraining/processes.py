"""A pool of single-threaded training processes that outlive single calls and never outlive their parent.

Small matrix products gain nothing from a second thread, so two models in two processes use two cores where one model
in two threads uses little more than one. The processes are persistent (importing torch costs them about two seconds)
and end at the end of file on their standard input, which the system delivers even if the parent is killed; should a
fork of the parent hold that pipe open, they notice within a second that they have another parent.
"""

from __future__ import annotations

import atexit
import itertools
import math
import os
import queue
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import safetensors.torch
from torch import Tensor

from tda_backend.errors import MachineError
from tda_backend.models.training.retraining.worker_process import WorkerProcess
from tda_backend.models.training.retraining.workload import Workload
from tda_backend.types import Batch

_HEARTBEAT = 0.4  # seconds
_BYTES_EACH = 400 << 20  # resident size of a process with torch loaded and a small model, generously


def default_num_processes() -> int:
    """Return the number of CPU cores this process may use, less where memory for so many processes is short."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:  # a container's share of the machine
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass
    return max(1, min(cores, int(psutil.virtual_memory().available // _BYTES_EACH)))


def can_start_processes() -> bool:
    """Return whether this interpreter can start another one and talk to it over pipes."""
    return os.name == "posix" and bool(sys.executable) and Path(sys.executable).exists()


class ProcessPool:
    """Persistent training processes, started as they are asked for. One retraining at a time; a failure ends all."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._messages: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._tokens = itertools.count(1)
        self._numbers = itertools.count()  # never used twice: the last words of ended processes may still be queued
        self._lock = threading.Lock()
        self._workers: list[WorkerProcess] = []

    def start(self, count: int) -> None:
        """Let there be at least ``count`` processes; returns while they are still loading.

        Raises:
            MachineError: The system refuses another process.
        """
        try:
            for _ in range(len(self._workers), count):
                self._workers.append(WorkerProcess(next(self._numbers), self._messages))
        except OSError as error:
            self.close()
            raise MachineError(
                f"A training process cannot be started: {error.strerror}.", "Ask for fewer processes."
            ) from error

    @property
    def num_alive(self) -> int:
        """Number of processes, or 0 if any of them has ended."""
        return len(self._workers) if all(worker.process.poll() is None for worker in self._workers) else 0

    @property
    def pids(self) -> list[int]:
        """Process ids."""
        return [worker.process.pid for worker in self._workers]

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.end()
        self._workers = []

    def run(
        self,
        workload: Workload,
        data: Batch,
        jobs: Iterable[tuple[int, tuple[Any, ...]]],
        count: int,
        on_beat: Callable[[dict[int, int]], None],
    ) -> Generator[tuple[int, dict[str, Tensor]], None, None]:
        """Train every job and yield (job number, state) as they finish.

        Args:
            workload: What all jobs share.
            data: Training batch, given to the processes as one mapped file.
            jobs: (number, arguments) of each job; taken from lazily, so building initial models overlaps training.
            count: How many processes to use.
            on_beat: Called at least every 0.4 s with the epochs done of each running job.

        Raises:
            TDAError: What a process raised, as it was.
            MachineError: A process ended.
        """
        with self._lock:
            try:
                self.start(count)
                yield from self._run(next(self._tokens), workload, data, iter(jobs), self._workers[:count], on_beat)
            except BaseException:  # includes Ctrl-C and a consumer that stops early: no process computes for nobody
                self.close()
                raise

    def _run(
        self,
        token: int,
        workload: Workload,
        data: Batch,
        jobs: Iterator[tuple[int, tuple[Any, ...]]],
        workers: list[WorkerProcess],
        on_beat: Callable[[dict[int, int]], None],
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        running: dict[int, int] = {}

        def give(worker: WorkerProcess) -> None:
            job = next(jobs, None)
            if job is not None:
                running[job[0]] = 0
                worker.send(("job", token, job[0], *job[1]))

        def tell(*message: Any) -> None:
            for worker in workers:
                worker.send(message)
            ready = 0
            while ready < len(workers):
                ready += self._next(token, on_beat, running)[1] == "ready"

        tell("ping", token)  # new processes load torch first, so that the file below exists for milliseconds only
        with tempfile.TemporaryDirectory(prefix="tda-training-") as folder:
            path = Path(folder) / "data.safetensors"
            safetensors.torch.save_file({key: value.cpu().contiguous() for key, value in data.items()}, path)
            tell("setup", token, workload, str(path))
        for _ in range(2):  # one job in hand and one waiting, so that no process idles between two jobs
            for worker in workers:
                give(worker)
        while running:
            worker, kind, job, content = self._next(token, on_beat, running)
            if kind == "progress":
                running[job] = content
                on_beat(running)
            elif kind == "done":
                del running[job]
                give(worker)
                yield job, safetensors.torch.load(content)

    def _next(
        self, token: int, on_beat: Callable[[dict[int, int]], None], running: dict[int, int]
    ) -> tuple[WorkerProcess, str, int, Any]:
        """Return (worker, kind, job, content) of the next message of this retraining."""
        while True:
            try:
                number, message = self._messages.get(timeout=_HEARTBEAT)
            except queue.Empty:
                on_beat(running)
                continue
            worker = next((worker for worker in self._workers if worker.number == number), None)
            if worker is None:
                continue
            if message is None:
                raise self._ended(worker)
            kind, its_token, job, content = message
            if its_token != token:
                continue
            if kind == "error":
                raise content
            return worker, kind, job, content

    def _ended(self, worker: WorkerProcess) -> MachineError:
        status = worker.process.wait()
        words = worker.last_words()
        if status == -signal.SIGKILL:
            hint = "The system may have run out of memory: close other programs or ask for fewer processes."
        else:
            hint = f"Its last words: {words}" if words else "Ask for one process to train without helpers."
        how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return MachineError(f"A training process {how}.", hint)


_pool: ProcessPool | None = None
_pool_lock = threading.Lock()


def num_warm_processes() -> int:
    """Return how many training processes this process has, so that using them costs no start."""
    return _pool.num_alive if _pool is not None and _pool.owner == os.getpid() else 0


def shared_pool() -> ProcessPool:
    """Return this process's pool; its processes last until :func:`close_pool` or exit."""
    global _pool
    with _pool_lock:
        # After a fork the parent's pool is not ours to use or to end.
        if _pool is None or _pool.owner != os.getpid():
            _pool = ProcessPool()
        elif not _pool.num_alive:
            _pool.close()
        return _pool


@atexit.register
def close_pool() -> None:
    """End this process's training processes, e.g. to have their memory back."""
    with _pool_lock:
        if _pool is not None and _pool.owner == os.getpid():
            _pool.close()
