"""Scores, subset sums, self-influence and candidates against dense inverses; ensembles by their own rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.spectral.contraction import (
    ScoreMatrix,
    num_queries,
    num_train,
    scores,
    self_influence,
    subset_sums,
)
from tda_backend.numerics.spectral.decompose import primal_coordinates
from tda_backend.numerics.spectral.filters.damped import damped_inverse
from tda_backend.numerics.spectral.one_query import candidates, filtered_products
from tests.helpers_numerics import assert_close, influence_reference, make_spectrum, random_rows, trak_reference

N, M, P = 14, 5, 9
GRID = [0.0, 1e-6, 1e-2, 3.0]


def problem(seed: int, num: int = N, dim: int = P):
    loss, query = random_rows(seed, (num, dim), (M, dim), decay=0.7)
    weights = torch.rand(num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return loss, query, weights


@pytest.fixture
def influence_ensemble():
    problems = [problem(seed) for seed in (0, 1)]
    return [make_spectrum(-loss, query) for loss, query, _ in problems], problems


@pytest.fixture
def trak_ensemble():
    problems = [problem(seed) for seed in (2, 3, 4)]
    return [make_spectrum(rows, query, weights=weights) for rows, query, weights in problems], problems


def influence_truth(problems, value):
    return torch.stack([influence_reference(query, loss, value) for loss, query, _ in problems]).mean(0)


def trak_truth(problems, value):
    plain = [trak_reference(query, rows, torch.zeros(N), value) for rows, query, _ in problems]
    return torch.stack(plain).mean(0) * torch.stack([w for _, _, w in problems]).mean(0)


@pytest.mark.parametrize("route", ["primal", "dual"])
@pytest.mark.parametrize("shape", [(14, 9), (7, 12), (9, 9)], ids=["n>k", "n<k", "n=k"])
@pytest.mark.parametrize("value", GRID)
def test_scores_equal_the_dense_inverse_by_either_route(route, shape, value):
    loss, query, _ = problem(0, *shape)
    spectrum = make_spectrum(-loss, query, route=route)
    assert_close(scores([spectrum], value), influence_reference(query, loss, value))


@pytest.mark.parametrize("route", ["primal", "dual"])
def test_the_pseudo_inverse_of_a_rank_deficient_problem_is_the_least_squares_answer(route):
    """At λ = 0: −n·φ'ᵀ(GᵀG)⁺g = minimum-norm answers by lstsq on each query."""
    (loss, query, mix) = random_rows(9, (20, 4), (M, 4), (4, 11))
    loss, query = loss @ mix, query @ mix  # rank 4 in 11 dimensions
    spectrum = make_spectrum(-loss, query, route=route)
    assert spectrum.eigenvalues.shape == (4,)
    assert spectrum.num_cut == (11 if route == "primal" else 20) - 4
    solution = torch.linalg.lstsq(loss.T @ loss / 20, query.T, driver="gelsd").solution
    assert_close(scores([spectrum], 0.0), -(loss @ solution).T)
    assert_close(scores([spectrum], 0.0), scores([spectrum], 1e-13), 1e-8)  # no direction is missing


def test_large_regularization_gives_the_gradient_dot_product():
    loss, query, _ = problem(0)
    spectrum = make_spectrum(-loss, query)
    assert_close(1e9 * scores([spectrum], 1e9), -query @ loss.T, 1e-8)


@pytest.mark.parametrize("value", GRID)
def test_ensembles_average_by_their_own_rule(influence_ensemble, trak_ensemble, value):
    assert_close(scores(influence_ensemble[0], value), influence_truth(influence_ensemble[1], value))
    assert_close(scores(trak_ensemble[0], value), trak_truth(trak_ensemble[1], value))


def test_query_selection(trak_ensemble):
    spectra, _ = trak_ensemble
    everything = scores(spectra, 1e-2)
    assert_close(scores(spectra, 1e-2, 3), everything[3], 1e-13)
    assert scores(spectra, 1e-2, np.int64(3)).shape == (N,)
    assert_close(scores(spectra, 1e-2, [4, 0]), everything[[4, 0]], 1e-13)
    for query in (-1, M):
        with pytest.raises(UsageError, match=f"There are {M} queries: 0 to {M - 1}"):
            scores(spectra, 1e-2, query)


def test_subset_sums_are_sums_of_scores(influence_ensemble, trak_ensemble):
    masks = np.random.default_rng(0).random((6, N)) < 0.5
    for spectra, _ in (influence_ensemble, trak_ensemble):
        sums = subset_sums(spectra, masks, GRID)
        assert sums.dtype == torch.float64
        for index, value in enumerate(GRID):
            assert_close(sums[index], masks.astype(float) @ scores(spectra, value).T, 1e-12)


