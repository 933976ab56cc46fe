"""Algorithm 1, the spectrum baseline and regret."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.evaluation.indicator import indicator_curve
from tda_backend.numerics.evaluation.selection import regret, select_regularization, spectrum_quantiles
from tda_backend.numerics.spectral.filters.lissa import LissaMean
from tda_backend.studies.config.study import Evaluation
from tda_backend.studies.steps.evaluate import Evaluate, Grid
from tests.helpers_numerics import make_spectrum, random_rows
from tests.runs.fake_plans import Base


def diagonal(sigma, queries):
    """A spectrum with given eigenvalues of the mean Gram and query coordinates."""
    rows = torch.diag(torch.tensor(sigma, dtype=torch.float64).mul(len(sigma)).sqrt())
    return make_spectrum(rows, torch.tensor(queries, dtype=torch.float64))


def long_spectrum(seed: int = 0, scale: float = 1.0, num: int = 60):
    rows, query = random_rows(seed, (num, 50), (25, 50), decay=2.5)
    return make_spectrum(rows * scale, query)


@pytest.mark.parametrize("threshold", [0.4, 0.5, 0.6])
def test_the_indicator_at_the_selected_value_is_the_threshold(threshold):
    spectra = [long_spectrum()]
    selection = select_regularization(spectra, threshold)
    assert selection.xi == pytest.approx(threshold, abs=1e-9)
    assert indicator_curve(spectra, [selection.regularization]).mean[0] == pytest.approx(threshold, abs=1e-9)
    assert selection.warnings == ()
    assert selection.crossings == (selection.regularization,)


def test_the_scan_covers_what_the_algorithm_asks_for():
    spectra = [long_spectrum()]
    selection = select_regularization(spectra)
    largest = float(spectra[0].eigenvalues[0])
    assert len(selection.scan_regularizations) >= 60
    assert selection.scan_regularizations[0] == pytest.approx(largest * 1e-10)
    assert selection.scan_regularizations[-1] == pytest.approx(largest * 1e4)
    assert np.ptp(np.diff(np.log(selection.scan_regularizations))) < 1e-9
    assert np.array_equal(selection.scan_xi, indicator_curve(spectra, selection.scan_regularizations).mean)
    assert selection.scan_xi[-1] > 0.999


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.sampled_from([0.4, 0.5, 0.6]))
def test_selection_and_quantiles_are_equivariant_to_the_scale_of_the_features(seed, scale, threshold):
    """Gradients times c: F and every λ times c². Queries' scale is irrelevant (theirs is scaled apart)."""
    plain, scaled = long_spectrum(seed, num=40), long_spectrum(seed, scale, num=40)
    first, second = (select_regularization([s], threshold) for s in (plain, scaled))
    assert second.regularization == pytest.approx(first.regularization * scale**2, rel=1e-6)
    left, right = spectrum_quantiles([plain]), spectrum_quantiles([scaled])
    assert list(left) == [0.1, 0.3, 0.5, 0.7, 0.9]
    for quantile in left:
        assert right[quantile] == pytest.approx(left[quantile] * scale**2, rel=1e-6)


def test_the_last_of_several_crossings_is_taken_with_a_warning():
    """Two groups of queries, each mixing a pair of distant eigenvalues: their dips lie at different λ."""
    spectrum = diagonal([1.0, 1e-3, 1e-5, 1e-8], [[1.0, 1.0, 0, 0], [0, 0, 1.0, 1.0]])
    spectra = [spectrum]
    lowest = select_regularization(spectra, 0.99).scan_xi.min()
    threshold = float(lowest + 0.3 * (1 - lowest))
    selection = select_regularization(spectra, threshold)
    assert len(selection.crossings) == 2
    assert selection.regularization == selection.crossings[-1] > selection.crossings[0]
    assert any("2 times" in warning and "last" in warning for warning in selection.warnings)
    above = np.geomspace(selection.regularization * 1.01, 1e3, 50)
    assert (indicator_curve(spectra, list(above)).mean > threshold).all()


