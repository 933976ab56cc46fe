"""Moments, bases and rotated gradients against explicit sums, with layer inputs found by independent means."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.curvature.kronecker.basis import (
    KroneckerMoments,
    LayerMoments,
    average,
    eigenbasis,
    kronecker_moments,
)
from tda_backend.numerics.curvature.kronecker.fisher import Fisher, fisher_targets
from tda_backend.numerics.curvature.kronecker.fit import eigenvalue_correction, rotated_gradients
from tda_backend.numerics.features.layers import tracked_layers
from tda_backend.numerics.spectral.kronecker.rows import DenseRows, FactoredRows
from tests.helpers_numerics import TASKS, ClassificationExample, assert_close, split_probe

TRAIN = range(24)
NAMES = ("linear", "mlp", "positions", "regression", "cnn", "transformer")


def fitted(name: str, fisher: Fisher | None = None, **settings):
    task = TASKS[name]
    model = task.build_model(0)
    data = task.datasets()["train"]
    return task, model, data, kronecker_moments(split_probe(task, model, data, TRAIN, **settings), fisher, "leave-out")


def hooked(task, model: nn.Module, data) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Return (input, output gradient) of every call of every leaf module, by module hooks on the whole batch."""
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {}
    handles = []
    for name, module in model.named_modules():
        if not list(module.children()):

            def hook(module, arguments, output, name=name):
                kept = output.clone()
                kept.retain_grad()
                calls.setdefault(name, []).append((arguments[0].detach().clone(), kept))
                return kept.clone()

            handles.append(module.register_forward_hook(hook))
    task.train_loss(model.eval(), data).sum().backward()
    for handle in handles:
        handle.remove()
    return {name: [(a, out.grad) for a, out in part] for name, part in calls.items()}


def moments_by_hand(pairs: list[tuple[Tensor, Tensor]], bias: bool) -> tuple[Tensor, Tensor]:
    """Return A and S by plain loops over examples and positions; pairs of ``[N, t, ·]``."""
    num = len(pairs[0][0])
    positions = sum(a.shape[1] for a, _ in pairs)
    first, second = 0, 0
    for a, d in pairs:
        if bias:
            a = torch.cat([a, torch.ones(*a.shape[:2], 1)], dim=2)
        for i in range(num):
            for t in range(a.shape[1]):
                first = first + torch.outer(a[i, t], a[i, t]) / num
                second = second + torch.outer(d[i, t], d[i, t]) / (num * positions)
    assert isinstance(first, Tensor)
    assert isinstance(second, Tensor)
    return first, second


@pytest.mark.parametrize("name", ["linear", "mlp", "positions", "regression"])
def test_moments_of_linear_layers_equal_sums_over_hooks(name: str):
    task, model, data, moments = fitted(name, Fisher("empirical"), batch_size=7)
    calls = hooked(task, task.build_model(0), data)
    for layer in moments.layers:
        pairs = [(a.reshape(24, -1, a.shape[-1]), d.reshape(24, -1, d.shape[-1])) for a, d in calls[_prefix(layer)]]
        a, s = moments_by_hand(pairs, model.get_submodule(_prefix(layer)).bias is not None)
        assert_close(layer.inputs, a, 1e-12)
        assert_close(layer.deltas, s, 1e-12)


def _prefix(layer: LayerMoments) -> str:
    return "" if layer.name == "model" else layer.name


def test_moments_of_a_convolution_are_over_patches():
    task, _, data, moments = fitted("cnn", Fisher("empirical"))
    ((x, grad),) = hooked(task, task.build_model(0), data)["conv"]
    patches = F.unfold(x, 3, padding=1, stride=2).transpose(1, 2)
    a, s = moments_by_hand([(patches, grad.flatten(2).transpose(1, 2))], bias=True)
    layer = next(layer for layer in moments.layers if layer.name == "conv")
    assert_close(layer.inputs, a, 1e-12)
    assert_close(layer.deltas, s, 1e-12)


