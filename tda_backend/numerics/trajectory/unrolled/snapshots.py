"""Snapshots of (θ, state) along a run, in memory or on disk, and how far apart they may lie under a budget."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tda_backend.errors import MachineError, UsageError

GIB = 2**30


class Snapshots(Protocol):
    """Keeps one ``[1+s, P]`` tensor per number."""

    def put(self, number: int, values: Tensor) -> None:
        """Keep a copy of ``values``."""
        ...

    def get(self, number: int) -> Tensor:
        """Return what was kept, on the CPU; it must not be changed."""
        ...


class MemorySnapshots:
    """Snapshots in memory."""

    def __init__(self) -> None:
        self._kept: dict[int, Tensor] = {}

    def put(self, number: int, values: Tensor) -> None:
        """Keep a copy of ``values``."""
        self._kept[number] = values.detach().cpu().clone()

    def get(self, number: int) -> Tensor:
        """Return what was kept."""
        return self._kept[number]


class DiskSnapshots:
    """Snapshots as ``.npy`` files in a folder of their own below ``folder``; it goes when this object does.

    Raises:
        MachineError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.folder = Path(tempfile.mkdtemp(prefix="trajectory-", dir=folder))
        except OSError as error:
            raise MachineError(
                f"The folder {folder} for snapshots cannot be made: {error}.", "Choose another one."
            ) from error
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def put(self, number: int, values: Tensor) -> None:
        """Write ``values``; the file appears by a rename, whole or not at all."""
        path = self._path(number)
        try:
            with (part := path.with_suffix(".part")).open("wb") as file:
                np.save(file, values.detach().cpu().numpy(), allow_pickle=False)
            os.replace(part, path)
        except OSError as error:
            raise MachineError(
                f"Snapshot {number} of the run cannot be written: {error}.", "Free some space, or lower budget_gib."
            ) from error

    def get(self, number: int) -> Tensor:
        """Read a snapshot."""
        try:
            return torch.from_numpy(np.load(self._path(number), allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise MachineError(
                f"Snapshot {number} of the run cannot be read: {error}.", "Record the run again."
            ) from error

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:07d}.npy"


def kept_states(num_steps: int, interval: int) -> int:
    """Return how many states (θ with its slots) a recording holds: ⌈T/c⌉ snapshots, the end, and one segment of c.

    With c = 1 nothing is recomputed and the segment is one state that was read.
    """
    return -(-num_steps // interval) + 1 + interval


def snapshot_interval(num_steps: int, state_bytes: int, budget_gib: float) -> int:
    """Return c, the smallest distance of snapshots whose total of :func:`kept_states` lies within the budget.

    Args:
        num_steps: T.
        state_bytes: Bytes of one state ``[1+s, P]``.
        budget_gib: Of snapshots, wherever they lie, and of the segment that one walk recomputes.

    Raises:
        UsageError: The budget is no positive number.
        MachineError: Even about √T snapshots with segments of √T steps take more; names the smallest budget that works.
    """
    if not (math.isfinite(budget_gib) and budget_gib > 0):
        raise UsageError(f"The budget is {budget_gib} GiB.", "Give a positive number.")
    room = budget_gib * GIB / state_bytes
    for interval in range(1, num_steps + 1):
        if kept_states(num_steps, interval) <= room:
            return interval
    least = min(kept_states(num_steps, interval) for interval in range(1, num_steps + 1)) * state_bytes / GIB
    raise MachineError(
        f"A run of {num_steps} steps with {state_bytes / GIB:.3g} GiB per step does not fit into {budget_gib:g} GiB, "
        "even with most steps recomputed.",
        f"Allow at least {_rounded_up(least):g} GiB, or record fewer epochs.",
    )


def _rounded_up(value: float) -> float:
    """Return ``value`` in three digits, never less than it."""
    digits = 2 - math.floor(math.log10(value))
    return math.ceil(value * 10**digits) / 10**digits
