"""Verdicts: which side of its bound an interval lies on, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tda_backend.errors import UsageError
from tda_backend.numerics.evaluation.claims import (
    Comparison,
    Measured,
    decisive,
    difference,
    gap,
    level,
    mean_of,
    overall,
    ratio,
    spread,
)

RNG = np.random.default_rng(0)


def measured(name: str, value: float, width: float = 0.01) -> Measured:
    return Measured(name, value, value + width * np.linspace(-1, 1, 101))


def made(value: float, low: float, high: float, bound: float = 0.0, above: bool = True) -> Comparison:
    return Comparison("a", value, "", "", float("nan"), value, low, high, bound, above)


@pytest.mark.parametrize(
    ("low", "high", "above", "expected"),
    [
        (0.01, 0.2, True, "reproduced"),
        (-0.2, -0.01, True, "not reproduced"),
        (-0.1, 0.1, True, "inconclusive"),
        (0.01, 0.2, False, "not reproduced"),
        (-0.2, -0.01, False, "reproduced"),
        (0.0, 0.2, True, "inconclusive"),  # the bound itself is not passed
        (float("nan"), float("nan"), True, "inconclusive"),
    ],
)
def test_the_whole_interval_decides(low, high, above, expected):
    assert made((low + high) / 2, low, high, 0.0, above).status == expected


def test_one_failed_comparison_refutes_and_all_must_hold():
    good, bad, open_ = made(0.2, 0.1, 0.3), made(-0.2, -0.3, -0.1), made(0.0, -0.1, 0.1)
    assert overall([good, good]) == "reproduced"
    assert overall([good, open_]) == "inconclusive"
    assert overall([good, open_, bad]) == "not reproduced"
    with pytest.raises(UsageError, match="no verdict"):
        overall([])


def test_differences_are_paired():
    common = RNG.normal(size=500)
    left, right = Measured("a", 0.3, 0.3 + common), Measured("b", 0.2, 0.2 + common)
    found = difference(left, right)
    assert found.status == "reproduced"  # the noise is shared: unpaired the interval would be ± 2.8
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)
    assert found.sentence == "a 0.300 − b 0.200 = +0.100 [+0.100, +0.100], above 0 expected"
    with pytest.raises(UsageError, match="bootstrap draws"):
        difference(left, Measured("b", 0.2, common[:100]))


def test_a_ratio_needs_a_positive_right_side():
    assert ratio(measured("a", 0.3), measured("b", 0.1, 0.001), 2.5).status == "reproduced"
    unsure = ratio(measured("a", 0.3), measured("b", 0.0, 0.1), 2.5)
    assert unsure.status == "inconclusive"
    assert np.isnan(unsure.value)


def test_a_level_may_be_a_ceiling():
    assert level(measured("a", 0.9), 0.8).status == "reproduced"
    assert level(measured("a", 0.9), 0.8, above=False).status == "not reproduced"


@settings(deadline=None)  # the first call imports
@given(st.integers(2, 6), st.integers(5, 40))
def test_a_spread_fixes_its_ends(length, draws):
    rng = np.random.default_rng(length * 100 + draws)
    means = rng.normal(size=length)
    noise = rng.normal(size=(draws, length))
    found = spread("curve", means, noise)
    assert found.value == pytest.approx(np.ptp(means))
    np.testing.assert_allclose(found.draws, noise[:, np.argmax(means)] - noise[:, np.argmin(means)])


def test_a_mean_keeps_pairs():
    parts = [Measured("a", 1.0, np.array([1.0, 2.0])), Measured("b", 3.0, np.array([5.0, 6.0]))]
    found = mean_of("both", parts)
    assert found.value == 2.0
    np.testing.assert_allclose(found.draws, [3.0, 4.0])
    with pytest.raises(UsageError, match="mean of nothing"):
        mean_of("none", [])


def test_a_gap_counts_in_either_direction():
    small, large = measured("a", 0.1), measured("b", 0.3)
    assert gap(small, large, 0.02).status == gap(large, small, 0.02).status == "reproduced"
    assert gap(measured("a", 0.1, 0.001), measured("b", 0.101, 0.001), 0.02).status == "not reproduced"


def test_the_number_shown_is_one_that_decided():
    wide, sure = made(-0.02, -0.06, 0.02), made(-0.01, -0.015, -0.005)
    assert overall([wide, sure]) == "not reproduced"
    assert decisive([wide, sure]) is sure
    assert decisive([wide, made(0.2, 0.1, 0.3)]) is wide


def test_too_few_defined_draws_decide_nothing():
    draws = np.full(1000, np.nan)
    draws[:10] = 0.6
    assert level(Measured("a", 0.6, draws), 0.55).status == "inconclusive"


@pytest.mark.parametrize(
    ("comparison", "text"),
    [
        (made(-0.645, float("nan"), float("nan")), "a -0.645 (no interval), above 0 expected"),
        (
            ratio(Measured("a", 0.2, np.full(50, 0.2)), Measured("b", -0.1, np.full(50, -0.1)), 1.1),
            "a 0.200 / b -0.100 = – (no interval), above 1.1 expected",
        ),
        (
            Comparison("a", float("nan"), "−", "b", 0.5, float("nan"), float("nan"), float("nan"), 0.0, True),
            "a – − b 0.500 = – (no interval), above 0 expected",
        ),
    ],
)
def test_a_sentence_says_what_has_no_value(comparison, text):
    assert comparison.sentence == text
