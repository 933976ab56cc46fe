"""Leave-one-out effects and their noise against known variances; correlations against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from tda_backend.errors import DataError, UsageError
from tda_backend.numerics.evaluation.leave_one_out import leave_one_out_agreement, leave_one_out_effects
from tests.helpers_numerics import assert_close

C, R, M = 30, 4, 12


def world(seed=0, signal=1.0, noise=0.5, base_noise=3.0, count=C, seeds=R, queries=M):
    """True effects, and outputs with noise of the base model (shared by all examples) and of each retraining."""
    rng = np.random.default_rng(seed)
    truth = signal * rng.normal(size=(count, queries))
    base = base_noise * rng.normal(size=(seeds, queries))
    removed = -truth[:, None] + noise * rng.normal(size=(count, seeds, queries))
    return truth, base, removed


def test_effects_are_the_mean_paired_difference_and_positive_helps():
    truth, base, removed = world(noise=0.0, base_noise=0.0)
    found = leave_one_out_effects(base, removed)
    assert_close(found.effects, truth, 1e-12)  # goodness falls by `truth` without the example
    assert_close(found.reliability, np.ones(M), 1e-12)
    assert np.isinf(found.signal_to_noise).all()
    truth, base, removed = world()
    found = leave_one_out_effects(base, removed)
    slow = np.mean([base[r] - removed[:, r] for r in range(R)], axis=0)
    assert_close(found.effects, slow, 1e-12)
    scatter = np.std([base[r] - removed[:, r] for r in range(R)], axis=0, ddof=1) / np.sqrt(R)
    assert_close(found.standard_errors, scatter, 1e-12)


def test_reliability_is_the_share_of_variance_that_is_not_seed_noise():
    """Signal variance 1, noise .25/R of the mean: reliability 1/(1+.25/4); the shared base noise does not matter."""
    _, base, removed = world(noise=0.5, count=3000, queries=20)
    found = leave_one_out_effects(base, removed)
    assert found.reliability.mean() == pytest.approx(1 / (1 + 0.25 / R), abs=0.005)
    assert found.signal_to_noise.mean() == pytest.approx(16, rel=0.1)
    nothing = leave_one_out_effects(*world(signal=0.0, noise=1.0, count=3000)[1:])
    assert nothing.reliability.max() < 0.1
    shifted = leave_one_out_effects(base + 100 * np.arange(R)[:, None], removed)
    assert_close(shifted.reliability, found.reliability, 1e-9)


def test_the_ceiling_is_what_perfect_scores_reach():
    truth, base, removed = world(noise=2.0, count=4000, queries=10)
    found = leave_one_out_effects(base, removed)
    agreement = leave_one_out_agreement(truth.T, found, num_bootstrap=0)
    assert agreement.pearson_per_query.mean == pytest.approx(agreement.ceiling, abs=0.01)
    assert agreement.ceiling == pytest.approx(np.sqrt(1 / (1 + 4 / R)), abs=0.01)


def test_one_seed_is_plain_leave_one_out_without_a_noise_level():
    _, base, removed = world(seeds=1)
    found = leave_one_out_effects(base, removed)
    assert_close(found.effects, (base[None] - removed)[:, 0], 1e-12)
    assert np.isnan(found.reliability).all()
    assert np.isnan(found.standard_errors).all()
    assert np.isnan(leave_one_out_agreement(found.effects.T, found, num_bootstrap=0).ceiling)


def test_correlations_are_scipys_and_the_sign_of_the_scores_matters():
    truth, base, removed = world()
    found = leave_one_out_effects(base, removed)
    scores = (truth + np.random.default_rng(5).normal(size=truth.shape)).T.round(1)
    agreement = leave_one_out_agreement(scores, found, num_bootstrap=200)
    effects = found.effects
    expected = [scipy.stats.spearmanr(scores[q], effects[:, q]).statistic for q in range(M)]
    assert_close(agreement.spearman_per_query.values, expected, 1e-12)
    expected = [scipy.stats.pearsonr(scores[q], effects[:, q]).statistic for q in range(M)]
    assert_close(agreement.pearson_per_query.values, expected, 1e-12)
    expected = [scipy.stats.spearmanr(scores[:, i], effects[i]).statistic for i in range(C)]
    assert_close(agreement.spearman_per_example.values, expected, 1e-12)
    expected = [scipy.stats.pearsonr(scores[:, i], effects[i]).statistic for i in range(C)]
    assert_close(agreement.pearson_per_example.values, expected, 1e-12)
    for part in (agreement.spearman_per_query, agreement.pearson_per_query, agreement.pearson_per_example):
        assert part.ci_low < part.mean < part.ci_high
        assert part.mean == pytest.approx(np.mean(part.values))
    turned = leave_one_out_agreement(-scores, found, num_bootstrap=0)
    assert turned.spearman_per_query.mean == pytest.approx(-agreement.spearman_per_query.mean)


def test_draws_equal_repeating_the_examples():
    from tda_backend.numerics.evaluation.bootstrap import standardised
    from tda_backend.numerics.evaluation.leave_one_out import _weighted_means

    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(15, 3)), rng.standard_t(2, size=(15, 3))
    weights = rng.multinomial(15, np.full(15, 1 / 15), size=6)
    fast = _weighted_means(standardised(left), standardised(right), weights / 15)
    for draw, row in enumerate(weights):
        chosen = np.repeat(np.arange(15), row)
        slow = np.mean([np.corrcoef(left[chosen, q], right[chosen, q])[0, 1] for q in range(3)])
        assert fast[draw] == pytest.approx(slow, abs=1e-10)


def test_constant_scores_are_undefined():
    truth, base, removed = world()
    found = leave_one_out_effects(base, removed)
    scores = truth.T.copy()
    scores[3] = 0.0
    agreement = leave_one_out_agreement(scores, found, num_bootstrap=50)
    assert np.flatnonzero(np.isnan(agreement.spearman_per_query.values)).tolist() == [3]
    assert np.isfinite(agreement.spearman_per_query.ci_low)
    flat = leave_one_out_agreement(np.zeros_like(scores), found, num_bootstrap=50)
    assert np.isnan(flat.pearson_per_query.mean)


def test_bad_input_is_named():
    truth, base, removed = world()
    with pytest.raises(UsageError, match="with the same seeds"):
        leave_one_out_effects(base[1:], removed)
    found = leave_one_out_effects(base, removed)
    with pytest.raises(UsageError, match=r"Scores have shape \(30, 12\)"):
        leave_one_out_agreement(truth, found)
    removed[2, 1, 3] = np.inf
    with pytest.raises(DataError, match="1 retrained outputs with one taken out"):
        leave_one_out_effects(base, removed)
