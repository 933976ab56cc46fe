"""Step: one unit of work with an artifact of its own; its key follows from class, version, settings and inputs.

A kind of step is a frozen dataclass in a file of its own. Fields made by :func:`needs` are steps that it reads; fields
made by :func:`about` are for people and for the catalogue and change no key; all others are settings. The idea is that
of allenai/tango's steps.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np

from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.store.artifact import Artifact, stored_values
from tda_backend.studies.store.artifacts import ArtifactWriter, content_key, provisional_key
from tda_backend.studies.store.drop import Kind
from tda_backend.studies.store.tables.base import Table


def needs(*, role: str = "", optional: bool = False, default: Any = MISSING) -> Any:
    """Return a field that holds the steps which a step reads: one, several of one role, or one role for each key.

    Args:
        role: Name of the input, where it is not that of the field; for a mapping a pattern such as ``"retrain {:g}"``.
        optional: Whether the step has a meaning where these failed, as long as one of its inputs is left.
        default: Where there are none.
    """
    metadata = {"input": True, "role": role, "optional": optional}
    if default is not MISSING and isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def about(default: Any = MISSING, *, ingested: bool = False) -> Any:
    """Return a field that changes no key.

    Args:
        default: Its value where none is given.
        ingested: Whether the catalogue is told of it with the result.
    """
    metadata = {"about": True, "ingested": ingested}
    if isinstance(default, dict | list):
        return field(default_factory=type(default), metadata=metadata, compare=False)
    return field(default=default, metadata=metadata, compare=False)


def setting(default: Any = MISSING) -> Any:
    """Return a field that is a setting only where it is given: ``None`` is left out of the key."""
    return field(default=default, metadata={"omitted": True})


@dataclass(frozen=True)
class Cost:
    """Roughly what a step takes on the device of its plan, from what was measured there on a few rows.

    Attributes:
        seconds: Time.
        memory_gib: Beside the program and the task's data, which a run holds throughout.
        models: How many it trains, at most.
        saved_gib: How much less memory it takes with the smallest blocks.
        stored_gib: What its artifact takes on the disk.
    """

    seconds: float = 1.0
    memory_gib: float = 0.0
    models: int = 0
    saved_gib: float = 0.0
    stored_gib: float = 0.0


_UNKNOWN = Cost()


@dataclass(frozen=True, kw_only=True)
class Step(Kind, ABC):
    """One unit of work.

    Class attributes:
        NAME: Of the kind; artifacts carry it.
        VERSION: Bumped by hand when the code changes what it computes.
        TABLES: What it writes for the catalogue.
        IS_FOUNDATION: Without it nothing else has a meaning: its failure ends a run.
        IS_SHARED: Every method of a study needs it, or none: it is no method's own cost.
        ENDS_EARLY: It may train fewer models than its cost says.
        POOL_REACH: How many steps ahead of it the worker processes that train are kept alive; ``None``: it has no use
            for them.
        UNIT: What its progress counts, for people.

    Attributes:
        label: For people.
        cost: Roughly.
        key: Content key of its artifact; a plan gives it.
        missing: Inputs that failed, role → why; such a result is provisional.
    """

    NAME: ClassVar[str]
    VERSION: ClassVar[int]
    TABLES: ClassVar[tuple[Table, ...]] = ()
    IS_FOUNDATION: ClassVar[bool] = False
    IS_SHARED: ClassVar[bool] = False
    ENDS_EARLY: ClassVar[bool] = False
    POOL_REACH: ClassVar[int | None] = None
    UNIT: ClassVar[str] = ""

    label: str = about("")
    cost: Cost = about(_UNKNOWN)
    key: str = about("")
    missing: Mapping[str, str] = about({}, ingested=True)

    @abstractmethod
    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Compute the result; inputs come from artifacts, output goes through the writer."""

    @classmethod
    def results(cls, artifact: Artifact) -> dict[str, np.ndarray]:
        """Return what must come out the same when the step is computed again: by default all that it stored."""
        return stored_values(artifact)

    def settings(self) -> dict[str, Any]:
        """Return what it depends on beside its inputs, JSON-compatible."""
        return {
            each.name: _plain(getattr(self, each.name))
            for each in fields(self)
            if not {"input", "about"} & set(each.metadata)
            and not (each.metadata.get("omitted") and getattr(self, each.name) is None)
        }

    def inputs(self) -> dict[str, tuple[Step, ...]]:
        """Return the steps that it reads, by role."""
        found: dict[str, tuple[Step, ...]] = {}
        for each in _input_fields(self):
            value, role = getattr(self, each.name), each.metadata["role"] or each.name
            if isinstance(value, Mapping):
                found |= {role.format(name): _several(steps) for name, steps in value.items()}
            elif value is not None:
                found[role] = _several(value)
        return {role: steps for role, steps in found.items() if steps}

    def all_inputs(self) -> Iterator[Step]:
        """Return the steps that it reads, one after the other."""
        for steps in self.inputs().values():
            yield from steps

    def optional_roles(self) -> set[str]:
        """Return the roles of inputs that it can do without."""
        found: set[str] = set()
        for each in _input_fields(self):
            if each.metadata["optional"]:
                value, role = getattr(self, each.name), each.metadata["role"] or each.name
                found |= {role.format(name) for name in value} if isinstance(value, Mapping) else {role}
        return found

    def keyed(self, common: Mapping[str, Any]) -> Self:
        """Return the step with its content key.

        Args:
            common: What every step of a plan depends on: task, precision, device type, torch's version.
        """
        inputs = {role: [step.key for step in steps] for role, steps in self.inputs().items()}
        key = content_key(step=self.NAME, version=self.VERSION, settings=self.settings(), inputs=inputs, **common)
        return replace(self, key=key)

    def joined(self, other: Self) -> Self:
        """Return the step that serves this one's purposes and those of ``other``, which has the same key."""
        return self

    def can_do_without(self, roles: Collection[str]) -> bool:
        """Return whether the step has a meaning without the inputs of ``roles``."""
        return set(roles) < self.optional_roles()

    def without(self, reasons: Mapping[str, str]) -> Self:
        """Return the step as it is computed without some inputs (role → why), under a key that caches nothing."""
        changes: dict[str, Any] = {}
        for each in _input_fields(self):
            value, role = getattr(self, each.name), each.metadata["role"] or each.name
            if isinstance(value, Mapping):
                changes[each.name] = {n: steps for n, steps in value.items() if role.format(n) not in reasons}
            elif role in reasons:
                changes[each.name] = None
        return replace(self, key=provisional_key(self.key), missing=dict(reasons), **changes)

    def context(self) -> dict[str, Any]:
        """Return what the catalogue is told with the result, JSON-compatible."""
        found = {each.name: _plain(getattr(self, each.name)) for each in fields(self) if each.metadata.get("ingested")}
        return {name: value for name, value in found.items() if name != "missing" or value}

    def affinity(self) -> str:
        """Return a text that steps share which belong on one worker, for they share what nothing stores."""
        return self.key


def _input_fields(step: Step) -> list[dataclasses.Field]:
    return [each for each in fields(step) if "input" in each.metadata]


def _several(value: Any) -> tuple[Step, ...]:
    return (value,) if isinstance(value, Step) else tuple(value)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
