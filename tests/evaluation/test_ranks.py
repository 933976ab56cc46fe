"""Rank intervals and agreement between training seeds against sorting by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.evaluation.ranks import rank_intervals
from tda_backend.numerics.spectral.contraction import ScoreMatrix, scores
from tests.helpers_numerics import make_spectrum, random_rows

GRID = [0.0, 1e-3, 1.0]


def seeds_of(num: int, weights: bool = False) -> list:
    """Return spectra of several seeds: 20 train examples, 4 queries, 6 dimensions."""
    spectra = []
    for seed in range(num):
        train, query = random_rows(seed, (20, 6), (4, 6), decay=1.0)
        own = torch.linspace(0.1, 0.9, 20).roll(7 * seed).double() if weights else None
        spectra.append(make_spectrum(train, query, weights=own))
    return spectra


def rank_by_counting(values: np.ndarray, position: int, pool: np.ndarray) -> int:
    return 1 + sum(1 for other in pool if values[other] > values[position])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weights", [False, True], ids=["influence", "trak"])
def test_intervals_are_the_extremes_of_each_seeds_own_ranks(weights, masked):
    spectra = seeds_of(3, weights)
    allowed = np.arange(20) % 3 != 1 if masked else np.ones(20, dtype=bool)
    positions = [3, 0, 18, 3]
    actual = rank_intervals(spectra, 2, positions, GRID, allowed if masked else None)
    assert actual.shape == (3, 4, 2)
    assert actual.dtype == np.int64
    for row, value in enumerate(GRID):
        own = [scores([spectrum], value, 2) for spectrum in spectra]
        for column, position in enumerate(positions):
            expected = [rank_by_counting(values, position, np.nonzero(allowed)[0]) for values in own]
            assert actual[row, column].tolist() == [min(expected), max(expected)]
    assert bool((actual[..., 0] < actual[..., 1]).any())


def test_trak_ranks_with_each_seeds_own_weights_not_their_mean():
    spectra = seeds_of(2, weights=True)
    mean = torch.stack([spectrum.train_weights for spectrum in spectra]).mean(0)
    averaged = [replace(spectrum, train_weights=mean) for spectrum in spectra]
    assert not np.array_equal(rank_intervals(spectra, 0, range(20), GRID), rank_intervals(averaged, 0, range(20), GRID))


def test_all_positions_of_one_seed_are_a_permutation():
    actual = rank_intervals(seeds_of(1), 0, range(20), [0.1])
    assert np.array_equal(actual[..., 0], actual[..., 1])
    assert sorted(actual[0, :, 0]) == list(range(1, 21))
    values = scores(seeds_of(1), 0.1, 0)
    assert actual[0, values.argmax(), 0] == 1
    assert actual[0, values.argmin(), 0] == 20


@given(
    st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=4), st.permutations(range(6))
)
def test_score_matrices_with_ties_and_any_order(rows, order):
    seeds = [ScoreMatrix(torch.tensor([row], dtype=torch.float64)) for row in rows]
    actual = rank_intervals(seeds, 0, order, None)
    assert actual.shape == (1, 6, 2)
    for column, position in enumerate(order):
        own = [rank_by_counting(np.array(row), position, np.arange(6)) for row in rows]
        assert actual[0, column].tolist() == [min(own), max(own)]
    assert np.array_equal(rank_intervals(seeds[::-1], 0, order, None), actual)


def test_a_position_outside_the_filter_is_ranked_among_the_allowed():
    matrix = ScoreMatrix(torch.tensor([[5.0, 4.0, 3.0, 2.0]]))
    assert rank_intervals([matrix], 0, [0, 3, 2], None, [False, True, True, False])[0, :, 0].tolist() == [1, 3, 2]


def test_bad_requests_are_refused():
    spectra = seeds_of(2)
    matrix = ScoreMatrix(torch.ones(4, 20))
    for arguments, expected in (
        (([], 0, [1], GRID), "one entry per training seed"),
        ((matrix, 0, [1], None), "one entry per training seed"),
        ((spectra, 4, [1], GRID), "Query 4 is out of range"),
        ((spectra, 0, [20], GRID), r"outside 0…19"),
        ((spectra, 0, [-1], GRID), r"outside 0…19"),
        ((spectra, 0, [1], None), "needs a regularization"),
        ((spectra, 0, [1], GRID, np.ones(19)), "there are 20 training examples"),
        ((spectra, 0, [1], GRID, np.zeros(20)), "Loosen the filters"),
        (([matrix, ScoreMatrix(torch.ones(4, 19))], 0, [1], None), "different numbers"),
    ):
        with pytest.raises(UsageError, match=expected):
            rank_intervals(*arguments)
    with pytest.raises(NumericalError, match="not finite"):
        rank_intervals([ScoreMatrix(torch.full((1, 3), torch.nan))], 0, [0], None)
    assert rank_intervals(spectra, 0, [], GRID).shape == (3, 0, 2)
