"""Agreement of predictions and truth against SciPy, and its intervals against plain resampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from tda_backend.errors import DataError, UsageError
from tda_backend.numerics.evaluation.agreement import (
    effect_agreement,
    error_agreement,
    error_size,
    matching_gain,
    mean_agreement,
)
from tda_backend.numerics.evaluation.bootstrap import multinomial_weights

RNG = np.random.default_rng(0)
TRUE = RNG.normal(size=(60, 4)) ** 3
GOOD = TRUE + 0.3 * RNG.normal(size=TRUE.shape)
POOR = TRUE + 3.0 * RNG.normal(size=TRUE.shape)
TWIN = GOOD + 0.01 * RNG.normal(size=TRUE.shape)
WEAK = -0.02 * TRUE + RNG.normal(size=TRUE.shape)


def test_spearman_is_scipys_per_point_and_the_mean_of_it():
    found = effect_agreement(GOOD, TRUE)
    expected = [spearmanr(GOOD[:, point], TRUE[:, point]).statistic for point in range(4)]
    np.testing.assert_allclose(found.per_point, expected, rtol=1e-12)
    assert found.mean.value == pytest.approx(np.mean(expected), rel=1e-12)
    assert found.mean.low < found.mean.value < found.mean.high


def test_a_constant_point_is_left_out_and_counted():
    flat = TRUE.copy()
    flat[:, 1] = 2.0
    found = effect_agreement(GOOD, flat)
    assert np.isnan(found.per_point).tolist() == [False, True, False, False]
    assert found.num_undefined == 1
    assert found.mean.value == pytest.approx(np.nanmean(found.per_point))
    nothing = effect_agreement(np.zeros(5), np.arange(5.0))
    assert np.isnan([nothing.mean.value, nothing.mean.low, nothing.mean.high]).all()


def test_the_gain_is_paired():
    """Of two predictions that agree nearly, the difference is far better known than either value."""
    ours, other = effect_agreement(GOOD, TRUE), effect_agreement(TWIN, TRUE)
    gain = matching_gain(ours, other)
    assert gain.difference.value == pytest.approx(ours.mean.value - other.mean.value)
    assert gain.difference.high - gain.difference.low < 0.2 * (ours.mean.high - ours.mean.low)
    poor = matching_gain(ours, effect_agreement(POOR, TRUE))
    assert poor.ratio.value == pytest.approx(poor.matched / poor.mismatched)
    assert 1 < poor.ratio.low < poor.ratio.value < poor.ratio.high
    assert poor.difference.low > 0


def test_a_ratio_to_what_does_not_agree_is_not_given():
    gain = matching_gain(effect_agreement(GOOD, TRUE), effect_agreement(-GOOD, TRUE))
    assert np.isnan([gain.ratio.value, gain.ratio.low, gain.ratio.high]).all()
    weak = effect_agreement(WEAK, TRUE)
    assert weak.mean.value > 0
    assert weak.mean.low < 0
    assert matching_gain(effect_agreement(GOOD, TRUE), weak).ratio.high == np.inf


def test_seeds_are_averaged():
    parts = [effect_agreement(GOOD, TRUE, seed=1), effect_agreement(POOR, TRUE, seed=2)]
    found = mean_agreement(parts)
    assert found.mean.value == pytest.approx((parts[0].mean.value + parts[1].mean.value) / 2)
    np.testing.assert_allclose(found.per_point, (parts[0].per_point + parts[1].per_point) / 2)
    assert parts[1].mean.low < found.mean.low < found.mean.value < found.mean.high < parts[0].mean.high


@pytest.mark.parametrize("shape", [(60, 4), (240,)])
def test_error_agreement_is_scipys_and_its_slope_least_squares(shape):
    estimate, error = POOR.reshape(shape), TRUE.reshape(shape)
    found = error_agreement(estimate, error)
    flat = estimate.ravel(), error.ravel()
    assert found.pearson.value == pytest.approx(pearsonr(*flat).statistic, rel=1e-10)
    assert found.spearman.value == pytest.approx(spearmanr(*flat).statistic, rel=1e-10)
    slope = np.linalg.lstsq(np.abs(flat[1])[:, None], np.abs(flat[0]), rcond=None)[0][0]
    assert found.slope.value == pytest.approx(slope, rel=1e-10)


def test_intervals_are_those_of_examples_drawn_again():
    """Whole rows are drawn: Pearson, slope and relative error computed anew for every draw."""
    weights = multinomial_weights(len(TRUE), 200, 5).astype(int)
    found, size = (function(POOR, TRUE, num_bootstrap=200, seed=5) for function in (error_agreement, error_size))
    drawn = []
    for row in weights:
        chosen = np.repeat(np.arange(len(TRUE)), row)
        estimate, error = POOR[chosen].ravel(), TRUE[chosen].ravel()
        drawn.append(
            [
                pearsonr(estimate, error).statistic,
                np.abs(estimate * error).sum() / np.square(error).sum(),
                np.abs(error - estimate).sum() / np.abs(error).sum(),
            ]
        )
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0, method="inverted_cdf")
    estimates = found.pearson, found.slope, size.relative
    np.testing.assert_allclose([each.low for each in estimates], low, rtol=1e-9)
    np.testing.assert_allclose([each.high for each in estimates], high, rtol=1e-9)


def test_error_size_is_of_means():
    found = error_size(TRUE / 2, TRUE)
    assert found.mean_effect == pytest.approx(np.abs(TRUE).mean())
    assert found.mean_error == pytest.approx(np.abs(TRUE).mean() / 2)
    assert [found.relative.value, found.relative.low, found.relative.high] == pytest.approx([0.5] * 3)
    assert np.isnan(error_size(TRUE, 0 * TRUE).relative.value)


def test_constants_and_no_draws_give_nan():
    assert np.isnan(error_agreement(np.ones(6), np.arange(6.0)).pearson.value)
    assert np.isnan(error_agreement(np.arange(6.0), np.zeros(6)).slope.value)
    bare = error_agreement(POOR, TRUE, num_bootstrap=0)
    assert np.isfinite(bare.pearson.value)
    assert np.isnan([bare.pearson.low, bare.slope.high]).all()
    assert np.isnan(effect_agreement(POOR, TRUE, num_bootstrap=0).mean.low)


@settings(deadline=None, max_examples=25)
@given(scale=st.floats(1e-12, 1e12), shift=st.floats(-10, 10))
def test_units_change_no_correlation(scale: float, shift: float):
    one = error_agreement(POOR, TRUE, num_bootstrap=20)
    other = error_agreement(scale * (POOR + shift), scale * TRUE, num_bootstrap=20)
    for key in ("pearson", "spearman"):
        left, right = getattr(one, key), getattr(other, key)
        assert [right.value, right.low, right.high] == pytest.approx([left.value, left.low, left.high], rel=1e-7)


@pytest.mark.parametrize(
    ("left", "right", "error"),
    [
        (GOOD, TRUE[:, :2], UsageError),
        (GOOD[:1], TRUE[:1], UsageError),
        (np.float64(1), np.float64(1), UsageError),
        (np.where(GOOD > 1, np.nan, GOOD), TRUE, DataError),
    ],
)
def test_what_cannot_be_compared_is_refused(left, right, error):
    for function in (effect_agreement, error_agreement, error_size):
        with pytest.raises(error):
            function(left, right)


def test_draws_that_do_not_pair_are_refused():
    few = effect_agreement(GOOD, TRUE, num_bootstrap=10)
    with pytest.raises(UsageError, match="paired"):
        matching_gain(few, effect_agreement(POOR, TRUE))
    with pytest.raises(UsageError, match="sizes"):
        mean_agreement([few, effect_agreement(POOR, TRUE)])
    with pytest.raises(UsageError, match="sizes"):
        mean_agreement([])
