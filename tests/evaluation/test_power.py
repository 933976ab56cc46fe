"""The number of subsets needed, against what synthetic experiments of that size really scatter by."""

from __future__ import annotations

import numpy as np
import pytest

from tda_backend.errors import UsageError
from tda_backend.numerics.evaluation.bootstrap import RankBootstrap, multinomial_weights, ranks
from tda_backend.numerics.evaluation.power import rounded, subsets_needed, subsets_needed_for_difference


def population(size: int, num_queries: int = 8, seed: int = 0):
    """Return many subsets: predictions of A and B and the target, with noise that queries share."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(size, 1))
    target = rng.normal(size=(size, num_queries)) + common
    shared = rng.normal(size=(size, num_queries)) + 0.5 * rng.normal(size=(size, 1))
    return target + 2 * shared, target + 2.2 * shared + 0.8 * rng.normal(size=target.shape), target


def lds(prediction: np.ndarray, target: np.ndarray) -> float:
    return float((ranks(prediction) * ranks(target)).sum(0).mean())


def draws(prediction: np.ndarray, target: np.ndarray, num: int = 800) -> np.ndarray:
    return RankBootstrap(ranks(target), multinomial_weights(len(target), num, 0)).means(ranks(prediction))


@pytest.mark.parametrize("paired", [False, True])
def test_the_predicted_size_gives_the_wanted_half_width(paired):
    """Sizes predicted from 40 subsets, median of 15 trials; real half-width there by 300 fresh experiments."""
    a, b, target = population(40_000)
    wanted = 0.02 if paired else 0.05

    def estimate(rows):
        first = draws(a[rows], target[rows])
        if not paired:
            return subsets_needed(first, 40, half_width=wanted).num_needed
        return subsets_needed_for_difference(first, draws(b[rows], target[rows]), 40, half_width=wanted).num_needed

    size = int(np.median([estimate(slice(40 * trial, 40 * trial + 40)) for trial in range(15)]))
    assert 50 < size < 1000
    rng = np.random.default_rng(1)
    found = []
    for _ in range(300):
        rows = rng.choice(len(target), size, replace=False)
        found.append(lds(a[rows], target[rows]) - (lds(b[rows], target[rows]) if paired else 0))
    assert 1.96 * np.std(found) == pytest.approx(wanted, rel=0.2)


def test_the_range_holds_the_right_number():
    """The 95 % range of S' holds what long experience says in at least 85 of 100 trials."""
    a, _, target = population(8_000)
    truth = np.median(
        [subsets_needed(draws(a[s : s + 400], target[s : s + 400], 400), 400).num_needed for s in range(0, 8000, 400)]
    )
    inside = 0
    for start in range(0, 4000, 40):
        found = subsets_needed(draws(a[start : start + 40], target[start : start + 40], 300), 40)
        inside += found.num_needed_low <= truth <= found.num_needed_high
    assert inside >= 85


def test_scaling_is_one_over_the_square_of_the_half_width():
    values = np.random.default_rng(0).normal(0.4, 0.02, size=1000)
    coarse, fine = (subsets_needed(values, 50, half_width=width) for width in (0.02, 0.01))
    assert fine.num_needed == pytest.approx(4 * coarse.num_needed, abs=4)
    assert fine.half_width == coarse.half_width == pytest.approx(1.96 * 0.02, rel=0.1)
    assert fine.num_needed_low < fine.num_needed < fine.num_needed_high
    assert fine.num_missing == fine.num_needed - 50
    assert subsets_needed(values, 50, confidence=0.99).num_needed > fine.num_needed


def test_sentences_say_what_is_known():
    values = np.random.default_rng(0).normal(0.4, 0.01, size=1000)
    more = subsets_needed(values, 50)
    assert more.sentence.startswith("A 95 % interval of ±0.01 for one LDS needs about ")
    assert more.sentence.endswith("the 50 there are give ±0.019.")
    enough = subsets_needed(values, 50, half_width=0.05)
    assert enough.num_missing == 0
    assert enough.sentence.startswith("The 50 subsets there are give one LDS a 95 % interval of ±0.019; ±0.05 needs")
    same = subsets_needed_for_difference(values, values, 50)
    assert same.num_needed == 2
    assert [rounded(value) for value in (7, 48, 187, 2345)] == ["7", "48", "190", "2 300"]


def test_bad_input_is_named():
    values = np.zeros(10)
    with pytest.raises(UsageError, match="from 1 subsets"):
        subsets_needed(values, 1)
    with pytest.raises(UsageError, match="0 draws"):
        subsets_needed(np.full(10, np.nan), 20)
    with pytest.raises(UsageError, match="Half-width 0"):
        subsets_needed(values, 20, half_width=0)
    with pytest.raises(UsageError, match="shapes"):
        subsets_needed_for_difference(values, values[1:], 20)
