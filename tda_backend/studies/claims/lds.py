"""Claims that compare the LDS of single configurations."""

from __future__ import annotations

from tda_backend.numerics.evaluation.claims import Comparison, difference, gap, level, ratio
from tda_backend.studies.claims.sides import LEFT, Sides, SidesKind
from tda_backend.studies.contract.evidence import Evidence


class Greater(SidesKind):
    """One configuration is better than others."""

    NAME = "greater"
    WORDS = "LDS of left − LDS of each right lies above `bound`"
    AXIS = "difference of LDS, 95 % interval"

    def compare(self, content: Sides, bound: float, evidence: Evidence) -> list[Comparison]:
        """Return the difference from each of the right side."""
        left = evidence.measured(content.left[0])
        return [difference(left, evidence.measured(selector), bound) for selector in content.right]


class Differs(SidesKind):
    """It matters which configuration is taken."""

    NAME = "differs"
    WORDS = "LDS of left and of each right differ by more than `bound`, either way"
    DEFAULT_BOUND = 0.02

    def compare(self, content: Sides, bound: float, evidence: Evidence) -> list[Comparison]:
        """Return the size of the difference from each of the right side."""
        left = evidence.measured(content.left[0])
        return [gap(left, evidence.measured(selector), bound) for selector in content.right]


class Ratio(SidesKind):
    """One configuration is several times as good as others."""

    NAME = "ratio"
    WORDS = "LDS of left / LDS of each right lies above `bound`"
    DEFAULT_BOUND = 1.0
    AXIS = "ratio of LDS, 95 % interval"

    def compare(self, content: Sides, bound: float, evidence: Evidence) -> list[Comparison]:
        """Return the ratio to each of the right side."""
        left = evidence.measured(content.left[0])
        return [ratio(left, evidence.measured(selector), bound) for selector in content.right]


class Level(SidesKind):
    """Some configurations reach a level."""

    NAME = "level"
    WORDS = "LDS of each left lies above `bound`"
    KEYS = (LEFT,)
    AXIS = "LDS, 95 % interval"

    def compare(self, content: Sides, bound: float, evidence: Evidence) -> list[Comparison]:
        """Return the LDS of each."""
        return [level(evidence.measured(selector), bound) for selector in content.left]