def test_moments_of_packed_attention_are_over_tokens():
    _, model, data, moments = fitted("transformer", Fisher("empirical"))
    tokens = model.norm(model.embedding(data["x"])).detach()
    a, _ = moments_by_hand([(tokens, tokens)], bias=True)
    layer = next(layer for layer in moments.layers if layer.name == "attention.in_proj")
    assert_close(layer.inputs, a, 1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_several_positions_keep_the_scale_of_the_gradients(name: str):
    """tr(S)·tr(A) is the mean squared gradient where positions are independent; one position: by Cauchy–Schwarz."""
    task, model, data, moments = fitted(name)
    corrected = eigenvalue_correction(
        split_probe(task, model, data, TRAIN, batch_size=5), eigenbasis(moments), untracked="leave-out"
    )
    for layer, values in zip(moments.layers, corrected, strict=True):
        ratio = float(layer.inputs.trace() * layer.deltas.trace() / values.sum())
        assert 0.1 < ratio < 10, layer.name


@pytest.mark.parametrize("name", NAMES)
def test_a_basis_is_orthonormal_and_diagonalises_its_moments(name: str):
    moments = fitted(name)[3]
    for layer, basis in zip(moments.layers, eigenbasis(moments).layers, strict=True):
        for moment, q, values in (
            (layer.inputs, basis.inputs, basis.input_eigenvalues),
            (layer.deltas, basis.deltas, basis.delta_eigenvalues),
        ):
            assert_close(q.T @ q, torch.eye(len(q)), 1e-12)
            assert_close(q.T @ moment @ q, values.diag(), 1e-11)  # QᵀVQ, not QVQᵀ
            assert bool((values[:-1] >= values[1:]).all())
            assert bool((values >= 0).all())


@pytest.mark.parametrize("kind", ["ekfac", "diagonal"])
@pytest.mark.parametrize("name", NAMES)
def test_corrected_eigenvalues_are_second_moments_of_rotated_gradients(name: str, kind):
    task, model, data, moments = fitted(name, Fisher(seed=4))
    basis = eigenbasis(moments, kind)
    targets = fisher_targets(split_probe(task, model, data, TRAIN), seed=4)
    corrected = eigenvalue_correction(
        split_probe(task, model, data, TRAIN, batch_size=9), basis, Fisher(seed=4), untracked="leave-out"
    )
    sampled = {**data, "y": targets[0]}
    rows, values = rotated_gradients(
        split_probe(task, model, sampled, TRAIN, batch_size=5), "train", "train_loss", basis, untracked="leave-out"
    )
    assert_close(values, task.train_loss(model.eval(), sampled).detach(), 1e-12)
    for part, expected in zip(rows, corrected, strict=True):
        assert_close(part.values().square().mean(0).view(expected.shape), expected, 1e-11)


def test_rotated_gradients_turn_back_into_gradients():
    task, model, data, moments = fitted("cnn")
    basis = eigenbasis(moments)
    rows, _ = rotated_gradients(
        split_probe(task, model, data, TRAIN), "train", "train_loss", basis, untracked="leave-out"
    )
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(task.train_loss(model.eval(), data).sum(), list(named.values()))
    truth = dict(zip(named, grads, strict=True))
    for layer, part, q in zip(tracked_layers(model, "leave-out"), rows, basis.layers, strict=True):
        summed = part.values().sum(0).view(layer.shape)
        assert_close(q.deltas @ summed @ q.inputs.T, layer.matrix(truth), 1e-11)


def test_the_smaller_form_is_kept():
    rows, _ = rotated_gradients(*_rotation_arguments("positions"))
    assert [type(part) for part in rows] == [DenseRows, DenseRows, FactoredRows]
    for part in rows:
        num, num_outputs, num_inputs = part.shape
        assert part.num_numbers <= num * num_outputs * num_inputs or part.deltas.ndim == 2


def _rotation_arguments(name: str):
    task, model, data, moments = fitted(name)
    return split_probe(task, model, data, TRAIN), "train", "train_loss", eigenbasis(moments)


def test_average_is_the_mean_of_moments():
    moments = [kronecker_moments(probe) for probe in _checkpoints()]
    for index, layer in enumerate(average(moments).layers):
        assert_close(layer.inputs, sum(m.layers[index].inputs for m in moments) / 2, 1e-12)
        assert_close(layer.deltas, sum(m.layers[index].deltas for m in moments) / 2, 1e-12)
    with pytest.raises(UsageError, match="no moments"):
        average([])


def _checkpoints():
    task = TASKS["mlp"]
    return [split_probe(task, task.build_model(seed), task.datasets()["train"], TRAIN) for seed in (0, 1)]


@pytest.mark.parametrize("name", ["mlp", "regression"])
def test_drawn_targets_belong_to_examples_not_to_batches(name: str):
    task, model, data, _ = fitted(name)
    whole = fisher_targets(split_probe(task, model, data, TRAIN), num_samples=3)
    assert whole.shape == (3, 24)
    parts = fisher_targets(split_probe(task, model, data, [7, 3, 20], batch_size=1), num_samples=3)
    assert_close(parts, whole[:, [7, 3, 20]], 1e-12)
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(whole, fisher_targets(split_probe(task, model, data, TRAIN), num_samples=3, seed=1))


def test_drawn_labels_follow_the_models_probabilities():
    task, model, data, _ = fitted("linear")
    draws = fisher_targets(split_probe(task, model, data, range(4)), num_samples=800)
    frequencies = F.one_hot(draws, 3).double().mean(0)
    expected = task.outputs(model, {key: value[:4] for key, value in data.items()}).softmax(1).detach()
    assert float((frequencies - expected).abs().max()) < 4 * 0.5 / 800**0.5


def test_bad_targets_samples_and_indices_are_refused():
    task, model, data, _ = fitted("mlp")
    for settings in (
        {"targets": data["y"][:5]},
        {"targets": data["y"], "kind": "empirical"},
        {"num_samples": 2, "kind": "empirical"},
        {"num_samples": 2, "targets": data["y"]},
        {"num_samples": 0},
    ):
        with pytest.raises(UsageError):
            kronecker_moments(split_probe(task, model, data, TRAIN), Fisher(**settings))
    for fisher in ("true", "empirical"):
        with pytest.raises(UsageError, match="no examples"):
            kronecker_moments(split_probe(task, model, data, []), fisher=Fisher(kind=fisher))


def test_a_moment_that_is_known_is_not_decomposed_again():
    moments = fitted("mlp")[3]
    basis = eigenbasis(moments)
    first, *others = moments.layers
    changed = KroneckerMoments((replace(first, deltas=2 * first.deltas), *others), moments.num_examples)
    found, fresh = eigenbasis(changed, known=(moments, basis)), eigenbasis(changed)
    assert found.layers[0].inputs is basis.layers[0].inputs
    assert found.layers[0].deltas is not basis.layers[0].deltas
    for layer, expected in zip(found.layers, fresh.layers, strict=True):
        for name, values in vars(expected).items():
            assert torch.equal(values, getattr(layer, name)) if name != "name" else values == layer.name


def test_moments_that_are_not_finite_or_zero_name_the_layer():
    broken = KroneckerMoments((LayerMoments("head", torch.full((2, 2), torch.nan), torch.eye(2)),), 1)
    with pytest.raises(NumericalError, match="layer 'head'"):
        eigenbasis(broken)
    task = ClassificationExample("zero", lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3, bias=False)))
    model = task.build_model(0)
    with torch.no_grad():
        model[0].bias.fill_(-1e3)
    with pytest.raises(NumericalError, match=r"layer '0'.*dead units"):
        kronecker_moments(split_probe(task, model, task.datasets()["train"], TRAIN))
