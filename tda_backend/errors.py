"""The one family of errors that reaches a person: a message that says what happened and a hint that says what to do.

Command line, pages and notebooks render :class:`TDAError` the same way; anything else that escapes is a bug.
"""

from __future__ import annotations

import errno
import re
import shlex


def command(*words: object) -> str:
    """Return a command as hints print it: quoted, so that it can be pasted into a shell."""
    return shlex.join(["tda", *map(str, words)])


LONGEST = 1000
"""Characters of a message: what was given may be of any length, and is shown by its two ends."""


def _readable(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 + 3 :]}"


class TDAError(Exception):
    """An error a person can act on.

    Args:
        message: One sentence: what was given and why it cannot be used.
        hint: One sentence: what is allowed, or what to do next. May be empty.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        self.message, self.hint = _readable(message), _readable(hint)
        super().__init__(self.message)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self):  # keeps message and hint when an error crosses a process boundary
        return (type(self), (self.message, self.hint))


class UsageError(TDAError):
    """Something was asked for that does not exist or is not allowed: a wrong name, key, value or index."""

    exit_code = 2


class StudyError(UsageError):
    """A study file, or a setting given for it, is not valid."""


class TaskError(TDAError):
    """A task cannot be loaded, or breaks its contract."""


class DataError(TDAError):
    """Data is missing, damaged or outside its allowed range."""


class NumericalError(TDAError):
    """A number that must be finite is not, or a problem has no well-defined answer."""


class IncompleteError(TDAError):
    """Some steps of a run could not be computed; all others are kept.

    Attributes:
        num_computed: Steps that were computed by this run.
        num_cached: Steps that were finished before.
        seconds: Wall time of the run.
    """

    num_computed = 0
    num_cached = 0
    seconds = 0.0


class CatalogueError(TDAError):
    """The catalogue is missing, locked, damaged or of another schema version."""


class ArtifactError(TDAError):
    """A stored artifact is missing or damaged."""


class MachineError(TDAError):
    """The machine lacks something: disk space, a free port, a device, an optional package."""


class OutOfMemory(MachineError):
    """Memory ran out, on the device or on the host."""


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory ran out, on the host or on a device, whichever library says so."""
    if isinstance(error, TDAError):
        return isinstance(error, OutOfMemory)
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    text = str(error).lower()
    return any(words in text for words in _NO_MEMORY)


_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "bad_alloc", "out of memory", "_status_alloc_failed")
_ASKED = re.compile(r"to allocate ([\d.]+) ?([kmgt]?i?b|bytes)\b", re.IGNORECASE)
_UNITS = {"b": 0, "bytes": 0, "kib": 1, "mib": 2, "gib": 3, "tib": 4, "kb": 1, "mb": 2, "gb": 3, "tb": 4}


def asked_bytes(error: BaseException) -> float | None:
    """Return how many bytes an error says that could not be had; ``None``: it does not say it."""
    found = _ASKED.search(str(error))
    return None if found is None else float(found[1]) * 1024 ** _UNITS[found[2].lower()]
