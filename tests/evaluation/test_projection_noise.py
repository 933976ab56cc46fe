"""The interval of a projected LDS holds the variance between draws of the projection."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tda_backend.errors import UsageError
from tda_backend.numerics.evaluation.lds import GroundTruth, lds_curve
from tda_backend.numerics.evaluation.projection_noise import lds_over_draws, over_draws, with_noise
from tests.evaluation.test_lds import GRID, problem

B = 20_000


def test_the_variance_is_that_of_the_subsets_and_that_between_draws():
    rng = np.random.default_rng(0)
    shared = 0.02 * rng.normal(size=B)  # of the subsets, which all draws share
    draws = 0.15 + np.array([-0.012, 0.001, 0.004, 0.007])
    found = with_noise((draws[:, None] + shared[None])[:, :, None], seed=1)[:, 0]
    assert found.mean() == pytest.approx(draws.mean(), abs=5e-4)
    assert found.var() == pytest.approx(shared.var() + draws.var(ddof=1), rel=0.02)


def test_the_next_draw_lies_in_the_interval_as_often_as_it_says():
    """Between draws alone, without subsets: 95 % intervals from five draws against a sixth."""
    rng, inside = np.random.default_rng(3), 0
    for trial in range(400):
        *known, further = rng.normal(0.15, 0.01, size=6)
        shared = 0.01 * rng.normal(size=1000)
        own = 0.01 * rng.normal()  # where the study's subsets put all draws
        found = with_noise((np.array(known)[:, None] + shared[None])[:, :, None], seed=trial)[:, 0]
        low, high = np.percentile(found, [2.5, 97.5])
        inside += low <= further + own <= high
    assert 0.88 <= inside / 400 <= 0.98


def test_one_draw_is_what_it_was():
    spectra, masks, outputs = problem()
    truth = GroundTruth(masks, outputs)
    plain = lds_curve(spectra, truth, GRID, num_bootstrap=50, keep_bootstrap=True, keep_ranks=True)
    same = lds_over_draws([spectra], truth, GRID, 50, 0)
    for name in ("mean", "ci_low", "ci_high", "per_query", "predicted_ranks"):
        np.testing.assert_array_equal(getattr(same, name), getattr(plain, name))


def test_several_draws_are_averaged_and_widen_the_interval():
    sources = [problem(seed)[0] for seed in (0, 5, 6)]
    _, masks, outputs = problem()
    truth = GroundTruth(masks, outputs)
    single = [lds_curve(source, truth, GRID, num_bootstrap=400, keep_bootstrap=True) for source in sources]
    found = lds_over_draws(sources, truth, GRID, 400, 0)
    np.testing.assert_allclose(found.mean, np.mean([curve.mean for curve in single], axis=0))
    np.testing.assert_allclose(found.per_query.mean(axis=1), found.mean)
    between = np.std([curve.mean for curve in single], axis=0, ddof=1)
    assert (found.bootstrap_means.std(axis=0) > 0.9 * between).all()
    assert (found.ci_high - found.ci_low > single[0].ci_high - single[0].ci_low).all()


def test_a_draw_without_a_value_is_left_out_there():
    spectra, masks, outputs = problem()
    first = lds_curve(spectra, GroundTruth(masks, outputs), GRID, num_bootstrap=50, keep_bootstrap=True)
    lacking = replace(
        first,
        mean=np.where([True, False, False, False], np.nan, first.mean + 0.1),
        per_query=np.where(np.array([[True], [False], [False], [False]]), np.nan, first.per_query + 0.1),
        bootstrap_means=np.where([True, False, False, False], np.nan, first.bootstrap_means + 0.1),
    )
    found = over_draws([first, lacking], 0)
    assert found.mean[0] == pytest.approx(first.mean[0])
    np.testing.assert_allclose(found.mean[1:], first.mean[1:] + 0.05)
    np.testing.assert_allclose(found.bootstrap_means[:, 0], first.bootstrap_means[:, 0])
    assert np.isfinite(found.ci_low).all()


def test_a_draw_that_lacks_some_values_widens_by_those_that_there_are():
    """Three draws with a value beside one without: the spread is that of the three."""
    draws = 0.15 + np.array([-0.012, np.nan, 0.004, 0.011])
    found = with_noise(np.repeat(draws[:, None, None], B, axis=1), seed=1)[:, 0]
    assert found.mean() == pytest.approx(np.nanmean(draws), abs=5e-4)
    assert found.var() == pytest.approx(np.nanvar(draws, ddof=1), rel=0.02)
    nothing = with_noise(np.full((3, 5, 1), np.nan), seed=1)
    assert np.isnan(nothing).all()


def test_curves_without_resamples_are_refused():
    spectra, masks, outputs = problem()
    with pytest.raises(UsageError, match="resamples"):
        over_draws([lds_curve(spectra, GroundTruth(masks, outputs), GRID, num_bootstrap=5)], 0)
