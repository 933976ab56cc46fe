"""Scores at several λ at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tda_backend.spectral.contraction import ScoreMatrix, Source, scores
from tda_backend.spectral.kronecker import KroneckerSpectrum
from tda_backend.spectral.kronecker_scores import kronecker_scores


def score_table(
    source: Source, regularizations: Sequence[float], queries: int | Sequence[int] | None = None
) -> np.ndarray:
    """Return scores at L values of λ, ``[L, m, n]``, or ``[L, n]`` for one query; positive helps.

    Kronecker coordinates compress the λ axis (:mod:`tda_backend.spectral.kronecker_scores`), to a relative error of
    1e-6; all others are contracted once a λ.
    """
    one = isinstance(queries, int | np.integer)
    if not isinstance(source, ScoreMatrix) and all(isinstance(part, KroneckerSpectrum) for part in source):
        rows = [int(queries)] if one else None if queries is None else [int(query) for query in queries]  # type: ignore
        tables = [kronecker_scores(part, regularizations, rows) for part in source]  # type: ignore[arg-type]
        result = (sum(tables[1:], tables[0]) / len(tables)).numpy()
        return result[:, 0] if one else result
    return np.stack([scores(source, value, queries) for value in regularizations])
