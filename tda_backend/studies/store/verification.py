"""Checksums of stored files: made when a file is written, verified once before it is read, remembered by what it is.

A file is verified block by block, several blocks at a time. What was verified is remembered in this process by device,
inode, size and times; a file that has changed since is verified again before anything is read from it. So whoever
reads pays once, and a server never goes on showing a file that was damaged under it.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

BLOCK = 1 << 22
"""Bytes of a block: CRC-32 finds every damage of up to 32 bits in a row, and any other but one in 4·10⁹."""
THREADS = min(8, os.cpu_count() or 1)
LOOK_SECONDS = 0.2
READS = 2
"""How often a file must read wrongly before it is called damaged: a disk or a network may stumble once."""


@dataclass(frozen=True)
class StoredFile:
    """Size and checksums of a file of an artifact.

    Attributes:
        bytes: Its size.
        sha256: Of its content.
        blocks: CRC-32 of each block of :data:`BLOCK` bytes; none in artifacts of earlier versions, which are verified
            by SHA-256.
    """

    bytes: int
    sha256: str
    blocks: Sequence[int] | None = None


@dataclass(frozen=True)
class Identity:
    """What tells whether a file is still the one that was verified."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: str | Path) -> Identity | None:
        """Return the identity of a file; ``None``: there is none.

        Raises:
            OSError: The system cannot say, which is no proof that the file is gone.
        """
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def block_checksums(path: Path) -> list[int]:
    """Return the CRC-32 of each block of a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        starts = range(0, os.fstat(descriptor).st_size, BLOCK)

        def of_block(start: int) -> int:
            return zlib.crc32(_read(descriptor, start))

        if len(starts) < 2:
            return [of_block(start) for start in starts]
        with ThreadPoolExecutor(THREADS) as pool:  # reading and zlib let go of the interpreter
            return list(pool.map(of_block, starts))
    finally:
        os.close(descriptor)


def _read(descriptor: int, start: int) -> bytes | memoryview:
    """Return one block, whole even where the system returns less at a time."""
    block = os.pread(descriptor, BLOCK, start)
    while 0 < len(block) < BLOCK:
        more = os.pread(descriptor, BLOCK - len(block), start + len(block))
        if not more:
            break
        block += more
    return block


def describe_file(path: Path) -> StoredFile:
    """Return size and checksums of a file that was just written."""
    return StoredFile(path.stat().st_size, checksum(path), block_checksums(path))


class _Memory:
    """What this process has verified, and how often a verified file turned out to be another one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._verified: dict[str, dict[str, Identity]] = {}
        self._looked = 0.0
        self._generation = 0
        self._changed: set[Path] = set()

    def knows(self, path: Path, identity: Identity) -> bool:
        with self._lock:
            return self._verified.get(str(path.parent), {}).get(path.name) == identity

    def remember(self, path: Path, identity: Identity) -> None:
        with self._lock:
            folder = self._verified.setdefault(str(path.parent), {})
            if folder.get(path.name, identity) != identity:
                self._generation += 1
            folder[path.name] = identity

    def is_unchanged(self, folder: Path) -> bool:
        with self._lock:
            known = dict(self._verified.get(str(folder), {}))
        try:
            return bool(known) and all(Identity.of(folder / name) == identity for name, identity in known.items())
        except OSError:  # a full table of open files or a network that stumbles says nothing about the files
            return bool(known)

    def look(self, patience: float = 0.0) -> None:
        """Forget folders with a file that has changed since it was verified, unless somebody looked just now.

        Args:
            patience: Seconds since the last look within which nothing is looked at.
        """
        now = time.monotonic()
        with self._lock:
            if now - self._looked < patience:
                return
            self._looked = now
            folders = [Path(folder) for folder in self._verified]
        for folder in folders:
            if not self.is_unchanged(folder):
                self._forget(folder)

    def _forget(self, folder: Path) -> None:
        with self._lock:
            if self._verified.pop(str(folder), None) is not None:
                self._generation += 1
                self._changed.add(folder)

    def take_changed(self) -> set[Path]:
        with self._lock:
            changed, self._changed = self._changed, set()
        return changed

    @property
    def generation(self) -> int:
        return self._generation


_memory = _Memory()


def verify(path: Path, stored: StoredFile) -> str:
    """Return what is wrong with a file, in words that follow its name; empty: nothing.

    Raises:
        OSError: It cannot be read, which is no proof of damage.
    """
    for _ in range(READS + 1):
        identity = Identity.of(path)
        if identity is None:
            return "is missing"
        if identity.size != stored.bytes:
            return f"is {identity.size} bytes long, expected {stored.bytes}"
        if _memory.knows(path, identity):
            return ""
        matches = _matches(path, stored)
        if Identity.of(path) == identity and matches:
            _memory.remember(path, identity)
            return ""
    return "does not match its checksum"


def _matches(path: Path, stored: StoredFile) -> bool:
    if stored.blocks is None:
        return checksum(path) == stored.sha256
    return block_checksums(path) == list(stored.blocks)


def is_unchanged(folder: Path) -> bool:
    """Return whether every file of a folder that this process has verified is still the same, and there are such."""
    return _memory.is_unchanged(folder)


def changed_folders() -> set[Path]:
    """Return folders with a verified file that is no longer the same; each is named once."""
    _memory.look()
    return _memory.take_changed()


def generation() -> int:
    """Return a number that grows whenever a file that this process has read is no longer the same: for caches."""
    _memory.look(LOOK_SECONDS)
    return _memory.generation
