"""Passes in less than float32: what is computed in it, what is not, what it costs, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tda_backend.errors import TaskError, UsageError
from tda_backend.models import precision as precision_module
from tda_backend.models.precision import BF16, FULL, PRECISIONS, TF32, products_in, refuse_precision
from tda_backend.models.probe import Probe
from tda_backend.numerics.curvature.kronecker.fit import kronecker_curvature
from tda_backend.numerics.curvature.matrix import curvature_matrix
from tda_backend.numerics.curvature.parameters import flat_gradients
from tda_backend.numerics.curvature.products.curvature_product import curvature_product
from tda_backend.numerics.curvature.pseudo_gradients import Curvature
from tda_backend.numerics.features import streaming
from tda_backend.numerics.features.checkpoint_features import checkpoint_features
from tda_backend.numerics.features.dense import Request, dense_gradient_blocks, dense_gram, project_gradients
from tda_backend.numerics.features.factors import linear_factors, untracked_parameters
from tda_backend.numerics.features.layers import layer_batches
from tda_backend.numerics.features.projection import Projection
from tda_backend.numerics.features.rounding import RoundingError, rounding_error
from tda_backend.seeds import hashed_rng
from tda_backend.types import Batch, Task
from tests.device.standin import NAME as STAND_IN
from tests.device.standin import watching
from tests.features.models_of_any_layer import EXPLAINED, JOINED
from tests.helpers_numerics import FACTOR_TASKS, NUM_CLASSES, TASKS, VALIDATION, ClassificationExample

ONE = 2**-9
"""bfloat16 has 8 digits: rounding to it changes a number by at most this share of it."""
QUERIES = range(6, 12)
ANY = {**EXPLAINED, **{name: task for name, (task, _) in JOINED.items()}}


def single(task: Task, precision: Any = FULL, model: nn.Module | None = None, **settings: Any) -> Probe:
    """Return a task's probe in float32, in a precision."""
    data = {
        split: {key: value.float() if value.is_floating_point() else value for key, value in rows.items()}
        for split, rows in task.datasets().items()
    }
    model = task.build_model(0).float() if model is None else model
    rows = range(len(data["train"]["y"]))
    return Probe(task, model, data, rows, VALIDATION, QUERIES, **{"precision": precision, **settings})


class Wide(nn.Module):
    """Two layers wide enough for an order of summation to matter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(40, 30), nn.Linear(30, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(x)))


WIDE = ClassificationExample("wide", Wide, (40,))


def rounded(x: Tensor) -> Tensor:
    """Round to bfloat16; the value stays in float64."""
    return x.float().bfloat16().double()


def by_hand(model: Wide, x: Tensor, y: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return inputs and deltas of both layers where every product and tanh is rounded: float64 in between."""
    w1, b1, w2, b2 = (rounded(p.detach()) for p in model.parameters())
    hidden = rounded(torch.tanh(rounded(rounded(x) @ w1.T + b1)))
    logits = rounded(hidden @ w2.T + b2)
    delta = rounded(torch.softmax(logits, 1) - F.one_hot(y, NUM_CLASSES))  # cross-entropy is in float32
    below = rounded(rounded(delta @ w2) * (1 - hidden**2))
    return {"first": (x.double(), below), "last": (hidden, delta)}


def test_bfloat16_factors_are_those_of_products_rounded_by_hand():
    probe = single(WIDE, BF16)
    expected = by_hand(probe.model, probe.data["train"]["x"], probe.data["train"]["y"])  # type: ignore[arg-type]
    factors, _ = linear_factors(probe, "train", "train_loss")
    exact, _ = linear_factors(probe.in_full(), "train", "train_loss")
    for layer, full in zip(factors.layers, exact.layers, strict=True):
        inputs, deltas = expected[layer.name]
        for found, hand, plain in (
            (layer.inputs[:, :-1], inputs, full.inputs[:, :-1]),
            (layer.deltas, deltas, full.deltas),
        ):
            assert found.dtype == torch.float32
            same = found.double() == hand
            assert float(same.double().mean()) > 0.9  # the rest is a tie, broken otherwise by another order of sums
            assert bool(((found.double() - hand).abs() <= 8 * ONE * hand.abs().max()).all())
            assert layer.name == "first" or not bool((found == plain).all())


