"""Structured projections against explicitly built matrices, their moments by enumeration, nesting and seeds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tda_backend.errors import TaskError, UsageError
from tda_backend.models.probe import Probe
from tda_backend.numerics.features import projection as projection_module
from tda_backend.numerics.features import structured
from tda_backend.numerics.features.dense import Request, project_gradients
from tda_backend.numerics.features.factors import GradientFactors, LayerFactors, linear_factors
from tda_backend.numerics.features.gram import gram_matrix
from tda_backend.numerics.features.projection import Projection, nested, project_factors
from tests.helpers_numerics import (
    FACTOR_TASKS,
    TASKS,
    ClassificationExample,
    assert_close,
    dense_gradients,
    random_rows,
    split_probe,
)

KINDS = ("sparse", "kronecker")
# gaussian-dense and rademacher refuse more coordinates than parameters as well.
EXPLICIT = ("gaussian-dense", "rademacher", *KINDS)


GOODNESS = [Request("train", "goodness")]


def factors_of(name: str, num: int = 10) -> GradientFactors:
    task = TASKS[name]
    return linear_factors(
        split_probe(task, task.build_model(0), task.datasets()["train"], range(num)), "train", "goodness"
    )[0]


def gradients(layer: LayerFactors) -> Tensor:
    """Return whole [N, d_out·d_in] gradients of a layer."""
    a, d = (p if p.ndim == 3 else p[:, None] for p in (layer.inputs, layer.deltas))
    return torch.einsum("nto,nti->noi", d, a).flatten(1).double()


def sparse_matrix(codes: Tensor, max_dim: int) -> Tensor:
    """Return P ``[p, k_max]`` entry by entry: ±H[c, h_j]/√k_max with H[c, h] = (−1)^popcount(c & h)."""
    size = structured.num_buckets(max_dim)
    rows = []
    for code in codes.tolist():
        bucket, sign = code % size, -1.0 if code >= size else 1.0
        rows.append([sign * (-1.0) ** (c & bucket).bit_count() / max_dim**0.5 for c in range(max_dim)])
    return torch.tensor(rows, dtype=torch.float64)


def explicit_matrix(kind: str, layer: LayerFactors, max_dim: int, seed: int) -> Tensor:
    """Return P of one layer, ``[d_out·d_in, k_max]`` float64, written out."""
    if kind == "sparse":
        rows = structured.PARAMETER_ROWS
        sizes = [min(rows, layer.num_parameters - start) for start in range(0, layer.num_parameters, rows)]
        parts = [structured.signed_buckets(max_dim, seed, layer.name, b, size) for b, size in enumerate(sizes)]
        return sparse_matrix(torch.cat(parts), max_dim)
    columns = []
    for block, left, right in structured.kronecker_rows(max_dim, seed, layer, torch.float64):
        count = block.stop - block.start
        for j in range(count):
            rows = [torch.kron(left[:, i * count + j], right[:, i * count + j]) for i in range(4)]
            columns.append(torch.stack(rows).sum(0) / (4 * max_dim) ** 0.5)
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FACTOR_TASKS)
@pytest.mark.parametrize("dim", [9, 16])
def test_features_are_the_product_with_an_explicit_matrix(name, kind, dim, monkeypatch):
    monkeypatch.setattr(structured, "PARAMETER_ROWS", 11)  # hashed blocks that cut through outputs
    monkeypatch.setattr(structured, "_EXAMPLES", 4)
    monkeypatch.setattr(structured, "_COORDINATES", 5)
    factors = factors_of(name)
    actual = project_factors(factors, Projection(kind, dim, seed=1))
    expected = sum(gradients(layer) @ explicit_matrix(kind, layer, dim, 1) for layer in factors.layers)
    assert actual.dtype == torch.float64
    assert_close(actual, expected, 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_features_agree_with_float64(kind):
    wide = factors_of("positions")
    single = GradientFactors(tuple(LayerFactors(x.name, x.inputs.float(), x.deltas.float()) for x in wide.layers))
    features = project_factors(single, Projection(kind, 32, seed=1))
    assert features.dtype == torch.float32
    assert_close(features, project_factors(wide, Projection(kind, 32, seed=1)), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_depends_on_batch_sizes_order_or_company(kind, monkeypatch):
    factors, projection = factors_of("mlp"), Projection(kind, 16, seed=3)
    whole = project_factors(factors, projection)
    assert_close(project_factors(factors.select([7, 2]), projection), whole[[7, 2]], 1e-12)
    monkeypatch.setattr(structured, "_EXAMPLES", 3)
    assert_close(project_factors(factors, projection), whole, 1e-12)
    reversed_layers = GradientFactors(factors.layers[::-1])
    assert_close(project_factors(reversed_layers, projection), whole, 1e-12)


def test_dense_gradients_take_the_sparse_projection(monkeypatch):
    task = TASKS["conv"]
    model, data = task.build_model(0), task.datasets()
    probe = Probe(task, model, data, range(7), query=range(3))
    groups = [(data["train"], range(7), "goodness"), (data["test"], range(3), "train_loss")]
    requests = [Request("train", "goodness"), Request("query", "train_loss")]
    monkeypatch.setattr(structured, "_EXAMPLES", 4)
    features = project_gradients(probe, requests, Projection("sparse", 12, seed=2))
    codes = [structured.signed_buckets(12, 2, name, 0, p.numel()) for name, p in model.named_parameters()]
    truth = torch.cat([dense_gradients(task, model, *group) for group in groups])
    assert_close(features, truth @ sparse_matrix(torch.cat(codes), 12), 1e-10)


def test_the_sparse_projection_of_dense_gradients_does_not_depend_on_the_budget():
    task = ClassificationExample("wide", lambda: nn.Sequential(nn.Linear(6, 900), nn.LayerNorm(900), nn.Linear(900, 3)))
    probe = split_probe(task, task.build_model(0), task.datasets()["train"], range(5))
    small = project_gradients(probe, GOODNESS, Projection("sparse", 16, 0), budget_numbers=1)
    assert_close(small, project_gradients(probe, GOODNESS, Projection("sparse", 16, 0)), 1e-12)


@pytest.mark.parametrize(("dim", "used"), [(4, 4), (4, 2), (4, 3), (3, 3), (3, 2), (2, 1)])
def test_sparse_has_exactly_the_mean_and_variance_of_independent_signs(dim, used):
    """Every choice of buckets and signs enumerated; variance (‖x‖²‖y‖² + ⟨x,y⟩² − 2Σx²y²)/k for every slice k."""
    generator = torch.Generator().manual_seed(dim)
    x, y = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    choices = itertools.product(range(2 * structured.num_buckets(dim)), repeat=4)
    products = []
    rows = sparse_matrix(torch.arange(2 * structured.num_buckets(dim)), dim)
    for choice in choices:
        features = nested(torch.stack([x, y]) @ rows[list(choice)], used)
        products.append(float(features[0] @ features[1]))
    values = torch.tensor(products, dtype=torch.float64)
    inner = x @ y
    variance = ((x @ x) * (y @ y) + inner**2 - 2 * (x * x * y * y).sum()) / used
    assert_close(values.mean(), inner, 1e-12)
    assert_close(((values - inner) ** 2).mean(), variance, 1e-12)


def sampled_products(kind: str, factors: GradientFactors, dim: int, used: int, draws: int) -> Tensor:
    """Return ⟨Pg_i, Pg_j⟩ of several draws, ``[draws, N, N]``."""
    features = [nested(project_factors(factors, Projection(kind, dim, seed)), used) for seed in range(draws)]
    return torch.stack([f @ f.T for f in features])


@pytest.mark.parametrize("used", [16, 5])
@pytest.mark.parametrize("kind", EXPLICIT)
@pytest.mark.parametrize("name", ["mlp", "positions"])
def test_inner_products_are_unbiased_with_small_variance(name, kind, used):
    """Mean within 5 standard errors of the Gram; variance below the bound of the module's table (sampling: + 25 %)."""
    factors, draws = factors_of(name, 6), 600
    gram = gram_matrix(factors)
    products = sampled_products(kind, factors, 16, used, draws)
    gaussian = (gram.diagonal()[:, None] * gram.diagonal() + gram**2) / used
    bound = gaussian * (1.75 if kind == "kronecker" else 1.0)
    assert bool(((products.mean(0) - gram).abs() <= 5 * (bound / draws) ** 0.5).all())
    variance = ((products - gram) ** 2).mean(0)
    assert float((variance / bound).max()) < 1.25
    if kind in ("rademacher", "sparse"):
        # Both have the same variance, below the Gaussian's; a projection that ignored half of the draws would not.
        squares = torch.cat([gradients(layer) for layer in factors.layers], dim=1) ** 2
        exact = gaussian - 2 * squares @ squares.T / used
        assert abs(float((variance / exact).mean()) - 1) < 0.15


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_the_mean_of_kronecker_rows_approaches_the_variance_of_a_dense_row(rows, monkeypatch):
    """A coordinate's variance is 2 + (E[(u·δ)⁴(v·a)⁴] − 3)/c for unit vectors, E[(u·δ)⁴] = 3 − 2Σδ⁴ for signs u."""
    monkeypatch.setattr(structured, "ROWS_PER_COORDINATE", rows)
    a, d = (torch.nn.functional.normalize(part, dim=1) for part in random_rows(0, (3, 12), (3, 9)))
    fourth = (3 - 2 * (a**4).sum(1)) * (3 - 2 * (d**4).sum(1))
    products = sampled_products("kronecker", GradientFactors((LayerFactors("x", a, d),)), 32, 32, 2000)
    variance = 32 * ((products - gram_matrix(GradientFactors((LayerFactors("x", a, d),)))) ** 2).mean(0).diagonal()
    expected = 2 + (fourth - 3) / rows
    assert float(((variance / expected) - 1).abs().max()) < 0.15, (variance, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_never_repeat_between_purposes(kind):
    """Other seed, k_max or layer: other numbers."""
    inputs, deltas = torch.ones(1, 30).double(), torch.ones(1, 20).double()
    seen = set()
    for seed in (0, 1, 2):
        for dim in (32, 33):
            for name in ("a", "b", "1"):
                factors = GradientFactors((LayerFactors(name, inputs, deltas),))
                features = project_factors(factors, Projection(kind, dim, seed))[0, :32] * dim**0.5
                seen.add(features.round(decimals=6).numpy().tobytes())
    assert len(seen) == 3 * 2 * 3


def test_layers_draw_independently():
    """Two layers with equal gradients: were they projected alike, their sum would count twice, 4 instead of 2."""
    inputs, deltas = torch.ones(1, 5).double() / 5**0.5, torch.ones(1, 4).double() / 2
    factors = GradientFactors((LayerFactors("a", inputs, deltas), LayerFactors("b", inputs, deltas)))
    for kind in KINDS:
        mean = sampled_products(kind, factors, 20, 20, 300).mean()
        assert abs(float(mean) - 2) < 5 * (1.75 * 2 * 4 / 20 / 300) ** 0.5


def test_hadamard_rows_are_orthogonal():
    for size in (1, 2, 8, 64):
        matrix = structured.hadamard(size)
        assert torch.equal(matrix @ matrix.T, size * torch.eye(size, dtype=torch.float64))
    assert [structured.num_buckets(k) for k in (1, 2, 3, 4, 5, 512, 513)] == [1, 2, 4, 4, 8, 512, 1024]


@pytest.mark.parametrize("kind", EXPLICIT)
def test_a_projection_larger_than_the_model_is_refused_with_numbers(kind):
    with pytest.raises(UsageError, match=r"dimension 22 is larger than the number of parameters 21"):
        project_factors(factors_of("linear"), Projection(kind, 22, 0))
    assert project_factors(factors_of("linear"), Projection(kind, 21, 0)).shape == (10, 21)
    if kind != "kronecker":
        task = TASKS["conv"]
        model = task.build_model(0)
        num = sum(p.numel() for p in model.parameters())
        probe = split_probe(task, model, task.datasets()["train"], range(2))
        with pytest.raises(UsageError, match=f"{num + 1} is larger than the number of parameters {num}"):
            project_gradients(probe, GOODNESS, Projection(kind, num + 1, 0))


def test_kronecker_without_factors_names_the_remedy():
    task = TASKS["conv"]
    probe = split_probe(task, task.build_model(0), task.datasets()["train"], range(2))
    with pytest.raises(UsageError, match=r"kronecker.*rank-one.*'sparse'"):
        project_gradients(probe, GOODNESS, Projection("kronecker", 4, 0))


def test_a_model_without_parameters_is_refused():
    task = ClassificationExample("bare", nn.Identity)
    probe = split_probe(task, task.build_model(0), task.datasets()["train"], range(2))
    with pytest.raises(TaskError, match="no trainable parameters"):
        project_gradients(probe, GOODNESS, Projection("sparse", 1, 0))


@pytest.mark.parametrize("columns", [1, 8, 13, 64])
def test_signs_are_the_bits_of_what_is_drawn(columns):
    drawn = np.random.default_rng(3).integers(0, 256, size=(5, -(-columns // 8)), dtype=np.uint8)
    bits = [[int(c) for byte in row for c in f"{byte:08b}"][:columns] for row in drawn]
    signs = structured.random_signs(np.random.default_rng(3), 5, columns)
    assert signs.dtype == torch.float32
    assert torch.equal(signs, torch.tensor(bits) * 2.0 - 1)


def test_every_kind_is_reachable_through_one_door():
    assert set(projection_module.PROJECTION_KINDS) == {"gaussian", *EXPLICIT}
