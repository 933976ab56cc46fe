"""The claim that one configuration depends more on λ than others."""

from __future__ import annotations

from tda_backend.numerics.evaluation.claims import Comparison, difference
from tda_backend.studies.claims.sides import Sides, SidesKind
from tda_backend.studies.contract.claim import FigureKind
from tda_backend.studies.contract.evidence import Evidence


class Wider(SidesKind):
    """One configuration depends more on λ than others."""

    NAME = "wider"
    WORDS = "range of LDS over λ of left − that of each right lies above `bound`"
    AXIS = "difference of the ranges of LDS over λ, 95 % interval"
    FIGURE = FigureKind.RANGES

    def compare(self, content: Sides, bound: float, evidence: Evidence) -> list[Comparison]:
        """Return the difference of the ranges."""
        left = evidence.spread(content.left[0])
        return [difference(left, evidence.spread(selector), bound) for selector in content.right]
