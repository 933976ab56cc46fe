"""Hyper-parameters of methods as addresses, select boxes and titles write them. Pure functions.

A *setting* is one swept hyper-parameter of a configuration as a pair of texts: ``("max_iter", "10")``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tda_backend.studies.methods import METHODS

Settings = tuple[tuple[str, str], ...]
OLD_LINKS: dict[str, tuple[str, Settings]] = {
    old: (name, settings) for name, spec in METHODS.items() for old, settings in spec.former
}
"""Methods in addresses of earlier versions, where a setting was a part of the method's name."""

RELATIVE = ("damping", "relative")
"""The setting that makes λ relative to each layer."""

_KNOWN = {item.name: item for spec in reversed(METHODS.values()) for item in spec.hyperparameters}
"""Hyper-parameters by name, as the first method that has one says it."""


def value_text(value: Any) -> str:
    """Return a hyper-parameter's value as the address has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)


def parse_settings(text: str) -> tuple[Settings, list[str]]:
    """Return the settings of ``damping:relative,fisher:true``, by name, and the parts that are none."""
    known: dict[str, str] = {}
    wrong = []
    for part in filter(None, text.split(",")):
        name, colon, value = part.partition(":")
        if colon and name and value:
            known[name] = value
        else:
            wrong.append(part)
    return tuple(sorted(known.items())), wrong


def settings_text(settings: Settings) -> str:
    """Return settings as the address has them: the inverse of :func:`parse_settings`."""
    return ",".join(f"{name}:{value}" for name, value in sorted(settings))


def settings_of(parameters: Mapping[str, Any], swept: Sequence[Any]) -> Settings:
    """Return a configuration's settings; one that it does not store is at its default.

    Args:
        parameters: Of the configuration.
        swept: The method's hyper-parameters that make configurations (``name``, ``default``).
    """
    return tuple((item.name, value_text(parameters.get(item.name, item.default[0]))) for item in swept)


def value_of(settings: Settings, name: str) -> str | None:
    """Return the value of one setting, or ``None``."""
    return next((value for each, value in settings if each == name), None)


def is_relative(settings: Settings) -> bool:
    """Return whether λ counts in units of each layer's mean curvature."""
    return RELATIVE in settings


def choices_of(rows: Sequence[Settings]) -> list[str]:
    """Return the names of those settings that take more than one value, in order."""
    names = dict.fromkeys(name for row in rows for name, _ in row)
    return [name for name in names if len({value_of(row, name) for row in rows}) > 1]


def ordered(values: Sequence[str]) -> list[str]:
    """Return distinct values of a setting: numbers by size, then words as they come."""
    return sorted(dict.fromkeys(values), key=lambda text: (number(text) is None, number(text) or 0.0))


def number(text: str) -> float | None:
    """Return the number that a text is, or ``None``."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def label(name: str) -> str:
    """Return a hyper-parameter's name for people: ``max iter``."""
    title = _KNOWN[name].title if name in _KNOWN else ""
    return title or name.replace("_", " ")


def value_words(name: str, value: str) -> str:
    """Return a value where its hyper-parameter's name stands beside it: ``all`` where 0 leaves nothing out."""
    return _KNOWN[name].zero or value if name in _KNOWN and number(value) == 0 else value


def words(name: str, value: str) -> str:
    """Return one setting in words: ``relative damping``, ``max iter 10``, ``no normalization``, ``all eigenvalues``."""
    said = value_words(name, value)
    if value in ("true", "false") and not (name in _KNOWN and _KNOWN[name].kind == "choice"):
        return label(name) if value == "true" else f"no {label(name)}"
    return f"{said} {label(name)}" if number(said) is None else f"{label(name)} {said}"


def distance(wanted: str, found: str) -> float:
    """Return how far one value is from another: octaves between numbers, 1 between words."""
    first, second = number(wanted), number(found)
    if first is None or second is None:
        return float(wanted != found)
    return abs(math.log2(max(first, 1e-12) / max(second, 1e-12)))
