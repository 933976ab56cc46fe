"""The explorer's payload: scores from a filter's own weights, and from a table where the browser has no twin of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tda_backend.errors import NumericalError
from tda_backend.interfaces.reading.payload import payload_of, payload_scores
from tda_backend.numerics.spectral.contraction import scores
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.numerics.spectral.filters.base import Filter
from tda_backend.numerics.spectral.filters.damped import DampedInverse
from tda_backend.numerics.spectral.filters.krylov import Krylov
from tda_backend.numerics.spectral.filters.lissa import LissaMean

GRID = [0.0, *np.logspace(-4, 1, 31).tolist()]


@dataclass(frozen=True)
class Untwinned(DampedInverse):
    """1/(σ+λ) under a name that no browser knows."""

    NAME = "untwinned"
    HAS_TWIN = False


@dataclass(frozen=True)
class UntwinnedLissa(LissaMean):
    """LiSSA's mean under a name that no browser knows; it diverges at large λ."""

    NAME = "untwinned-lissa"
    HAS_TWIN = False


@dataclass(frozen=True)
class UntwinnedKrylov(Krylov):
    """Conjugate gradients under a name that no browser knows; their weights differ from query to query."""

    NAME = "untwinned-krylov"
    HAS_TWIN = False


def spectra(phi: Filter, num_seeds: int = 2) -> list[Spectrum]:
    """Return small spectra of 12 training examples, 3 queries and 6 coordinates."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(num_seeds):
        sigma = torch.rand(6, generator=generator, dtype=torch.float64) + 0.1
        train, query = (torch.randn(rows, 6, generator=generator) for rows in (12, 3))
        found.append(Spectrum(sigma.sort(descending=True).values, train, query, query, None, 0, phi))
    return found


@pytest.mark.parametrize("phi", [Untwinned(), UntwinnedLissa(8.0, 20), UntwinnedKrylov(3)])
def test_the_table_holds_the_scores_at_its_own_values(phi):
    source, positions = spectra(phi), [0, 5, 11]
    payload = payload_of(source, 1, positions, GRID)
    assert payload.table is not None
    assert payload.table.weights.dtype == np.float32
    count = 0
    for lam in GRID:
        try:
            expected = scores(source, lam, 1)[positions]
        except NumericalError:
            with pytest.raises(NumericalError):
                payload_scores(payload, lam)
            continue
        np.testing.assert_allclose(payload_scores(payload, lam), expected, rtol=1e-4, atol=1e-5)
        count += 1
    assert count >= 30


def test_between_two_values_it_is_linear_in_the_logarithm():
    payload = payload_of(spectra(Untwinned()), 0, [0, 1], GRID)
    low, high = GRID[7], GRID[8]
    middle = payload_scores(payload, float(np.sqrt(low * high)))
    ends = (payload_scores(payload, low) + payload_scores(payload, high)) / 2
    np.testing.assert_allclose(middle, ends, rtol=1e-5)
    for outside in (1e-6, 20.0):
        with pytest.raises(NumericalError, match="outside"):
            payload_scores(payload, outside)


def test_where_the_method_diverges_the_table_has_no_numbers():
    payload = payload_of(spectra(UntwinnedLissa(2.0, 20)), 0, [0, 1], GRID)
    assert np.isfinite(payload_scores(payload, 0.1)).all()
    with pytest.raises(NumericalError, match="no scores"):
        payload_scores(payload, GRID[-1])


def test_a_filter_with_a_twin_sends_no_table():
    assert payload_of(spectra(DampedInverse()), 0, [0], GRID).table is None
