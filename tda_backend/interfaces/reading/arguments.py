"""What scripts pass to a study, checked: whole numbers, λ and training seeds; anything else is refused in one line."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from tda_backend.errors import UsageError


def whole_number(value: Any, name: str, allowed: str) -> int:
    """Return ``value`` as an int.

    Raises:
        UsageError: It is none (1.7, "a", True); ``allowed`` is the hint.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError as error:
        raise UsageError(f"{name} = {value!r} is not a whole number.", allowed) from error


def whole_numbers(values: Any, name: str, allowed: str) -> list[int]:
    """Return one whole number, or several, as a list of ints.

    Raises:
        UsageError: One of them is no whole number; ``allowed`` is the hint.
    """
    if isinstance(values, Iterable) and not isinstance(values, str | bytes) and getattr(values, "ndim", 1):
        return [whole_number(value, name, allowed) for value in values]
    return [whole_number(values, name, allowed)]


def regularization(value: Any) -> float:
    """Return one λ as a float; its range is checked where it is used.

    Raises:
        UsageError: It is no number.
    """
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"regularization = {value!r} is not a number.", "Give λ ≥ 0, in units of the mean Gram."
        ) from error


def regularizations(values: Any) -> list[float]:
    """Return one λ, or several, as a list of floats.

    Raises:
        UsageError: One of them is no number, or there is none.
    """
    several = isinstance(values, Iterable) and not isinstance(values, str | bytes) and getattr(values, "ndim", 1)
    found = [regularization(value) for value in values] if several else [regularization(values)]
    if not found:
        raise UsageError("regularization is empty.", "Give at least one λ ≥ 0, or None for the study's grid.")
    return found
