"""The claim that removing what one configuration names flips more queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tda_backend.numerics.evaluation.claims import Comparison, difference
from tda_backend.studies.claims.sides import Sides, SidesKind
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.config.selector import Selector
from tda_backend.studies.contract.choosing import RANDOM
from tda_backend.studies.contract.claim import FigureKind, Needs
from tda_backend.studies.contract.evidence import Evidence


class Flips(SidesKind):
    """Removing what one configuration names flips more queries than what others do, or random examples."""

    NAME = "flips"
    WORDS = "area under the subset-removal curve of left − that of each right lies above `bound`"
    AXIS = "difference of the areas, 95 % interval"
    FIGURE = FigureKind.REMOVALS

    def check_selector(self, key: str, value: Any) -> Selector:
        """Return a selector of one side, or the random baseline, checked."""
        if isinstance(value, Mapping) and Selector(dict(value)) == RANDOM:
            return RANDOM
        return super().check_selector(key, value)

    def selectors(self, content: Sides) -> Sequence[Selector]:
        """Return the configurations of both sides, the random baseline left out."""
        return [selector for selector in super().selectors(content) if selector != RANDOM]

    def needs(self, content: Sides, configurations: Sequence[Configuration]) -> Needs:
        """Return what the configurations need, and the removals of both sides."""
        found = super().needs(content, configurations)
        return replace(found, removals=(*content.left, *content.right))

    def compare(self, content: Sides, bound: float, evidence: Evidence) -> list[Comparison]:
        """Return the difference of the areas."""
        left = evidence.area(content.left[0])
        return [difference(left, evidence.area(selector), bound) for selector in content.right]
