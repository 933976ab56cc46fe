"""Paired comparison of two LDS rows against ranking every draw anew, and against repeated experiments."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from tda_backend.errors import DataError, UsageError
from tda_backend.numerics.evaluation.bootstrap import double_ranks, multinomial_weights
from tda_backend.numerics.evaluation.comparison import compare_ranks, draws_from_ranks, lds_from_ranks
from tests.evaluation.reranked import reranked_means
from tests.helpers_numerics import assert_close

S, M = 40, 60


def world(seed: int, noise_a: float = 2.0, noise_b: float = 2.5, num_subsets: int = S, num_queries: int = M):
    """Return predictions of A and B and the target: one truth, noise of its own for each query."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(num_subsets, num_queries))
    target = truth + rng.normal(size=truth.shape)
    shared = rng.normal(size=truth.shape)
    return truth + noise_a * shared, truth + noise_b * (shared + 0.2 * rng.normal(size=truth.shape)), target


def test_lds_of_ranks_is_spearmans_correlation_and_any_monotone_prediction_gives_the_same():
    a, b, target = world(0)
    a = a.round(1)  # ties
    stacked = np.stack([double_ranks(a), double_ranks(b)])
    expected = [[scipy.stats.spearmanr(x[:, q], target[:, q]).statistic for q in range(M)] for x in (a, b)]
    assert_close(lds_from_ranks(stacked, target), expected, 1e-12)
    assert_close(lds_from_ranks(double_ranks(np.exp(a)), target**3), expected[0], 1e-12)
    assert_close(lds_from_ranks(double_ranks(-a), target), -np.array(expected[0]), 1e-12)


def test_constant_columns_are_undefined():
    a, _, target = world(0)
    a[:, 1], target[:, 4] = 3.0, 2.0
    values = lds_from_ranks(double_ranks(a), target)
    assert np.flatnonzero(np.isnan(values)).tolist() == [1, 4]
    comparison = compare_ranks(double_ranks(a), double_ranks(-a), target, num_bootstrap=50)
    assert comparison.difference == pytest.approx(2 * np.nanmean(values), abs=1e-12)


def test_paired_interval_matches_ranking_every_draw_anew():
    a, b, target = world(1)
    comparison = compare_ranks(double_ranks(a), double_ranks(b), target, num_bootstrap=600, seed=3)
    weights = multinomial_weights(S, 600, 3)
    gap = reranked_means(a, target, weights) - reranked_means(b, target, weights)
    low, high = np.quantile(gap, [0.025, 0.975])
    width = high - low
    assert comparison.ci_low == pytest.approx(low, abs=0.15 * width)
    assert comparison.ci_high == pytest.approx(high, abs=0.15 * width)
    assert comparison.probability == pytest.approx((gap > 0).mean(), abs=0.05)
    assert comparison.ci_low < comparison.difference < comparison.ci_high


def test_pairing_narrows_the_interval():
    a, b, target = world(2)
    own, other = double_ranks(a), double_ranks(b)
    by_ranks = compare_ranks(own, other, target, num_bootstrap=800)
    draws = draws_from_ranks(np.stack([own, other]), target, 800)
    gap = draws[:, 0] - draws[:, 1]  # draw b of both means the same subsets
    assert (by_ranks.ci_low, by_ranks.ci_high) == pytest.approx(np.quantile(gap, [0.025, 0.975]), abs=1e-6)
    assert by_ranks.probability == (gap > 0).mean()
    # of independent draws the variances would add
    independent = np.hypot(draws[:, 0].std(), draws[:, 1].std()) * 2 * 1.96
    assert independent > 1.5 * (by_ranks.ci_high - by_ranks.ci_low)


def test_a_minus_b_is_minus_b_minus_a_and_equal_configurations_are_undecided():
    a, b, target = world(3)
    forward = compare_ranks(double_ranks(a), double_ranks(b), target, num_bootstrap=200)
    backward = compare_ranks(double_ranks(b), double_ranks(a), target, num_bootstrap=200)
    assert forward.difference == -backward.difference
    assert forward.ci_low == pytest.approx(-backward.ci_high, abs=1e-12)
    assert forward.ci_high_queries == pytest.approx(-backward.ci_low_queries, abs=1e-12)
    assert forward.probability == pytest.approx(1 - backward.probability)
    same = compare_ranks(double_ranks(a), double_ranks(a), target, num_bootstrap=50)
    assert (same.difference, same.ci_low, same.ci_high, same.probability) == (0, 0, 0, 0.5)
    assert same.verdict == "undecided"
    assert {forward.verdict, backward.verdict} in ({"A", "B"}, {"undecided"})


def test_interval_covers_the_true_difference():
    """200 repeated experiments: the paired interval holds the long-run difference in about 95 % of them."""
    means = [
        lds_from_ranks(np.stack([double_ranks(x) for x in world(10_000 + i)[:2]]), world(10_000 + i)[2]).mean(1)
        for i in range(400)
    ]
    truth = np.mean([a - b for a, b in means])
    covered = 0
    for seed in range(200):
        a, b, target = world(seed)
        found = compare_ranks(double_ranks(a), double_ranks(b), target, num_bootstrap=200)
        covered += found.ci_low <= truth <= found.ci_high
    assert 0.90 <= covered / 200 <= 0.99


def test_resampling_queries_widens_the_interval():
    a, b, target = world(4, num_queries=15)
    b[:, :5] = -b[:, :5]  # B is hopeless for a third of the queries: another choice of queries changes the answer
    found = compare_ranks(double_ranks(a), double_ranks(b), target, num_bootstrap=500)
    assert found.ci_high_queries - found.ci_low_queries > 1.3 * (found.ci_high - found.ci_low)


def test_bad_input_is_named():
    a, b, target = world(0)
    with pytest.raises(UsageError, match=r"Ranks have shape \(40, 60\) and targets \(40, 59\)"):
        lds_from_ranks(double_ranks(a), target[:, 1:])
    with pytest.raises(UsageError, match="at least two subsets"):
        lds_from_ranks(double_ranks(a[:1]), target[:1])
    with pytest.raises(UsageError, match="outside"):
        compare_ranks(double_ranks(a), double_ranks(b), target, confidence=95)
    with pytest.raises(UsageError, match="No query has an LDS"):
        compare_ranks(double_ranks(np.zeros_like(a)), double_ranks(b), target)
    target[2, 3] = np.nan
    with pytest.raises(DataError, match="1 retrained outputs are not finite"):
        compare_ranks(double_ranks(a), double_ranks(b), target)
