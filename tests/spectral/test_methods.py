"""Every method on every small model, from gradients to scores, against dense float64 references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from tda_backend.errors import ArtifactError, NumericalError, TaskError, UsageError
from tda_backend.models.probe import Probe
from tda_backend.numerics.attribution.influence import influence_spectrum, trak_spectrum
from tda_backend.numerics.attribution.tracin import tracin_scores
from tda_backend.numerics.features.checkpoint_features import CheckpointFeatures, checkpoint_features
from tda_backend.numerics.features.projection import Projection, gaussian_from_gram, nested, project_factors
from tda_backend.numerics.spectral.contraction import scores
from tda_backend.studies.methods import METHODS, method
from tests.helpers_numerics import (
    FACTOR_TASKS,
    NUM_CLASSES,
    TASKS,
    ClassificationExample,
    assert_close,
    dense_groups,
    features_of,
    influence_reference,
    trak_reference,
)

GRID = [0.0, 1e-7, 1e-3, 1.0]
MARGIN_TASKS = [name for name in TASKS if TASKS[name].margin_identity]

BUILDERS = {"iffim": influence_spectrum, "trak": trak_spectrum}


def by_gram(name, features):
    return BUILDERS[name](features, gram=features.full_gram(), dtype=torch.float64)


def tolerance(value):
    return 1e-8 if value in (0.0, 1e-7) else 1e-10  # the condition number is the reference's trouble too


@pytest.mark.parametrize("value", GRID)
@pytest.mark.parametrize("name", TASKS)
def test_iffim_unprojected(name, value):
    truth = dense_groups(TASKS[name])
    spectrum = by_gram("iffim", features_of(TASKS[name]))
    expected = influence_reference(truth["query"], truth["loss"], value)
    assert_close(scores([spectrum], value), expected, tolerance(value))
    assert spectrum.train_weights is None


@pytest.mark.parametrize("value", GRID)
@pytest.mark.parametrize("name", MARGIN_TASKS)
def test_trak_unprojected(name, value):
    truth = dense_groups(TASKS[name])
    spectrum = by_gram("trak", features_of(TASKS[name]))
    expected = trak_reference(truth["query"], truth["train"], torch.sigmoid(truth["goodness"]), value)
    assert_close(scores([spectrum], value), expected, tolerance(value))


@pytest.mark.parametrize("dim", [5, 24, 40], ids=["primal", "n=k", "dual"])
@pytest.mark.parametrize("name", FACTOR_TASKS)
def test_projected_methods(name, dim):
    task = TASKS[name]
    features = features_of(task)
    assert features.factors is not None
    largest = min(48, features.factors.num_parameters)
    if dim > largest:
        pytest.skip("more coordinates than parameters")
    projected = nested(project_factors(features.factors, Projection("gaussian-dense", largest, 0)), dim)
    query, train = projected[features.rows("query")], projected[features.rows("train")]
    if task.margin_identity:
        loss = features.loss_scale[:, None] * train
        spectrum = trak_spectrum(features, projected=projected, dtype=torch.float64)
        for value in GRID:
            expected = trak_reference(query, train, torch.sigmoid(features.goodness[:24]), value)
            assert_close(scores([spectrum], value), expected, 1e-7 if value == 0 else 1e-8)
    else:
        loss = projected[features.rows("train_loss")]
    spectrum = influence_spectrum(features, projected=projected, dtype=torch.float64)
    for value in GRID:
        expected = influence_reference(query, loss, value)
        assert_close(scores([spectrum], value), expected, 1e-7 if value == 0 else 1e-8)


def test_a_very_wide_projection_approaches_the_unprojected_answer():
    features = features_of(TASKS["mlp"])
    projected = gaussian_from_gram(features.full_gram(), 200_000, seed=0, dtype=torch.float64)
    wide = scores([influence_spectrum(features, projected=projected, dtype=torch.float64)], 0.1)
    exact = scores([by_gram("iffim", features)], 0.1)
    assert np.corrcoef(wide.ravel(), exact.ravel())[0, 1] > 0.9999
    assert np.abs(wide - exact).max() < 0.03 * np.abs(exact).max()


@pytest.mark.parametrize("normalization", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_tracin_sums_weighted_dot_products(name, normalization):
    task = TASKS[name]
    models, rates = [task.build_model(seed) for seed in (0, 1)], [0.1, 0.03]
    expected = torch.zeros(10, 24, dtype=torch.float64)
    for model, rate in zip(models, rates, strict=True):
        truth = dense_groups(task, model)
        query, loss = truth["query"], truth["loss"]
        if normalization:
            query, loss = query / query.norm(dim=1, keepdim=True), loss / loss.norm(dim=1, keepdim=True)
        expected -= rate * query @ loss.T
    checkpoints = [features_of(task, model) for model in models]
    assert_close(tracin_scores(checkpoints, rates, normalization).values, expected, 1e-11)


def test_tracin_on_projections_and_its_refusals():
    features = features_of(TASKS["mlp"])
    projected = gaussian_from_gram(features.full_gram(), 32, seed=0, dtype=torch.float64)
    expected = (projected[features.rows("query")] @ projected[features.rows("train")].T) * -features.loss_scale
    assert_close(tracin_scores([features], [1.0], projected=[projected]).values, expected, 1e-11)
    for checkpoints, rates in (([], []), ([features], [0.1, 0.2])):
        with pytest.raises(UsageError, match="learning rate"):
            tracin_scores(checkpoints, rates)


def test_a_vanishing_gradient_scores_zero_under_normalization():
    """A dead unit everywhere: the gradient is exactly zero, and its cosine is 0 rather than 0/0."""
    task = ClassificationExample("dead", lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3, bias=False)))
    model = task.build_model(0)
    nn.init.zeros_(model[0].weight)
    nn.init.constant_(model[0].bias, -1.0)
    values = tracin_scores([features_of(task, model)], [1.0], normalization=True).values
    assert bool((values == 0).all())
    with pytest.raises(NumericalError, match="every training gradient vanishes"):
        by_gram("iffim", features_of(task, model))


@pytest.mark.parametrize("name", MARGIN_TASKS)
def test_margin_features_scaled_are_the_loss_gradients(name):
    truth = dense_groups(TASKS[name])
    features = features_of(TASKS[name])
    assert_close(features.loss_scale[:, None] * truth["train"], truth["loss"], 1e-11)
    assert features.counts == {"train": 24, "validation": 6, "query": 10}
    assert_close(features.goodness[:24], truth["goodness"], 1e-12)


@pytest.mark.parametrize("name", ["mlp", "regression", "conv"])
def test_features_do_not_depend_on_the_batch_size_and_survive_storing(name):
    features = features_of(TASKS[name], batch_size=7)
    whole = features_of(TASKS[name])
    assert_close(features.full_gram(), whole.full_gram(), 1e-12)
    arrays = features.to_arrays()
    assert all(array.dtype != object for array in arrays.values())
    restored = CheckpointFeatures.from_arrays(arrays)
    assert torch.equal(restored.full_gram(), features.full_gram())
    assert restored.counts == features.counts
    assert restored.margin_identity == features.margin_identity
    assert_close(scores([by_gram("iffim", restored)], 1e-2), scores([by_gram("iffim", whole)], 1e-2))
    del arrays["goodness"]
    with pytest.raises(ArtifactError, match="goodness"):
        CheckpointFeatures.from_arrays(arrays)


def test_the_gram_given_is_left_intact():
    features = features_of(TASKS["mlp"])
    gram = features.full_gram()
    kept = gram.clone()
    for name in ("iffim", "trak"):
        BUILDERS[name](features, gram=gram)
    assert torch.equal(gram, kept)


def test_a_positive_score_means_that_up_weighting_really_raises_the_goodness():
    """L2-regularised softmax regression trained to its optimum with each example's weight really raised.

    Labels are drawn from a softmax model, so the empirical Fisher is near the Hessian and the scores should also have
    the right size: n × d goodness / d weight in the mean loss.
    """

    class WellSpecified(ClassificationExample):
        def __init__(self):
            super().__init__("convex", lambda: nn.Linear(3, NUM_CLASSES), (3,), num_train=400, num_test=30)
            generator = torch.Generator().manual_seed(0)
            truth = torch.randn(3, NUM_CLASSES, generator=generator, dtype=torch.float64)
            for split in self._data.values():
                probability = (split["x"] @ truth).softmax(1)
                split["y"] = probability.multinomial(1, generator=generator)[:, 0]

    decay = 1e-2
    task = WellSpecified()
    model, data = task.build_model(0), task.datasets()
    parameters = list(model.parameters())

    def fit(weights: torch.Tensor) -> None:
        def objective(flat):
            torch.nn.utils.vector_to_parameters(torch.from_numpy(flat), parameters)
            value = (weights * task.train_loss(model, data["train"])).sum() / 400
            value = value + 0.5 * decay * sum((p**2).sum() for p in parameters)
            gradient = torch.autograd.grad(value, parameters)
            return float(value.detach()), torch.cat([g.flatten() for g in gradient]).numpy()

        start = torch.nn.utils.parameters_to_vector(parameters).detach().numpy().copy()
        options = {"maxiter": 2000, "gtol": 1e-12, "ftol": 1e-16}
        best = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
        torch.nn.utils.vector_to_parameters(torch.from_numpy(best), parameters)

    def goodness() -> torch.Tensor:
        with torch.no_grad():
            return task.measurement(model, data["test"])

    fit(torch.ones(400))
    features = checkpoint_features(Probe(task, model, data, range(400), range(1), range(30)))
    before = goodness()
    optimum = [p.detach().clone() for p in parameters]
    predicted = {
        "iffim": scores([by_gram("iffim", features)], decay),
        "trak": scores([by_gram("trak", features)], decay),
        "tracin": tracin_scores([features], [1.0]).values.numpy(),
    }
    rows, extra = range(0, 400, 16), 0.5
    actual = []
    for index in rows:
        for parameter, value in zip(parameters, optimum, strict=True):
            parameter.data.copy_(value)
        weights = torch.ones(400)
        weights[index] += extra
        fit(weights)
        actual.append((goodness() - before) * 400 / extra)
    change = torch.stack(actual, 1).numpy()
    large = np.abs(change) > 0.1 * np.abs(change).max()
    for name, values in predicted.items():
        values = values[:, list(rows)]
        agreement = (np.sign(values[large]) == np.sign(change[large])).mean()
        assert agreement > 0.9, (name, agreement)
    influence = predicted["iffim"][:, list(rows)]
    assert np.corrcoef(influence.ravel(), change.ravel())[0, 1] > 0.95
    slope = (influence * change).sum() / (change * change).sum()
    assert 0.8 < slope < 1.25, slope


def test_the_method_table_is_complete_and_refuses_politely():
    assert list(METHODS)[:3] == ["iffim", "trak", "tracin"]
    with pytest.raises(UsageError, match=r"Unknown method 'lime'.*iffim, trak, tracin"):
        method("lime")
    features = features_of(TASKS["mlp"])
    gram = features.full_gram()
    with pytest.raises(UsageError, match="exactly one"):
        influence_spectrum(features)
    with pytest.raises(UsageError, match="exactly one"):
        influence_spectrum(features, gram=gram, projected=gram)
    with pytest.raises(UsageError, match="40 vectors"):
        influence_spectrum(features, projected=torch.zeros(3, 2))
    regression = features_of(TASKS["regression"])
    with pytest.raises(TaskError, match="margin identity"):
        trak_spectrum(regression, gram=regression.full_gram())


def test_non_finite_examples_are_named_by_group_count_and_index():
    task = ClassificationExample("nan", lambda: nn.Linear(6, NUM_CLASSES))
    task.datasets()["test"]["x"][[8, 11]] = torch.nan
    with pytest.raises(NumericalError, match=r"2 of 10 query examples.*first at index 8"):
        features_of(task)
    task = ClassificationExample("sign", lambda: nn.Linear(6, NUM_CLASSES))
    task.measurement_sign = -1
    with pytest.raises(TaskError, match="measurement_sign"):
        features_of(task)
    with pytest.raises(TaskError, match="no query examples"):
        checkpoint_features(Probe(TASKS["mlp"], TASKS["mlp"].build_model(0), TASKS["mlp"].datasets(), [0], [0], []))
