"""Random projections: explicit products, the draw from the Gram matrix, nesting and seeds."""

from __future__ import annotations

import pytest
import torch

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.features import projection as module
from tda_backend.numerics.features.factors import linear_factors
from tda_backend.numerics.features.gram import gram_matrix
from tda_backend.numerics.features.projection import Projection, gaussian_from_gram, nested, project_factors
from tests.helpers_numerics import FACTOR_TASKS, TASKS, assert_close, random_rows, split_probe


@pytest.mark.parametrize("kind", ["gaussian-dense", "rademacher"])
@pytest.mark.parametrize("name", FACTOR_TASKS)
def test_projection_is_the_product_with_the_random_matrix(name, kind, monkeypatch):
    monkeypatch.setattr(module, "_PARAMETER_ROWS", 11)  # blocks that cut through outputs
    monkeypatch.setattr(module, "_EXAMPLES", 4)
    task = TASKS[name]
    factors, _ = linear_factors(
        split_probe(task, task.build_model(0), task.datasets()["train"], range(10)), "train", "goodness"
    )
    projection = Projection(kind, 9, seed=1)
    actual = project_factors(factors, projection)
    expected = torch.zeros(10, 9, dtype=torch.float64)
    for layer in factors.layers:
        a, d = (p if p.ndim == 3 else p[:, None] for p in (layer.inputs, layer.deltas))
        dense = (d.transpose(1, 2) @ a).flatten(1)
        sizes = [min(11, dense.shape[1] - start) for start in range(0, dense.shape[1], 11)]
        matrix = torch.cat([module.random_rows(projection, layer.name, b, size) for b, size in enumerate(sizes)])
        expected += dense @ matrix.double() / 3
    assert_close(actual, expected, 1e-12)


@pytest.mark.parametrize("kind", ["gaussian-dense", "rademacher"])
def test_projected_inner_products_estimate_the_gram(kind):
    task = TASKS["mlp"]
    factors, _ = linear_factors(
        split_probe(task, task.build_model(0), task.datasets()["train"], range(6)), "train", "goodness"
    )
    gram = gram_matrix(factors)
    draws = [project_factors(factors, Projection(kind, 50, seed=seed)) for seed in range(400)]
    norms = gram.diagonal().sqrt()
    mean = torch.stack([features @ features.T for features in draws]).mean(0)
    error = ((mean - gram) / norms / norms[:, None]).abs().max()
    assert float(error) < 5 * (2 / 20_000) ** 0.5


def singular_grams():
    (full,) = random_rows(0, (4, 9))
    twice = torch.cat([full, full[:2], torch.zeros(1, 9, dtype=torch.float64)])  # duplicates and a zero vector
    (thin,) = random_rows(1, (6, 2))
    return {"regular": full @ full.T, "duplicates and zero": twice @ twice.T, "rank two": thin @ thin.T}


@pytest.mark.parametrize("case", singular_grams())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_from_the_gram_have_the_law_of_a_gaussian_projection(case, dtype):
    """Sample covariance over k columns: E = Gram, standard error √((G_ii·G_jj + G_ij²)/k), columns independent."""
    gram = singular_grams()[case]
    dim = 40_000
    features = gaussian_from_gram(gram, dim, seed=7, dtype=dtype).double()
    diagonal = gram.diagonal()
    error = (features @ features.T - gram).abs()
    deviation = ((diagonal[:, None] * diagonal + gram**2) / dim).sqrt()
    assert bool((error <= 5 * deviation + 1e-5 * diagonal.max()).all())
    shifted = features[:, 1:] @ features[:, :-1].T  # neighbouring columns share nothing
    assert bool((shifted.abs() <= 5 * deviation + 1e-5 * diagonal.max()).all())
    mean = features.sum(1) / dim**0.5  # N(0, G_ii)
    assert bool((mean.abs() <= 5 * diagonal.sqrt() + 1e-5).all())
    # Fourth moment of a Gaussian: kurtosis 3 wherever the vector is not zero.
    standard = features[diagonal > 0] * (dim / diagonal[diagonal > 0, None]) ** 0.5
    assert bool(((standard**4).mean(1) - 3).abs().max() < 5 * (96 / dim) ** 0.5)


def test_linear_relations_between_vectors_survive_the_draw():
    """P is one matrix: P(g₁+g₂) = Pg₁ + Pg₂ and a duplicate is the same point, exactly."""
    (rows,) = random_rows(3, (3, 8))
    rows = torch.cat([rows, rows[:1] + rows[1:2], rows[2:], torch.zeros(1, 8, dtype=torch.float64)])
    features = gaussian_from_gram(rows @ rows.T, 50, seed=0, dtype=torch.float64)
    assert_close(features[3], features[0] + features[1], 1e-6)
    assert_close(features[4], features[2], 1e-6)
    assert float(features[5].abs().max()) < 1e-7


def test_overwriting_changes_nothing():
    gram = singular_grams()["rank two"]
    kept = gram.clone()
    first = gaussian_from_gram(gram, 8, seed=0)
    assert torch.equal(gram, kept)
    assert torch.equal(first, gaussian_from_gram(gram, 8, seed=0, overwrite=True))


@pytest.mark.parametrize(
    "gram", [torch.tensor([[1.0, 2.0], [2.0, 1.0]]), -torch.eye(3), torch.tensor([[1.0, 0.0], [0.0, torch.nan]])]
)
def test_what_is_no_gram_matrix_is_refused(gram):
    with pytest.raises(NumericalError, match="Gram matrix"):
        gaussian_from_gram(gram.double(), 4, seed=0)


def test_projections_nest():
    features = gaussian_from_gram(singular_grams()["regular"], 64, seed=0, dtype=torch.float64)
    small = nested(features, 16)
    assert_close(small, features[:, :16] * 2, 1e-15)
    assert_close(nested(nested(features, 32), 16), small, 1e-12)
    assert nested(features, 64) is features
    for dim in (0, 65):
        with pytest.raises(UsageError, match="outside 1…64"):
            nested(features, dim)


def test_random_rows_never_repeat_between_purposes():
    """Other seed, kind, size, layer or block: other numbers. Sums of coordinates must not collide either."""
    seen = set()
    for kind in ("gaussian-dense", "rademacher"):
        for seed in (0, 1, 2):
            for dim in (32, 33):
                for group in ("a", "b", "1"):
                    for block in (0, 1, 2):
                        rows = module.random_rows(Projection(kind, dim, seed), group, block, 8)
                        assert rows.shape == (8, dim)
                        seen.add(rows[:, :32].numpy().tobytes())
    assert len(seen) == 2 * 3 * 2 * 3 * 3
    grams = {gaussian_from_gram(torch.eye(3).double(), 8, seed).numpy().tobytes() for seed in range(20)}
    assert len(grams) == 20


def test_rademacher_entries_are_balanced_signs():
    rows = module.random_rows(Projection("rademacher", 1001, 0), "layer", 0, 500)
    assert set(rows.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(rows.mean())) < 5 / (1001 * 500) ** 0.5


def test_bad_projections_are_refused():
    with pytest.raises(UsageError, match="Allowed: gaussian"):
        Projection("normal", 4, 0)
    with pytest.raises(UsageError, match="not ≥ 1"):
        Projection("gaussian", 0, 0)
    task = TASKS["linear"]
    factors, _ = linear_factors(
        split_probe(task, task.build_model(0), task.datasets()["train"], range(3)), "train", "goodness"
    )
    with pytest.raises(UsageError, match="gaussian-dense"):
        project_factors(factors, Projection("gaussian", 4, 0))
