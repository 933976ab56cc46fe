"""How the server ends: with the terminal that started it, at a signal, and within seconds in any case."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from types import FrameType

from tda_backend.studies.jobs.servers import LIFELINE_VARIABLE

GRACE_SECONDS = 12.0
"""From being told to end to being ended: open connections and a busy page must not hold the catalogue."""
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)]


def end_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended: its end of our input is closed."""
    if os.environ.pop(LIFELINE_VARIABLE, "") == "1":
        threading.Thread(target=_watch, args=(sys.stdin.fileno(),), name="lifeline", daemon=True).start()


def _watch(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(descriptor, 64):
            pass
    _end_soon()
    os.kill(os.getpid(), signal.SIGTERM)


def end_within_seconds() -> None:
    """Make every signal that ends a program end this one in order, and at the latest after some seconds.

    What is ignored stays ignored, e.g. a closed terminal under ``nohup``. For the main thread, once the server has set
    its own handlers: those are called too.
    """
    ordered = signal.getsignal(signal.SIGTERM)

    def end(number: int, frame: FrameType | None) -> None:
        _end_soon()
        if callable(ordered):
            ordered(signal.SIGTERM, frame)
        else:
            os._exit(128 + number)

    for each in SIGNALS:
        if signal.getsignal(each) is not signal.SIG_IGN:
            signal.signal(each, end)


def _end_soon() -> None:
    timer = threading.Timer(GRACE_SECONDS, os._exit, args=(0,))  # it was asked to: no failure
    timer.daemon = True
    timer.start()
