"""Removal curves and brittleness: a pretended retraining answers what is asked, as a run would."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tda_backend.errors import DataError, NumericalError, UsageError
from tda_backend.numerics.evaluation.brittleness import brittleness, next_brittleness
from tda_backend.numerics.evaluation.removal import (
    always_correct,
    choose_queries,
    is_flipped,
    next_removals,
    removal_curve,
    removal_masks,
    removal_order,
    same_class_order,
)
from tests.helpers_numerics import assert_close

SIZES = [50, 20, 100]
MANY = 10_000


def retrain(asked, flips_at, results):
    """A pretended retraining: correct (1.0) below the size at which the query flips, wrong above."""
    results.update({(query, size): float(size < flips_at[query]) for query, size in asked})


def run(flips_at, sizes, available, ask=next_removals):
    results, rounds = {}, []
    queries = list(flips_at)
    while asked := ask(results, queries, sizes, available):
        assert not set(asked) & set(results), "nothing is retrained twice"
        rounds.append(asked)
        retrain(asked, flips_at, results)
    return results, rounds


def test_a_query_is_retrained_for_growing_sizes_until_it_flips():
    results, rounds = run({3: 60, 5: 10, 8: 999}, SIZES, [MANY] * 3)
    assert rounds == [[(3, 20), (5, 20), (8, 20)], [(3, 50), (8, 50)], [(3, 100), (8, 100)]]
    curve = removal_curve(results, [3, 5, 8], SIZES, [MANY] * 3, num_bootstrap=200)
    assert curve.sizes.tolist() == [0, 20, 50, 100]
    assert curve.flipped.tolist() == [[0, 0, 0, 1], [0, 1, 1, 1], [0, 0, 0, 0]]
    assert_close(curve.fraction, [0, 1 / 3, 1 / 3, 2 / 3], 1e-12)
    assert curve.area == pytest.approx((20 * 1 / 6 + 30 / 3 + 50 / 2) / 100)
    assert (curve.ci_low <= curve.fraction).all()
    assert (curve.fraction <= curve.ci_high).all()
    assert curve.area_low < curve.area < curve.area_high
    assert curve.num_unfinished == 0


def test_once_flipped_stays_flipped_even_if_a_larger_removal_would_not():
    results = {(0, 20): 0.4, (0, 50): 1.0, (0, 100): 1.0}
    assert removal_curve(results, [0], SIZES, [MANY]).flipped.tolist() == [[0, 1, 1, 1]]
    assert next_removals({(0, 20): 0.4}, [0], SIZES, [MANY]) == []


def test_half_of_the_seeds_correct_is_not_flipped():
    assert not is_flipped(0.5)
    assert is_flipped(0.4)
    with pytest.raises(DataError, match=r"3 is outside \[0, 1\]"):
        is_flipped(3)


def test_no_more_than_the_positive_examples_are_removed():
    results, rounds = run({0: 999, 1: 60, 2: 1}, SIZES, [30, 70, 0])
    assert rounds == [[(0, 20), (1, 20)], [(0, 30), (1, 50)], [(1, 70)]]
    curve = removal_curve(results, [0, 1, 2], SIZES, [30, 70, 0])
    assert curve.flipped.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]]


def test_queries_without_all_results_are_left_out_and_counted():
    results = {(0, 20): 1.0, (1, 20): 0.0}
    curve = removal_curve(results, [0, 1], SIZES, [MANY] * 2)
    assert curve.queries.tolist() == [1]
    assert curve.num_unfinished == 1
    with pytest.raises(DataError, match="No query has been retrained"):
        removal_curve({}, [0, 1], SIZES, [MANY] * 2)
    with pytest.raises(UsageError, match="No number of removed"):
        removal_curve(results, [0], [0], [MANY])


def test_order_is_by_descending_score_positive_only():
    scores = np.array([0.5, -1.0, 2.0, 0.0, 0.5])
    assert removal_order(scores).tolist() == [2, 0, 4]
    assert removal_order(-np.abs(scores)).tolist() == []
    masks = removal_masks([removal_order(scores)] * 3, [1, 2, 9], 5)
    assert (~masks).sum(1).tolist() == [1, 2, 3]
    assert np.flatnonzero(~masks[1]).tolist() == [0, 2]
    with pytest.raises(NumericalError, match="1 scores are not finite"):
        removal_order(np.array([1.0, np.nan]))
    with pytest.raises(UsageError, match="one query"):
        removal_order(scores[None])
    with pytest.raises(UsageError, match="no training example"):
        removal_masks([np.arange(5)], [5], 5)
    with pytest.raises(UsageError, match="2 orders"):
        removal_masks([np.arange(5)] * 2, [5], 9)


def test_random_baseline_takes_the_class_in_an_order_of_its_own():
    labels = np.arange(60) % 3
    first, again, other = (same_class_order(labels, 1, query, 0) for query in (4, 4, 5))
    assert sorted(first) == np.flatnonzero(labels == 1).tolist()
    assert first.tolist() == again.tolist() != other.tolist()
    assert same_class_order(labels, 1, 4, 1).tolist() != first.tolist()


def test_queries_are_chosen_evenly_over_classes_and_nested():
    correct = np.ones((3, 90), bool)
    correct[1, :10] = False
    labels = np.r_[np.zeros(60), np.ones(25), np.full(5, 2)]
    allowed = always_correct(correct)
    assert allowed.sum() == 80
    chosen = choose_queries(allowed, 12, 0, labels)
    assert np.bincount(labels[chosen].astype(int)).tolist() == [4, 4, 4]
    assert allowed[chosen].all()
    assert (np.diff(chosen) > 0).all()
    more = choose_queries(allowed, 25, 0, labels)
    assert np.bincount(labels[more].astype(int)).tolist() == [10, 10, 5]
    assert set(chosen) < set(more)
    assert choose_queries(allowed, 12, 0).tolist() != choose_queries(allowed, 12, 1).tolist()
    with pytest.raises(DataError, match="Only 80 queries"):
        choose_queries(allowed, 81, 0)
    with pytest.raises(UsageError, match="0 queries"):
        choose_queries(allowed, 0, 0)
    with pytest.raises(UsageError, match=r"\[seeds, queries\]"):
        always_correct(correct[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 250), st.integers(0, 250)), min_size=1, max_size=5))
def test_brittleness_finds_the_smallest_size_with_few_retrainings(rows):
    """Against trying every k. Flips beyond the last size or beyond the positive examples are not found."""
    flips_at = {query: flip for query, (flip, _) in enumerate(rows)}
    available = [limit for _, limit in rows]
    sizes = [10, 40, 160]
    results, rounds = run(flips_at, sizes, available, next_brittleness)
    assert len(rounds) <= 3 + 7
    for query, (flip, limit) in enumerate(rows):
        found = brittleness(results, query, sizes, limit)
        expected = next((k for k in range(1, min(160, limit) + 1) if k >= flip), None)
        assert found.done
        assert found.flips_at == expected
        if expected is not None:
            assert found.holds_at == expected - 1


def test_coarse_brittleness_stops_early_and_says_the_bracket():
    results, _ = run({0: 77}, [50, 100], [MANY], lambda *args: next_brittleness(*args, resolution=0.2))
    found = brittleness(results, 0, [50, 100], MANY, resolution=0.2)
    assert found.done
    assert found.holds_at < 77 <= found.flips_at
    assert found.flips_at - found.holds_at <= 0.2 * found.flips_at
    assert len(results) == 4
    assert not brittleness({(0, 50): 1.0}, 0, [50, 100], MANY).done
    assert brittleness({(0, 50): 1.0}, 0, [50], MANY).done
