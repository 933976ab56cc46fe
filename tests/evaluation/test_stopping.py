"""When retraining stops: the widest interval that counts, how many subsets come next, and what stopping costs."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tda_backend.numerics.evaluation.bootstrap import RankBootstrap, multinomial_weights, ranks
from tda_backend.numerics.evaluation.stopping import GROWTH, next_subsets, widest_half_width

CORRELATION, QUERIES, DRAWS = 0.4, 20, 400
TRUE_LDS = 6 / math.pi * math.asin(CORRELATION / 2)
"""Spearman's correlation of two normal numbers with that Pearson correlation."""


def curve(*rows: tuple[float | None, float, float, bool]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["regularization", "ci_low", "ci_high", "is_selected"])


def test_the_widest_interval_is_taken_at_the_chosen_lambda_and_of_methods_without_one():
    swept = curve((0.1, 0.0, 0.9, False), (1.0, 0.3, 0.4, True))
    matrix = curve((None, 0.1, 0.5, False))
    assert widest_half_width(swept) == pytest.approx(0.05)
    assert widest_half_width(matrix) == pytest.approx(0.2)
    assert widest_half_width(pd.concat([swept, matrix])) == pytest.approx(0.2)
    assert widest_half_width(curve((0.1, 0.0, 0.9, False))) == 0


def test_an_interval_without_ends_is_infinitely_wide():
    assert widest_half_width(curve((1.0, math.nan, math.nan, True), (None, 0.1, 0.2, False))) == math.inf


@given(
    chunks=st.integers(1, 500),
    chunk=st.integers(1, 20),
    width=st.floats(1.0001, 1e6) | st.just(math.inf),
    wanted=st.floats(1e-6, 0.99),
    more=st.integers(1, 10_000),
)
def test_the_next_round_has_a_chunk_more_at_least_and_twice_as_many_at_most(
    chunks: int, chunk: int, width: float, wanted: float, more: int
):
    count = chunks * chunk
    most = count + more
    found = next_subsets(count, width * wanted, wanted, chunk, most)
    assert count < found <= min(most, max(GROWTH * count, count + chunk))
    assert found == most or (found - count) % chunk == 0
    needed = count * width**2  # by the law of the square root
    if needed * (1 + 1e-6) < found:
        assert found - chunk <= max(needed, count) * (1 + 1e-6), "a chunk more than is needed"
    if found * (1 + 1e-6) < needed:
        assert found in (most, count + max(1, count // chunk) * chunk), "neither enough nor as many as are allowed"


@pytest.mark.parametrize(
    ("count", "width", "expected"), [(20, 0.011, 30), (20, 0.0141, 40), (40, 0.5, 80), (80, 0.0123, 130), (90, 1, 100)]
)
def test_a_width_says_how_many_subsets_are_enough(count: int, width: float, expected: int):
    assert next_subsets(count, width, 0.01, 10, 100 if count == 90 else 1000) == expected


class Retrained:
    """Subsets whose true LDS is known: both goodnesses are normal, and queries have a part in common."""

    def __init__(self, rng: np.random.Generator, most: int) -> None:
        common, own = rng.normal(size=(2, most, 1)), rng.normal(size=(2, most, QUERIES))
        predicted, noise = (common + own) / math.sqrt(2)
        self.predicted = predicted
        self.measured = CORRELATION * predicted + math.sqrt(1 - CORRELATION**2) * noise

    def interval(self, count: int) -> tuple[float, float]:
        weights = multinomial_weights(count, DRAWS, 0)
        draws = RankBootstrap(ranks(self.measured[:count]), weights).means(ranks(self.predicted[:count]))
        low, high = np.percentile(draws, [2.5, 97.5])
        return low, high

    def stopped(self, wanted: float, most: int) -> int:
        """Return how many subsets are retrained until the interval is narrow enough."""
        count = 20
        while count < most:
            low, high = self.interval(count)
            if (high - low) / 2 <= wanted:
                break
            count = next_subsets(count, (high - low) / 2, wanted, 10, most)
        return count


def covered(intervals: list[tuple[float, float]]) -> float:
    return float(np.mean([low <= TRUE_LDS <= high for low, high in intervals]))


def test_stopping_on_the_width_costs_a_little_coverage_and_no_more():
    """The figures of 10 000 studies stand in docs/interface.md; here 250, whose coverage is known to about ±0.03."""
    rng = np.random.default_rng(7)
    studies = [Retrained(rng, 300) for _ in range(250)]
    counts = [study.stopped(0.08, 300) for study in studies]
    widths = [np.diff(study.interval(count)).item() / 2 for study, count in zip(studies, counts, strict=True)]
    assert max(widths) <= 0.08
    assert 110 <= np.median(counts) <= 140
    stopped = covered([study.interval(count) for study, count in zip(studies, counts, strict=True)])
    fixed = covered([study.interval(int(np.median(counts))) for study in studies])
    assert 0.9 <= fixed <= 0.97
    assert fixed - 0.05 <= stopped <= fixed + 0.03
