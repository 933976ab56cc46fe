"""The claim that ξ rises with λ."""

from __future__ import annotations

import numpy as np

from tda_backend.numerics.evaluation.claims import Comparison, Measured, level
from tda_backend.studies.claims.of_methods import MethodsAlone, OfMethods
from tda_backend.studies.contract.claim import FigureKind
from tda_backend.studies.contract.evidence import Evidence

_FALL = 0.01


class Rising(MethodsAlone):
    """ξ rises with λ in most configurations."""

    NAME = "rising"
    WORDS = "share of the configurations of `methods` whose ξ never falls by more than .01 lies above `bound`"
    DEFAULT_BOUND = 0.9
    AXIS = "share of configurations"
    FIGURE = FigureKind.INDICATOR

    def compare(self, content: OfMethods, bound: float, evidence: Evidence) -> list[Comparison]:
        """Return the share of configurations whose ξ̄ rises; no retraining, so no interval."""
        rows = self.configurations(content, evidence)
        good = sum(_rises(evidence.indicator(row)) for row in rows)
        share = good / len(rows)
        name = (
            f"share of configurations whose ξ rises with λ (never falls by more than {_FALL:g}; {good} of {len(rows)})"
        )
        return [level(Measured(name, share, np.array([share])), bound)]


def _rises(mean: np.ndarray) -> bool:
    return bool((np.maximum.accumulate(mean) - mean).max() <= _FALL and mean[-1] - mean[0] > _FALL)
