"""Ctrl-C that works within seconds, whatever the process is doing.

Python calls a signal's handler between two of its own instructions, and a decomposition is one instruction that may
take minutes. The system writes the signal's number to a pipe at once, though. At its other end waits a small process:
where the run has not noticed the signal after some seconds, it ends the run and writes that into the job's file.
Nothing is lost: artifacts appear whole or not at all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 5.0
NOTICED, DONE = b"\0", b"\xff"
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]

_WATCH = r"""
import os, select, sys, time
parent, grace, job, again = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4]
wanted = set(map(int, sys.argv[5:]))

def read(seconds):
    return os.read(0, 64) if select.select([0], [], [], seconds)[0] else None

def gone():
    words = "The run's process ended without a word: somebody or the system ended it, or a task's code did (os._exit)."
    os.write(2, ("tda: " + words + "\nhint: Finished steps are kept; go on with: " + again + "\n").encode())
    os._exit(0)

while True:
    heard = read(None)
    if not heard:
        gone()
    if 255 in heard:
        os._exit(0)
    if not wanted.intersection(heard) or 0 in heard:
        continue
    deadline = time.monotonic() + grace
    noticed = False
    while not noticed:
        later = read(max(0.0, deadline - time.monotonic()))
        if later is None or wanted.intersection(later):
            break
        if not later:
            gone()
        if 255 in later:
            os._exit(0)
        noticed = 0 in later
    if noticed:
        continue
    import json, signal
    os.kill(parent, signal.SIGKILL)
    try:
        with open(job) as file:
            state = json.load(file)
        state.update(status="cancelled", message="Interrupted.", hint="Go on with: " + again)
        with open(job + ".part", "w") as file:
            json.dump(state, file)
        os.replace(job + ".part", job)
    except (OSError, ValueError):
        pass
    os.write(2, ("\nInterrupted. Finished steps are kept; go on with: " + again + "\n").encode())
    os._exit(0)
"""


@dataclass
class _Held:
    """What this process has changed: a forked child must not keep it, or its signals would be taken for ours."""

    ours: socket.socket
    before: dict[int, Callable[[int, FrameType | None], object] | int | None]


_held: _Held | None = None
_masks = threading.local()


def _hold_back() -> None:
    """Let no signal come in while a process forks: in the child it would find what is the run's."""
    _masks.before = None if _held is None else signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _let_in() -> None:
    before = getattr(_masks, "before", None)
    if before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _forget() -> None:
    """Give a forked child back what it would have had: a signal to it is none to the run, and says nothing to it."""
    global _held
    held, _held = _held, None
    if held is not None:
        with contextlib.suppress(ValueError):  # not the main thread of the program
            signal.set_wakeup_fd(-1)
            for each, handler in held.before.items():
                signal.signal(each, handler)
        held.ours.close()
    _let_in()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_back, after_in_parent=_let_in, after_in_child=_forget)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def interruptible(job: Path, again: str) -> Iterator[None]:
    """Make every polite request to end raise KeyboardInterrupt, and end the process where it is not noticed.

    What is ignored stays ignored, e.g. a closed terminal under ``nohup``. For the main thread.

    Args:
        job: The run's job file.
        again: The command that goes on.
    """
    global _held
    if os.name != "posix":
        yield
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        heeded = [each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]

        def noticed(number: int, frame: FrameType | None) -> None:
            with contextlib.suppress(OSError):
                ours.send(NOTICED)
            _interrupt(number, frame)

        # Not in the terminal's group: Ctrl-C must not end it.
        words = [str(os.getpid()), str(GRACE_SECONDS), str(job), again, *(str(int(each)) for each in heeded)]
        watcher = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _WATCH, *words],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        ours.setblocking(False)
        before = {int(each): signal.getsignal(each) for each in heeded}
        outer, _held = _held, _Held(ours, before)
        for each in heeded:
            signal.signal(each, noticed)
        previous = signal.set_wakeup_fd(ours.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(previous)
            for each, handler in before.items():
                signal.signal(each, handler)
            _held = outer
            with contextlib.suppress(OSError):
                ours.send(DONE)
            ours.close()
            watcher.wait()