@pytest.mark.parametrize("name", FACTOR_TASKS)
def test_bfloat16_gradients_differ_by_a_few_roundings(name: str):
    """Of weights, inputs and outputs of each product, forward and backward: 6 for each of 2–4 layers, in norm."""
    found, exact = (flat_gradients(single(TASKS[name], each), "train", "goodness") for each in (BF16, FULL))
    errors = (found - exact).norm(dim=1) / exact.norm(dim=1)
    assert 0 < float(errors.median()) < 6 * 4 * ONE
    assert found.dtype == exact.dtype == torch.float32


@pytest.mark.parametrize("name", ANY)
def test_bfloat16_projections_of_any_layer_differ_by_a_few_roundings(name: str):
    def projected(precision: str) -> Tensor:
        requests = [Request("train", "train_loss")]
        return project_gradients(single(ANY[name], precision), requests, Projection("sparse", 16, 0))

    found, exact = projected(BF16), projected(FULL)
    assert found.dtype == torch.float32
    known = exact.norm(dim=1) > 0
    errors = (found - exact)[known].norm(dim=1) / exact[known].norm(dim=1)
    assert float(errors.median()) < 6 * 4 * ONE
    assert name == "scaled" or float(errors.max()) > 0  # which has no product


def kronecker(probe: Probe) -> Tensor:
    return torch.cat([each.flatten() for each in kronecker_curvature(probe).eigenvalues])


def squares(probe: Probe) -> Tensor:
    parts = layer_batches(probe, "train", "train_loss")
    return torch.cat([layer.deltas.flatten(1).square().sum(1) for part in parts for layer in part.layers.values()])


PASSES: dict[str, tuple[str, Callable[[Probe], Tensor]]] = {
    "factors": ("mlp", lambda probe: linear_factors(probe, "train", "goodness")[0].squared_norms()),
    "layers": ("mlp", squares),
    "Kronecker curvature": ("mlp", kronecker),
    "Gram matrix": ("cnn", lambda probe: dense_gram(probe, [Request("train", "goodness")])),
    "projections": (
        "transformer",
        lambda probe: project_gradients(probe, [Request("train", "goodness")], Projection("sparse", 16, 0)),
    ),
    "gradients one by one": ("mlp", lambda probe: flat_gradients(replace(probe, batch_size=1), "train", "goodness")),
    "curvature products": (
        "mlp",
        lambda probe: curvature_product(probe, Curvature("ggn"))(torch.ones(1, 7 * 7 + 8 * NUM_CLASSES)),
    ),
}
of_every_pass = pytest.mark.parametrize("name", PASSES)


@of_every_pass
def test_every_pass_gives_about_the_same_in_bfloat16_and_not_the_same(name: str):
    task, taken = PASSES[name]
    found, exact = taken(single(TASKS[task], BF16)), taken(single(TASKS[task]))
    assert found.dtype == exact.dtype
    assert 0 < float((found - exact).norm() / exact.norm()) < 0.05


@of_every_pass
def test_without_a_precision_nothing_of_it_is_touched(name: str, monkeypatch):
    def never(*given: Any, **named: Any) -> Any:
        raise AssertionError("autocast, or a setting of CUDA's")

    monkeypatch.setattr(torch, "autocast", never)
    monkeypatch.setattr(precision_module, "_set", never)
    task, taken = PASSES[name]
    taken(single(TASKS[task]))


