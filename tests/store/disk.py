"""A disk that remembers what was flushed: what a power cut would leave of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Rename:
    """A rename as it happened.

    Attributes:
        target: The new name.
        unflushed: Files behind it whose content had not been flushed.
    """

    target: Path
    unflushed: list[Path]


class RecordedDisk:
    """Records flushes and renames of this process by the functions of ``os`` that do them."""

    def __init__(self, monkeypatch: Any) -> None:
        self.renames: list[Rename] = []
        self._flushed: dict[int, int] = {}
        self._pending: set[Path] = set()
        self._fsync, self._replace, self._rename = os.fsync, os.replace, os.rename
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "replace", lambda old, new: self.move(self._replace, Path(old), Path(new)))
        monkeypatch.setattr(os, "rename", lambda old, new: self.move(self._rename, Path(old), Path(new)))

    def fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        found = os.fstat(descriptor)
        self._flushed[found.st_ino] = found.st_mtime_ns
        folder = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self._pending = {path for path in self._pending if path.parent != folder}

    def move(self, rename: Any, old: Path, new: Path) -> None:
        files = [path for path in old.rglob("*") if path.is_file()] if old.is_dir() else [old]
        unflushed = [path for path in files if self._flushed.get(path.stat().st_ino) != path.stat().st_mtime_ns]
        rename(old, new)
        self.renames.append(Rename(new, unflushed))
        self._pending.add(new)

    def unflushed_renames(self) -> list[Path]:
        """Return the new names that no flush of their folder has followed."""
        return sorted(self._pending)
