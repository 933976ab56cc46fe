"""Noisy-label detection against enumerating all pairs and against repeating examples one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tda_backend.errors import DataError, NumericalError, UsageError
from tda_backend.numerics.evaluation.detection import inspection_order, noisy_label_detection
from tests.helpers_numerics import assert_close


def pairs_auc(values, flipped) -> float:
    wins = [1.0 if high > low else 0.5 if high == low else 0.0 for high in values[flipped] for low in values[~flipped]]
    return float(np.mean(wins))


def random_order_recall(values, flipped, share, rng, trials=4000) -> float:
    """Expected recall by really breaking ties at random; only for shares that are whole numbers of examples."""
    count = round(share * len(values))
    found = 0
    for _ in range(trials):
        order = np.lexsort([rng.random(len(values)), -values])
        found += flipped[order[:count]].sum()
    return found / trials / flipped.sum()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40))
def test_auc_is_the_share_of_pairs_in_the_right_order(rows):
    values = np.array([float(value) for value, _ in rows])
    flipped = np.array([mark for _, mark in rows])
    if flipped.all() or not flipped.any():
        with pytest.raises(DataError):
            noisy_label_detection(values, flipped, num_bootstrap=0)
        return
    expected = pairs_auc(values, flipped)
    found = noisy_label_detection(values, flipped, num_bootstrap=0)
    assert found.auc == pytest.approx(expected, abs=1e-12)
    assert (np.diff(found.recall) >= -1e-12).all()


def test_recall_counts_the_first_inspected_and_ties_are_in_random_order():
    rng = np.random.default_rng(0)
    values, flipped = rng.integers(0, 4, 20).astype(float), np.arange(20) < 6
    values[:6] += 1
    found = noisy_label_detection(values, flipped, shares=[0.0, 0.1, 0.35, 0.5, 1.0], num_bootstrap=0)
    assert found.recall[[0, -1]].tolist() == [0.0, 1.0]
    for share, recall in zip(found.shares[1:4], found.recall[1:4], strict=True):
        assert recall == pytest.approx(random_order_recall(values, flipped, share, rng), abs=0.01)
    distinct = rng.permutation(20).astype(float)
    plain = noisy_label_detection(distinct, flipped, shares=[0.25], num_bootstrap=0)
    assert plain.recall[0] == pytest.approx(flipped[inspection_order(distinct)[:5]].sum() / 6, abs=1e-12)


def test_the_right_sign_finds_all_and_the_wrong_sign_finds_none():
    flipped = np.arange(100) < 10
    good = noisy_label_detection(flipped * 1.0, flipped, num_bootstrap=100)
    assert (good.auc, good.auc_low, good.auc_high) == (1.0, 1.0, 1.0)
    assert_close(good.recall, np.ones(9), 1e-12)
    bad = noisy_label_detection(-(flipped * 1.0), flipped, num_bootstrap=0)
    assert bad.auc == 0
    assert bad.recall[:-1].max() == 0


def test_flat_values_are_chance_and_marked():
    found = noisy_label_detection(np.full(50, 2.5), np.arange(50) < 5, num_bootstrap=20)
    assert found.is_flat
    assert (found.auc, found.auc_low, found.auc_high) == (0.5, 0.5, 0.5)
    assert_close(found.recall, found.shares, 1e-12)
    assert not noisy_label_detection(np.arange(50.0), np.arange(50) < 5, num_bootstrap=0).is_flat


def test_weighted_draws_equal_repeating_the_examples():
    from tda_backend.numerics.evaluation.detection import _curves, _weights

    rng = np.random.default_rng(1)
    values, flipped = rng.integers(0, 9, 30).astype(float), np.arange(30) % 4 == 0
    weights = _weights(rng, flipped, 5)
    assert (weights.sum(1) == 30).all()
    assert (weights[:, flipped].sum(1) == flipped.sum()).all()
    order = inspection_order(values)
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) != 0])
    auc, recall = _curves(weights, flipped, order, starts, np.array([0.2, 0.5]))
    for draw, row in enumerate(weights.astype(int)):
        chosen = np.repeat(np.arange(30), row)
        slow = noisy_label_detection(values[chosen], flipped[chosen], shares=[0.2, 0.5], num_bootstrap=0)
        assert auc[draw] == pytest.approx(pairs_auc(values[chosen], flipped[chosen]), abs=1e-12)
        assert_close(recall[draw], slow.recall, 1e-12)


def test_interval_covers_the_true_auc_and_is_reproducible():
    """N(1, 1) against N(0, 1): AUC = Φ(1/√2) = .7602."""
    covered = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        flipped = np.arange(300) < 40
        values = rng.normal(size=300) + flipped
        found = noisy_label_detection(values, flipped, num_bootstrap=200)
        covered += found.auc_low <= 0.7602 <= found.auc_high
        assert found.auc_low < found.auc < found.auc_high
    assert 0.90 <= covered / 150 <= 0.99
    again = noisy_label_detection(values, flipped, num_bootstrap=200)
    assert again.auc_low == found.auc_low
    assert noisy_label_detection(values, flipped, num_bootstrap=200, seed=1).auc_low != found.auc_low


def test_bad_input_is_named():
    values = np.arange(10.0)
    with pytest.raises(UsageError, match="9 marks"):
        noisy_label_detection(values, np.zeros(9, bool))
    with pytest.raises(UsageError, match=r"shape \(2, 5\)"):
        inspection_order(values.reshape(2, 5))
    with pytest.raises(UsageError, match=r"not all in \[0, 1\]"):
        noisy_label_detection(values, values < 3, shares=[10])
    with pytest.raises(DataError, match="0 of 10 labels"):
        noisy_label_detection(values, np.zeros(10, bool))
    values[4] = np.nan
    with pytest.raises(NumericalError, match=r"1 of 10 self-influences are not finite \(first: position 4\)"):
        noisy_label_detection(values, values < 3)
