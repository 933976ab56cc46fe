"""Faults that a process brings upon itself: a power cut, a full disk, a clock that jumps, worker processes that die."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CUT = 137
JUMPS = (-86400.0 * 400, -3600.0, -5.0, 5.0, 3600.0, 86400.0 * 400)


class PowerCut:
    """Everything that was not flushed is lost in part, and renames that no flush of their folder has followed may be.

    What DuckDB writes is not seen here: it flushes its own log.
    """

    def __init__(self, seed: int, at: int, folder: Path) -> None:
        self._random, self._left, self._folder = random.Random(seed), at, folder
        self._flushed: dict[int, tuple[int, int]] = {}
        self._renames: list[tuple[Path, Path, bool]] = []
        self._fsync, self._replace, self._rename = os.fsync, os.replace, os.rename

    def install(self) -> None:
        os.fsync = self.fsync
        os.replace = lambda old, new: self.move(self._replace, Path(old), Path(new))  # type: ignore[assignment]
        os.rename = lambda old, new: self.move(self._rename, Path(old), Path(new))  # type: ignore[assignment]

    def fsync(self, descriptor: int) -> None:
        self._tick()
        found = os.fstat(descriptor)
        self._flushed[found.st_ino] = (found.st_mtime_ns, found.st_size)
        folder = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self._renames = [each for each in self._renames if each[1].parent != folder]
        self._tick()

    def move(self, rename: Callable[[Path, Path], None], old: Path, new: Path) -> None:
        self._tick()
        existed = new.exists()
        rename(old, new)
        self._renames.append((old, new, existed))
        self._tick()

    def _tick(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._cut()

    def _cut(self) -> None:
        for path in sorted(self._folder.rglob("*")):
            if path.is_file() and ".duckdb" not in path.name:
                found = path.stat()
                if self._flushed.get(found.st_ino) != (found.st_mtime_ns, found.st_size):
                    self._lose(path)
        for old, new, existed in reversed(self._renames):
            if not existed and new.exists() and self._random.random() < 0.5:
                self._rename(new, old)
        os._exit(CUT)

    def _lose(self, path: Path) -> None:
        data = path.read_bytes()
        kept = self._random.randrange(len(data) + 1)
        lost = self._random.choice(["gone", "truncated", "zeroed", "whole"])
        if lost == "gone":
            path.unlink()
        elif lost != "whole":
            path.write_bytes(data[:kept] + (bytes(len(data) - kept) if lost == "zeroed" else b""))


class FullDisk:
    """From the n-th write on, the disk has no space left for a while."""

    def __init__(self, seed: int, at: int, folder: Path) -> None:
        self._left, self._fails = at, random.Random(seed).choice([1, 2, 1000])

    def install(self) -> None:
        import numpy as np
        import pyarrow.parquet as pq

        for module, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (np, "save"), (pq, "write_table")):
            setattr(module, name, self._guarded(getattr(module, name)))

    def _guarded(self, write: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **named: Any) -> Any:
            self._left -= 1
            if self._left <= 0 and self._fails > 0:
                self._fails -= 1
                raise OSError(28, "No space left on device")
            return write(*arguments, **named)

        return guarded


class JumpingClock:
    """The wall clock jumps, far and near, forward and back, at every n-th look."""

    def __init__(self, seed: int, at: int, folder: Path) -> None:
        self._random, self._every, self._looks, self._offset = random.Random(seed), max(1, at), 0, 0.0
        self._time = time.time

    def install(self) -> None:
        time.time = self.now
        time.time_ns = lambda: int(self.now() * 1e9)

    def now(self) -> float:
        self._looks += 1
        if self._looks % self._every == 0:
            self._offset = self._random.choice(JUMPS)
        return self._time() + self._offset


class Workers:
    """Not a fault yet: models are trained by processes, however few, so that these can be killed."""

    def __init__(self, seed: int, at: int, folder: Path) -> None:
        pass

    def install(self) -> None:
        from tda_backend.models.training.retraining import routes

        routes._WORTH_A_POOL = 0.0


FAULTS = {"power cut": PowerCut, "full disk": FullDisk, "clock": JumpingClock, "workers": Workers}


def install(name: str, seed: int, at: int, folder: Path) -> None:
    """Let a fault come over this process; none for an empty name."""
    if name:
        FAULTS[name](seed, at, folder).install()
