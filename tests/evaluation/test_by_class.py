"""LDS per class against taking the class's queries alone."""

from __future__ import annotations

import numpy as np
import pytest

from tda_backend.errors import UsageError
from tda_backend.numerics.evaluation.bootstrap import double_ranks
from tda_backend.numerics.evaluation.by_class import lds_by_class
from tda_backend.numerics.evaluation.comparison import draws_from_ranks, lds_from_ranks
from tests.helpers_numerics import assert_close

S, M = 30, 40
LABELS = np.array([0] * 25 + [3] * 10 + [7] * 5)


def world():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(S, M))
    noise = np.where(LABELS == 0, 0.3, 3.0)
    return target + noise * rng.normal(size=target.shape), target


def test_each_class_is_the_mean_over_its_own_queries():
    prediction, target = world()
    ranked = double_ranks(prediction)
    found = lds_by_class(ranked, target, LABELS, num_bootstrap=300, seed=2)
    assert found.classes.tolist() == [0, 3, 7]
    assert found.num_queries.tolist() == [25, 10, 5]
    each = [lds_from_ranks(ranked[:, own], target[:, own]).mean() for own in (c == LABELS for c in found.classes)]
    assert_close(found.mean, each, 1e-12)
    assert found.balanced == pytest.approx(np.mean(each), abs=1e-12)
    assert found.plain == pytest.approx(lds_from_ranks(ranked, target).mean(), abs=1e-12)
    assert found.plain - found.balanced > 0.1  # the easy class has most queries
    alone = [draws_from_ranks(ranked[:, c == LABELS], target[:, c == LABELS], 300, 2) for c in found.classes]
    for row, draws in enumerate(alone):
        assert (found.ci_low[row], found.ci_high[row]) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=1e-6)
    ends = np.percentile(np.mean(alone, axis=0), [2.5, 97.5])
    assert (found.balanced_low, found.balanced_high) == pytest.approx(ends, abs=1e-6)
    assert found.balanced_low < found.balanced < found.balanced_high
    assert found.balanced_high - found.balanced_low < (found.ci_high - found.ci_low).max()


def test_one_class_is_the_plain_lds_and_the_order_of_queries_does_not_matter():
    prediction, target = world()
    single = lds_by_class(double_ranks(prediction), target, np.zeros(M), num_bootstrap=50)
    assert single.balanced == pytest.approx(single.plain, abs=1e-14)
    assert (single.ci_low[0], single.ci_high[0]) == (single.balanced_low, single.balanced_high)
    order = np.random.default_rng(1).permutation(M)
    whole = lds_by_class(double_ranks(prediction), target, LABELS, num_bootstrap=50)
    moved = lds_by_class(double_ranks(prediction[:, order]), target[:, order], LABELS[order], num_bootstrap=50)
    assert_close(moved.mean, whole.mean, 1e-12)
    assert moved.balanced_low == pytest.approx(whole.balanced_low, abs=1e-7)


def test_undefined_queries_and_classes_are_left_out():
    prediction, target = world()
    target[:, 0] = 1.0
    target[:, LABELS == 7] = 2.0
    found = lds_by_class(double_ranks(prediction), target, LABELS, num_bootstrap=50)
    assert found.num_queries.tolist() == [24, 10, 0]
    assert np.isnan(found.mean).tolist() == [False, False, True]
    assert np.isnan(found.ci_low).tolist() == [False, False, True]
    assert found.balanced == pytest.approx(found.mean[:2].mean())
    assert found.balanced_low < found.balanced < found.balanced_high
    assert np.isnan(lds_by_class(double_ranks(prediction), target, LABELS, num_bootstrap=0).balanced_low)


def test_bad_input_is_named():
    prediction, target = world()
    with pytest.raises(UsageError, match="39 labels are given for 40 queries"):
        lds_by_class(double_ranks(prediction), target, LABELS[1:])
    with pytest.raises(UsageError, match="undefined for every query"):
        lds_by_class(double_ranks(prediction), np.zeros_like(target), LABELS)
