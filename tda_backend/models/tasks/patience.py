"""A person's code that does not come back: how long it is waited for, and what is said then."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from tda_backend.errors import TaskError, UsageError

SECONDS_VARIABLE = "TDA_TASK_SECONDS"
USUAL_SECONDS = 900.0
"""Long enough to load or to make a large data set."""


def task_seconds() -> float:
    """Return how long a call of a task's ``datasets`` or ``build_model`` may take.

    Raises:
        UsageError: The environment gives something else than a number above 0.
    """
    given = os.environ.get(SECONDS_VARIABLE, "")
    try:
        seconds = float(given) if given else USUAL_SECONDS
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise UsageError(f"{SECONDS_VARIABLE} = {given!r} is not allowed.", "Give seconds, e.g. 3600.")
    return min(seconds, 1e8)


@contextlib.contextmanager
def patience(what: str) -> Iterator[None]:
    """Raise a TaskError where the block calls ``sys.exit``, or has not ended in time.

    The time is watched in a process's main thread, on systems with an alarm clock; elsewhere only ``sys.exit`` is met.

    Args:
        what: The call in words, e.g. ``build_model(0)``.
    """
    with in_time(what), _exits(what):
        yield


@contextlib.contextmanager
def _exits(what: str) -> Iterator[None]:
    try:
        yield
    except SystemExit as error:
        raise TaskError(
            f"{what} ended the program (sys.exit({error.code!r})).",
            "Let it return, or raise an error that says what is wrong.",
        ) from error


@contextlib.contextmanager
def in_time(what: str) -> Iterator[None]:
    """Raise a TaskError where the block has not ended in time; see :func:`patience`."""
    main = threading.current_thread() is threading.main_thread()
    if not hasattr(signal, "setitimer") or not main or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return
    seconds = task_seconds()

    def ring(number: int, frame: FrameType | None) -> None:
        raise TaskError(
            f"{what} has not returned within {seconds:g} s.",
            f"Look where it waits, or give it longer: {SECONDS_VARIABLE}={2 * seconds:g}.",
        )

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
