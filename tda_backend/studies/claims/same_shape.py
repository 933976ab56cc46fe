"""The claim that LDS over λ has the same shape at every α."""

from __future__ import annotations

import numpy as np

from tda_backend.numerics.evaluation.bootstrap import ranks
from tda_backend.numerics.evaluation.claims import Comparison, Measured, level
from tda_backend.studies.claims.of_methods import MethodsAlone, OfMethods
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.contract.claim import FigureKind
from tda_backend.studies.contract.evidence import Evidence


class SameShape(MethodsAlone):
    """LDS over λ has the same shape at every α."""

    NAME = "same-shape"
    WORDS = "correlation of LDS(λ) between the first α and each other lies above `bound`"
    DEFAULT_BOUND = 0.8
    AXIS = "rank correlation over λ, 95 % interval"
    FIGURE = FigureKind.SHAPES

    def compare(self, content: OfMethods, bound: float, evidence: Evidence) -> list[Comparison]:
        """Return the correlation of the curves, for every configuration and α but the first."""
        rows = self.configurations(content, evidence)
        return [level(_correlation(evidence, row, alpha), bound) for row in rows for alpha in evidence.alphas[1:]]


def _correlation(evidence: Evidence, row: Configuration, alpha: float) -> Measured:
    """Return the correlation of two LDS curves over λ, of different α; draws of both are resampled."""
    first, second = evidence.curve(row), evidence.curve(row, alpha)
    kept = slice(0, min(first.grid, second.grid))

    def agreement(a: np.ndarray, b: np.ndarray) -> float:
        return float((ranks(a) * ranks(b)).sum())

    value = agreement(first.means[kept], second.means[kept])
    draws = np.array([agreement(a, b) for a, b in zip(first.draws[:, kept], second.draws[:, kept], strict=True)])
    # Draws add noise to curves that hold some already and so agree less than the curves do: reflected at the value.
    reflected = np.minimum(1.0, 2 * value - draws)
    name = f"rank correlation over λ of LDS at α={evidence.alphas[0]:g} and α={alpha:g}, {row.label}"
    return Measured(name, value, reflected)
