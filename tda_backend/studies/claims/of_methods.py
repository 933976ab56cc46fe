"""Claims about all configurations of some methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tda_backend.errors import StudyError
from tda_backend.studies.claims.sides import as_list
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.contract.claim import ClaimKind, Content
from tda_backend.studies.contract.evidence import Evidence
from tda_backend.studies.contract.method import METHODS as METHOD_TABLE

METHODS = "methods"


@dataclass(frozen=True)
class OfMethods(Content):
    """Which methods.

    Attributes:
        methods: Keys of the method table.
    """

    methods: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as the study file has it, checked."""
        return {METHODS: list(self.methods)}


M = TypeVar("M", bound=OfMethods)


class MethodsKind(ClaimKind[M]):
    """A kind of claim about all configurations of some methods."""

    KEYS = (METHODS,)

    def methods(self, content: M) -> Sequence[str]:
        """Return the methods."""
        return content.methods

    def configurations(self, content: M, evidence: Evidence) -> list[Configuration]:
        """Return the configurations that the claim is about."""
        return [each for each in evidence.configurations if each.method in content.methods]


class MethodsAlone(MethodsKind[OfMethods]):
    """A kind of claim that names methods and nothing else."""

    def check(self, key: str, given: Mapping[str, Any]) -> OfMethods:
        """Return the methods after checking them."""
        return OfMethods(check_methods(f"{key}.{METHODS}", given[METHODS]))

    def parse(self, content: Mapping[str, Any]) -> OfMethods:
        """Return the methods of a checked claim."""
        return OfMethods(tuple(content[METHODS]))


def check_methods(key: str, value: Any) -> tuple[str, ...]:
    """Return names of methods with λ.

    Raises:
        StudyError: One is unknown or has no λ, or there is none.
    """
    names = as_list(value)
    able = [name for name, spec in METHOD_TABLE.items() if spec.has_regularization]
    for name in names:
        if name not in able:
            raise StudyError(f"{key} has {name!r}.", f"Methods with λ: {', '.join(able)}.")
    if not names:
        raise StudyError(f"{key} is empty.", "Name at least one method.")
    return tuple(names)
