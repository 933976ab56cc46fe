"""One query's curves over λ in a Kronecker basis, against its coordinates written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.spectral.filters.krylov import Krylov
from tda_backend.numerics.spectral.kronecker import curves as module
from tda_backend.numerics.spectral.kronecker.curves import kronecker_curves
from tda_backend.numerics.spectral.kronecker.rows import FactoredRows
from tda_backend.numerics.spectral.kronecker.spectrum import KroneckerBlock, KroneckerSpectrum, kronecker_block
from tda_backend.numerics.spectral.one_query import score_curves
from tests.helpers_numerics import assert_close
from tests.spectral.test_kronecker import REGULARIZATIONS, random_rows, random_spectrum, written_out

GRID = [0.0, *np.logspace(-7, 1, 33).tolist()]


def one_layer(form: str, shape: tuple[int, int], spread: float, seed: int = 0, size=(25, 4)) -> KroneckerSpectrum:
    """Return a spectrum whose eigenvalues fall over ``spread`` orders of magnitude along both sides."""
    falling = [10.0 ** (-spread / 2 * torch.linspace(0, 1, count, dtype=torch.float64)) for count in shape]
    train, query, validation = (random_rows(form, num, shape, seed + num) for num in (*size, 2))
    eigenvalues = falling[0][:, None] * falling[1]
    return KroneckerSpectrum((kronecker_block(KroneckerBlock("a", eigenvalues, train, query, validation)),))


@pytest.mark.parametrize("tile", [(32, 128), (2, 3), (1, 1)])
def test_curves_are_those_of_written_out_coordinates(tile: tuple[int, int], monkeypatch):
    monkeypatch.setattr(module, "TILE", tile)
    spectrum = random_spectrum()
    for query in (0, 8):
        expected = score_curves([written_out(spectrum)], query, REGULARIZATIONS)
        for actual, curve in zip(kronecker_curves(spectrum, query, REGULARIZATIONS, 1e-9), expected, strict=True):
            assert_close(actual, curve, 1e-7)


def test_a_page_s_curves_of_several_seeds_are_their_mean():
    several = [random_spectrum(), random_spectrum(damping="relative")]
    values = REGULARIZATIONS[1:]
    expected = torch.stack([score_curves([written_out(each)], 3, values) for each in several]).mean(0)
    for actual, curve in zip(score_curves(several, 3, values), expected, strict=True):
        assert_close(actual, curve, 5e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-10, 3), min_size=1, max_size=12),
    st.floats(0, 12),
    st.sampled_from([1e-3, 1e-5, 1e-6]),
    st.sampled_from(["single", "positions", "dense"]),
    st.integers(0, 5),
)
def test_the_compression_keeps_its_tolerance(logs: list[float], spread: float, tolerance: float, form: str, seed: int):
    spectrum, values = one_layer(form, (20, 30), spread, seed), [10.0**log for log in logs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TILE", (7, 11))
        actual = kronecker_curves(spectrum, 1, values, tolerance)
    dense = written_out(spectrum)
    for curve, value in zip(actual, values, strict=True):
        phi = 1 / (spectrum.eigenvalues + value)
        permitted = float((phi * dense.query[1] * dense.train.norm(dim=0)).norm())
        expected = dense.train @ (phi * dense.query[1])
        # Twice: examples are few here, so coordinates are not quite uncorrelated.
        assert float((curve - expected).norm()) <= 2 * tolerance * permitted + 1e-12 * float(expected.norm())


def test_neighbouring_eigenvalues_take_few_products(monkeypatch):
    asked = []
    products = FactoredRows.products

    def counted(self, vectors, outputs=slice(None), inputs=slice(None)):
        asked.append((vectors.shape[0], vectors.numel()))
        return products(self, vectors, outputs, inputs)

    monkeypatch.setattr(FactoredRows, "products", counted)
    spectrum = one_layer("single", (256, 512), 10.0, size=(40, 3))
    kronecker_curves(spectrum, 0, GRID)
    assert sum(numbers for _, numbers in asked) < len(GRID) * spectrum.eigenvalues.numel() / 3
    assert max(count for count, _ in asked) < len(GRID) / 2


def test_a_spectrum_of_zeros_has_no_influence_at_zero_and_some_above():
    layer = random_spectrum(("single",)).layers[0]
    zeros = KroneckerBlock("a", torch.zeros_like(layer.eigenvalues), layer.train, layer.query, layer.validation)
    spectrum = KroneckerSpectrum((zeros,))
    at_zero, above = kronecker_curves(spectrum, 2, [0.0, 0.5])
    assert not at_zero.any()
    assert_close(above, layer.train.values() @ layer.query.values(index=[2])[0] / 0.5, 1e-6)


def test_a_negative_regularization_is_refused():
    with pytest.raises(NumericalError, match="-1"):
        kronecker_curves(random_spectrum(), 0, [-1.0])


def test_tables_of_many_coordinates_are_made_twice_and_never_there_at_once(monkeypatch):
    sizes, table = [], module._Strip.table

    def noted(self, *arguments):
        sizes.append(table(self, *arguments).numel())
        return table(self, *arguments)

    monkeypatch.setattr(module._Strip, "table", noted)
    spectrum = one_layer("single", (256, 512), 6.0, size=(5, 2))
    few = kronecker_curves(spectrum, 0, GRID)
    assert sizes == [len(GRID) * module.TILE[0] * 512] * (256 // module.TILE[0])
    monkeypatch.setattr(module, "_KEPT_NUMBERS", 0)
    assert torch.equal(kronecker_curves(spectrum, 0, GRID), few)
    assert len(sizes) == 3 * 256 // module.TILE[0]


def test_a_filter_that_depends_on_the_query_is_refused():
    spectrum = KroneckerSpectrum(random_spectrum().layers, filter=Krylov(3))
    with pytest.raises(UsageError, match="depends on the query"):
        kronecker_curves(spectrum, 0, [0.1])
