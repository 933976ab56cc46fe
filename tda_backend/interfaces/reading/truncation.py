"""What truncated spectra leave out of a study's scores, in words."""

from __future__ import annotations

import numpy as np

from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.configurations import ConfigurationRow
from tda_backend.interfaces.reading.study import Study
from tda_backend.numerics.spectral.contraction import lacking_shares


def directions_left_out(study: Study) -> str:
    """Return how much of all eigenvalues the truncated spectra of a study lack; nothing where there are none."""
    shares, kept = [], []
    for row in records(study.configurations(), ConfigurationRow):
        cut = [each for each in study.source_rows(row.configuration_id) if each.trace_left_out is not None]
        shares += [each.trace_left_out or 0.0 for each in cut]
        kept += [each.num_eigenvalues for each in cut]
    if not shares:
        return ""
    return (
        f"Truncated spectra ({_range(min(kept), max(kept))} eigenvalues) leave out eigenvalues that hold "
        f"{_range(f'{min(shares):.1%}', f'{max(shares):.1%}')} of the sum of all."
    )


def _range(low: object, high: object) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def lacking_at(study: Study, configuration_id: str, regularization: float | None) -> str:
    """Return what a truncated spectrum leaves out, and how much of their size scores at one λ may lack; else nothing.

    Args:
        study: The study.
        configuration_id: Of a configuration with results.
        regularization: λ; ``None``: it has none.
    """
    rows = [row for row in study.source_rows(configuration_id) if row.trace_left_out is not None]
    if regularization is None or not rows:
        return ""
    share = max(row.trace_left_out or 0.0 for row in rows)
    largest = max(row.largest_left_out or 0.0 for row in rows)
    said = (
        f"Here {rows[0].num_eigenvalues} eigenvalues are kept; the others hold {share:.1%} of the sum, the largest is "
        f"about {largest:.2g}."
    )
    if regularization == 0:
        return f"{said} λ = 0 is the pseudo-inverse of those kept; nothing bounds what it leaves out."
    shares = lacking_shares(study.source(configuration_id), regularization).numpy()
    return (
        f"{said} At λ = {regularization:.3g} that is at most {np.median(shares):.0%} of a query's scores, and "
        f"{shares.max():.0%} of those of the worst query (root mean square over training examples; our bound)."
    )
