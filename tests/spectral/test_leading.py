"""Truncated spectra: the largest eigenpairs from products alone, against whole decompositions in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tda_backend.errors import NumericalError
from tda_backend.numerics.attribution.influence import influence_spectrum, trak_spectrum
from tda_backend.numerics.features.gram import cross_products, gram_matrix, gram_products, inner_products
from tda_backend.numerics.features.projection import Projection, project_factors
from tda_backend.numerics.spectral.contraction import lacking_shares, scores
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.numerics.spectral.decompose import row_coordinates
from tda_backend.numerics.spectral.leading import Leading, LeftOut, Products, basis_vectors, leading_eigenpairs
from tests.device.standin import NAME as DEVICE
from tests.device.standin import watching
from tests.helpers_numerics import FACTOR_TASKS, TASKS, assert_close, features_of

SIZE, COUNT = 400, 20


def matrix_of(eigenvalues: Tensor, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    made = (basis * eigenvalues) @ basis.T
    return (made + made.T) / 2


def products_of(matrix: Tensor) -> Products:
    return Products(len(matrix), float(matrix.trace()), matrix.device, lambda vectors: matrix @ vectors)


def power_law(exponent: float = 1.5, size: int = SIZE) -> Tensor:
    return torch.arange(1, size + 1, dtype=torch.float64) ** -exponent


def test_largest_eigenpairs_are_those_of_a_whole_decomposition():
    sigma = power_law()
    matrix = matrix_of(sigma)
    found = leading_eigenpairs(products_of(matrix), COUNT, "matrix")
    assert basis_vectors(SIZE, COUNT) < SIZE / 3  # it never saw all directions
    assert_close(found.values, sigma[:COUNT], 1e-6)
    assert_close(found.vectors.T @ found.vectors, torch.eye(COUNT, dtype=torch.float64), 1e-12)
    assert_close(found.left_out.trace, float(sigma[COUNT:].sum() / sigma.sum()), 1e-6)
    assert found.left_out.largest == pytest.approx(float(sigma[COUNT]), rel=0.02)


def test_the_stated_residual_is_the_real_one():
    matrix = matrix_of(power_law(0.3))  # flat: not exact after four vectors for each pair
    found = leading_eigenpairs(products_of(matrix), COUNT, "matrix")
    real = torch.linalg.vector_norm(matrix @ found.vectors - found.vectors * found.values, dim=0)
    assert float(real.max()) > 1e-4
    assert found.left_out.residual == pytest.approx(float(real.max()), rel=1e-6)


def test_a_smaller_tolerance_gives_smaller_residuals():
    matrix = matrix_of(power_law(1.0))
    rough, fine = (leading_eigenpairs(products_of(matrix), 60, "", tolerance=each) for each in (1e-1, 1e-9))
    assert fine.left_out.residual < rough.left_out.residual / 100


@settings(max_examples=30, deadline=None)
@given(
    sigma=st.lists(st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 1.0, 7.0]), min_size=12, max_size=60),
    count=st.integers(1, 11),
    seed=st.integers(0, 9),
)
def test_ritz_values_never_exceed_eigenvalues_and_vectors_stay_orthonormal(sigma: list[float], count: int, seed: int):
    """Repeated, tiny and zero eigenvalues: blocks that bring nothing new."""
    values = torch.tensor(sorted([*sigma, 3.0], reverse=True), dtype=torch.float64)
    found = leading_eigenpairs(products_of(matrix_of(values, seed)), count, "", seed=seed, tolerance=1e-10)
    assert bool((found.values <= values[:count] + 1e-12 * values[0]).all())
    assert_close(found.vectors.T @ found.vectors, torch.eye(count, dtype=torch.float64), 1e-10)
    assert_close(found.values, values[:count], 1e-9)
    assert 0 <= found.left_out.trace <= 1


def test_same_seed_same_pairs():
    one, two = (leading_eigenpairs(products_of(matrix_of(power_law())), 5, "") for _ in range(2))
    assert torch.equal(one.vectors, two.vectors)


@pytest.mark.parametrize(("value", "says"), [(0.0, "is zero"), (float("nan"), "not finite")])
def test_a_matrix_without_eigenvalues_is_refused(value: float, says: str):
    with pytest.raises(NumericalError, match=says):
        leading_eigenpairs(products_of(torch.full((40, 40), value, dtype=torch.float64)), 3, "Gram")


@pytest.mark.parametrize("name", FACTOR_TASKS)
def test_products_with_the_gram_matrix_need_no_gram_matrix(name: str):
    factors = features_of(TASKS[name]).factors
    assert factors is not None
    vectors = torch.randn(factors.num_vectors, 3, dtype=torch.float64)
    assert_close(gram_products(factors, vectors, 7), gram_matrix(factors) @ vectors, 1e-12)
    some, others = factors.select(slice(0, 11)), factors.select(slice(11, 30))
    assert_close(cross_products(some, others, vectors[:19], 4), inner_products(some, others) @ vectors[:19], 1e-12)


def truncated(whole: Spectrum, count: int) -> Spectrum:
    """Return a whole spectrum cut behind its largest eigenvalues."""
    columns = slice(0, count)
    rows = {name: getattr(whole, name)[:, columns] for name in ("train", "query", "validation")}
    return Spectrum(whole.eigenvalues[columns], train_weights=whole.train_weights, num_cut=0, **rows)


BUILD = {"iffim": influence_spectrum, "trak": trak_spectrum}


@pytest.mark.parametrize("route", ["gram", "factors", "projected"])
@pytest.mark.parametrize("method", BUILD)
@pytest.mark.parametrize("name", FACTOR_TASKS)
def test_truncated_scores_are_those_of_the_largest_eigenvalues(name: str, method: str, route: str):
    task, count = TASKS[name], 6
    if method == "trak" and not task.margin_identity:
        pytest.skip("it needs the margin")
    features = features_of(task)
    assert features.factors is not None
    given: dict = {"dtype": torch.float64}
    if route == "projected":
        given["projected"] = project_factors(features.factors, Projection("gaussian-dense", 18, 0))
    whole = BUILD[method](features, **given, **({"gram": features.full_gram()} if route != "projected" else {}))
    more = {"gram": features.full_gram()} if route == "gram" else {}
    found = BUILD[method](features, **given, **more, num_eigenvalues=count)
    assert found.eigenvalues.numel() == count
    for value in (0.0, 1e-3, 1.0):
        assert_close(scores([found], value), scores([truncated(whole, count)], value), 1e-7)
    assert found.left_out is not None
    assert found.left_out.trace == pytest.approx(float(whole.eigenvalues[count:].sum() / whole.eigenvalues.sum()))
    lost = whole.query[:, count:].square().sum(1)  # and what no eigenvector holds
    assert bool((found.query_outside >= lost - 1e-9).all())


def test_as_many_eigenvalues_as_there_are_leave_nothing_out():
    rows = torch.randn(30, 8, dtype=torch.float64)
    whole, all_kept = (row_coordinates(rows, rows[:3], what="", num_eigenvalues=each) for each in (None, 8))
    assert all_kept.left_out is None
    assert torch.equal(whole.train, all_kept.train)


def test_nothing_larger_than_the_basis_is_made(monkeypatch):
    """A basis of [k, 4r] and blocks of rows; no k × k matrix."""
    rows, made = torch.randn(300, 400), []
    real = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: made.append(matrix.shape[0]) or real(matrix))
    row_coordinates(rows, rows[:3], what="", num_eigenvalues=4)
    assert made
    assert max(made) <= basis_vectors(400, 4) < 100


@pytest.mark.parametrize("value", [1e-4, 1e-2, 1.0, 100.0])
@pytest.mark.parametrize("name", [name for name in FACTOR_TASKS if TASKS[name].margin_identity])
def test_what_scores_lack_is_never_more_than_is_said(name: str, value: float):
    features = features_of(TASKS[name])
    whole = influence_spectrum(features, gram=features.full_gram(), dtype=torch.float64)
    found = influence_spectrum(features, num_eigenvalues=4, dtype=torch.float64)
    all_scores, kept = scores([whole], value), scores([found], value)
    lacking = np.sqrt(np.square(all_scores - kept).mean(1) / np.square(all_scores).mean(1))
    said = lacking_shares([found], value).numpy()
    assert (lacking <= said + 1e-6).all()
    assert (said <= 1).all()
    assert said.max() > 0


def test_a_whole_spectrum_lacks_nothing():
    features = features_of(TASKS[FACTOR_TASKS[0]])
    assert float(lacking_shares([influence_spectrum(features, gram=features.full_gram())], 1e-3).max()) == 0


def test_the_bound_is_largest_where_the_left_out_eigenvalue_is_lambda():
    left, ones = LeftOut(0.1, 0.5, 0.0), torch.ones(1, 1)
    error = [float(left.error(ones[0], ones, ones[:, 0], value)) for value in (0.05, 0.5, 50.0)]
    assert error[0] > error[1]  # smaller λ amplify what lies outside, beside what is kept
    assert error[2] < 0.75


def test_all_of_it_runs_on_the_device():
    rows = torch.randn(300, 64)
    expected = row_coordinates(rows, rows[:5], what="", dtype=torch.float64, num_eigenvalues=4)
    with watching() as watch:
        found = row_coordinates(rows.to(DEVICE), rows[:5].to(DEVICE), what="", dtype=torch.float64, num_eigenvalues=4)
        assert found.train.device.type == torch.device(DEVICE).type
    assert_close(found.eigenvalues.cpu(), expected.eigenvalues, 1e-9)
    assert_close(found.train.cpu() @ found.others.cpu().T, expected.train @ expected.others.T, 1e-7)
    assert watch.cpu <= 0.05 * (watch.cpu + watch.device)
    assert isinstance(leading_eigenpairs(products_of(matrix_of(power_law(size=50))), 3, ""), Leading)
