"""Factors of tracked layers against autograd, one example at a time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError
from tda_backend.numerics.features.layers import TrackedLayer, layer_batches, tracked_layers, untracked
from tests.helpers_numerics import (
    NUM_CLASSES,
    TASKS,
    ClassificationExample,
    TokenExample,
    assert_close,
    split_probe,
)

INDICES = (3, 0, 7, 11, 5)


def factor_gradients(task, model, indices=INDICES, untracked="refuse", batch_size=512) -> dict[str, Tensor]:
    """Return each layer's per-example gradient matrices ``[b, d_out, d_in]`` from the factors."""
    parts: dict[str, list[Tensor]] = {}
    probe = split_probe(task, model, task.datasets()["train"], indices, batch_size=batch_size)
    for batch in layer_batches(probe, "train", "train_loss", untracked=untracked):
        for name, layer in batch.layers.items():
            a, d = (x if x.ndim == 3 else x[:, None] for x in (layer.inputs, layer.deltas))
            parts.setdefault(name, []).append(d.transpose(1, 2) @ a)
    return {name: torch.cat(part) for name, part in parts.items()}


def autograd_gradients(task, model, layers: tuple[TrackedLayer, ...], indices=INDICES) -> dict[str, Tensor]:
    model.eval()
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    rows: dict[str, list[Tensor]] = {layer.name: [] for layer in layers}
    for index in indices:
        batch = {key: value[index : index + 1] for key, value in task.datasets()["train"].items()}
        grads = torch.autograd.grad(
            task.train_loss(model, batch).sum(), list(named.values()), allow_unused=True, materialize_grads=True
        )
        for layer in layers:
            rows[layer.name].append(layer.matrix(dict(zip(named, grads, strict=True))))
    return {name: torch.stack(part) for name, part in rows.items()}


def convolution(**settings) -> nn.Module:
    """Return two convolutions (the first with the settings) and a head."""
    first = nn.Conv2d(4, 6, **settings)
    size = first(torch.zeros(1, 4, 7, 6)).shape[2:].numel()
    return nn.Sequential(first, nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(6 * size, NUM_CLASSES))


class Sequence1d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 3, stride=2, padding=2, dilation=2, groups=2)
        self.same = nn.Conv1d(4, 5, 4, padding="same", bias=False)
        self.head = nn.Linear(5, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.same(torch.tanh(self.conv(x)))).mean(2))


class CrossAttention(nn.Module):
    """Attention over other keys and values: the packed weight is split into rows."""

    def __init__(self, same_values: bool = True, batch_first: bool = True, **settings) -> None:
        super().__init__()
        self.same_values, self.batch_first = same_values, batch_first
        self.attention = nn.MultiheadAttention(4, 2, batch_first=batch_first, **settings)
        self.keys = nn.Linear(4, self.attention.kdim)
        self.head = nn.Linear(4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys = x[:, :2], self.keys(x)
        values = keys if self.same_values else torch.tanh(keys)
        if not self.batch_first:
            queries, keys, values = (part.transpose(0, 1) for part in (queries, keys, values))
            values = keys if self.same_values else values
        mixed = self.attention(queries, keys, values, need_weights=False)[0]
        return self.head(mixed.mean(1 if self.batch_first else 0))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=5, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(12, NUM_CLASSES))