@of_every_pass
def test_every_pass_is_in_its_products_forward_and_backward(name: str, monkeypatch):
    """TF32 is a setting that must hold around both."""
    inside: list[str] = []
    seen: dict[str, set[str]] = {"forward": set(), "backward": set()}

    @contextmanager
    def spied(precision: str, device: Any) -> Iterator[None]:
        inside.append(precision)
        try:
            yield
        finally:
            inside.pop()

    class Noting(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:  # type: ignore[override]
            return x.view_as(x)

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            seen["backward"].add(inside[-1] if inside else "none")
            return grad

        @staticmethod
        def vmap(info: Any, in_dims: Any, x: Tensor) -> Any:
            return Noting.apply(x), in_dims[0]

    class Watched(ClassificationExample):
        def __init__(self, other: Any) -> None:
            self.__dict__.update(other.__dict__)

        def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return self._noted(super().train_loss(model, batch))

        def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
            return self._noted(super().measurement(model, batch))

        def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
            return self._noted(super().outputs(model, batch))

        def _noted(self, values: Tensor) -> Tensor:
            if torch.is_grad_enabled():
                seen["forward"].add(inside[-1] if inside else "none")
            return Noting.apply(values)  # type: ignore[return-value]

    monkeypatch.setattr(streaming, "products_in", spied)
    monkeypatch.setattr(precision_module, "_is_recent_gpu", lambda device: True)
    task, taken = PASSES[name]
    taken(single(Watched(TASKS[task]), TF32))
    assert seen["forward"] <= {TF32, FULL}  # what is compared with autograd is passed in float32
    assert seen["backward"] <= {TF32, FULL}
    assert TF32 in seen["forward"] & seen["backward"]


def test_goodness_and_losses_stay_those_of_float32():
    for name in ("mlp", "cnn", "regression"):
        found, exact = (checkpoint_features(single(TASKS[name], each)) for each in (BF16, FULL))
        assert torch.equal(found.goodness, exact.goodness)
        assert torch.equal(found.train_loss, exact.train_loss)


def settings_of_cuda() -> list[str]:
    return [each.fp32_precision for each in precision_module._settings()]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_settings_of_cuda_hold_inside_and_are_restored_even_after_an_error(precision: Any):
    before = settings_of_cuda()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with products_in(precision, "cuda:0"):
            assert settings_of_cuda() == ["tf32" if precision == TF32 else "ieee"] * 3
            with products_in(FULL, "cuda"):  # what is compared in float32, within a pass in TF32
                assert settings_of_cuda() == ["ieee"] * 3
        assert settings_of_cuda() == before
        with pytest.raises(ZeroDivisionError), products_in(precision, "cuda"):
            _ = 1 / 0
    assert settings_of_cuda() == before
    with products_in(precision, "cpu"):
        assert settings_of_cuda() == before


def test_gradients_that_do_not_add_up_are_refused_in_bfloat16_too():
    """Compared in bfloat16, a share of 2 % would pass."""

    class Elsewhere(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, NUM_CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + 0.02 * (x @ self.layer.weight.T.clone())

    task = ClassificationExample("elsewhere", Elsewhere)
    for taken in (
        lambda probe: linear_factors(probe, "train", "goodness"),
        lambda probe: list(layer_batches(probe, "train", "goodness")),
    ):
        for precision in (FULL, BF16):
            with pytest.raises(TaskError, match="do not reproduce autograd's gradient"):
                taken(single(task, precision))


def test_examples_that_interact_are_refused_in_bfloat16_too():
    class Averaged(ClassificationExample):
        def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
            return super().train_loss(model, batch) / len(batch["y"])

    task = Averaged("averaged", lambda: nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, NUM_CLASSES)))
    task._data = {split: {**rows, "x": rows["x"][:, None]} for split, rows in task._data.items()}
    for precision in (FULL, BF16):
        with pytest.raises(TaskError, match="in a batch of"):
            project_gradients(single(task, precision), [Request("train", "train_loss")], Projection("sparse", 8, 0))


