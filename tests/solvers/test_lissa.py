"""The random recursion of LiSSA: equal to its mean with full batches, tending to it on average, and its divergence."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.attribution.influence import influence_spectrum
from tda_backend.numerics.attribution.lissa import LissaSettings, lissa, lissa_scores, random_batch
from tda_backend.numerics.curvature.problem import ambient_problem
from tda_backend.numerics.curvature.pseudo_gradients import Curvature
from tda_backend.numerics.spectral.contraction import scores
from tda_backend.numerics.spectral.filters.lissa import LissaMean
from tests.helpers_numerics import TASKS, assert_close, features_of, probe_of
from tests.solvers.references import damped, reference


def problem_of(name: str, kind: str, **settings):
    task = TASKS[name]
    return ambient_problem(probe_of(task, **settings), Curvature(kind))


def mean_scores(name: str, regularization: float, scaling: float, depth: int):
    features = features_of(TASKS[name])
    spectrum = influence_spectrum(features, gram=features.full_gram(), dtype=torch.float64)
    return scores([dataclasses.replace(spectrum, filter=LissaMean(scaling, depth))], regularization)


@pytest.mark.parametrize(("name", "depth"), [("mlp", 0), ("mlp", 1), ("mlp", 20), ("conv", 5)])
def test_full_batches_give_the_mean_filter(name, depth):
    problem = problem_of(name, "empirical-fisher")
    actual = lissa_scores(problem, 0.05, LissaSettings(scaling=6.0, depth=depth, batch_size=24))
    assert_close(actual.values, mean_scores(name, 0.05, 6.0, depth), 1e-8)


@pytest.mark.parametrize("kind", ["hessian", "ggn", "empirical-fisher"])
def test_deep_full_batches_invert(kind):
    queries, losses, matrix = reference("linear", kind)
    expected = -torch.linalg.solve(damped(matrix, 1.0), queries.T).T @ losses.T
    actual = lissa_scores(problem_of("linear", kind), 1.0, LissaSettings(scaling=2.0, depth=40, batch_size=24))
    assert_close(actual.values, expected, 1e-8)


def test_the_average_over_repeats_tends_to_the_mean_filter():
    """200 independent runs: their mean differs from the filter's by no more than chance, scored by its own error."""
    problem = problem_of("mlp", "empirical-fisher")
    query = problem.queries[2:3]
    settings = {"scaling": 5.0, "depth": 20, "batch_size": 3}

    def solve(seed):
        return lissa(problem.product, query, 0.1, LissaSettings(seed=seed, **settings))

    runs = torch.stack([problem.scores(lambda _, seed=seed: solve(seed)).values[0] for seed in range(200)])
    expected = torch.as_tensor(mean_scores("mlp", 0.1, 5.0, 20))[2]
    error = runs.std(0, unbiased=True) / 200**0.5
    assert float(error.min()) > 0
    z = ((runs.mean(0) - expected) / error).numpy()
    # 24 correlated values of unit variance.
    assert np.abs(z).max() < 4.5
    assert 0.05 < np.square(z).mean() < 3.5
    # And the scatter is real: one run is far from the mean, or the test would show nothing.
    assert float((runs[0] - expected).abs().max()) > 5 * float(error.max())


def test_repeats_average_independent_runs():
    problem = problem_of("linear", "ggn")
    settings = {"scaling": 4.0, "depth": 12, "batch_size": 4}
    three = lissa(problem.product, problem.queries, 0.1, LissaSettings(num_repeats=3, seed=7, **settings))
    one = lissa(problem.product, problem.queries, 0.1, LissaSettings(num_repeats=1, seed=7, **settings))
    assert not torch.allclose(three, one)
    alone = lissa(problem.product, problem.queries[4:5], 0.1, LissaSettings(num_repeats=3, seed=7, **settings))
    assert_close(three[4:5], alone, 1e-12)  # all queries see the same batches
    again = lissa(problem.product, problem.queries, 0.1, LissaSettings(num_repeats=3, seed=7, **settings))
    assert torch.equal(three, again)
    assert not torch.allclose(
        three, lissa(problem.product, problem.queries, 0.1, LissaSettings(num_repeats=3, seed=8, **settings))
    )


def test_batches_are_uniform_and_without_repetition():
    assert random_batch(10, 10, 0, 0, 0) is None
    counts = np.zeros(10)
    for step in range(2000):
        batch = random_batch(10, 3, 0, 0, step)
        assert batch is not None
        assert len(set(batch.tolist())) == 3
        counts[batch.numpy()] += 1
    assert np.abs(counts - 600).max() < 4.5 * (2000 * 0.3 * 0.7) ** 0.5
    first, second = random_batch(1000, 50, 0, 0, 0), random_batch(1000, 50, 0, 1, 0)
    assert first is not None
    assert second is not None
    assert not torch.equal(first, second)


def test_the_condition_is_checked_before_and_divergence_while_running():
    problem = problem_of("mlp", "empirical-fisher")
    largest = float(torch.linalg.eigvalsh(reference("mlp", "empirical-fisher")[2])[-1])
    low = (largest + 0.01) / 2
    with pytest.raises(NumericalError) as caught:
        lissa_scores(problem, 0.01, LissaSettings(scaling=0.99 * low, depth=5, batch_size=24))
    assert "at the largest eigenvalue" in caught.value.message
    assert "empirical-fisher of task 'mlp'" in caught.value.message
    named = float(caught.value.hint.split("s > ")[1].rstrip("."))
    assert abs(named / low - 1) < 1e-5
    lissa_scores(problem, 0.01, LissaSettings(scaling=1.01 * low, depth=50, batch_size=24))
    with pytest.raises(NumericalError, match=r"diverges on the empirical-fisher .* at step \d+ of 100 \(repeat 1\)"):
        lissa(problem.product, problem.queries, 0.01, LissaSettings(scaling=0.6 * low, depth=100, batch_size=24))
    # A small batch can have a far larger eigenvalue than the mean: caught while it runs.
    with pytest.raises(NumericalError, match="batches of 1"):
        lissa_scores(problem, 0.01, LissaSettings(scaling=1.01 * low, depth=3000, batch_size=1))


def test_an_indefinite_hessian_needs_damping():
    problem = problem_of("mlp", "hessian")
    with pytest.raises(NumericalError, match=r"< 0 at the smallest eigenvalue σ = -0") as caught:
        lissa_scores(problem, 1e-3, LissaSettings(scaling=20.0, depth=5, batch_size=24))
    needed = float(caught.value.hint.split("λ > ")[1].split(",")[0])
    lissa_scores(problem, 1.01 * needed, LissaSettings(scaling=20.0, depth=5, batch_size=24))


def test_what_is_refused():
    problem = problem_of("linear", "ggn")
    for settings in ({"batch_size": 0}, {"num_repeats": 0}, {"depth": -1}, {"scaling": 0.0}):
        with pytest.raises(UsageError):
            lissa_scores(problem, 0.1, LissaSettings(**settings))
    with pytest.raises(NumericalError, match="λ = -1"):
        lissa_scores(problem, -1.0, LissaSettings())
