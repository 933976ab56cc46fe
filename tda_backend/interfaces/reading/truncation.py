"""What truncated spectra leave out of a study's scores, in words."""

from __future__ import annotations

import numpy as np

from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.configurations import ConfigurationRow
from tda_backend.interfaces.reading.study import Study
from tda_backend.numerics.spectral.contraction import lacking_shares


def directions_left_out(study: Study) -> list[str]:
    """Return, for each configuration with a truncated spectrum, how much of all eigenvalues it lacks."""
    found = []
    for row in records(study.configurations(), ConfigurationRow):
        sources = study.source_rows(row.configuration_id)
        shares = [each.trace_left_out for each in sources if each.trace_left_out is not None]
        if shares:
            largest = max(each.largest_left_out or 0.0 for each in sources)
            found.append(
                f"{row.label}: the eigenvalues left out hold {max(shares):.1%} of the sum of all; the largest of them "
                f"is about {largest:.2g}."
            )
    return found


def lacking_at(study: Study, configuration_id: str, regularization: float | None) -> str:
    """Return how much of their size scores at one λ may lack because directions are left out; else nothing.

    Args:
        study: The study.
        configuration_id: Of a configuration with results.
        regularization: λ; ``None``: it has none.
    """
    rows = study.source_rows(configuration_id)
    if regularization is None or all(row.trace_left_out is None for row in rows):
        return ""
    if regularization == 0:
        return "At λ = 0 this is the pseudo-inverse of the eigenvalues kept; nothing bounds what it leaves out."
    shares = lacking_shares(study.source(configuration_id), regularization).numpy()
    return (
        f"At this λ, directions left out hold at most {np.median(shares):.0%} of a query's scores, and "
        f"{shares.max():.0%} of those of the worst query (root mean square over training examples; our bound)."
    )
