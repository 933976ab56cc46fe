"""What the C library does with memory that a computation has freed."""

from __future__ import annotations

import ctypes
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""``M_TRIM_THRESHOLD`` and ``M_MMAP_THRESHOLD`` of glibc's ``mallopt``."""
_LARGE = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Let this process keep what it has freed, for what it allocates next; return whether the C library can.

    glibc gives every block above 32 MiB back to the system at once and gets the next one as fresh pages, each cleared
    upon its first touch: a fifth of the processor time of a step whose temporaries are large. What a process holds at
    most stays the same.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    return all([mallopt(_TRIM_THRESHOLD, _LARGE), mallopt(_MMAP_THRESHOLD, _LARGE)])
