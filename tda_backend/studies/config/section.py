"""Sections of a study file as frozen dataclasses: each field with its check, its default and its quick limit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, ClassVar, Self

from tda_backend.studies.config.values import Check


def setting(check: Check, default: Any = MISSING, *, quick: Any = None) -> Any:
    """Return a field of a section.

    Args:
        check: Of a value as the file has it; see :mod:`~tda_backend.studies.config.values`.
        default: Where the file says nothing; ``None``: the field is then left out of what identifies the study.
        quick: Largest number of a quick study.
    """
    metadata = {"check": check, "quick": quick}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Section:
    """One table of a study file, every default filled in."""

    NAME: ClassVar[str]

    @classmethod
    def checks(cls) -> dict[str, Check]:
        """Return the check of every key that the section may have."""
        return {each.name: each.metadata["check"] for each in fields(cls)}

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return the keys that have a default, as a study file writes them."""
        found = {each.name: _default(each) for each in fields(cls)}
        return {name: value for name, value in found.items() if value is not MISSING and value is not None}

    @classmethod
    def limits(cls) -> dict[str, Any]:
        """Return the largest numbers of a quick study, by key."""
        return {each.name: each.metadata["quick"] for each in fields(cls) if each.metadata["quick"] is not None}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the section that a checked table with its defaults filled in stands for."""
        return cls(**content)

    def check(self, num_train: int, num_queries: int) -> None:
        """Raise a StudyError where values contradict each other or the study's counts."""

    def to_json(self) -> dict[str, Any]:
        """Return what identifies it: every key that is set."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: _plain(value) for name, value in values.items() if value is not None}


def _default(each: Field) -> Any:
    return each.default if each.default_factory is MISSING else each.default_factory()


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
