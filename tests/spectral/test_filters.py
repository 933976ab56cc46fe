"""The filter table, its limits and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tda_backend.errors import NumericalError
from tda_backend.numerics.spectral.filters.base import pseudo_inverse_cutoff
from tda_backend.numerics.spectral.filters.damped import DampedInverse, damped_inverse

SIGMA = torch.tensor([2.0, 0.5, 1e-3, 1e-14, 0.0], dtype=torch.float64)


def test_formula_and_limits():
    assert damped_inverse(SIGMA, 0.5, 10).tolist() == [1 / (value + 0.5) for value in SIGMA.tolist()]
    large = 1e12 * damped_inverse(SIGMA, 1e12, 10)
    assert torch.allclose(large, torch.ones_like(large), rtol=1e-11)


def test_zero_means_the_pseudo_inverse_with_the_stated_cutoff():
    assert damped_inverse(SIGMA, 0.0, 10).tolist() == [0.5, 2.0, 1e3, 1 / 1e-14, 0.0]
    assert damped_inverse(SIGMA, 0.0, 100).tolist() == [0.5, 2.0, 1e3, 0.0, 0.0]
    assert pseudo_inverse_cutoff(SIGMA, 100) == 100 * 2.0**-52 * 2.0
    assert damped_inverse(torch.zeros(3), 0.0, 5).tolist() == [0.0, 0.0, 0.0]


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=8), st.floats(1e-12, 1e6), st.floats(1.0001, 1e3))
def test_the_filter_falls_in_both_arguments(values, regularization, factor):
    sigma = torch.tensor(sorted(values), dtype=torch.float64)
    phi = damped_inverse(sigma, regularization, 10)
    assert bool((phi.diff() <= 0).all())
    assert bool((damped_inverse(sigma, regularization * factor, 10) < phi).all() or float(sigma[-1]) > 0)
    # Scaling features by c scales σ and λ by c², and the filter by 1/c².
    assert torch.allclose(damped_inverse(sigma * factor, regularization * factor, 10) * factor, phi, rtol=1e-12)


@pytest.mark.parametrize("value", [-1e-9, math.nan, math.inf])
def test_bad_regularization_is_named(value):
    with pytest.raises(NumericalError, match="λ = "):
        damped_inverse(SIGMA, value, 10)


def test_bad_eigenvalues_and_overflow_are_refused():
    with pytest.raises(NumericalError, match="negative or not finite"):
        damped_inverse(torch.tensor([1.0, -1e-3]), 1.0, 3)
    with pytest.raises(NumericalError, match="negative or not finite"):
        damped_inverse(torch.tensor([1.0, torch.nan]), 1.0, 3)
    with pytest.raises(NumericalError, match="overflows at λ = 0"):
        damped_inverse(torch.tensor([1e-310], dtype=torch.float64), 0.0, 3)


def test_a_table_is_the_weights_one_after_the_other():
    table = list(DampedInverse().table(SIGMA, [0.0, 1.0], 10))
    assert torch.equal(table[0], damped_inverse(SIGMA, 0.0, 10))
    assert torch.equal(table[1], damped_inverse(SIGMA, 1.0, 10))
    assert list(DampedInverse().table(SIGMA, [], 10)) == []
