"""EK-FAC, K-FAC and diagonal influence against dense matrices built with np.kron, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.numerics.attribution.ekfac import ekfac_spectrum
from tda_backend.numerics.curvature.kronecker.basis import KINDS, eigenbasis, kronecker_moments
from tda_backend.numerics.curvature.kronecker.fisher import Fisher, fisher_targets
from tda_backend.numerics.curvature.kronecker.fit import kronecker_curvature
from tda_backend.numerics.spectral import contraction
from tda_backend.types import Task
from tests.attribution.by_layer import TRAIN, Reference
from tests.helpers_numerics import TASKS, ClassificationExample, assert_close, probe_of, split_probe

NAMES = ("linear", "mlp", "positions", "regression", "cnn", "transformer")
REGULARIZATIONS = (1e-3, 0.1)


def spectrum_of(task: Task, model: nn.Module | None = None, train=TRAIN, batch_size: int = 512, **settings):
    """Return a spectrum; ``fisher``, ``seed``, ``num_samples`` and ``targets`` say which Fisher information."""
    given = {"kind": settings.pop("fisher", "true")}
    given |= {key: settings.pop(key) for key in ("seed", "num_samples", "targets") if key in settings}
    settings.setdefault("untracked", "leave-out")
    return ekfac_spectrum(probe_of(task, model, train, batch_size=batch_size), fisher=Fisher(**given), **settings)


@pytest.mark.parametrize("fisher", ["true", "empirical"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_scores_equal_a_dense_reference_by_layer(name: str, kind, fisher):
    reference = Reference(TASKS[name], kind, fisher)
    spectrum = spectrum_of(TASKS[name], kind=kind, fisher=fisher, seed=3)
    for regularization in REGULARIZATIONS:
        expected = reference.scores(regularization)
        actual = contraction.block_scores([spectrum], regularization)
        assert list(actual) == list(expected)
        for layer in expected:
            assert_close(actual[layer], expected[layer], 1e-8)
        assert_close(contraction.scores([spectrum], regularization), sum(expected.values()), 1e-8)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_relative_damping_is_a_share_of_each_layers_mean_eigenvalue(name: str):
    reference = Reference(TASKS[name], "ekfac", "true")
    spectrum = spectrum_of(TASKS[name], damping="relative", seed=3)
    for block in spectrum.blocks:
        assert block.scale == pytest.approx(reference.scale(block.name))
    assert_close(contraction.scores([spectrum], 0.1), sum(reference.scores(0.1, relative=True).values()), 1e-8)


@pytest.mark.parametrize("name", ["mlp", "positions", "cnn"])
def test_self_influence_and_subset_sums_equal_the_dense_reference(name: str):
    reference = Reference(TASKS[name], "ekfac", "true")
    spectrum = spectrum_of(TASKS[name], seed=3)
    expected = sum(
        np.einsum("ij,jk,ik->i", reference.loss[k], reference.inverse(k, 0.1), reference.loss[k])
        for k in reference.curvature
    )
    assert_close(contraction.self_influence([spectrum], [0.1])[0], expected, 1e-8)
    masks = np.random.default_rng(0).random((5, len(TRAIN))) < 0.5
    scores = sum(reference.scores(0.1).values())
    assert_close(contraction.subset_sums([spectrum], masks, [0.1])[0], masks @ scores.T, 1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_damping_leaves_the_dot_product_of_tracked_gradients(kind):
    reference = Reference(TASKS["cnn"], kind, "true")
    expected = -sum(reference.query[name] @ reference.loss[name].T for name in reference.curvature)
    actual = 1e9 * contraction.scores([spectrum_of(TASKS["cnn"], kind=kind, seed=3)], 1e9)
    assert_close(actual, expected, 1e-7)


@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_batch_size_and_example_order_do_not_matter_even_with_sampled_targets(name: str):
    task, order = TASKS[name], np.random.default_rng(1).permutation(len(TRAIN))
    expected = spectrum_of(task)
    small = spectrum_of(task, batch_size=5)
    shuffled = spectrum_of(task, train=order.tolist(), batch_size=7)
    scores = contraction.scores([expected], 0.01)
    assert_close(contraction.scores([small], 0.01), scores, 1e-9)
    assert_close(contraction.scores([shuffled], 0.01), scores[:, order], 1e-9)


def test_seeds_and_samples_change_the_true_fisher_and_average_out():
    task = TASKS["linear"]
    model = task.build_model(0)
    data = task.datasets()["train"]

    def s(seed: int, samples: int) -> Tensor:
        return (
            kronecker_moments(split_probe(task, model, data, TRAIN), fisher=Fisher(seed=seed, num_samples=samples))
            .layers[0]
            .deltas
        )

    assert not torch.equal(s(0, 1), s(1, 1))
    probabilities = task.outputs(model.eval(), data).softmax(1).detach()
    exact = (torch.diag_embed(probabilities) - probabilities[:, :, None] * probabilities[:, None, :]).mean(0)
    errors = [float((s(0, samples) - exact).norm()) for samples in (1, 200)]
    assert errors[1] < 0.25 * errors[0]
    assert errors[1] < 0.03 * float(exact.norm())


def test_given_targets_replace_the_draws():
    task = TASKS["mlp"]
    model = task.build_model(0)
    data = task.datasets()["train"]
    drawn = fisher_targets(split_probe(task, model, data, TRAIN), seed=0)
    assert_close(
        contraction.scores([spectrum_of(task, targets=drawn)], 0.1), contraction.scores([spectrum_of(task)], 0.1)
    )
    # With the data's own targets the true Fisher is the empirical one.
    assert_close(
        contraction.scores([spectrum_of(task, targets=data["y"])], 0.1),
        contraction.scores([spectrum_of(task, fisher="empirical")], 0.1),
    )


class Product(ClassificationExample):
    """A linear loss ⟨t, Wx+b⟩ over all pairs of inputs and directions: δ = t and a = (x, 1) are independent."""

    margin_identity = False
    measurement_sign = -1

    def __init__(self) -> None:
        super().__init__("product", lambda: nn.Linear(4, 3), shape=(4,))
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(6, 4, generator=generator, dtype=torch.float64)
        y = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        self._data["train"] = {"x": x.repeat_interleave(4, 0), "y": y.repeat(6, 1)}
        self._data["test"]["y"] = torch.randn(16, 3, generator=generator, dtype=torch.float64)

    def train_loss(self, model: nn.Module, batch) -> Tensor:
        return (model(batch["x"]) * batch["y"]).sum(1)

    def measurement(self, model: nn.Module, batch) -> Tensor:
        return self.train_loss(model, batch)


def test_factorised_gradients_make_kfac_and_ekfac_the_exact_fisher():
    reference = Reference(Product(), "kfac", "empirical")
    loss, query = reference.loss["model"], reference.query["model"]
    exact = -query @ np.linalg.solve(loss.T @ loss / len(loss) + 0.1 * np.eye(loss.shape[1]), loss.T)
    for kind in ("kfac", "ekfac"):
        assert_close(contraction.scores([spectrum_of(Product(), kind=kind, fisher="empirical")], 0.1), exact, 1e-9)
    diagonal = contraction.scores([spectrum_of(Product(), kind="diagonal", fisher="empirical")], 0.1)
    assert np.abs(diagonal - exact).max() > 1e-2 * np.abs(exact).max()


def test_ekfac_is_the_diagonal_of_least_error_in_its_basis():
    """‖F − QΛQᵀ‖ ≤ ‖F − S⊗A‖ (George et al. 2018, proposition 1)."""
    task = TASKS["mlp"]
    errors = {}
    for kind in ("ekfac", "kfac"):
        reference = Reference(task, kind, "empirical")
        errors[kind] = [
            np.linalg.norm(g.T @ g / len(g) - reference.curvature[name]) for name, g in reference.loss.items()
        ]
    assert all(left < right for left, right in zip(errors["ekfac"], errors["kfac"], strict=True))


class Constant(ClassificationExample):
    """Two constant pixels (collinear with the bias) and one dead hidden unit."""

    def __init__(self) -> None:
        def build() -> nn.Module:
            model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3))
            with torch.no_grad():
                model[0].bias[2] = -1e3
            return model

        super().__init__("constant", build)
        for split in self._data.values():
            split["x"][:, :2] = -0.4242


@pytest.mark.parametrize("kind", KINDS)
def test_null_directions_are_dropped_counted_and_change_nothing(kind):
    task = Constant()
    spectrum = spectrum_of(task, kind=kind, seed=3)
    expected = Reference(task, kind, "true").scores(1e-3)
    x = task.datasets()["train"]["x"]
    hidden = task.build_model(0)[:2](x).detach()
    dead = int((hidden == 0).all(0).sum())
    assert 1 <= dead < 5
    if kind == "diagonal":  # of all null directions only dead units lie on an axis
        assert [layer.num_null for layer in spectrum.layers] == [7 * dead, 3 * dead]
    else:  # two constant pixels; dead units; softmax gradients sum to 0
        assert torch.linalg.matrix_rank(torch.cat([x, torch.ones(len(x), 1)], dim=1)) == 5
        assert [layer.eigenvalues.shape for layer in spectrum.layers] == [(7 - dead, 5), (2, 8 - dead)]
    assert spectrum.num_cut >= sum(layer.num_null for layer in spectrum.layers)
    actual = contraction.block_scores([spectrum], 1e-3)
    # EK-FAC in a null space of two dimensions depends on the basis in it, but nothing of the scores lies there.
    for name, values in expected.items():
        assert_close(actual[name], values, 1e-8)


def test_one_curvature_serves_several_dampings_of_blocks():
    task = TASKS["mlp"]
    curvature = kronecker_curvature(split_probe(task, task.build_model(0), task.datasets()["train"], TRAIN))
    for damping in ("absolute", "relative"):
        assert_close(
            contraction.scores([spectrum_of(task, damping=damping, fitted=curvature)], 0.1),
            contraction.scores([spectrum_of(task, damping=damping)], 0.1),
        )


def test_layers_outside_are_refused_unless_left_out():
    with pytest.raises(TaskError, match=r"norm\.weight"):
        spectrum_of(TASKS["cnn"], untracked="refuse")


def test_unknown_choices_are_refused():
    for settings in ({"kind": "shampoo"}, {"fisher": "sampled"}, {"damping": "fixed"}, {"num_samples": 0}):
        with pytest.raises(UsageError):
            spectrum_of(TASKS["linear"], **settings)
    with pytest.raises(UsageError, match="no train examples"):
        spectrum_of(TASKS["linear"], train=[])


def test_a_task_without_sampling_is_told_to_use_the_empirical_fisher():
    class Bare(ClassificationExample):
        def sample_targets(self, outputs, generator):
            return Task.sample_targets(self, outputs, generator)

    task = Bare("bare", lambda: nn.Linear(6, 3))
    with pytest.raises(TaskError, match="empirical Fisher"):
        spectrum_of(task)
    spectrum_of(task, fisher="empirical")


def test_a_gradient_that_is_not_finite_names_group_and_layer():
    task = ClassificationExample("nan", lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)))
    task._data["test"]["x"][9] = torch.nan
    with pytest.raises(NumericalError, match=r"query examples.*position 3"):
        spectrum_of(task)


def test_a_layer_without_curvature_is_named():
    task = ClassificationExample("dead", lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)))
    model = task.build_model(0)
    with torch.no_grad():
        model[0].bias.fill_(-1e3)
    with pytest.raises(NumericalError, match=r"layer '0'.*requires_grad_"):
        spectrum_of(task, model)


def test_a_basis_of_another_model_is_refused():
    task = TASKS["linear"]
    other = kronecker_curvature(
        split_probe(TASKS["mlp"], TASKS["mlp"].build_model(0), TASKS["mlp"].datasets()["train"], TRAIN)
    )
    with pytest.raises(UsageError, match="another model"):
        spectrum_of(task, fitted=other)


def test_a_diagonal_basis_is_the_identity():
    task = TASKS["mlp"]
    moments = kronecker_moments(split_probe(task, task.build_model(0), task.datasets()["train"], TRAIN))
    for layer in eigenbasis(moments, "diagonal").layers:
        assert torch.equal(layer.inputs, torch.eye(len(layer.inputs), dtype=torch.float64))