def whole(probe: Probe, quantity: Any) -> Tensor:
    """Return whole gradients, ``[N, p]`` float64."""
    if not untracked_parameters(probe.model):
        return flat_gradients(probe, "train", quantity).double()
    blocks = dense_gradient_blocks(probe, [Request("train", quantity)])
    return torch.cat([block.values for block in blocks], 1).double()


@pytest.mark.parametrize("name", ["mlp", "positions", "regression", "cnn", "transformer"])
@pytest.mark.parametrize("quantity", ["goodness", "train_loss"])
def test_the_measured_error_is_that_of_whole_gradients(name: str, quantity: Any):
    probe = single(TASKS[name], BF16)
    rows = hashed_rng("rounding error", probe.count("train")).permutation(probe.count("train"))[:16]
    chosen = probe.only("train", sorted(rows.tolist()))
    found, exact = (whole(each, quantity) for each in (chosen, chosen.in_full()))
    errors = (found - exact).norm(dim=1) / exact.norm(dim=1)
    error = rounding_error(probe, quantity)
    assert (error.precision, error.num_examples) == (BF16, 16)
    assert error.median == pytest.approx(float(errors.quantile(0.5)), rel=1e-4)
    assert error.worst == pytest.approx(float(errors.max()), rel=1e-4)
    assert 0 < error.median < error.worst
    assert rounding_error(probe.in_full(), quantity).worst <= 1e-7


def test_the_error_is_measured_on_as_many_examples_as_there_are_and_where_gradients_exist():
    class Dead(ClassificationExample):
        def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
            return super().measurement(model, batch) * (batch["x"][:, 0] > 0)

    task = Dead("dead", lambda: nn.Linear(6, NUM_CLASSES))
    probe = single(task, BF16)
    assert rounding_error(probe.only("train", range(5)), "train_loss").num_examples == 5
    alive = int((probe.data["train"]["x"][:5, 0] > 0).sum())
    assert rounding_error(probe.only("train", range(5)), "goodness").num_examples == alive < 5
    none = [row for row in range(24) if probe.data["train"]["x"][row, 0] <= 0]
    assert rounding_error(probe.only("train", none), "goodness") == RoundingError(BF16, 0, 0.0, 0.0)


REFUSED = {
    "TF32 without a GPU": (TF32, "cpu", 4, "compute capability 8"),
    "bfloat16 where nobody tried it": (BF16, "mps", 4, "and on CPUs"),
    "float64": (BF16, "cpu", 8, "own precision"),
    "half precision": (BF16, "cpu", 2, "own precision"),
    "a name that does not exist": ("fp16", "cpu", 4, "float32, tf32, bf16"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_with_what_to_do(name: str):
    precision, device, number_bytes, hint = REFUSED[name]
    with pytest.raises(UsageError) as refused:
        refuse_precision(precision, device, number_bytes)  # type: ignore[arg-type]
    assert precision in refused.value.message
    assert hint in str(refused.value.hint)


def test_a_probe_is_refused_where_its_passes_would_be():
    task = TASKS["mlp"]
    with pytest.raises(UsageError, match="64 bits"):
        Probe(task, task.build_model(0), task.datasets(), precision=BF16)
    with pytest.raises(UsageError, match="'cpu'"):
        single(task, TF32)
    with watching(), pytest.raises(UsageError, match=STAND_IN):
        single(task, BF16, device=STAND_IN)


@pytest.mark.parametrize(
    ("name", "kind"), [("mlp", "hessian"), ("cnn", "ggn"), ("cnn", "empirical-fisher"), ("cnn", "true-fisher")]
)
def test_products_that_pass_the_model_anew_are_refused_by_name(name: str, kind: Any):
    with pytest.raises(UsageError, match=kind) as refused:
        curvature_product(single(TASKS[name], BF16), Curvature(kind))
    assert "iffim" in str(refused.value.hint)


def test_a_matrix_in_float64_is_refused_by_name():
    with pytest.raises(UsageError, match="formed in float64"):
        curvature_matrix(single(TASKS["mlp"], BF16), Curvature("ggn"))
