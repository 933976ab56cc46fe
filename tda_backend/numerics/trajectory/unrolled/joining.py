"""Removed examples of a recorded run: when the run first sees each, and which are followed side by side.

A run without z *is* the recorded run until z is first seen, so whatever follows z starts there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tda_backend.blocks import block_size
from tda_backend.errors import UsageError
from tda_backend.numerics.trajectory.unrolled.trajectory import Trajectory

Progress = Callable[[int, int], None]
"""Called with the steps done and in total."""


@dataclass(frozen=True)
class Removals:
    """R removed examples in groups that walk through the run together.

    Attributes:
        rows: Their rows of the train split, int64 ``[R]``, in the order asked for.
        first_steps: The step (from 1) whose batch first holds each, int64 ``[R]``.
        groups: Positions into ``rows``; those that are seen early come first.
        horizons: Numbers of steps after which something is looked at, ``[H]``.
        num_steps: T.
    """

    rows: Tensor
    first_steps: Tensor
    groups: tuple[Tensor, ...]
    horizons: tuple[int, ...]
    num_steps: int

    @classmethod
    def of(
        cls, trajectory: Trajectory, rows: Sequence[int] | Tensor, horizons: Sequence[int] | None, size: int
    ) -> Removals:
        """Return the removals of a run in groups of at most ``size``; the horizons of ``None`` are the last step alone.

        Raises:
            UsageError: A row is not trained on, a horizon is outside 1…T, or the size is below 1.
        """
        removed = as_rows(rows)
        marks = (trajectory.num_steps,) if horizons is None else tuple(int(mark) for mark in horizons)
        if any(not 1 <= mark <= trajectory.num_steps for mark in marks):
            raise UsageError(
                f"Horizons {list(marks)} of a run of {trajectory.num_steps} steps.",
                f"Give numbers in 1…{trajectory.num_steps}.",
            )
        firsts = torch.tensor([trajectory.steps_of(row)[0] for row in removed.tolist()])
        if size < 1:
            raise UsageError(f"{size} runs side by side.", "At least 1 is needed.")
        groups = tuple(torch.argsort(firsts, stable=True).split(block_size(min(size, len(removed)))))
        return cls(removed, firsts, groups, marks, trajectory.num_steps)

    def walks(self, on_progress: Progress | None) -> Iterator[tuple[Tensor, Callable[[int], None]]]:
        """Yield each group with the function that its walk calls after every step (from 1)."""
        total = sum(self.num_steps + 1 - int(self.first_steps[group[0]]) for group in self.groups)
        done = 0
        for group in self.groups:
            start = int(self.first_steps[group[0]])

            def report(step: int, before: int = done - start + 1) -> None:
                if on_progress is not None:
                    on_progress(before + step, total)

            yield group, report
            done += self.num_steps + 1 - start

    def marks(self, step: int) -> list[int]:
        """Return the positions of a step among the horizons."""
        return [number for number, mark in enumerate(self.horizons) if mark == step]


def as_rows(rows: Sequence[int] | np.ndarray | Tensor) -> Tensor:
    """Return row numbers as int64 ``[R]`` on the CPU.

    Raises:
        UsageError: There are none, or they are not a list of whole numbers.
    """
    found = torch.as_tensor(rows).cpu()
    if found.ndim != 1 or not len(found) or found.is_floating_point() or found.dtype == torch.bool:
        raise UsageError(f"Rows of shape {tuple(found.shape)} and type {found.dtype}.", "Give a list of row numbers.")
    return found.long()
