"""Subset sums from a Kronecker spectrum, λ compressed, against one product a λ of its coordinates written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tda_backend.errors import NumericalError
from tda_backend.numerics.spectral import contraction
from tda_backend.numerics.spectral.kronecker import rows as kronecker_rows
from tda_backend.numerics.spectral.kronecker import sums as kronecker_sums
from tda_backend.numerics.spectral.kronecker.rows import FactoredRows
from tda_backend.numerics.spectral.kronecker.spectrum import KroneckerBlock, KroneckerSpectrum, kronecker_block
from tda_backend.numerics.spectral.kronecker.sums import kronecker_subset_sums
from tests.helpers_numerics import assert_close
from tests.spectral.test_kronecker import random_spectrum, written_out

MANY = [0.0, *np.geomspace(1e-8, 10, 24).tolist()]


def wide_spectrum(dtype: torch.dtype = torch.float64, num: int = 60) -> KroneckerSpectrum:
    """Two layers of rank-one rows whose eigenvalues spread over nine decades; some are 0."""
    generator = torch.Generator().manual_seed(0)

    def rows(num: int, inputs: torch.Tensor, outputs: torch.Tensor) -> FactoredRows:
        a, d = (
            torch.randn(num, len(scale), generator=generator, dtype=torch.float64) * scale.sqrt()
            for scale in (inputs, outputs)
        )
        return FactoredRows(a.to(dtype), d.to(dtype))

    blocks = []
    for index, (num_inputs, num_outputs) in enumerate([(70, 33), (34, 20)]):
        sides = [
            torch.logspace(0, -4.5, num_inputs, dtype=torch.float64),
            torch.logspace(0, -4.5, num_outputs, dtype=torch.float64),
        ]
        eigenvalues = sides[1][:, None] * sides[0]
        eigenvalues[-1, -5:] = 0
        made = [rows(size, *sides) for size in (num, 11, 4)]
        blocks.append(kronecker_block(KroneckerBlock(f"layer{index}", eigenvalues, *made)))
    return KroneckerSpectrum(tuple(blocks))


def one_by_one(spectrum: KroneckerSpectrum, masks: np.ndarray, values: list[float]) -> torch.Tensor:
    """Return the sums by a float64 product for every λ, of the coordinates written out."""
    dense = written_out(spectrum)
    train, query = dense.train.double(), dense.query.double()
    summed = torch.as_tensor(masks, dtype=torch.float64) @ train
    weights = [spectrum.filter.weights(dense.eigenvalues, value, spectrum.num_train) for value in values]
    return torch.stack([(summed * phi) @ query.T for phi in weights])


def mask_of(kind: str, num: int) -> np.ndarray:
    draw = np.random.default_rng(1)
    if kind == "one left out":
        return ~np.eye(num, dtype=bool)[:12]
    if kind == "one":
        return np.eye(num, dtype=bool)[:12]
    if kind == "weights":
        return draw.standard_normal((12, num))
    masks = np.zeros((12, num), dtype=bool)
    for row in masks:
        row[draw.permutation(num)[: round({"half": 0.5, "few": 0.25, "most": 0.75}[kind] * num)]] = True
    return np.concatenate([masks, np.zeros((1, num), bool), np.ones((1, num), bool)])


@pytest.mark.parametrize("window", [1024, 37])
@pytest.mark.parametrize("numbers", [2**25, 500])
def test_sums_are_those_of_every_damping_on_its_own(monkeypatch, window: int, numbers: int):
    monkeypatch.setattr(kronecker_sums, "_WINDOW", window)
    monkeypatch.setattr(kronecker_sums, "_NUMBERS", numbers)
    spectrum, masks = wide_spectrum(), mask_of("half", 60)
    expected = one_by_one(spectrum, masks, MANY)
    for values in (MANY, MANY[:3], MANY[:1]):
        found = contraction.subset_sums([spectrum], masks, values)
        for one, other in zip(found, expected, strict=False):
            assert_close(one, other, 1e-9)


@pytest.mark.parametrize("short", [256, 7])
@pytest.mark.parametrize("kind", ["half", "few", "most", "one left out", "one", "weights"])
def test_rows_are_summed_by_whichever_way_is_shorter(monkeypatch, kind: str, short: int):
    monkeypatch.setattr(kronecker_rows, "_SHORT", short)
    masks = mask_of(kind, 60)
    for dtype, allowed in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        rows = wide_spectrum(dtype).layers[0].train
        weights = torch.as_tensor(masks, dtype=torch.float64)
        for outputs in (slice(None), slice(3, 9)):
            expected = weights @ rows.values(outputs).double()
            assert_close(rows.sums(weights, outputs), expected, allowed)


def test_leaving_one_out_keeps_the_small_difference():
    """The sum over all is common to all subsets and the row that is missing is exact, so their order is too."""
    spectrum = wide_spectrum(torch.float32, num=3000)
    masks = torch.ones(12, 3000, dtype=torch.float64)
    masks[torch.arange(12), torch.arange(12)] = 0
    rows = spectrum.layers[0].train
    found, everything = rows.sums(masks), rows.sums(torch.ones(1, 3000, dtype=torch.float64))
    assert_close(everything - found, rows.values(index=torch.arange(12)).double(), 1e-6)


def test_every_form_of_rows_and_a_mean_over_seeds():
    spectra = [random_spectrum(), random_spectrum(damping="relative")]
    masks = np.random.default_rng(0).random((2, 17)) < 0.5
    expected = sum(one_by_one(spectrum, masks, MANY) for spectrum in spectra) / 2
    assert_close(contraction.subset_sums(spectra, masks, MANY), expected, 1e-9)


def test_the_tolerance_bounds_the_error_and_zero_compresses_nothing():
    spectrum, masks = wide_spectrum(), torch.as_tensor(mask_of("half", 60), dtype=torch.float64)
    expected = one_by_one(spectrum, masks.numpy(), MANY)
    errors = []
    for tolerance in (1e-2, 1e-5, 0.0):
        found = kronecker_subset_sums(spectrum, masks, MANY, tolerance)
        errors.append(float(((found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).max()))
        assert errors[-1] <= max(20 * tolerance, 1e-12)  # coordinates of 14 subsets and 11 queries correlate
    assert errors[0] > errors[1] > errors[2]


def test_a_damping_that_is_not_allowed_is_named():
    with pytest.raises(NumericalError, match="-1"):
        contraction.subset_sums([wide_spectrum()], mask_of("half", 60), [0.1, -1.0])
