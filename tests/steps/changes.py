"""Other values for the fields of a step: each of them must lead to another key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import Field, fields, is_dataclass, replace
from typing import Any

from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.steps.spectrum import Draw

ANOTHER = "another key"


def is_input(each: Field) -> bool:
    """Return whether a field holds steps."""
    return "input" in each.metadata


def is_about(each: Field) -> bool:
    """Return whether a field is for people and the catalogue alone."""
    return "about" in each.metadata


def others(value: Any) -> Iterator[Any]:
    """Yield values that mean something else: one for each part of a value that could be another one."""
    if isinstance(value, Draw) and value.dim is None:  # nothing is drawn: no more can be said of it
        yield replace(value, dim=7)
    elif isinstance(value, Step):
        yield replace(value, key=f"{value.key}, {ANOTHER}")
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    elif isinstance(value, float):
        yield value + 0.25
    elif isinstance(value, str):
        yield f"{value} too"
    elif value is None:
        yield 7
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from ({**value, name: other} for other in others(item))
            yield {each: kept for each, kept in value.items() if each != name}
        yield {**value, _like(value): next(iter(value.values()), 7)}
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from ((*value[:place], other, *value[place + 1 :]) for other in others(item))
        yield (*value, value[-1]) if value else (7,)
        if value:
            yield value[:-1]
    else:
        assert is_dataclass(value), f"say what another {type(value).__name__} is"
        for each in fields(value):
            yield from (replace(value, **{each.name: other}) for other in others(getattr(value, each.name)))


def _like(value: Mapping) -> Any:
    """Return a key that a mapping lacks, of the type that its keys have."""
    return next((name * 2 + 1 if isinstance(name, int | float) else f"{name} too" for name in value), "new")
