"""Rank-one factors against one autograd call per example."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError
from tda_backend.numerics.features.factors import GradientFactors, LayerFactors, linear_factors, untracked_parameters
from tda_backend.numerics.features.gram import gram_matrix, inner_products
from tests.helpers_numerics import (
    FACTOR_TASKS,
    NUM_CLASSES,
    TASKS,
    ClassificationExample,
    assert_close,
    dense_gradients,
    split_probe,
)


def as_dense(factors: GradientFactors, biases: dict[str, bool]) -> Tensor:
    """Return [N, p] in the order of model.parameters() (weight, bias per layer)."""
    parts = []
    for layer in factors.layers:
        a, d = layer.inputs, layer.deltas
        if a.ndim == 2:
            a, d = a[:, None], d[:, None]
        full = d.transpose(1, 2) @ a
        if biases[layer.name]:
            parts += [full[:, :, :-1].flatten(1), full[:, :, -1]]
        else:
            parts.append(full.flatten(1))
    return torch.cat(parts, 1)


@pytest.mark.parametrize("quantity", ["goodness", "train_loss"])
@pytest.mark.parametrize("name", FACTOR_TASKS)
def test_factors_are_the_per_example_gradients(name, quantity):
    task = TASKS[name]
    model = task.build_model(0)
    data = task.datasets()["train"]
    rows = [3, 1, 20, 7, 11]
    factors, values = linear_factors(split_probe(task, model, data, rows, batch_size=2), "train", quantity)
    truth = dense_gradients(task, model, data, rows, quantity)
    biases = {n: m.bias is not None for n, m in model.named_modules() if isinstance(m, nn.Linear)}
    assert_close(as_dense(factors, biases), truth, 1e-12)
    assert factors.num_parameters == truth.shape[1]
    assert_close(factors.squared_norms(), (truth**2).sum(1), 1e-12)
    with torch.no_grad():
        batch = {key: value[rows] for key, value in data.items()}
        expected = (
            task.measurement_sign * task.measurement(model, batch)
            if quantity == "goodness"
            else task.train_loss(model, batch)
        )
    assert_close(values, expected, 1e-12)


@pytest.mark.parametrize("name", FACTOR_TASKS)
@pytest.mark.parametrize("block_size", [1, 5, 1024])
def test_gram_is_the_dense_gram_for_any_block_size(name, block_size):
    task = TASKS[name]
    model = task.build_model(0)
    data = task.datasets()["train"]
    rows = range(13)
    factors, _ = linear_factors(split_probe(task, model, data, rows), "train", "goodness")
    truth = dense_gradients(task, model, data, rows, "goodness")
    gram = gram_matrix(factors, block_size)
    assert gram.dtype == torch.float64
    assert_close(gram, truth @ truth.T, 1e-12)
    assert torch.equal(gram, gram.T)
    left, right = factors.select(slice(0, 4)), factors.select([12, 5])
    assert_close(inner_products(left, right, block_size), (truth @ truth.T)[:4][:, [12, 5]], 1e-12)


@pytest.mark.parametrize("dims", [(2, 2, 9), (12, 12, 2)], ids=["whole gradients", "pairs of positions"])
def test_both_routes_for_several_positions(dims):
    d_in, d_out, positions = dims
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(7, positions, d_in, generator=generator)
    d = torch.randn(7, positions, d_out, generator=generator)
    dense = (d.double().transpose(1, 2) @ a.double()).flatten(1)
    for block_size in (2, 100):
        assert_close(gram_matrix(GradientFactors((LayerFactors("x", a, d),)), block_size), dense @ dense.T, 1e-12)


def test_batch_size_and_order_do_not_matter():
    task = TASKS["mlp"]
    model, data = task.build_model(0), task.datasets()["train"]
    whole, values = linear_factors(split_probe(task, model, data, range(24), batch_size=24), "train", "goodness")
    shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    other, other_values = linear_factors(split_probe(task, model, data, shuffled, batch_size=5), "train", "goodness")
    assert_close(other_values, values[shuffled], 1e-12)
    for left, right in zip(other.layers, whole.select(shuffled).layers, strict=True):
        assert_close(left.inputs, right.inputs, 1e-12)
        assert_close(left.deltas, right.deltas, 1e-12)


def test_eval_mode_is_used_and_each_mode_restored():
    task = TASKS["mlp"]
    model, data = task.build_model(0), task.datasets()["train"]
    model.train()
    model[0].eval()
    first, _ = linear_factors(split_probe(task, model, data, range(8)), "train", "goodness")
    second, _ = linear_factors(split_probe(task, model, data, range(8)), "train", "goodness")
    assert all(torch.equal(a.deltas, b.deltas) for a, b in zip(first.layers, second.layers, strict=True))
    assert model.training
    assert model[2].training
    assert not model[0].training
    assert not model[0]._forward_hooks


def test_frozen_parameters_are_left_out():
    task = ClassificationExample("frozen", lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, NUM_CLASSES)))
    model = task.build_model(0)
    model[0].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    factors, _ = linear_factors(split_probe(task, model, task.datasets()["train"], range(6)), "train", "goodness")
    truth = dense_gradients(task, model, task.datasets()["train"], range(6), "goodness")
    assert factors.num_parameters == 5 * NUM_CLASSES == truth.shape[1]
    assert_close(gram_matrix(factors), truth @ truth.T, 1e-12)


def test_untracked_parameters_are_named():
    assert untracked_parameters(TASKS["conv"].build_model(0)) == [
        "conv.weight",
        "conv.bias",
        "norm.weight",
        "norm.bias",
    ]
    attention = nn.MultiheadAttention(4, 2)  # its out_proj is a Linear subclass that is never called
    assert "out_proj.weight" in untracked_parameters(attention)
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert untracked_parameters(tied) == ["0.weight", "0.bias", "1.bias"]
    with pytest.raises(TaskError, match=r"conv\.weight"):
        linear_factors(
            split_probe(TASKS["conv"], TASKS["conv"].build_model(0), TASKS["conv"].datasets()["train"], [0]),
            "train",
            "goodness",
        )


class UsesWeightElsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + (x * self.layer.weight.sum(0)).sum(1, keepdim=True) * torch.arange(NUM_CLASSES)


class FoldsPositions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(-1, 2)).view(len(x), 3, NUM_CLASSES).mean(1)


@pytest.mark.parametrize(
    ("build", "message"), [(UsesWeightElsewhere, "do not reproduce"), (FoldsPositions, "batch of 5 examples")]
)
def test_models_that_factors_would_answer_wrongly_are_refused(build, message):
    task = ClassificationExample("odd", build)
    with pytest.raises(TaskError, match=message):
        linear_factors(split_probe(task, task.build_model(0), task.datasets()["train"], range(5)), "train", "goodness")


def test_non_finite_values_raise_with_count_and_position():
    task = ClassificationExample("nan", lambda: nn.Linear(6, NUM_CLASSES))
    task.datasets()["train"]["x"][[4, 9]] = torch.nan
    with pytest.raises(NumericalError, match=r"2 of 24 examples \(first at position 4\)"):
        linear_factors(
            split_probe(task, task.build_model(0), task.datasets()["train"], range(24), batch_size=7),
            "train",
            "goodness",
        )


def test_a_reduced_loss_is_refused():
    class Reduced(ClassificationExample):
        def measurement(self, model, batch):
            return super().measurement(model, batch).mean()

    task = Reduced("reduced", lambda: nn.Linear(6, NUM_CLASSES))
    with pytest.raises(TaskError, match=r"one number per example|shape \(\)"):
        linear_factors(split_probe(task, task.build_model(0), task.datasets()["train"], range(5)), "train", "goodness")