def test_self_influence_is_the_dense_quadratic_form(influence_ensemble, trak_ensemble):
    spectra, problems = influence_ensemble
    actual = self_influence(spectra, GRID)
    assert bool((actual >= 0).all())
    for row, value in zip(actual, GRID, strict=True):
        parts = [-influence_reference(loss, loss, value).diagonal() for loss, _, _ in problems]
        assert_close(row, torch.stack(parts).mean(0))
    spectra, problems = trak_ensemble
    for row, value in zip(self_influence(spectra, GRID), GRID, strict=True):
        parts = [trak_reference(rows, rows, torch.zeros(N), value).diagonal() for rows, _, _ in problems]
        weights = torch.stack([w for _, _, w in problems]).mean(0)
        assert_close(row, torch.stack(parts).mean(0) * weights)


def test_filtered_products_rebuild_the_scores(influence_ensemble, trak_ensemble):
    positions = [3, 0, 13]
    for spectra, _ in (influence_ensemble, trak_ensemble):
        sigma, products = filtered_products(spectra, 2, positions)
        assert products.dtype == torch.float32
        assert products.shape == (3, len(sigma))
        for value in GRID:
            rebuilt = products.double() @ damped_inverse(sigma, value, N)
            assert_close(rebuilt, scores(spectra, value, 2)[positions], 1e-5)
    with pytest.raises(UsageError, match=f"outside 0…{N - 1}"):
        filtered_products(influence_ensemble[0], 0, [N])


@pytest.mark.parametrize("restricted", [False, True])
def test_candidates_are_exactly_those_that_enter_the_top_or_bottom(trak_ensemble, restricted):
    spectra, _ = trak_ensemble
    allowed = np.arange(N) % 3 != 0 if restricted else np.ones(N, dtype=bool)
    expected = set()
    for value in GRID:
        row = scores(spectra, value, 1)
        order = [i for i in np.argsort(row) if allowed[i]]
        expected |= set(order[:2]) | set(order[-2:])
    actual = candidates(spectra, 1, GRID, 2, allowed if restricted else None)
    assert actual.tolist() == sorted(expected)
    assert candidates(spectra, 1, GRID, 100, allowed).tolist() == np.flatnonzero(allowed).tolist()
    assert candidates(spectra, 1, GRID, 2, np.zeros(N, dtype=bool)).tolist() == []


def test_score_matrices_go_through_the_same_doors():
    values = random_rows(0, (M, N))[0].float()
    source = ScoreMatrix(values)
    assert (num_queries(source), num_train(source)) == (M, N)
    assert np.array_equal(scores(source, None), values.numpy())
    masks = np.random.default_rng(0).random((6, N)) < 0.5
    assert_close(subset_sums(source, masks, None)[0], masks.astype(float) @ values.double().numpy().T, 1e-12)
    sigma, products = filtered_products(source, 1, [2, 5])
    assert sigma.tolist() == [0.0]
    assert torch.equal(products[:, 0], values[1, [2, 5]])
    order = values[1].argsort().tolist()
    assert candidates(source, 1, None, 2).tolist() == sorted(order[:2] + order[-2:])
    with pytest.raises(UsageError, match="spectral coordinates"):
        self_influence(source, [1.0])


def test_permuting_the_training_examples_permutes_the_scores():
    loss, query, _ = problem(0)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    for route in ("primal", "dual"):
        plain = scores([make_spectrum(-loss, query, route=route)], 1e-3)
        assert_close(scores([make_spectrum(-loss[order], query, route=route)], 1e-3), plain[:, order])


def test_float32_coordinates_are_good_to_their_precision():
    loss, query, _ = problem(0, 60, 30)
    spectrum = make_spectrum(-loss, query, dtype=torch.float32)
    assert spectrum.train.dtype == torch.float32
    assert spectrum.eigenvalues.dtype == torch.float64
    for value in (0.0, 1e-4, 1.0):
        assert_close(scores([spectrum], value), influence_reference(query, loss, value), 1e-5)


def test_what_cannot_be_answered_is_refused():
    loss, query, weights = problem(0)
    spectrum = make_spectrum(-loss, query)
    with pytest.raises(UsageError, match="needs a regularization"):
        scores([spectrum], None)
    with pytest.raises(UsageError, match="at least one spectrum"):
        scores([], 1.0)
    with pytest.raises(UsageError, match=r"\(3, 4\)"):
        subset_sums([spectrum], np.ones((3, 4), dtype=bool), [1.0])
    with pytest.raises(NumericalError, match="λ = -1"):
        subset_sums([spectrum], np.ones((3, N), dtype=bool), [1.0, -1.0])
    with pytest.raises(UsageError, match="one method"):
        scores([spectrum, make_spectrum(loss, query, weights=weights)], 1.0)
    with pytest.raises(NumericalError, match="every training gradient vanishes"):
        primal_coordinates(torch.zeros(4, 3), torch.ones(1, 3), what="iffim")
    with pytest.raises(NumericalError, match="mean Gram of iffim has entries that are not finite"):
        primal_coordinates(torch.full((4, 3), torch.nan), torch.ones(1, 3), what="iffim")


def test_overflowing_scores_name_the_regularization():
    loss, query, _ = problem(0)
    spectrum = make_spectrum(-loss * 1e-18, query * 1e18, dtype=torch.float32)
    with pytest.raises(NumericalError, match=r"not finite at λ = 0\.0"):
        scores([spectrum], 0.0)
