"""Ambient conjugate gradients equal their textbook, their filter, and in the limit the inverse."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.models.probe import Probe
from tda_backend.numerics.attribution.conjugate_gradient import conjugate_gradient, conjugate_gradient_scores
from tda_backend.numerics.attribution.influence import influence_spectrum
from tda_backend.numerics.curvature.problem import ambient_problem
from tda_backend.numerics.curvature.pseudo_gradients import Curvature
from tda_backend.numerics.spectral.contraction import scores
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.numerics.spectral.filters.krylov import Krylov
from tests.helpers_numerics import QUERIES, TASKS, VALIDATION, assert_close, features_of, probe_of, random_rows
from tests.solvers.references import damped, reference
from tests.solvers.textbook import textbook

EVERYONE = range(24)


def problem_of(name: str, kind: str, **settings):
    task = TASKS[name]
    return ambient_problem(probe_of(task, **settings), Curvature(kind))


@pytest.mark.parametrize("name", ["mlp", "positions", "regression", "cnn", "transformer"])
@pytest.mark.parametrize("kind", ["ggn", "empirical-fisher"])
def test_equals_the_textbook_on_the_dense_matrix(name, kind):
    queries, losses, matrix = reference(name, kind)
    problem = problem_of(name, kind)
    for steps in (1, 3, 7):
        solved = torch.stack([textbook(damped(matrix, 0.1), query, steps) for query in queries])
        assert_close(conjugate_gradient_scores(problem, 0.1, max_iter=steps).values, -solved @ losses.T, 1e-9)


@pytest.mark.parametrize("name", ["mlp", "positions", "conv", "regression"])
def test_the_krylov_filter_is_conjugate_gradients_on_the_empirical_fisher(name):
    """The dual basis is truncated: what lies outside takes part as one coordinate and is dropped afterwards.

    At a small λ rounding makes ambient residuals lose their orthogonality after some steps (as in any code without
    reorthogonalisation), so λ = 1e-3 is compared up to 5 steps and λ = 0.1 up to 7.
    """
    features = features_of(TASKS[name])
    spectrum = influence_spectrum(features, gram=features.full_gram(), dtype=torch.float64)
    assert spectrum.query_outside is not None
    assert float(spectrum.query_outside.max()) > 1e-3 * float(spectrum.query.square().sum(1).max())
    problem = problem_of(name, "empirical-fisher")
    for value, all_steps in ((1e-3, (1, 2, 5)), (0.1, (1, 2, 5, 7)), (10.0, (1, 2, 10, 50))):
        for steps in all_steps:
            filtered = dataclasses.replace(spectrum, filter=Krylov(steps))
            measured = conjugate_gradient_scores(problem, value, max_iter=steps).values
            assert_close(scores([filtered], value), measured, 1e-8)
            if steps == 2:  # without the outside coordinate it is another polynomial
                blind = dataclasses.replace(filtered, query_outside=None)
                difference = abs(scores([blind], value) - measured.numpy()).max()
                assert difference > 1e-5 * float(measured.abs().max())


@pytest.mark.parametrize("kind", ["ggn", "hessian"])
def test_the_krylov_filter_is_conjugate_gradients_in_a_complete_basis(kind):
    queries, losses, matrix = reference("linear", kind)
    values, vectors = torch.linalg.eigh(matrix)
    coordinates = (-losses @ vectors, queries @ vectors, queries @ vectors)
    problem = problem_of("linear", kind)
    for value, all_steps in ((1e-2, (1, 2, 6)), (0.3, (10,))):
        for steps in all_steps:
            spectrum = Spectrum(values.clamp(min=0), *coordinates, None, 0, filter=Krylov(steps))
            measured = conjugate_gradient_scores(problem, value, max_iter=steps).values
            assert_close(scores([spectrum], value), measured, 1e-8)


@pytest.mark.parametrize("kind", ["ggn", "empirical-fisher"])
def test_enough_steps_solve_the_system(kind):
    queries, losses, matrix = reference("mlp", kind)
    expected = -torch.linalg.solve(damped(matrix, 0.05), queries.T).T @ losses.T
    problem = problem_of("mlp", kind)
    assert_close(conjugate_gradient_scores(problem, 0.05, max_iter=100).values, expected, 1e-8)
    # Converged columns stay where they are.
    assert_close(conjugate_gradient_scores(problem, 0.05, max_iter=400).values, expected, 1e-8)


def test_hessian_of_a_convex_model_and_large_regularization():
    queries, losses, matrix = reference("linear", "hessian")
    expected = -torch.linalg.solve(damped(matrix, 0.02), queries.T).T @ losses.T
    problem = problem_of("linear", "hessian")
    assert_close(conjugate_gradient_scores(problem, 0.02, max_iter=60).values, expected, 1e-8)
    for value in (1e6, 1e10):
        large = value * conjugate_gradient_scores(problem, value, max_iter=10).values
        assert_close(large, -queries @ losses.T, 10 / value + 1e-12)


def test_columns_are_independent_and_batches_do_not_matter(monkeypatch):
    problem = problem_of("mlp", "ggn")
    whole = conjugate_gradient_scores(problem, 0.01, max_iter=7).values
    alone = conjugate_gradient(problem.product, problem.queries[3:4], 0.01, max_iter=7)
    together = conjugate_gradient(problem.product, problem.queries, 0.01, max_iter=7)
    assert_close(together[3:4], alone, 1e-10)
    monkeypatch.setattr("tda_backend.numerics.curvature.problem._SOLVED_NUMBERS", 200)  # two queries at a time
    assert_close(conjugate_gradient_scores(problem, 0.01, max_iter=7).values, whole, 1e-10)
    monkeypatch.setattr("tda_backend.numerics.curvature.products.curvature_product._FACTOR_NUMBERS", 0)
    for size in (7, 24):
        small = problem_of("mlp", "ggn", batch_size=size)
        assert_close(conjugate_gradient_scores(small, 0.01, max_iter=7).values, whole, 1e-9)


def test_solved_at_the_start_or_in_one_step_stays():
    matrix = torch.diag(torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64))
    vectors = torch.tensor([[2.0, 0, 0], [0, 3.0, 0], [0, 0, 0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    solved = conjugate_gradient(lambda v: v @ matrix, vectors, 0.0, max_iter=9)
    assert_close(solved, torch.linalg.solve(matrix, vectors.T).T, 1e-13)


def test_negative_and_singular_directions_are_named():
    (basis,) = random_rows(1, (5, 5))
    basis = torch.linalg.qr(basis)[0]
    matrix = basis @ torch.diag(torch.tensor([2.0, 1.0, 0.5, 0.1, -0.4], dtype=torch.float64)) @ basis.T
    vectors = torch.ones(2, 5, dtype=torch.float64)
    with pytest.raises(NumericalError, match=r"on the toy: negative curvature at step \d, .* = -0\.\d+ with λ = 0.01"):
        conjugate_gradient(lambda v: v @ matrix, vectors, 0.01, max_iter=5, what="toy")
    conjugate_gradient(lambda v: v @ matrix, vectors, 0.41, max_iter=5)
    singular = torch.diag(torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64))
    with pytest.raises(NumericalError, match=r"singular direction at step 2.*λ = 0") as caught:
        conjugate_gradient(lambda v: v @ singular, torch.ones(1, 3, dtype=torch.float64), 0.0, max_iter=5)
    assert "λ > 0" in caught.value.hint
    inside = torch.tensor([[1.0, 3.0, 0.0]], dtype=torch.float64)  # consistent: solvable although singular
    assert_close(conjugate_gradient(lambda v: v @ singular, inside, 0.0, max_iter=9), inside / torch.tensor([2, 1, 1]))


def test_what_is_refused():
    problem = problem_of("mlp", "hessian")
    with pytest.raises(NumericalError, match="hessian of task 'mlp': negative curvature"):
        conjugate_gradient_scores(problem, 1e-4, max_iter=50)
    with pytest.raises(NumericalError, match="λ = -1"):
        conjugate_gradient_scores(problem, -1.0)
    with pytest.raises(UsageError, match="max_iter = 0"):
        conjugate_gradient_scores(problem, 1.0, max_iter=0)
    task = TASKS["mlp"]
    with pytest.raises(TaskError, match="no query examples"):
        ambient_problem(Probe(task, task.build_model(0), task.datasets(), EVERYONE, query=[]), Curvature("ggn"))
    broken = {split: dict(part) for split, part in task.datasets().items()}
    broken["test"]["x"] = torch.full_like(broken["test"]["x"], torch.nan)
    with pytest.raises(NumericalError, match=r"In the query examples: .*not finite for 10 of 10"):
        ambient_problem(Probe(task, task.build_model(0), broken, EVERYONE, query=QUERIES), Curvature("ggn"))


def test_float32_models_agree_to_their_precision():
    task = TASKS["mlp"]
    data = {
        split: {key: value.float() if value.is_floating_point() else value for key, value in part.items()}
        for split, part in task.datasets().items()
    }
    single = ambient_problem(Probe(task, task.build_model(0).float(), data, EVERYONE, query=QUERIES), Curvature("ggn"))
    assert single.queries.dtype == torch.float32
    # Rounding grows with every step: 1e-4 after four, half a percent after ten at λ = 0.01.
    double = conjugate_gradient_scores(problem_of("mlp", "ggn"), 0.01, max_iter=4).values
    assert_close(conjugate_gradient_scores(single, 0.01, max_iter=4).values, double, 1e-4)
    assert len(VALIDATION) + len(QUERIES) == 16
