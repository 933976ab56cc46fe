"""Curvature products equal dense autograd matrices on every kind of model, whatever the batch size and order."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.numerics.curvature.parameters import flat_gradients
from tda_backend.numerics.curvature.products.curvature_product import curvature_product, loss_gradient_products
from tda_backend.numerics.curvature.products.factored import FactorProduct
from tda_backend.numerics.curvature.pseudo_gradients import CURVATURES, Curvature, sampled_targets
from tests.features.models_of_any_layer import Scaled
from tests.helpers_numerics import (
    FACTOR_TASKS,
    TASKS,
    ClassificationExample,
    assert_close,
    dense_gradients,
    split_probe,
)
from tests.solvers.references import dense_curvature

INDICES = [3, 0, 17, 8, 9, 22, 5]


def vectors_for(model: nn.Module, num: int = 19) -> torch.Tensor:
    """19 vectors: more than go through differentiation at once."""
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return torch.randn(num, size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", CURVATURES)
def test_products_equal_the_dense_matrix(name, kind):
    task = TASKS[name]
    model = task.build_model(0)
    settings = {"seed": 4, "num_samples": 2} if kind == "true-fisher" else {}
    dense = dense_curvature(task, model, INDICES, kind, **settings)
    vectors = vectors_for(model)
    data = task.datasets()["train"]
    curvature = Curvature(kind, **settings)
    product = curvature_product(split_probe(task, model, data, INDICES, batch_size=3), curvature)
    assert isinstance(product, FactorProduct) == (name in FACTOR_TASKS and kind != "hessian")
    assert_close(product(vectors), vectors @ dense, 1e-11)
    # Some of the examples, in another order.
    chosen = torch.tensor([5, 1, 2])
    part = dense_curvature(task, model, [INDICES[i] for i in chosen], kind, **settings)
    assert_close(product(vectors[:2], chosen), vectors[:2] @ part, 1e-11)
    # Batch size and order of the examples.
    other = curvature_product(split_probe(task, model, data, INDICES[::-1], batch_size=64), curvature)
    assert_close(other(vectors), product(vectors), 1e-12)


@pytest.mark.parametrize("kind", ["hessian", "ggn", "empirical-fisher"])
def test_a_parameter_without_axes_takes_part(kind):
    task = ClassificationExample("scaled", Scaled)
    model = task.build_model(0)
    vectors = vectors_for(model, 3)
    product = curvature_product(split_probe(task, model, task.datasets()["train"], INDICES), Curvature(kind))
    assert_close(product(vectors), vectors @ dense_curvature(task, model, INDICES, kind), 1e-11)


@pytest.mark.parametrize("name", ["mlp", "positions"])
@pytest.mark.parametrize("kind", ["ggn", "empirical-fisher", "true-fisher"])
def test_factors_and_differentiation_agree(name, kind, monkeypatch):
    task = TASKS[name]
    model = task.build_model(0)
    data, vectors = task.datasets()["train"], vectors_for(model)
    fast = curvature_product(split_probe(task, model, data, INDICES), Curvature(kind))
    monkeypatch.setattr("tda_backend.numerics.curvature.products.curvature_product._FACTOR_NUMBERS", 0)
    slow = curvature_product(split_probe(task, model, data, INDICES), Curvature(kind))
    assert isinstance(fast, FactorProduct)
    assert not isinstance(slow, FactorProduct)
    assert_close(fast(vectors), slow(vectors), 1e-12)


@pytest.mark.parametrize("name", TASKS)
def test_gradients_and_their_inner_products(name):
    task = TASKS[name]
    model = task.build_model(0)
    data = task.datasets()["train"]
    truth = dense_gradients(task, model, data, INDICES, "train_loss")
    assert_close(
        flat_gradients(split_probe(task, model, data, INDICES, batch_size=2), "train", "train_loss"), truth, 1e-12
    )
    vectors = vectors_for(model, 17)
    product = curvature_product(split_probe(task, model, data, INDICES, batch_size=4), Curvature("empirical-fisher"))
    assert_close(loss_gradient_products(product, vectors), vectors @ truth.T, 1e-12)


def test_true_fisher_tends_to_ggn_for_cross_entropy():
    task = TASKS["linear"]
    model = task.build_model(0)
    data = task.datasets()["train"]
    eye = torch.eye(21, dtype=torch.float64)
    expected = curvature_product(split_probe(task, model, data, range(24)), Curvature("ggn"))(eye)
    errors = []
    for samples in (10, 1000):
        fisher = curvature_product(
            split_probe(task, model, data, range(24)), Curvature("true-fisher", num_samples=samples)
        )(eye)
        errors.append(float((fisher - expected).norm() / expected.norm()))
    assert errors[1] < 0.05  # 1/√(24·1000) ≈ 0.006 per entry, times a small factor
    assert errors[1] < errors[0] / 4  # falls as 1/√samples: ten times


def test_sampled_labels_belong_to_their_example():
    task = TASKS["mlp"]
    model = task.build_model(0)
    data = task.datasets()["train"]
    whole = sampled_targets(split_probe(task, model, data, range(24), batch_size=5), seed=1, num_samples=3)
    assert torch.equal(sampled_targets(split_probe(task, model, data, [7, 2]), seed=1, num_samples=3), whole[[7, 2]])
    assert torch.equal(sampled_targets(split_probe(task, model, data, range(24)), seed=1), whole[:, :1])
    assert not torch.equal(sampled_targets(split_probe(task, model, data, range(24)), seed=2, num_samples=3), whole)


def test_frozen_parameters_take_no_part():
    task = TASKS["mlp"]
    model = task.build_model(0)
    model[0].weight.requires_grad_(False)
    for kind in CURVATURES:
        dense = dense_curvature(task, model, INDICES, kind)
        vectors = vectors_for(model, 3)
        assert_close(
            curvature_product(split_probe(task, model, task.datasets()["train"], INDICES), Curvature(kind))(vectors),
            vectors @ dense,
        )


def test_what_is_refused():
    task = TASKS["mlp"]
    model = task.build_model(0)
    data = task.datasets()["train"]
    with pytest.raises(UsageError, match=r"'fisher' cannot be used.*hessian, ggn"):
        curvature_product(split_probe(task, model, data, INDICES), Curvature("fisher"))
    with pytest.raises(TaskError, match="no train examples"):
        curvature_product(split_probe(task, model, data, []), Curvature("ggn"))
    with pytest.raises(UsageError, match=r"\(2, 5\) for the ggn of task 'mlp' of 73 parameters"):
        curvature_product(split_probe(task, model, data, INDICES), Curvature("ggn"))(torch.zeros(2, 5))
    with pytest.raises(UsageError, match="0 samples"):
        curvature_product(split_probe(task, model, data, INDICES), Curvature("true-fisher", num_samples=0))
    broken = {**data, "x": data["x"].clone()}
    broken["x"][17] = torch.nan
    for kind in CURVATURES:
        with pytest.raises(NumericalError, match="not finite"):
            curvature_product(split_probe(task, model, broken, INDICES), Curvature(kind))(vectors_for(model, 1))


class Concave(ClassificationExample):
    def output_loss(self, outputs, batch):
        return -outputs.square().sum(1)

    def train_loss(self, model, batch):
        return self.output_loss(self.outputs(model, batch), batch)


def test_a_loss_that_is_not_convex_in_its_outputs_has_no_pseudo_gradients():
    task = Concave("concave", lambda: nn.Linear(6, 3))
    with pytest.raises(NumericalError, match=r"not convex.*example 3 has the eigenvalue -2"):
        curvature_product(split_probe(task, task.build_model(0), task.datasets()["train"], INDICES), Curvature("ggn"))


@pytest.mark.parametrize("gain", [10, 20, 40, 80, 160])
def test_rounding_of_well_fitted_examples_is_no_lack_of_convexity(gain):
    """A softmax that is nearly one class has curvature of 1e-8 and less, known to 1e-16 only."""
    task = ClassificationExample("sure", lambda: nn.Linear(6, 10))
    model = task.build_model(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(gain)
    vectors = vectors_for(model)
    dense = dense_curvature(task, model, range(20), "ggn")
    data = task.datasets()["train"]
    found = curvature_product(split_probe(task, model, data, list(range(20))), Curvature("ggn"))(vectors)
    assert_close(found, vectors @ dense, 1e-7)