def test_without_a_crossing_the_low_end_is_taken_with_a_warning():
    spectrum = diagonal([2.0, 2.0], [[1.0, 0.3]])  # one eigenvalue: ξ = 1 for every λ
    selection = select_regularization([spectrum])
    assert selection.crossings == ()
    assert selection.regularization == pytest.approx(2e-10)
    assert selection.xi == pytest.approx(1.0)
    assert "low end" in selection.warnings[0]


def test_dropped_points_are_counted_and_said():
    rows, query = random_rows(0, (60, 50), (25, 50), decay=2.5)
    query[[3, 8]] = 0
    selection = select_regularization([make_spectrum(rows, query)])
    assert selection.num_dropped == 2
    assert selection.warnings[0].startswith("2 validation points")


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, float("nan")])
def test_thresholds_outside_the_unit_interval_are_refused(threshold):
    with pytest.raises(UsageError, match="threshold"):
        select_regularization([long_spectrum()], threshold)


def test_a_threshold_never_reached_raises():
    with pytest.raises(NumericalError, match="stays below"):
        select_regularization([long_spectrum()], 1 - 1e-15)


def test_quantiles_are_of_the_positive_eigenvalues():
    spectrum = diagonal([1.0, 2.0, 3.0, 4.0, 0.0], [[1.0] * 5])
    assert spectrum.num_cut == 1
    assert spectrum_quantiles([spectrum], [0.0, 0.5, 1.0]) == pytest.approx({0.0: 1.0, 0.5: 2.5, 1.0: 4.0})
    other = diagonal([10.0, 20.0], [[1.0] * 2])
    assert spectrum_quantiles([spectrum, other], [0.5])[0.5] == pytest.approx(3.5)  # pooled over seeds
    with pytest.raises(UsageError, match="Quantiles"):
        spectrum_quantiles([spectrum], [1.5])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=10), st.floats(-1, 1))
def test_regret_is_never_negative(means, chosen_lds):
    grid = list(range(1, len(means) + 1))
    result = regret(grid, means, 0.5, chosen_lds)
    assert result.regret >= 0
    assert result.lds_best == max([*means, chosen_lds])
    assert result.lds_best - result.regret == pytest.approx(chosen_lds)
    if chosen_lds > max(means):
        assert result.regularization_best == 0.5


def test_regret_ignores_undefined_values_and_refuses_none():
    assert regret([1.0, 2.0], [np.nan, 0.3], 0.5, 0.2).regularization_best == 2.0
    with pytest.raises(NumericalError, match="No LDS is defined"):
        regret([1.0], [np.nan], 0.5, np.nan)


def test_a_selection_that_is_moved_says_the_indicator_where_it_went():
    spectrum = long_spectrum()
    largest = float(spectrum.eigenvalues[0])
    spectrum = replace(spectrum, filter=LissaMean(scaling=largest * 0.51, depth=10))
    wanted = select_regularization([spectrum], 0.99).regularization
    grid = [largest * factor for factor in (1e-6, 1e-3, 1.0)]
    step = Evaluate(
        evaluation=Evaluation(threshold=0.99, quantiles=(0.5,), top=3),
        seed=0,
        method="if-lissa",
        parameters={},
        alphas=[0.5],
        grid=Grid(grid, None),
        examples=Base(label="base", value=1),
        sources=(),
        truth={},
    )
    row = step.evaluated([spectrum], {}).tables["selections"].to_pylist()[0]
    moved = row["lambda_selected"]
    assert moved in grid
    assert moved + largest < 1.02 * largest < wanted + largest
    assert row["xi_at_selected"] == pytest.approx(indicator_curve([spectrum], [moved]).mean[0])
    assert any("nearest of the grid" in warning for warning in row["warnings"])