class Functional(nn.Module):
    """One weight in two calls, one of them functional, behind an in-place activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.head = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu_(self.first(x))
        hidden = F.linear(hidden, self.first.weight, bias=self.first.bias).mul_(2)
        return self.head(hidden)


MODELS: dict[str, ClassificationExample] = {
    **{name: TASKS[name] for name in ("linear", "mlp", "positions", "conv", "cnn", "transformer")},
    **{
        f"conv2d {settings}": ClassificationExample(
            "conv2d", lambda settings=settings: convolution(**settings), shape=(4, 7, 6)
        )
        for settings in (
            {"kernel_size": 3},
            {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 2)},
            {"kernel_size": 2, "dilation": (2, 3), "bias": False},
            {"kernel_size": 3, "groups": 2, "padding": 1},
            {"kernel_size": (2, 3), "padding": "same"},
            {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
            {"kernel_size": 3, "padding": "valid", "groups": 2, "bias": False},
        )
    },
    "conv1d": ClassificationExample("conv1d", Sequence1d, shape=(4, 9)),
    "cross attention": ClassificationExample("cross", CrossAttention, shape=(3, 4)),
    "three inputs": ClassificationExample("three", lambda: CrossAttention(False), shape=(3, 4)),
    "batch second": ClassificationExample("second", lambda: CrossAttention(batch_first=False), shape=(3, 4)),
    "no bias": ClassificationExample("no-bias", lambda: CrossAttention(bias=False), shape=(3, 4)),
    "separate": ClassificationExample("separate", lambda: CrossAttention(kdim=3, vdim=3), shape=(3, 4)),
    "encoder": ClassificationExample("encoder", encoder, shape=(3, 4)),
    "functional": ClassificationExample("functional", Functional),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("batch_size", [5, 2])
def test_factors_equal_autograd_per_example(name: str, batch_size: int):
    task = MODELS[name]
    model = task.build_model(0)
    layers = tracked_layers(model, "leave-out")
    actual = factor_gradients(task, model, untracked="leave-out", batch_size=batch_size)
    expected = autograd_gradients(task, model, layers)
    assert list(actual) == [layer.name for layer in layers]
    for layer in layers:
        assert actual[layer.name].shape[1:] == layer.shape
        assert_close(actual[layer.name], expected[layer.name], 1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_tracked_or_named(name: str):
    model = MODELS[name].build_model(0)
    tracked = sum(layer.shape[0] * layer.shape[1] for layer in tracked_layers(model, "leave-out"))
    outside = sum(size for _, size in untracked(model))
    assert tracked + outside == sum(p.numel() for p in model.parameters())


def test_packed_attention_is_one_layer_with_its_bias():
    layers = {layer.name: layer for layer in tracked_layers(CrossAttention(), "leave-out")}
    assert layers["attention.in_proj"].shape == (12, 5)
    assert layers["attention.in_proj"].bias == "attention.in_proj_bias"
    assert layers["attention.out_proj"].shape == (4, 5)


def test_separate_projections_share_one_bias_by_rows():
    layers = {layer.name: layer for layer in tracked_layers(CrossAttention(kdim=3, vdim=3), "leave-out")}
    assert [layers[f"attention.{k}_proj"].bias_rows for k in "qkv"] == [slice(0, 4), slice(4, 8), slice(8, 12)]


def test_tied_norm_and_embedding_are_untracked():
    model = TASKS["transformer"].build_model(0)
    assert [name for name, _ in untracked(model)] == ["embedding.weight", "norm.weight", "norm.bias"]
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    assert dict(untracked(model)) == {"0.weight": 9, "0.bias": 3, "1.bias": 3}


def test_untracked_layers_are_refused_with_their_share_and_a_remedy():
    model = TASKS["cnn"].build_model(0)
    with pytest.raises(TaskError) as caught:
        tracked_layers(model)
    assert "norm.weight" in caught.value.message
    assert f"6 of {sum(p.numel() for p in model.parameters())}" in str(caught)
    assert 'untracked = "leave-out"' in caught.value.hint
    assert "iffim" in caught.value.hint


def test_other_policies_and_models_without_layers_are_refused():
    with pytest.raises(TaskError, match="refuse, leave-out"):
        tracked_layers(TASKS["cnn"].build_model(0), "ignore")
    with pytest.raises(TaskError, match="no Linear"):
        tracked_layers(nn.LayerNorm(3), "leave-out")


def test_frozen_parameters_are_neither_tracked_nor_missing():
    task = TASKS["mlp"]
    model = task.build_model(0)
    model[0].bias.requires_grad_(False)
    model[3].weight.requires_grad_(False)
    layers = tracked_layers(model, "leave-out")
    assert [(layer.name, layer.shape) for layer in layers] == [("0", (7, 6))]
    assert untracked(model) == [("3.bias", NUM_CLASSES)]
    actual = factor_gradients(task, model, untracked="leave-out")
    assert_close(actual["0"], autograd_gradients(task, model, layers)["0"], 1e-12)


class Elsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + 0.1 * x @ self.linear.weight.T


class Mixing(nn.Module):
    """Examples interact: every example's logits depend on the batch mean."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.linear(x)
        return hidden - 0.5 * hidden.mean(0)


class SecondAxis(nn.Module):
    """Examples in the second axis, as many positions as examples: shapes alone cannot tell."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.transpose(0, 1)).sum(0)


@pytest.mark.parametrize(("build", "shape"), [(Elsewhere, (6,)), (Mixing, (6,)), (SecondAxis, (5, 4))])
def test_a_model_whose_factors_would_be_wrong_is_refused(build, shape):
    task = ClassificationExample("wrong", build, shape=shape)
    with pytest.raises(TaskError, match="'linear' do not reproduce"):
        factor_gradients(task, task.build_model(0))


def test_positions_folded_into_the_first_axis_are_refused():
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, NUM_CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.flatten(0, 1)).unflatten(0, x.shape[:2]).sum(1)

    task = ClassificationExample("folded", Folded, shape=(5, 4))
    with pytest.raises(TaskError, match="first axis"):
        factor_gradients(task, task.build_model(0))


def test_a_gradient_that_is_not_finite_names_its_layer_and_example():
    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 4)
            self.head = nn.Linear(4, NUM_CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x)
            # The value is 0 at 0 and its derivative infinite, for the one example whose input is 0.
            return (
                self.head(hidden)
                + torch.where(x.abs().sum(1, keepdim=True) == 0, hidden - hidden.detach(), 1.0).sqrt()[:, :3]
            )

    task = ClassificationExample("root", Root)
    task._data = {"train": {key: value.clone() for key, value in task.datasets()["train"].items()}}
    task._data["train"]["x"][7] = 0
    with pytest.raises(NumericalError, match=r"gradient of layer 'first' .*position 2"):
        factor_gradients(task, task.build_model(0), indices=(0, 1, 7))


def test_values_modes_and_settings_are_left_as_they_were():
    task = TASKS["mlp"]
    model = task.build_model(0).train()
    model[0].eval()
    generator = layer_batches(
        split_probe(task, model, task.datasets()["train"], INDICES, batch_size=2), "train", "goodness"
    )
    with torch.no_grad():
        first = next(generator)
        assert not torch.is_grad_enabled()
        assert (model.training, model[0].training, model[2].training) == (True, False, True)
    assert torch.backends.mha.get_fastpath_enabled()
    expected = task.measurement(model.eval(), {k: v[list(INDICES[:2])] for k, v in task.datasets()["train"].items()})
    assert_close(first.values, expected.detach(), 1e-12)


def test_tokens_in_any_batch_size_give_the_same_factors():
    task = TASKS["transformer"]
    assert isinstance(task, TokenExample)
    whole = factor_gradients(task, task.build_model(0), indices=range(9), untracked="leave-out")
    parts = factor_gradients(task, task.build_model(0), indices=range(9), untracked="leave-out", batch_size=1)
    for name in whole:
        assert_close(parts[name], whole[name], 1e-12)
