"""ξ(λ): the dense formula, its range and limits, and theorem 4.3 by exact enumeration of all subsets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.evaluation.indicator import indicator_curve
from tda_backend.numerics.spectral.contraction import subset_sums
from tda_backend.studies.config.study import RegularizationGrid
from tests.helpers_numerics import all_subsets, assert_close, make_spectrum, random_rows

GRID = [1e-6, 1e-3, 1e-1, 1.0, 30.0]


def dense_indicator(rows, query, value):
    """t₂/√(t₁t₃) with t_j = rᵀ(K+λI)^{−j}r by repeated solves."""
    kernel = rows @ rows.T / len(rows) + value * torch.eye(len(rows), dtype=torch.float64)
    r = -rows @ query.T
    moments, x = [], r
    for _ in range(3):
        x = torch.linalg.solve(kernel, x)
        moments.append((r * x).sum(0))
    return moments[1] / (moments[0] * moments[2]).sqrt()


@pytest.mark.parametrize("route", ["primal", "dual"])
@pytest.mark.parametrize("shape", [(15, 8), (8, 15)])
def test_the_spectral_form_is_the_dense_formula(route, shape):
    rows, query = random_rows(0, shape, (6, shape[1]), decay=1.0)
    curve = indicator_curve([make_spectrum(rows, query, route=route)], GRID)
    for index, value in enumerate(GRID):
        assert_close(curve.per_point[index], dense_indicator(rows, query, value), 1e-9)
    assert_close(curve.mean, curve.per_point.mean(1), 1e-14)
    assert curve.num_dropped == 0


def test_the_limit_at_zero_is_the_pseudo_inverse():
    rows, query = random_rows(1, (15, 5), (6, 5))
    spectrum = make_spectrum(rows, query)
    at_zero, nearby = indicator_curve([spectrum], [0.0, 1e-12]).per_point
    assert_close(at_zero, nearby, 1e-8)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 4), st.integers(2, 20), st.integers(1, 20))
def test_xi_lies_in_the_unit_interval_and_tends_to_one(seed, decay, num, dim):
    rows, query = random_rows(seed, (num, dim), (3, dim), decay=decay)
    largest = float(torch.linalg.eigvalsh(rows @ rows.T / num)[-1])
    values = [0.0, *np.geomspace(1e-12, 1e9, 22) * largest]
    curve = indicator_curve([make_spectrum(rows, query)], values)
    assert (curve.per_point >= 0).all()
    assert (curve.per_point <= 1).all()
    assert curve.per_point[-1].min() > 1 - 1e-6


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-4, 1e4), st.floats(1e-8, 1e8))
def test_xi_knows_no_scale(seed, feature_scale, query_scale):
    rows, query = random_rows(seed, (12, 7), (4, 7), decay=1.0)
    plain = indicator_curve([make_spectrum(rows, query)], GRID)
    scaled = make_spectrum(rows * feature_scale, query * query_scale)
    assert_close(indicator_curve([scaled], [v * feature_scale**2 for v in GRID]).per_point, plain.per_point, 1e-9)


def test_models_are_averaged_and_weights_play_no_part():
    problems = [random_rows(seed, (12, 7), (4, 7), decay=1.0) for seed in (0, 1)]
    weights = torch.rand(12, dtype=torch.float64)
    spectra = [make_spectrum(rows, query, weights=weights) for rows, query in problems]
    expected = np.mean([indicator_curve([make_spectrum(*p)], GRID).per_point for p in problems], axis=0)
    assert_close(indicator_curve(spectra, GRID).per_point, expected, 1e-14)


def test_points_without_overlap_are_dropped_and_counted():
    rows, query = random_rows(0, (12, 4), (5, 4))
    query[3] = 0.0
    curve = indicator_curve([make_spectrum(rows, query)], GRID)
    assert curve.num_dropped == 1
    assert np.isnan(curve.per_point[:, 3]).all()
    assert_close(curve.mean, np.delete(curve.per_point, 3, axis=1).mean(1), 1e-14)
    with pytest.raises(NumericalError, match="no validation gradient overlaps"):
        indicator_curve([make_spectrum(rows, torch.zeros(2, 4, dtype=torch.float64))], GRID)
    with pytest.raises(NumericalError, match="λ = -1"):
        indicator_curve([make_spectrum(rows, query)], [-1.0])
    with pytest.raises(UsageError, match="at least one spectrum"):
        indicator_curve([], GRID)


def test_extreme_spectra_do_not_overflow():
    rows = torch.diag(torch.logspace(0, -7, 15, dtype=torch.float64))
    query = torch.eye(15, dtype=torch.float64)[[0, 7, 14]] * 1e-30
    values = [0.0, *np.geomspace(1e-20, 1e20, 41)]
    assert_close(indicator_curve([make_spectrum(rows, query)], values).per_point, np.ones((42, 3)), 1e-12)


@pytest.mark.parametrize("premise", ["independent inclusion", "fixed size, gradients sum to zero"])
def test_theorem_4_3_by_exact_enumeration(premise):
    """Where u₁/√(sᵀ(K+λ)⁻¹s · t₁) > ξ, the Pearson LDS must rise with λ. Every subset is enumerated.

    f_A is a ridge-like response plus noise of its own for each subset: the theorem asks nothing of it.
    """
    num, pairs, held = 8, 0, 0
    masks = all_subsets(num) if premise == "independent inclusion" else all_subsets(num, num // 2)
    grid = np.geomspace(1e-6, 1e1, 25)
    for seed in range(40):
        rows, query, noise = random_rows(seed, (num, 5), (1, 5), (len(masks), 1), decay=0.8)
        if premise != "independent inclusion":
            rows = rows - rows.mean(0)
        outputs = []
        for mask in masks:
            chosen = rows[torch.from_numpy(mask)]
            target = torch.linalg.solve(chosen.T @ chosen + 0.3 * torch.eye(5), chosen.sum(0))
            outputs.append(-float(query[0] @ target))  # training moves θ along −g
        f = np.array(outputs) + (seed % 4) * np.std(outputs) * noise[:, 0].numpy()
        spectrum = make_spectrum(-rows, query)
        s = torch.from_numpy(((f - f.mean())[:, None] * masks).mean(0))
        kernel = rows @ rows.T / num
        xi = indicator_curve([spectrum], list(grid)).mean
        step = 1e-5
        ends = subset_sums([spectrum], masks, [v * (1 + d) for v in grid for d in (-step, step)])[:, :, 0].numpy()
        for index, value in enumerate(grid):
            damped = kernel + value * torch.eye(num)
            r = -rows @ query[0]
            u1 = float(s @ torch.linalg.solve(damped, r))
            bound = u1 / float((s @ torch.linalg.solve(damped, s)) * (r @ torch.linalg.solve(damped, r))) ** 0.5
            low, high = (np.corrcoef(ends[2 * index + side], f)[0, 1] for side in (0, 1))
            pairs += 1
            if bound > xi[index] + 1e-6:
                held += 1
                assert high > low - 1e-12, (seed, value, bound, xi[index])
    assert pairs == 1000
    assert held > 50, f"the premise held in only {held} of {pairs} pairs: the test says little"


def test_the_whole_default_grid_is_finite_on_float32_coordinates():
    rows, query = random_rows(0, (200, 60), (20, 60), decay=2.0)
    curve = indicator_curve([make_spectrum(rows, query, dtype=torch.float32)], RegularizationGrid().values)
    assert np.isfinite(curve.per_point).all()
