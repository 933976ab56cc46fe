"""The course of a pass: which calls were made, and whether values of the examples chose rows in them.

Two batches whose passes take the same course treat rows alike, unless rows were chosen by values (``x[order]``,
``x[mask]``): what was checked for one then holds for the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

_SHAPING = ("view", "reshape", "expand", "repeat", "unflatten", "broadcast_to", "new_zeros", "new_ones", "new_full")
"""Calls whose numbers are sizes, which follow the number of examples and move no row."""

_ALONG_AN_AXIS = {"index_select": 1, "gather": 1, "index_add": 1, "index_copy": 1, "scatter": 1, "take_along_dim": 2}
"""Position of the axis among the arguments."""


class Course:
    """What a pass has done so far.

    Attributes:
        number: The same for passes that made the same calls with the same numbers in the same order.
        picks: Whether values of the examples chose rows of what is computed from examples.
    """

    def __init__(self) -> None:
        self.number, self.picks = 0, False

    def note(self, func: Any, args: tuple, kwargs: dict[str, Any], of_batch: Callable[[Tensor], bool]) -> None:
        """Take note of a call."""
        name = getattr(func, "__name__", "")
        numbers = None if name in _SHAPING else (_numbers(args), _numbers(tuple(kwargs.items())))
        self.number = hash((self.number, name, numbers))
        self.picks = self.picks or _picks(name, args, kwargs, of_batch)


def _picks(name: str, args: tuple, kwargs: dict[str, Any], of_batch: Callable[[Tensor], bool]) -> bool:
    if name.startswith("masked_s"):  # masked_select, masked_scatter
        return True
    if not args or not isinstance(args[0], Tensor) or not of_batch(args[0]):
        return False
    if name in ("__getitem__", "__setitem__"):
        chosen = [each for each in (args[1] if isinstance(args[1], tuple) else (args[1],)) if isinstance(each, Tensor)]
        # Numbers of rows before chosen positions, x[arange(b), last], leave every example its own row.
        return bool(chosen) and of_batch(chosen[0])
    name = name.rstrip("_")
    if name not in _ALONG_AN_AXIS:
        return False
    place = _ALONG_AN_AXIS[name]
    axis = args[place] if len(args) > place else kwargs.get("dim")
    return axis in (0, None, -args[0].ndim)


def _numbers(value: Any) -> Any:
    """Return what is no tensor and no broken number among arguments, in a form that can be compared."""
    if isinstance(value, tuple | list):
        return tuple(_numbers(each) for each in value)
    if isinstance(value, slice):
        return (_numbers(value.start), _numbers(value.stop), _numbers(value.step))
    return value if isinstance(value, int | str) else None
