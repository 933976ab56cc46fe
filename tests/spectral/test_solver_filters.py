"""What the solvers' filters are: exact polynomials and series, their limits, and what they refuse."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.spectral.contraction import admissible, scores
from tda_backend.numerics.spectral.coordinates import Spectrum, squares_outside
from tda_backend.numerics.spectral.decompose import primal_coordinates
from tda_backend.numerics.spectral.filters.damped import StrictDampedInverse, damped_inverse
from tda_backend.numerics.spectral.filters.krylov import Krylov
from tda_backend.numerics.spectral.filters.lissa import LissaMean
from tests.helpers_numerics import assert_close, random_rows

SIGMA = torch.tensor([2.0, 0.5, 1e-3, 0.0], dtype=torch.float64)


def textbook_conjugate_gradients(sigma, vector, regularization, steps, digits=120):
    """Return x_t in 120 digits, where rounding plays no part."""
    with mpmath.workdps(digits):
        a = [mpmath.mpf(float(s)) + mpmath.mpf(regularization) for s in sigma]
        v = [mpmath.mpf(float(entry)) for entry in vector]
        x, r = v, [b - d * b for b, d in zip(v, a, strict=True)]
        p, rr = r, mpmath.fsum(e * e for e in r)
        for _ in range(steps):
            if rr < mpmath.mpf(10) ** (-digits // 2):
                break
            step = rr / mpmath.fsum(d * e * e for d, e in zip(a, p, strict=True))
            x = [b + step * e for b, e in zip(x, p, strict=True)]
            r = [b - step * d * e for b, d, e in zip(r, a, p, strict=True)]
            new = mpmath.fsum(e * e for e in r)
            p = [b + new / rr * e for b, e in zip(r, p, strict=True)]
            rr = new
        return torch.tensor([float(b) for b in x], dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 25, 50])
@pytest.mark.parametrize("regularization", [1e-8, 1e-3, 1.0, 1e6])
def test_krylov_is_exact_arithmetic_on_spectra_of_twelve_decades(steps, regularization):
    generator = torch.Generator().manual_seed(steps)
    sigma = torch.logspace(1, -11, 40, dtype=torch.float64)
    query = torch.randn(3, 40, generator=generator, dtype=torch.float64) * sigma**0.25
    outside = torch.tensor([0.0, 0.3, 4.0], dtype=torch.float64)
    phi = Krylov(steps).weights(sigma, regularization, 100, query, outside)
    for row, extra, weights in zip(query, outside, phi, strict=True):
        whole = torch.cat([row, extra.sqrt()[None]])
        expected = textbook_conjugate_gradients([*sigma.tolist(), 0.0], whole, regularization, steps)[:-1]
        assert_close(row * weights, expected, 1e-8)


@pytest.mark.parametrize("steps", [1, 5, 40])
def test_one_krylov_basis_serves_every_regularization(steps):
    generator = torch.Generator().manual_seed(steps)
    sigma = torch.logspace(1, -11, 30, dtype=torch.float64)
    query = torch.randn(5, 30, generator=generator, dtype=torch.float64) * sigma**0.25
    query[4] = 0.0
    values = [1e-6, 1e-2, 1.0, 1e4]
    for outside in (None, torch.rand(5, generator=generator, dtype=torch.float64)):
        for value, phi in zip(values, Krylov(steps).table(sigma, values, 50, query, outside), strict=True):
            alone = Krylov(steps).weights(sigma, value, 50, query, outside)
            assert_close(query * phi, query * alone, 1e-8 + 2e-13 / value)  # ε·σ_max/λ


def test_krylov_of_enough_steps_is_the_damped_inverse():
    query, others = random_rows(1, (4, 12), (2, 12))
    sigma = torch.logspace(0, -5, 12, dtype=torch.float64)
    for outside, steps in ((None, 12), (torch.full((4,), 0.7, dtype=torch.float64), 13)):
        phi = Krylov(steps).weights(sigma, 1e-4, 50, query, outside)
        assert_close(phi, damped_inverse(sigma, 1e-4, 50).expand(4, -1), 1e-8)
        assert_close(Krylov(steps + 30).weights(sigma, 1e-4, 50, query, outside), phi, 1e-8)
    repeated = torch.tensor([1.0, 1.0, 1.0, 0.1, 0.1], dtype=torch.float64)  # two distinct eigenvalues, two steps
    assert_close(Krylov(2).weights(repeated, 0.05, 50, others[:, :5])[0], damped_inverse(repeated, 0.05, 50), 1e-12)


def test_krylov_depends_on_the_query_and_on_what_lies_outside():
    sigma = torch.logspace(0, -3, 6, dtype=torch.float64)
    (query,) = random_rows(2, (3, 6))
    krylov = Krylov(2)
    phi = krylov.weights(sigma, 0.01, 10, query)
    assert float((phi[0] - phi[1]).abs().max()) > 1e-3 * float(phi.max())
    assert_close(krylov.weights(sigma, 0.01, 10, query[1:2]), phi[1:2], 1e-14)  # but not on other queries
    assert_close(krylov.weights(sigma, 0.01, 10, 7 * query), phi, 1e-12)  # nor on its length
    outside = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    moved = krylov.weights(sigma, 0.01, 10, query, outside)
    assert_close(moved[0], phi[0], 1e-12)
    assert float((moved[1] - phi[1]).abs().max()) > 1e-3 * float(phi.max())


def test_krylov_and_lissa_at_large_regularization():
    sigma = torch.logspace(0, -3, 6, dtype=torch.float64)
    (query,) = random_rows(3, (3, 6))
    for value in (1e6, 1e12):
        phi = value * Krylov(10).weights(sigma, value, 10, query)
        assert_close(phi, torch.ones_like(phi), 2 / value + 1e-13)
        mean = value * LissaMean(scaling=value, depth=50).weights(sigma, value, 10)
        assert_close(mean, torch.ones_like(mean), 2 / value + 1e-13)


def test_krylov_in_a_spectrum_scores_by_its_own_polynomial():
    train, query = random_rows(4, (9, 5), (2, 5))
    sigma = torch.logspace(0, -2, 5, dtype=torch.float64)
    outside = torch.tensor([0.5, 0.0], dtype=torch.float64)
    spectrum = Spectrum(sigma, train, query, query, None, 0, filter=Krylov(3), query_outside=outside)
    phi = Krylov(3).weights(sigma, 0.1, 9, query, outside)
    assert_close(scores([spectrum], 0.1), (query * phi) @ train.T, 1e-13)
    assert_close(scores([spectrum], 0.1, [1]), ((query * phi) @ train.T)[1:], 1e-13)


@pytest.mark.parametrize("steps", [3, 10, 60])
def test_rounding_is_not_taken_for_a_component_outside_a_complete_basis(steps):
    """float32 coordinates: λ = 0 is then as regular as the curvature is."""
    train, query = random_rows(5, (40, 8), (6, 8))
    basis = primal_coordinates(train.float(), query.float(), what="test", dtype=torch.float32)
    outside = squares_outside(query.square().sum(1), basis.others)
    assert outside.tolist() == [0.0] * 6
    assert_close(squares_outside(query.square().sum(1) + 0.5, basis.others), torch.full((6,), 0.5), 1e-6)
    spectrum = Spectrum(basis.eigenvalues, basis.train, basis.others, basis.others, None, 0, Krylov(steps), outside)
    assert admissible([spectrum], [0.0, 0.1]) == [0.0, 0.1]
    if steps > 8:
        exact = (query @ torch.linalg.inv(train.T @ train / 40) @ train.T).float()
        assert_close(torch.from_numpy(scores([spectrum], 0.0)), exact, 1e-3)


def test_where_conjugate_gradients_break_down_the_method_has_no_value():
    train, query = random_rows(6, (9, 30), (4, 30))
    values, basis = torch.linalg.eigh(train.T @ train / 9)
    basis, sigma = basis[:, -9:], values[-9:]
    inside = query @ basis
    outside = squares_outside(query.square().sum(1), inside)
    spectrum = Spectrum(sigma, train @ basis, inside, inside, None, 0, Krylov(30), outside)
    with pytest.raises(NumericalError, match="broke down"):
        scores([spectrum], 0.0)
    assert admissible([spectrum], [0.0, 1e-3]) == [1e-3]
    with pytest.raises(NumericalError, match="broke down"):
        admissible([spectrum], [0.0])


def test_krylov_edges():
    sigma = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    krylov = Krylov(20)
    assert torch.equal(krylov.weights(sigma, 0.1, 5, torch.zeros(2, 3)), torch.zeros(2, 3, dtype=torch.float64))
    one = torch.tensor([[0.0, 2.0, 0.0]], dtype=torch.float64)  # an eigenvector: solved in one step, then stays
    assert_close(krylov.weights(sigma, 0.1, 5, one), torch.tensor([[0.0, 1 / 0.6, 0.0]], dtype=torch.float64), 1e-14)
    unit = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)  # (C+0)x = v is solved by x₀ = v at once
    assert_close(krylov.weights(sigma, 0.0, 5, unit), unit, 1e-15)
    with pytest.raises(NumericalError, match=r"broke down at step \d+ with λ = 0"):
        krylov.weights(sigma, 0.0, 5, torch.ones(1, 3, dtype=torch.float64))
    with pytest.raises(UsageError, match="depends on the query"):
        krylov.weights(sigma, 0.1, 5)
    with pytest.raises(UsageError, match="max_iter = 0"):
        Krylov(0)
    with pytest.raises(NumericalError, match="λ = -1"):
        krylov.weights(sigma, -1.0, 5, unit)
    with pytest.raises(NumericalError, match="negative or not finite"):
        krylov.weights(torch.tensor([1.0, -1.0, 0.0]), 1.0, 5, unit)
    assert krylov.parameters() == {"max_iter": 20}


def test_krylov_in_chunks_of_queries(monkeypatch):
    sigma = torch.logspace(0, -3, 6, dtype=torch.float64)
    (query,) = random_rows(2, (7, 6))
    whole = Krylov(4).weights(sigma, 0.01, 10, query)
    monkeypatch.setattr("tda_backend.numerics.spectral.filters.krylov._NUMBERS", 150)
    assert_close(Krylov(4).weights(sigma, 0.01, 10, query), whole, 1e-13)


def lissa_sum(sigma: float, regularization: float, scaling: float, depth: int) -> float:
    with mpmath.workdps(60):
        factor = 1 - (mpmath.mpf(sigma) + mpmath.mpf(regularization)) / mpmath.mpf(scaling)
        return float(mpmath.fsum(factor**j for j in range(depth + 1)) / mpmath.mpf(scaling))


@settings(deadline=None)
@given(
    st.floats(-18, 0.99),
    st.sampled_from([0.0, 1e-12, 1e-5, 0.3, 2.0]),
    st.sampled_from([5.95, 8.0, 40.0]),
    st.sampled_from([0, 1, 2, 7, 100]),
)
def test_lissa_mean_is_the_sum_of_the_recursion(exponent, regularization, scaling, depth):
    sigma = 10.0**exponent
    phi = LissaMean(scaling, depth).weights(torch.tensor([sigma, 0.0], dtype=torch.float64), regularization, 10)
    for actual, value in zip(phi.tolist(), (sigma, 0.0), strict=True):
        expected = lissa_sum(value, regularization, scaling, depth)
        assert math.isclose(actual, expected, rel_tol=1e-11, abs_tol=1e-13)


def test_lissa_mean_limits():
    assert_close(LissaMean(5.0, 10**6).weights(SIGMA, 0.01, 10), damped_inverse(SIGMA, 0.01, 10), 1e-12)
    assert LissaMean(5.0, 999).weights(SIGMA, 0.0, 10)[3] == 200.0  # (T+1)/s where σ + λ = 0
    assert_close(
        LissaMean(5.0, 0).weights(SIGMA, 0.3, 10), torch.full((4,), 0.2, dtype=torch.float64), 1e-14
    )  # T = 0: x₀/s = v/s
    exact = LissaMean(2.0, 9).weights(SIGMA, 0.0, 10)  # u = 1 at the largest: solved in one step
    assert exact[0] == 0.5


def test_lissa_condition_is_named_with_its_remedy():
    with pytest.raises(NumericalError) as caught:
        LissaMean(1.0, 10).weights(SIGMA, 0.5, 10)
    assert "largest eigenvalue σ = 2 (s = 1, d = λ/s = 0.5)" in caught.value.message
    assert caught.value.hint == "Give a scaling s > 1.25."
    LissaMean(1.2501, 10).weights(SIGMA, 0.5, 10)
    with pytest.raises(NumericalError):
        LissaMean(1.25, 10).weights(SIGMA, 0.5, 10)
    for scaling in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(UsageError, match="scaling"):
            LissaMean(scaling, 10)
    with pytest.raises(UsageError, match="depth -1"):
        LissaMean(5.0, -1)
    with pytest.raises(NumericalError, match="negative or not finite"):
        LissaMean(5.0, 10).weights(torch.tensor([math.nan]), 0.1, 10)
    assert LissaMean(5.0, 10).parameters() == {"scaling": 5.0, "depth": 10}


def test_strict_inverse_refuses_zero_only_where_singular():
    assert_close(StrictDampedInverse(2, 6).weights(SIGMA, 0.5, 10), damped_inverse(SIGMA, 0.5, 10), 0.0)
    assert_close(StrictDampedInverse(0, 3).weights(SIGMA[:3], 0.0, 10), 1 / SIGMA[:3], 0.0)
    with pytest.raises(NumericalError, match="2 of 6 eigenvalues are at or below the cutoff") as caught:
        StrictDampedInverse(2, 6).weights(SIGMA, 0.0, 10)
    assert "λ > 0" in caught.value.hint
    assert StrictDampedInverse(2, 6).parameters() == {"refuses_zero": True}
