"""Writing that a power cut cannot undo by half: what appears under its name is on the disk, whole.

A rename alone is not enough: a file system may keep the new name and lose the content behind it. So the content is
flushed first, then the folder that lists it, then the rename, then the folder that the rename changed.
"""

from __future__ import annotations

import contextlib
import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FLUSHES = 8
"""Files that are flushed at once: a file system writes them down together."""
_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EBADF)
"""What file systems say that know no flushing of folders: there the rename itself is all there is."""


def flush_file(path: Path) -> None:
    """Return when the content of a file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk."""
    if os.name != "posix":  # elsewhere a folder cannot be opened
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise
    finally:
        os.close(descriptor)


def publish_file(temporary: Path, target: Path) -> None:
    """Give a finished file its name, in place of what had it: readers see the old file or the whole new one."""
    flush_file(temporary)
    os.replace(temporary, target)
    flush_folder(target.parent)


def publish_folder(temporary: Path, target: Path) -> None:
    """Give a finished folder its name.

    Raises:
        OSError: There is a folder of that name already.
    """
    with ThreadPoolExecutor(FLUSHES) as pool:
        list(pool.map(flush_file, temporary.iterdir()))
    flush_folder(temporary)
    make_folder(target.parent)
    os.rename(temporary, target)
    flush_folder(target.parent)


def make_folder(path: Path) -> None:
    """Make a folder and those above it; its name outlives a power cut."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir()
    flush_folder(path.parent)
