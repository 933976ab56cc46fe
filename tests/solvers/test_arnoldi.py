"""Arnoldi: the basis is orthonormal, m = p reproduces the dense answer, and top Ritz pairs are eigenpairs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.attribution.arnoldi import arnoldi_spectrum, extreme_eigenvalues, krylov_basis
from tda_backend.numerics.curvature.products.curvature_product import curvature_product
from tda_backend.numerics.curvature.pseudo_gradients import Curvature
from tda_backend.numerics.spectral.contraction import scores
from tests.helpers_numerics import TASKS, VALIDATION, ClassificationExample, assert_close, probe_of
from tests.solvers.references import damped, dense_curvature, reference

EVERYONE = range(24)


def product_of(name: str, kind: str, **settings):
    task = TASKS[name]
    return curvature_product(probe_of(task, **settings), Curvature(kind))


def spectrum_of(name: str, kind: str, num_iterations: int, batch_size: int = 512, **settings):
    probe = probe_of(TASKS[name], batch_size=batch_size)
    return arnoldi_spectrum(probe, Curvature(kind), num_iterations=num_iterations, dtype=torch.float64, **settings)


@pytest.mark.parametrize(("name", "kind"), [("mlp", "ggn"), ("linear", "hessian"), ("regression", "true-fisher")])
def test_all_steps_reproduce_the_inverse(name, kind):
    """p steps with exhausted Krylov spaces on the way: the curvature is singular, so directions are drawn anew."""
    queries, losses, matrix = reference(name, kind)
    spectrum = spectrum_of(name, kind, queries.shape[1])
    for value in (1e-3, 0.1):
        expected = -torch.linalg.solve(damped(matrix, value), queries.T).T @ losses.T
        assert_close(scores([spectrum], value), expected, 1e-8)


def test_the_basis_is_orthonormal_and_projects_the_curvature():
    product = product_of("mlp", "hessian")
    basis, projected = krylov_basis(product, 15, seed=3)
    assert_close(basis @ basis.T, torch.eye(15, dtype=torch.float64), 1e-13)
    dense = reference("mlp", "hessian")[2]
    assert_close(projected, basis @ dense @ basis.T, 1e-12)
    assert not torch.allclose(basis, krylov_basis(product, 15, seed=4)[0])


def test_top_pairs_are_eigenpairs_and_scores_use_only_them():
    queries, losses, matrix = reference("mlp", "ggn")
    values, vectors = torch.linalg.eigh(matrix)
    top = vectors[:, -4:]
    spectrum = spectrum_of("mlp", "ggn", 30, num_eigenvalues=4)
    assert_close(spectrum.eigenvalues, values[-4:].flip(0), 1e-10)
    expected = -(queries @ top / (values[-4:] + 0.01)) @ (losses @ top).T
    assert_close(scores([spectrum], 0.01), expected, 1e-7)
    outside = queries.square().sum(1) - (queries @ top).square().sum(1)
    assert spectrum.query_outside is not None
    assert_close(spectrum.query_outside, outside, 1e-7)
    assert spectrum.num_validation == len(VALIDATION)


def test_selection_is_by_size_and_signs_are_never_lost_silently():
    task = ClassificationExample("tiny", lambda: nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 3)), (3,))
    model = task.build_model(0)
    values = torch.linalg.eigvalsh(dense_curvature(task, model, EVERYONE, "hessian"))
    assert float(values[0]) < -1e-3
    order = values.abs().argsort(descending=True)
    assert bool((values[order[:14]] < 0).any())

    def spectrum(count, **settings):
        return arnoldi_spectrum(
            probe_of(task, model),
            Curvature("hessian"),
            num_iterations=17,
            num_eigenvalues=count,
            dtype=torch.float64,
            **settings,
        )

    with pytest.raises(NumericalError, match=r"Ritz matrix of the hessian of task 'tiny' is indefinite: \d+ of 14"):
        spectrum(14)
    assert_close(spectrum(14, indefinite="absolute").eigenvalues, values[order[:14]].abs(), 1e-8)
    assert float(spectrum(14, indefinite="clip").eigenvalues.min()) >= 0
    assert_close(spectrum(1).eigenvalues, values[-1:], 1e-10)  # the largest alone is positive


def test_batch_size_does_not_matter():
    one = spectrum_of("conv", "ggn", 12, batch_size=5)
    other = spectrum_of("conv", "ggn", 12, batch_size=24)
    assert_close(one.eigenvalues, other.eigenvalues, 1e-10)
    assert_close(scores([one], 0.01), scores([other], 0.01), 1e-8)


def test_extreme_eigenvalues_come_from_inside():
    for kind in ("hessian", "ggn"):
        values = torch.linalg.eigvalsh(reference("mlp", kind)[2])
        smallest, largest = extreme_eigenvalues(product_of("mlp", kind))
        assert float(values[0]) - 1e-12 <= smallest
        assert largest <= float(values[-1]) + 1e-12
        assert abs(largest / float(values[-1]) - 1) < 1e-6
        assert abs(smallest - float(values[0])) < 0.02 * float(values[-1])


def test_what_is_refused():
    with pytest.raises(UsageError, match="from 1 to 73"):
        spectrum_of("mlp", "ggn", 74)
    with pytest.raises(UsageError, match="keep 0 eigenvalues"):
        spectrum_of("mlp", "ggn", 0)
    with pytest.raises(UsageError, match="keep 6 eigenvalues of 5"):
        spectrum_of("mlp", "ggn", 5, num_eigenvalues=6)
    with pytest.raises(UsageError, match="'nearest'"):
        spectrum_of("mlp", "ggn", 5, indefinite="nearest")
