"""Condensed coordinates: sums over smooth functions of σ are kept, for every λ, and for isolated eigenvalues too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tda_backend.numerics.evaluation.indicator import Indicator, indicator_curve
from tda_backend.numerics.spectral import condense, one_query
from tda_backend.numerics.spectral.condense import Condenser
from tda_backend.numerics.spectral.contraction import scores
from tda_backend.numerics.spectral.one_query import filtered_products
from tests.helpers_numerics import make_spectrum, random_rows

LAMBDAS = [1e-9, 1e-6, 1e-3, 0.1, 1.0, 100.0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-30, 4), min_size=1, max_size=30), st.floats(-30, 6), st.sampled_from([1, 2, 3]))
def test_powers_of_the_damped_inverse_keep_their_sums(logarithms, log_lambda, power):
    sigma = torch.tensor(logarithms, dtype=torch.float64).exp()
    values = torch.randn(2, len(sigma), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    condenser = Condenser(float(sigma.min()), float(sigma.max()))
    total = torch.zeros(2, condenser.eigenvalues.numel(), dtype=torch.float64)
    half = len(sigma) // 2
    condenser.add(total, sigma[:half], values[:, :half])  # pieces in any order
    condenser.add(total, sigma[half:], values[:, half:])
    value = float(np.exp(log_lambda))
    truth = (values / (sigma + value) ** power).sum(1)
    found = (total / (condenser.eigenvalues + value) ** power).sum(1)
    scale = (values.abs() / (sigma + value) ** power).sum(1)
    assert bool(((found - truth).abs() <= {1: 2e-7, 2: 3e-6, 3: 2e-5}[power] * scale).all())


def test_finer_nodes_converge_at_fourth_order():
    sigma = torch.logspace(-6, 1, 57, dtype=torch.float64)
    values = torch.rand(1, 57, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    errors = []
    for spacing in (0.4, 0.2, 0.1):
        condenser = Condenser(float(sigma.min()), float(sigma.max()), spacing)
        total = torch.zeros(1, condenser.eigenvalues.numel(), dtype=torch.float64)
        condenser.add(total, sigma, values)
        error = 0.0
        for value in LAMBDAS:
            truth = (values / (sigma + value)).sum()
            error = max(error, abs(float((total / (condenser.eigenvalues + value)).sum() - truth) / float(truth)))
        errors.append(error)
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


@pytest.fixture
def many(monkeypatch):
    """A spectrum, with the limit for condensing set below its size."""
    train, query = random_rows(3, (60, 40), (5, 40), decay=2.0)
    spectrum = make_spectrum(train, query)
    plain = [filtered_products([spectrum], 2, range(60)), indicator_curve([spectrum], LAMBDAS)]
    monkeypatch.setattr(one_query, "MAX_COORDINATES", 10)
    monkeypatch.setattr("tda_backend.numerics.evaluation.indicator.MAX_COORDINATES", 10)
    assert condense.MAX_COORDINATES > 10
    return spectrum, plain


def test_condensed_products_rebuild_the_scores(many):
    spectrum, (plain, _) = many
    eigenvalues, products = filtered_products([spectrum], 2, range(60))
    assert eigenvalues.numel() != plain[0].numel()
    for value in LAMBDAS:
        truth = torch.from_numpy(scores([spectrum], value, 2))
        scale = (plain[1].double().abs() / (plain[0] + value)).sum(1)
        found = (products.double() / (eigenvalues + value)).sum(1)
        assert bool(((found - truth).abs() <= 2e-6 * scale).all())


def test_the_condensed_indicator_is_the_indicator(many):
    spectrum, (_, plain) = many
    found = indicator_curve([spectrum], LAMBDAS)
    assert np.abs(found.per_point - plain.per_point).max() < 2e-5
    assert Indicator([spectrum]).mean([0.1])[0] == pytest.approx(plain.mean[LAMBDAS.index(0.1)], abs=2e-5)
