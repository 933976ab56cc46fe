"""Checks of single values in a study file: each says what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tda_backend.errors import StudyError

Rule = Callable[[str, Any], Any]
"""(dotted key, value) → the checked value; raises a StudyError that says what is allowed."""
ALL_BUT_ONE = ("1-1/n", "loo")
"""How a study file may write α = 1 − 1/n."""


def whole(low: int) -> Rule:
    """Return a rule for whole numbers of at least ``low``."""

    def check(key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise StudyError(f"{key} = {value!r} is not allowed.", f"Give a whole number of at least {low}.")
        return value

    return check


def real(low: float, high: float) -> Rule:
    """Return a rule for numbers between two ends, both excluded."""

    def check(key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
            raise StudyError(f"{key} = {value!r} is not allowed.", f"Give a number between {low:g} and {high:g}.")
        return float(value)

    return check


def one_of(*allowed: Any) -> Rule:
    """Return a rule for values of a list."""

    def check(key: str, value: Any) -> Any:
        if value not in allowed or isinstance(value, bool) != isinstance(allowed[0], bool):
            names = ", ".join(str(item).lower() if isinstance(item, bool) else repr(item) for item in allowed)
            raise StudyError(f"{key} = {value!r} is not allowed.", f"Allowed: {names}.")
        return value

    return check


def text(key: str, value: Any) -> str:
    """Check a text that says something."""
    if not isinstance(value, str) or not value.strip():
        raise StudyError(f"{key} = {value!r} is not allowed.", "Give a text.")
    return value


def many(rule: Rule, allow_one: bool = False, may_be_empty: bool = False) -> Rule:
    """Return a rule for lists without repetition (or single values, with ``allow_one``), each value by ``rule``."""

    def check(key: str, value: Any) -> list:
        values = [value] if allow_one and not isinstance(value, list) else value
        if not isinstance(values, list) or not (values or may_be_empty):
            raise StudyError(f"{key} = {value!r} is not allowed.", "Give a list, e.g. [1, 5].")
        checked = [rule(key, item) for item in values]
        if any(item in checked[:number] for number, item in enumerate(checked)):
            raise StudyError(f"{key} = {value!r} names a value twice.", "Name each value once.")
        return checked

    return check


def share(key: str, value: Any) -> float | str:
    """Check the share of training examples in a subset: a number in (0, 1), or a word for "all but one"."""
    if isinstance(value, str) and value.replace(" ", "") in ALL_BUT_ONE:
        return ALL_BUT_ONE[0]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < 1.0:
        raise StudyError(
            f"{key} = {value!r} is not allowed.", f'Give a number between 0 and 1, or "{ALL_BUT_ONE[0]}" (all but one).'
        )
    return float(value)


def all_but_one(num_train: int) -> float:
    """Return α = 1 − 1/n with six digits, as labels and links write it; α·n still rounds to n − 1."""
    alpha = 1.0 - 1.0 / num_train
    short = float(f"{alpha:.6g}")
    return short if round(short * num_train) == num_train - 1 else alpha
