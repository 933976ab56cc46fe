"""Explicit influence functions equal a dense inverse on every kind of model; indefinite and singular are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.models.probe import Probe
from tda_backend.numerics.attribution.conjugate_gradient import conjugate_gradient_scores
from tda_backend.numerics.attribution.explicit import explicit_spectrum
from tda_backend.numerics.curvature import matrix
from tda_backend.numerics.curvature.matrix import curvature_matrix
from tda_backend.numerics.curvature.problem import ambient_problem
from tda_backend.numerics.curvature.pseudo_gradients import CURVATURES, Curvature
from tda_backend.numerics.features.projection import Projection, random_rows
from tda_backend.numerics.spectral.contraction import scores, self_influence
from tests.helpers_numerics import (
    QUERIES,
    TASKS,
    VALIDATION,
    ClassificationExample,
    assert_close,
    dense_gradients,
    probe_of,
    split_probe,
)
from tests.solvers.references import damped, dense_curvature, dense_problem, reference

EVERYONE = range(24)


def spectrum_of(name: str, kind: str, seed: int = 0, batch_size: int = 512, **settings):
    probe = probe_of(TASKS[name], batch_size=batch_size)
    return explicit_spectrum(probe, Curvature(kind, seed), **{"dtype": torch.float64, **settings})


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("kind", CURVATURES)
def test_the_matrix_equals_autograd(name, kind):
    task = TASKS[name]
    model = task.build_model(0)
    data = task.datasets()["train"]
    settings = {"seed": 3, "num_samples": 2} if kind == "true-fisher" else {}
    matrix = curvature_matrix(split_probe(task, model, data, [4, 1, 7, 20], batch_size=3), Curvature(kind, **settings))
    assert_close(matrix, dense_curvature(task, model, [4, 1, 7, 20], kind, **settings), 1e-11)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("linear", "hessian"),
        ("mlp", "ggn"),
        ("transformer", "ggn"),
        ("cnn", "empirical-fisher"),
        ("regression", "ggn"),
        ("mlp", "true-fisher"),
    ],
)
def test_scores_equal_a_dense_inverse(name, kind):
    queries, losses, matrix = reference(name, kind)
    spectrum = spectrum_of(name, kind)
    for value in (1e-4, 0.01, 1.0):
        expected = -torch.linalg.solve(damped(matrix, value), queries.T).T @ losses.T
        assert_close(scores([spectrum], value), expected, 1e-8)
    own = torch.einsum("np,np->n", losses, torch.linalg.solve(damped(matrix, 0.1), losses.T).T)
    assert_close(self_influence([spectrum], [0.1])[0], own, 1e-8)
    assert bool((spectrum.eigenvalues.diff() <= 0).all())
    validation = dense_gradients(
        TASKS[name], TASKS[name].build_model(0), TASKS[name].datasets()["test"], VALIDATION, "goodness"
    )
    inside = (spectrum.validation * torch.rsqrt(spectrum.eigenvalues + 0.1)).square().sum(1)
    ambient = (validation * torch.linalg.solve(damped(matrix, 0.1), validation.T).T).sum(1)
    assert bool((inside <= ambient * (1 + 1e-9)).all())  # all of it, less what no train gradient sees


def test_train_gradients_outside_the_curvature_are_kept():
    """The sampled Fisher's range does not hold the real labels' gradients: those coordinates must not be cut."""
    queries, losses, matrix = reference("mlp", "true-fisher")
    rank = int((torch.linalg.eigvalsh(matrix) > 1e-10).sum())
    spectrum = spectrum_of("mlp", "true-fisher")
    assert rank <= 24 < spectrum.eigenvalues.numel()
    assert spectrum.num_cut == 73 - rank
    assert float(spectrum.eigenvalues.min()) > 0
    empirical = spectrum_of("mlp", "empirical-fisher")  # nothing to keep: train gradients span its range
    assert empirical.eigenvalues.numel() == 73 - empirical.num_cut == 24
    assert empirical.query_outside is not None
    whole = queries.square().sum(1)
    assert_close(empirical.query.square().sum(1) + empirical.query_outside, whole, 1e-12)
    assert len(losses) == 24


def test_float32_models_are_widened():
    task = TASKS["linear"]
    data = {
        split: {key: value.float().double() if value.is_floating_point() else value for key, value in part.items()}
        for split, part in task.datasets().items()
    }
    single = {
        split: {k: v.float() if v.is_floating_point() else v for k, v in part.items()} for split, part in data.items()
    }
    model = task.build_model(0).float()
    narrow = explicit_spectrum(Probe(task, model, single, EVERYONE, VALIDATION, QUERIES), Curvature("hessian"))
    assert narrow.train.dtype == torch.float32
    assert next(model.parameters()).dtype == torch.float32  # the caller's model is left alone
    wide = explicit_spectrum(
        Probe(task, model.double(), data, EVERYONE, VALIDATION, QUERIES), Curvature("hessian"), dtype=torch.float64
    )
    assert_close(narrow.eigenvalues, wide.eigenvalues, 1e-12)
    assert_close(scores([narrow], 0.01), scores([wide], 0.01), 1e-5)


def test_an_indefinite_hessian_is_refused_unless_a_policy_is_named():
    values, vectors = torch.linalg.eigh(reference("mlp", "hessian")[2])
    with pytest.raises(NumericalError) as caught:
        spectrum_of("mlp", "hessian")
    message = caught.value.message
    assert "hessian of task 'mlp' is indefinite" in message
    assert f"the smallest {float(values[0]):.6g}" in message
    assert f"{float(values[0] / values[-1]):.3g} times the largest" in message
    assert "indefinite='absolute'" in caught.value.hint
    assert "indefinite='clip'" in caught.value.hint
    queries, losses, _ = reference("mlp", "hessian")
    for policy, treated in (("absolute", values.abs()), ("clip", values.clamp(min=0))):
        spectrum = spectrum_of("mlp", "hessian", indefinite=policy)
        expected = -(queries @ vectors / (treated + 0.05)) @ (losses @ vectors).T
        assert_close(scores([spectrum], 0.05), expected, 1e-8)
        assert bool((spectrum.eigenvalues.diff() <= 0).all())
        assert float(spectrum.eigenvalues.min()) >= 0


def test_rounding_is_not_indefinite():
    """The Hessian of softmax regression is singular: its zero eigenvalues come out at ±1e-17 and are not refused."""
    spectrum = spectrum_of("linear", "hessian")
    assert spectrum.num_cut == 7  # one class's weights and bias: adding the same to all classes changes nothing
    assert_close(spectrum.eigenvalues, spectrum_of("linear", "ggn").eigenvalues, 1e-9)


def test_zero_regularization_is_refused_on_a_singular_curvature():
    for kind in CURVATURES:
        spectrum = spectrum_of("linear", kind)
        with pytest.raises(NumericalError, match=rf"{spectrum.num_cut} of 21 eigenvalues are at or below the cutoff"):
            scores([spectrum], 0.0)
    regular = ClassificationExample("regular", lambda: nn.Linear(2, 3), shape=(2,))
    data = regular.datasets()
    model = regular.build_model(0)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    head = nn.Sequential(model, nn.Linear(3, 3, bias=False).double())
    # Unregularised softmax has a null direction in every bias-free head too; the empirical Fisher of a regression not.
    assert curvature_matrix(split_probe(regular, head, data["train"], EVERYONE), Curvature("ggn")).shape == (9, 9)
    task = TASKS["regression"]
    narrow = nn.Sequential(nn.Linear(6, 1)).double()
    spectrum = explicit_spectrum(
        Probe(task, narrow, task.datasets(), EVERYONE, VALIDATION, QUERIES), Curvature("hessian"), dtype=torch.float64
    )
    assert spectrum.num_cut == 0
    queries, losses = dense_problem(task, narrow, EVERYONE)
    hessian = dense_curvature(task, narrow, EVERYONE, "hessian")
    assert_close(scores([spectrum], 0.0), -torch.linalg.solve(hessian, queries.T).T @ losses.T, 1e-9)


@pytest.mark.parametrize("name", ["mlp", "conv"])
@pytest.mark.parametrize("kind", ["ggn", "empirical-fisher", "true-fisher"])
@pytest.mark.parametrize("projection", ["gaussian-dense", "rademacher"])
def test_projected_curvature_is_p_c_pt(name, kind, projection):
    task = TASKS[name]
    model = task.build_model(0)
    queries, losses, matrix = reference(name, kind)
    drawn = Projection(projection, 12, 5)
    rows = _random_matrix(model, drawn, by_layer=name == "mlp")
    spectrum = spectrum_of(name, kind, projection=drawn, batch_size=7)
    expected = -torch.linalg.solve(damped(rows.T @ matrix @ rows, 0.03), (queries @ rows).T).T @ (losses @ rows).T
    assert_close(scores([spectrum], 0.03), expected, 1e-6)
    assert spectrum.eigenvalues.numel() <= 12


def _random_matrix(model: nn.Module, projection: Projection, *, by_layer: bool) -> torch.Tensor:
    """Return Pᵀ ``[p, k]`` in parameter order, assembled from the blocks that the projection routes use."""
    if not by_layer:
        blocks = [random_rows(projection, name, 0, p.numel()) for name, p in model.named_parameters()]
    else:
        blocks = []
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear):
                width = module.in_features + 1
                whole = random_rows(projection, name, 0, width * module.out_features)
                grid = whole.view(module.out_features, width, -1)
                blocks += [grid[:, :-1].reshape(-1, grid.shape[2]), grid[:, -1]]
    return torch.cat(blocks).double() / projection.max_dim**0.5


def test_conjugate_gradients_tend_to_the_explicit_answer():
    task = TASKS["conv"]
    problem = ambient_problem(
        Probe(task, task.build_model(0), task.datasets(), EVERYONE, query=QUERIES), Curvature("ggn")
    )
    solved = conjugate_gradient_scores(problem, 0.2, max_iter=80).values
    assert_close(scores([spectrum_of("conv", "ggn")], 0.2), solved, 1e-8)


def test_order_and_batches_do_not_matter():
    one = scores([spectrum_of("cnn", "true-fisher", batch_size=5, seed=2)], 0.01)
    task = TASKS["cnn"]
    shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    other = explicit_spectrum(
        Probe(task, task.build_model(0), task.datasets(), shuffled, VALIDATION, QUERIES),
        Curvature("true-fisher", seed=2),
        dtype=torch.float64,
    )
    assert_close(scores([other], 0.01), one[:, shuffled], 1e-9)


def test_what_is_refused(monkeypatch):
    monkeypatch.setattr(matrix, "MAX_PARAMETERS", 50)
    with pytest.raises(UsageError, match=r"'mlp' has 73 parameters; explicit curvature is formed up to 50") as caught:
        spectrum_of("mlp", "ggn")
    assert "projection_dim" in caught.value.hint
    assert "ekfac" in caught.value.hint
    assert spectrum_of("mlp", "ggn", projection=Projection("gaussian-dense", 8, 0)).eigenvalues.numel() == 8
    monkeypatch.undo()
    with pytest.raises(UsageError, match="Hessian is not a mean of outer products"):
        spectrum_of("mlp", "hessian", projection=Projection("gaussian-dense", 8, 0))
    with pytest.raises(UsageError, match="larger than the number of parameters 73"):
        spectrum_of("mlp", "ggn", projection=Projection("gaussian-dense", 100, 0))
    with pytest.raises(UsageError, match="'gaussian' is drawn from the Gram"):
        spectrum_of("mlp", "ggn", projection=Projection("gaussian", 8, 0))
    with pytest.raises(UsageError, match="'nearest'"):
        spectrum_of("mlp", "ggn", indefinite="nearest")
    with pytest.raises(UsageError, match="'kfac'"):
        spectrum_of("mlp", "kfac")
    task = TASKS["mlp"]
    with pytest.raises(TaskError, match="no validation examples"):
        explicit_spectrum(Probe(task, task.build_model(0), task.datasets(), EVERYONE, [], QUERIES), Curvature("ggn"))
    with pytest.raises(NumericalError, match="λ = -1"):
        scores([spectrum_of("mlp", "ggn")], -1.0)


@pytest.mark.parametrize("kind", CURVATURES)
def test_nan_is_named(kind):
    task = TASKS["mlp"]
    for split, index in (("train", 3), ("test", 8)):
        data = {name: dict(part) for name, part in task.datasets().items()}
        data[split]["x"] = data[split]["x"].clone()
        data[split]["x"][index] = torch.nan
        with pytest.raises(NumericalError, match="not finite"):
            explicit_spectrum(Probe(task, task.build_model(0), data, EVERYONE, VALIDATION, QUERIES), Curvature(kind))


def test_a_task_that_is_bound_to_float32_is_named():
    class Bound(ClassificationExample):
        def train_loss(self, model, batch):
            return super().train_loss(model, {**batch, "x": batch["x"].float()})

    task = Bound("bound", lambda: nn.Linear(6, 3))
    with pytest.raises(TaskError, match="'bound' cannot be evaluated in float64"):
        curvature_matrix(
            split_probe(task, task.build_model(0).float(), task.datasets()["train"], EVERYONE), Curvature("ggn")
        )
