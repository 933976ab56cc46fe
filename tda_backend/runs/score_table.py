"""Scores at several λ at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tda_backend.spectral.contraction import ScoreMatrix, Source, check_queries, scores
from tda_backend.spectral.kronecker import KroneckerSpectrum
from tda_backend.spectral.kronecker_scores import kronecker_scores


def score_table(
    source: Source, regularizations: Sequence[float], queries: int | Sequence[int] | None = None
) -> np.ndarray:
    """Return scores at L values of λ, ``[L, m, n]``, or ``[L, n]`` for one query; positive helps.

    Kronecker coordinates compress the λ axis (:mod:`tda_backend.spectral.kronecker_scores`), to a relative error of
    1e-6; all others are contracted once a λ.
    """
    spectra = [] if isinstance(source, ScoreMatrix) else [*source]
    kronecker = [spectrum for spectrum in spectra if isinstance(spectrum, KroneckerSpectrum)]
    if not kronecker or len(kronecker) < len(spectra):
        return np.stack([scores(source, value, queries) for value in regularizations])
    rows = check_queries(source, queries)
    tables = [kronecker_scores(spectrum, regularizations, rows) for spectrum in kronecker]
    result = (sum(tables[1:], tables[0]) / len(tables)).numpy()
    return result[:, 0] if isinstance(queries, int | np.integer) else result
