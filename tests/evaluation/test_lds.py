"""LDS against scipy per query; the bootstrap against ranking each draw anew."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tda_backend.errors import DataError, NumericalError, UsageError
from tda_backend.numerics.evaluation.bootstrap import RankBootstrap, multinomial_weights, ranks
from tda_backend.numerics.evaluation.lds import GroundTruth, lds_curve
from tda_backend.numerics.spectral.contraction import ScoreMatrix, scores
from tda_backend.studies.config.study import RegularizationGrid
from tests.evaluation.reranked import reranked_means
from tests.helpers_numerics import assert_close, make_spectrum, random_rows

N, M, S = 40, 7, 30
GRID = [0.0, 1e-4, 1e-1, 10.0]


def problem(seed: int = 0, num_subsets: int = S):
    rows, query = random_rows(seed, (N, 12), (M, 12), decay=1.0)
    spectra = [make_spectrum(rows, query)]
    rng = np.random.default_rng(seed)
    masks = np.stack([rng.permutation(N) < N // 2 for _ in range(num_subsets)])
    truth = scores(spectra, 1e-2)
    outputs = masks @ truth.T + rng.normal(size=(num_subsets, M)) * truth.std(axis=1) * 2
    return spectra, masks, outputs


def test_lds_is_spearmans_correlation_for_each_query():
    spectra, masks, outputs = problem()
    outputs = outputs.round(1)  # ties take average ranks
    assert any(len(set(column)) < S for column in outputs.T)
    curve = lds_curve(spectra, GroundTruth(masks, outputs), GRID, num_bootstrap=50)
    for row, value in enumerate(GRID):
        summed = masks.astype(float) @ scores(spectra, value).T
        expected = [scipy.stats.spearmanr(summed[:, q], outputs[:, q]).statistic for q in range(M)]
        assert_close(curve.per_query[row], expected, 1e-12)
        assert curve.mean[row] == pytest.approx(np.mean(expected), abs=1e-12)
    assert curve.num_subsets == S
    assert curve.num_undefined.tolist() == [0] * len(GRID)
    assert bool((curve.ci_low < curve.mean).all())
    assert bool((curve.mean < curve.ci_high).all())
    assert curve.bootstrap_means is None


def test_a_method_without_regularization_has_one_row():
    spectra, masks, outputs = problem()
    source = ScoreMatrix(torch.from_numpy(scores(spectra, 1e-2)))
    curve = lds_curve(source, GroundTruth(masks, outputs), None, num_bootstrap=20)
    assert np.isnan(curve.regularizations).tolist() == [True]
    assert_close(
        curve.per_query, lds_curve(spectra, GroundTruth(masks, outputs), [1e-2], num_bootstrap=0).per_query, 1e-12
    )


def test_constant_columns_are_dropped_and_counted():
    spectra, masks, outputs = problem()
    outputs[:, 2] = 1.5
    spectra[0].query[4] = 0.0  # its scores are all zero
    curve = lds_curve(spectra, GroundTruth(masks, outputs), GRID, num_bootstrap=20)
    assert curve.num_undefined.tolist() == [2] * len(GRID)
    assert np.isnan(curve.per_query[:, [2, 4]]).all()
    others = [0, 1, 3, 5, 6]
    assert_close(curve.mean, curve.per_query[:, others].mean(1), 1e-14)
    assert np.isfinite(curve.ci_low).all()


@pytest.mark.parametrize("ties", [False, True])
def test_bootstrap_matches_ranking_each_draw_anew(ties, record_property):
    """Draws differ a little (ranks within the whole set or within the draw); at LDS ≈ 0.4 the intervals must agree."""
    rng = np.random.default_rng(0)
    predictions = rng.normal(size=(50, 12)) @ rng.normal(size=(12, 100))
    outputs = predictions + 2 * predictions.std() * rng.normal(size=predictions.shape)
    outputs = (outputs / 4).round(0) if ties else outputs
    weights = multinomial_weights(50, 500, seed=0)
    fast = RankBootstrap(ranks(outputs), weights).means(ranks(predictions))
    slow = reranked_means(predictions, outputs, weights)
    ends = np.abs(np.percentile(fast, [2.5, 97.5]) - np.percentile(slow, [2.5, 97.5])).max()
    record_property("largest difference of a draw", float(np.abs(fast - slow).max()))
    record_property("largest difference of an interval end", float(ends))
    assert 0.3 < slow.mean() < 0.5
    assert np.corrcoef(fast, slow)[0, 1] > 0.95
    assert ends < 0.012


def test_each_draw_is_the_pearson_correlation_of_the_repeated_ranks():
    rng = np.random.default_rng(0)
    left, right = ranks(rng.normal(size=(20, 3))), ranks(rng.normal(size=(20, 3)).round(1))
    weights = multinomial_weights(20, 40, seed=3)
    fast = RankBootstrap(right, weights).means(left)
    for draw, row in enumerate(weights.astype(int)):
        chosen = np.repeat(np.arange(20), row)
        expected = [np.corrcoef(left[chosen, q], right[chosen, q])[0, 1] for q in range(3)]
        assert fast[draw] == pytest.approx(np.mean(expected), abs=3e-6)


def test_a_draw_of_one_subset_only_is_undefined_not_noise():
    target = ranks(np.arange(5.0)[:, None])
    weights = np.array([[5.0, 0, 0, 0, 0], [1, 1, 1, 1, 1]])
    means = RankBootstrap(target, weights).means(target)
    assert np.isnan(means[0])
    assert means[1] == pytest.approx(1.0, abs=1e-6)


def test_configurations_of_one_seed_share_their_draws():
    spectra, masks, outputs = problem()
    both = lds_curve(spectra, GroundTruth(masks, outputs), [1e-4, 1e-4], keep_bootstrap=True, num_bootstrap=100)
    again = lds_curve(spectra, GroundTruth(masks, outputs), [1e-4], keep_bootstrap=True, num_bootstrap=100)
    other = lds_curve(spectra, GroundTruth(masks, outputs), [1e-4], keep_bootstrap=True, num_bootstrap=100, seed=1)
    assert both.bootstrap_means.shape == (100, 2)
    assert np.array_equal(both.bootstrap_means[:, 0], both.bootstrap_means[:, 1])
    assert np.array_equal(both.bootstrap_means[:, 0], again.bootstrap_means[:, 0])
    assert not np.array_equal(again.bootstrap_means, other.bootstrap_means)
    assert (multinomial_weights(S, 100, 0).sum(1) == S).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(1e-3, 1e3), st.floats(-10, 10))
def test_lds_only_sees_ranks(seed, scale, shift):
    """Monotone changes of the outputs leave the LDS alone; a sign flip negates it."""
    spectra, masks, outputs = problem(seed % 1000)
    plain = lds_curve(spectra, GroundTruth(masks, outputs), GRID, num_bootstrap=0)
    changed = lds_curve(spectra, GroundTruth(masks, np.arcsinh(outputs) * scale + shift), GRID, num_bootstrap=0)
    assert_close(changed.per_query, plain.per_query, 1e-12)
    flipped = lds_curve(spectra, GroundTruth(masks, -outputs), GRID, num_bootstrap=0)
    assert_close(flipped.per_query, -plain.per_query, 1e-12)


def test_bad_input_is_named():
    spectra, masks, outputs = problem()
    with pytest.raises(UsageError, match="Retrained outputs have shape"):
        lds_curve(spectra, GroundTruth(masks, outputs[:, :3]), GRID)
    with pytest.raises(UsageError, match="at least two subsets"):
        lds_curve(spectra, GroundTruth(masks[:1], outputs[:1]), GRID)
    with pytest.raises(NumericalError, match=r"undefined for every query at λ = 0\.1"):
        lds_curve(spectra, GroundTruth(np.ones_like(masks), outputs), [0.1])
    outputs[3, 2] = np.nan
    outputs[5, 1] = np.inf
    with pytest.raises(DataError, match=r"2 retrained outputs are not finite \(first: subset 3, query 2\)"):
        lds_curve(spectra, GroundTruth(masks, outputs), GRID)


def test_the_default_grid():
    grid = RegularizationGrid().values
    assert len(grid) == 33
    assert grid[0] == 0
    assert grid[1] == pytest.approx(1e-7)
    assert grid[-1] == pytest.approx(10)
