"""Work in blocks, and what happens where memory runs out: a block is halved, and the work goes on.

A block that fails is computed again at half its size, those before it are kept, and those after it have the new size.
Where a computation cannot go on in its middle, it is computed again as a whole, with all of its blocks halved. Nothing
that is drawn at random may depend on the size of a block, so results stay the same but for rounding.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import torch

from tda_backend.errors import ran_out_of_memory

T = TypeVar("T")

EXAMPLES = "examples"
MOST_HALVINGS = 4
"""How often a computation is begun again with all blocks halved."""


class BlockSizes:
    """How large blocks may be in some work, which is less than usual once memory has run out."""

    def __init__(self) -> None:
        self._most: dict[str, int] = {}
        self._halvings = 0
        self._largest = 0
        self._changes: dict[str, tuple[int, int]] = {}
        self._is_new = False

    def of(self, size: int, unit: str = "") -> int:
        """Return how many units a block has, at least 1.

        Args:
            size: As many as it has where memory suffices.
            unit: What is counted, where blocks of it may have been halved.
        """
        allowed = max(1, min(size >> self._halvings, self._most.get(unit, size)))
        self._largest = max(self._largest, allowed)
        return allowed

    def halve(self, unit: str, size: int) -> None:
        """Let blocks of a unit be half of what a block of ``size`` was."""
        self._most[unit] = max(1, size // 2)
        self._changes[unit] = self._changes.get(unit, (size, 0))[0], self._most[unit]

    def halve_all(self) -> bool:
        """Halve all blocks; return whether that may help: ``False`` where none was larger than 1, or too often."""
        if self._largest <= 1 or self._halvings == MOST_HALVINGS:
            return False
        self._halvings += 1
        self._largest, self._is_new = 0, True
        self._most, self._changes = {}, {}  # it was not these that memory lacked for
        return True

    @property
    def were_halved(self) -> bool:
        """Whether any blocks are smaller than usual."""
        return bool(self._halvings or self._most)

    def take_remarks(self) -> list[str]:
        """Return what was halved, a sentence each, and forget it: it is said once."""
        whole = f"out of memory; computed again with blocks of 1/{2**self._halvings} of their size"
        said = [whole] if self._is_new else []
        said += [f"out of memory with blocks of {a} {unit}; goes on with {b}" for unit, (a, b) in self._changes.items()]
        self._changes, self._is_new = {}, False
        return said


_current: ContextVar[BlockSizes | None] = ContextVar("block_sizes", default=None)


@contextmanager
def sized_by(sizes: BlockSizes) -> Iterator[None]:
    """Let all work inside have blocks of these sizes."""
    token = _current.set(sizes)
    try:
        yield
    finally:
        _current.reset(token)


def _sizes() -> BlockSizes:
    return _current.get() or BlockSizes()


def block_size(size: int) -> int:
    """Return how large a block may be that has ``size`` where memory suffices; at least 1."""
    return _sizes().of(size)


def spans(total: int, size: int) -> Iterator[slice]:
    """Yield the blocks of a computation that cannot go on in its middle.

    Args:
        total: Units there are.
        size: Units in a block, where memory suffices.
    """
    step = block_size(min(size, max(1, total)))
    for start in range(0, total, step):
        yield slice(start, min(start + step, total))


def in_blocks(
    total: int, size: int | Callable[[int], int], compute: Callable[[slice], T], unit: str
) -> Iterator[tuple[slice, T]]:
    """Yield (block, what ``compute`` makes of it); a block for which memory runs out is computed again in halves.

    Args:
        total: Units there are.
        size: Units in a block where memory suffices, or a function of the block's first unit.
        compute: Called with each block; when it is called again, nothing is left of the call that failed.
        unit: What is counted, in the plural.

    Raises:
        Exception: What ``compute`` raises; where memory runs out, of a block of one.
    """
    sizes, start = _sizes(), 0
    while start < total:
        wanted = size if isinstance(size, int) else size(start)
        part = slice(start, min(start + sizes.of(min(wanted, total), unit), total))
        count = part.stop - part.start
        try:
            found = compute(part)
        except Exception as error:
            if count == 1 or not ran_out_of_memory(error):
                raise
        else:
            yield part, found
            del found  # it is not held beside the next one
            start = part.stop
            continue
        # Only here, where the error is forgotten: its traceback holds what the block had allocated.
        sizes.halve(unit, count)
        free_memory()


def free_memory() -> None:
    """Give back what nobody holds, on the host and on the accelerator."""
    gc.collect()
    if torch.accelerator.is_available():
        accelerator = torch.accelerator.current_accelerator()
        empty = getattr(getattr(torch, accelerator.type, None), "empty_cache", None) if accelerator else None
        if empty is not None:
            empty()
