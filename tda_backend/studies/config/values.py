"""Checks of single values in a study file: each says what was given and what is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tda_backend.errors import StudyError

NAME_LENGTH = 80
TEXT_LENGTH = 4096
LONGEST_LIST = 1000
SHOWN = 120
MOST = 10**9
"""No count that a study file gives is larger; most have a limit of their own."""
MOST_EXAMPLES, MOST_SEEDS, MOST_DIMENSIONS = 10**7, 1000, 10**7
Check = Callable[[str, Any], Any]
"""(dotted key, value) → the checked value; raises a StudyError that says what is allowed."""
ALL_BUT_ONE = ("1-1/n", "loo")
"""How a study file may write α = 1 − 1/n."""


def short(value: Any) -> str:
    """Return a value as an error shows it, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # a number of more digits than Python writes
        text = "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def whole(low: int, high: int = MOST) -> Check:
    """Return a check of whole numbers from ``low`` to ``high``."""

    def check(key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise StudyError(f"{key} = {short(value)} is not allowed.", f"Give a whole number of at least {low}.")
        if value > high:
            raise StudyError(f"{key} = {short(value)} is beyond the limit.", f"Give at most {high}.")
        return value

    return check


def real(low: float, high: float) -> Check:
    """Return a check of numbers between two ends, both excluded."""

    def check(key: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
            raise StudyError(f"{key} = {short(value)} is not allowed.", f"Give a number between {low:g} and {high:g}.")
        return float(value)

    return check


def one_of(*allowed: Any) -> Check:
    """Return a check of values of a list."""

    def check(key: str, value: Any) -> Any:
        if value not in allowed or isinstance(value, bool) != isinstance(allowed[0], bool):
            names = ", ".join(str(item).lower() if isinstance(item, bool) else repr(item) for item in allowed)
            raise StudyError(f"{key} = {short(value)} is not allowed.", f"Allowed: {names}.")
        return value

    return check


def text(key: str, value: Any) -> str:
    """Check a text that says something."""
    if not isinstance(value, str) or not value.strip():
        raise StudyError(f"{key} = {short(value)} is not allowed.", "Give a text.")
    if len(value) > TEXT_LENGTH or "\0" in value:
        raise StudyError(f"{key} = {short(value)} is not allowed.", f"Give at most {TEXT_LENGTH} characters of text.")
    return value


def is_name(value: str) -> bool:
    """Return whether a text may name a study: it names files and folders too, and stands in commands and links."""
    return (
        0 < len(value) <= NAME_LENGTH
        and value[0].isalnum()
        and value[-1] != " "
        and all(each.isalnum() or each in " ._+-" for each in value)
    )


def as_name(value: str) -> str:
    """Return the nearest text that may name a study."""
    kept = "".join(each if each.isalnum() or each in "._+" else "-" for each in value)[:NAME_LENGTH]
    return kept.lstrip("._+-").rstrip("-") or "study"


def study_name(key: str, value: Any) -> str:
    """Check the name of a study."""
    if not isinstance(value, str) or not is_name(value):
        raise StudyError(
            f"{key} = {short(value)} is not allowed.",
            f"A name has up to {NAME_LENGTH} letters, digits, spaces and . _ + -, and begins with a letter or a digit.",
        )
    return value


def many(check_one: Check, allow_one: bool = False, may_be_empty: bool = False) -> Check:
    """Return a check of lists without repetition (or single values, with ``allow_one``), by ``check_one``."""

    def check(key: str, value: Any) -> list:
        values = [value] if allow_one and not isinstance(value, list) else value
        if not isinstance(values, list) or not (values or may_be_empty):
            raise StudyError(f"{key} = {short(value)} is not allowed.", "Give a list, e.g. [1, 5].")
        if len(values) > LONGEST_LIST:
            raise StudyError(f"{key} has {len(values)} values.", f"Give at most {LONGEST_LIST}.")
        checked = [check_one(key, item) for item in values]
        if any(item in checked[:number] for number, item in enumerate(checked)):
            raise StudyError(f"{key} = {short(value)} names a value twice.", "Name each value once.")
        return checked

    return check


def share(key: str, value: Any) -> float | str:
    """Check the share of training examples in a subset: a number in (0, 1), or a word for "all but one"."""
    if isinstance(value, str) and value.replace(" ", "") in ALL_BUT_ONE:
        return ALL_BUT_ONE[0]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value < 1.0:
        raise StudyError(
            f"{key} = {short(value)} is not allowed.",
            f'Give a number between 0 and 1, or "{ALL_BUT_ONE[0]}" (all but one).',
        )
    return float(value)


def all_but_one(num_train: int) -> float:
    """Return α = 1 − 1/n with six digits, as labels and links write it; α·n still rounds to n − 1."""
    alpha = 1.0 - 1.0 / num_train
    short = float(f"{alpha:.6g}")
    return short if round(short * num_train) == num_train - 1 else alpha


def table(key: str, value: Any) -> dict[str, Any]:
    """Check an inline table; what it may hold is checked by who knows its kind."""
    if not isinstance(value, Mapping):
        raise StudyError(f"{key} = {short(value)} is not allowed.", "Give a table.")
    return dict(value)
