"""Baselines against loops written out by hand, their signs, limits and refusals."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.models.probe import Probe
from tda_backend.numerics.attribution.baselines import gradient_similarity, random_scores
from tda_backend.numerics.attribution.empirical import empirical_influence
from tda_backend.numerics.attribution.nearest import InputMeasure, nearest_inputs
from tda_backend.numerics.attribution.representation import representation_similarity
from tda_backend.numerics.attribution.tracin import tracin_scores
from tda_backend.numerics.features.projection import gaussian_from_gram
from tests.helpers_numerics import TASKS, ClassificationExample, assert_close, dense_groups, features_of

TRAIN, QUERIES = range(24), range(6, 16)


def cosines(left: Tensor, right: Tensor) -> Tensor:
    """Return all cosines, one pair at a time."""
    return torch.tensor([[float(a @ b / (a.norm() * b.norm())) for b in right] for a in left], dtype=torch.float64)


def similarity(name: str, layer: str | None = None, batch_size: int = 512) -> Tensor:
    task = TASKS[name]
    probe = Probe(task, task.build_model(0), task.datasets(), TRAIN, query=QUERIES, batch_size=batch_size)
    return representation_similarity(probe, layer=layer).values


# --- representations ---------------------------------------------------------------------------------------------


def test_representations_are_the_inputs_of_the_last_linear_layer():
    task = TASKS["mlp"]
    model, data = task.build_model(0).eval(), task.datasets()
    hidden = {split: model[:3](rows["x"]).detach() for split, rows in data.items()}
    expected = cosines(hidden["test"][6:16], hidden["train"])
    assert_close(similarity("mlp"), expected, 1e-12)
    assert float(similarity("mlp").max()) > 0.5
    first = cosines(data["test"]["x"][6:16], data["train"]["x"])
    assert_close(similarity("mlp", layer="0"), first, 1e-12)
    assert_close(similarity("linear"), first, 1e-12)


def test_positions_are_averaged_and_order_and_batches_do_not_matter():
    task = TASKS["positions"]
    model, data = task.build_model(0), task.datasets()
    expected = cosines(data["test"]["x"][6:16].mean(1), data["train"]["x"].mean(1))
    assert_close(similarity("positions", layer="first"), expected, 1e-12)
    whole = similarity("positions")
    assert_close(similarity("positions", batch_size=3), whole, 1e-12)
    order = [3, 0, 20]
    shuffled = representation_similarity(Probe(task, model, data, order, query=QUERIES)).values
    assert_close(shuffled, whole[:, order], 1e-12)


@pytest.mark.parametrize("name", ["regression", "conv", "cnn", "transformer"])
def test_every_model_with_a_linear_layer_has_representations(name):
    values = similarity(name)
    assert values.shape == (10, 24)
    assert float(values.abs().max()) <= 1 + 1e-12


def test_the_layer_that_is_called_last_counts_not_the_one_defined_last():
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body = nn.Linear(4, 3), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.body(x)))

    task = ClassificationExample("backwards", Backwards)
    model, data = task.build_model(0), task.datasets()
    hidden = {split: torch.tanh(model.body(rows["x"])).detach() for split, rows in data.items()}
    expected = cosines(hidden["test"][6:16], hidden["train"])
    assert_close(representation_similarity(Probe(task, model, data, TRAIN, query=QUERIES)).values, expected, 1e-12)


def test_models_without_representations_say_what_to_do():
    convolutional = ClassificationExample(
        "bare", lambda: nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 6), nn.Flatten())
    )
    model, data = convolutional.build_model(0), convolutional.datasets()
    with pytest.raises(TaskError, match=r"calls no nn\.Linear layer.*layer ="):
        representation_similarity(Probe(convolutional, model, data, TRAIN, query=QUERIES))
    named = representation_similarity(Probe(convolutional, model, data, TRAIN, query=QUERIES), layer="1").values
    assert_close(named, cosines(data["test"]["x"][6:16], data["train"]["x"]), 1e-12)
    with pytest.raises(TaskError, match="no module 'tail'"):
        similarity("mlp", layer="tail")
    dead = ClassificationExample("dead", lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)))
    model = dead.build_model(0)
    nn.init.constant_(model[0].bias, -1e3)
    with pytest.raises(NumericalError, match="all train examples are zero"):
        representation_similarity(Probe(dead, model, dead.datasets(), TRAIN, query=QUERIES))
    nn.init.constant_(model[0].weight, torch.nan)
    with pytest.raises(NumericalError, match=r"24 of 24.*not finite"):
        representation_similarity(Probe(dead, model, dead.datasets(), TRAIN, query=QUERIES))
    folded = ClassificationExample("folded", lambda: Folded())
    with pytest.raises(TaskError, match="first axis"):
        representation_similarity(Probe(folded, folded.build_model(0), folded.datasets(), TRAIN, query=QUERIES))


class Folded(nn.Module):
    """Folds positions into the axis of examples."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.reshape(-1, 3)).view(len(x), 2, 3).mean(1)


def test_modes_and_hooks_are_left_as_they_were():
    task = TASKS["mlp"]
    model = task.build_model(0).train()
    representation_similarity(Probe(task, model, task.datasets(), TRAIN, query=QUERIES))
    assert model.training
    assert model[2].training
    assert not any(module._forward_pre_hooks for module in model.modules())


# --- gradients ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_gradient_similarity_is_minus_the_product_with_the_loss_gradient(name):
    truth = dense_groups(TASKS[name])
    features = features_of(TASKS[name])
    assert_close(gradient_similarity(features).values, -truth["query"] @ truth["loss"].T, 1e-11)
    assert_close(gradient_similarity(features, "cosine").values, -cosines(truth["query"], truth["loss"]), 1e-11)


def test_gradient_similarity_of_projections_is_tracin_at_one_checkpoint():
    features = features_of(TASKS["mlp"])
    projected = gaussian_from_gram(features.full_gram(), 16, seed=0, dtype=torch.float64)
    expected = tracin_scores([features], [1.0], projected=[projected]).values
    assert torch.equal(gradient_similarity(features, projected=projected).values, expected)
    with pytest.raises(UsageError, match="Allowed: dot, cosine"):
        gradient_similarity(features, "angle")


def test_one_step_on_an_example_raises_goodness_where_the_score_is_positive():
    """The sign against the model itself: a small gradient step on z_i changes goodness by η·score."""
    task = TASKS["mlp"]
    model, data = task.build_model(0), task.datasets()
    scores = gradient_similarity(features_of(task)).values
    before = task.measurement(model.eval(), data["test"])[6:16].detach()
    for index in (0, 7):
        stepped = task.build_model(0).eval()
        loss = task.train_loss(stepped, {key: value[index : index + 1] for key, value in data["train"].items()}).sum()
        gradients = torch.autograd.grad(loss, list(stepped.parameters()))
        for parameter, gradient in zip(stepped.parameters(), gradients, strict=True):
            parameter.data -= 1e-6 * gradient
        change = (task.measurement(stepped, data["test"])[6:16].detach() - before) / 1e-6
        assert_close(change, scores[:, index], 1e-4)


# --- inputs ------------------------------------------------------------------------------------------------------


def inputs(name: str = "mlp") -> tuple[Tensor, Tensor, Tensor]:
    """Return standardised (train, query) inputs and whether classes agree ``[m, n]``."""
    data = TASKS[name].datasets()
    train, query = data["train"]["x"].flatten(1), data["test"]["x"][6:16].flatten(1)
    mean, deviation = train.mean(0), train.var(0, correction=0).sqrt()
    same = data["test"]["y"][6:16, None] == data["train"]["y"]
    return (train - mean) / deviation, (query - mean) / deviation, same


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", ["mlp", "positions", "cnn"])
def test_nearest_inputs_written_out(name, signed):
    train, query, same = inputs(name)
    sign = torch.where(same, 1.0, -1.0).double()
    distances = torch.tensor([[float((a - b).norm()) for b in train] for a in query], dtype=torch.float64)
    kernel = sign * torch.exp(-(distances**2) / (2 * (distances**2).mean()))
    task = TASKS[name]
    arguments = (task, task.datasets(), TRAIN, QUERIES)
    actual = nearest_inputs(*arguments, InputMeasure("euclidean", signed)).values
    assert_close(actual, kernel if signed else -distances, 1e-11)
    actual = nearest_inputs(*arguments, InputMeasure("cosine", signed)).values
    assert_close(actual, cosines(query, train) * (sign if signed else 1), 1e-11)


def test_the_closer_the_more_it_helps_or_hurts():
    task = TASKS["mlp"]
    _, _, same = inputs()
    near = nearest_inputs(task, task.datasets(), TRAIN, QUERIES).values
    signed = nearest_inputs(task, task.datasets(), TRAIN, QUERIES, InputMeasure(signed=True)).values
    assert bool(((signed > 0) == same).all())
    for row in range(10):
        for group, direction in ((same[row], 1), (~same[row], -1)):
            order = near[row][group].argsort()
            assert bool((direction * signed[row][group][order].diff() >= 0).all())


def test_a_duplicate_is_at_distance_zero_and_constant_inputs_do_not_count():
    task = ClassificationExample("twin", lambda: nn.Linear(6, 3))
    data = task.datasets()
    data["test"]["x"][6] = data["train"]["x"][4]
    for rows in data.values():
        rows["x"][:, 2] = 0.1  # constant
    values = nearest_inputs(task, data, TRAIN, QUERIES).values
    assert float(values[0, 4]) == 0.0
    assert int(values[0].argmax()) == 4
    without = {split: {**rows, "x": rows["x"][:, [0, 1, 3, 4, 5]]} for split, rows in data.items()}
    assert_close(values, nearest_inputs(task, without, TRAIN, QUERIES).values, 1e-9)


def test_raw_inputs_and_the_choice_of_key():
    task = TASKS["mlp"]
    data = task.datasets()
    raw = nearest_inputs(task, data, TRAIN, QUERIES, InputMeasure(metric="cosine", standardize=False)).values
    assert_close(raw, cosines(data["test"]["x"][6:16], data["train"]["x"]), 1e-12)
    two = {split: {**rows, "weight": torch.ones(len(rows["y"]))} for split, rows in data.items()}
    with pytest.raises(UsageError, match=r"not clear: 2 entries.*x, weight"):
        nearest_inputs(task, two, TRAIN, QUERIES)
    assert_close(
        nearest_inputs(task, two, TRAIN, QUERIES, InputMeasure(input_key="x")).values,
        nearest_inputs(task, data, TRAIN, QUERIES).values,
        1e-15,
    )
    for settings, expected in (
        ({"input_key": "y"}, "no floating-point entry 'y'"),
        ({"metric": "l1"}, "Allowed: euclidean, cosine"),
    ):
        with pytest.raises(UsageError, match=expected):
            nearest_inputs(task, data, TRAIN, QUERIES, InputMeasure(**settings))
    with pytest.raises(UsageError, match="tokens have no distance"):
        nearest_inputs(TASKS["transformer"], TASKS["transformer"].datasets(), TRAIN, QUERIES)
    floats = {split: {**rows, "y": rows["y"].double()} for split, rows in data.items()}
    with pytest.raises(UsageError, match="one class per example"):
        nearest_inputs(task, floats, TRAIN, QUERIES, InputMeasure(signed=True))
    broken = {split: {**rows, "x": rows["x"].clone()} for split, rows in data.items()}
    broken["train"]["x"][5, 0] = torch.nan
    with pytest.raises(NumericalError, match=r"1 train inputs.*position 5"):
        nearest_inputs(task, broken, TRAIN, QUERIES)


# --- chance ------------------------------------------------------------------------------------------------------


def test_random_scores_belong_to_the_pair_whatever_else_is_asked():
    whole = random_scores(3, range(3000), range(4)).values
    assert whole.dtype == torch.float32
    part = random_scores(3, [2047, 5, 1023, 1024, 2999], [3, 1]).values
    assert torch.equal(part, whole[[3, 1]][:, [2047, 5, 1023, 1024, 2999]])
    assert torch.equal(random_scores(3, torch.arange(100, 200), [2]).values, whole[2:3, 100:200])


def test_random_scores_are_independent_standard_normals():
    values = torch.cat([random_scores(seed, range(5000), range(6)).values for seed in (0, 1, 2)]).double()
    assert abs(float(values.mean())) < 5 / 90_000**0.5
    assert abs(float(values.var()) - 1) < 5 * (2 / 90_000) ** 0.5
    assert abs(float((values**4).mean()) - 3) < 5 * (96 / 90_000) ** 0.5
    correlations = torch.corrcoef(values)  # queries and seeds share nothing
    assert float((correlations - torch.eye(18)).abs().max()) < 5 / 5000**0.5
    blocks = torch.corrcoef(values[:, :4096].reshape(18, 4, 1024).flatten(0, 1))  # nor do blocks of train examples
    assert float((blocks - torch.eye(72)).abs().max()) < 5.5 / 1024**0.5


# --- downsampling ------------------------------------------------------------------------------------------------


def test_empirical_influence_is_a_difference_of_means():
    rng = np.random.default_rng(0)
    masks, outputs = rng.random((30, 8)) < 0.5, rng.standard_normal((30, 5)) + 1e3
    expected = np.array(
        [[outputs[masks[:, i], j].mean() - outputs[~masks[:, i], j].mean() for i in range(8)] for j in range(5)]
    )
    assert_close(empirical_influence(masks, outputs).values, expected, 1e-9)
    order = rng.permutation(30)
    assert_close(empirical_influence(masks[order], torch.from_numpy(outputs[order])).values, expected, 1e-9)


def test_additive_goodness_is_recovered_exactly_from_all_subsets():
    """f(A) = Σ_{i∈A} w_i: over all 2ⁿ subsets the influence of z_i is w_i; over one size, w_i − mean of the others."""
    weights = torch.tensor([2.0, -1.0, 0.5, 0.0, 3.0], dtype=torch.float64)
    everything = torch.tensor(list(itertools.product([False, True], repeat=5)))
    outputs = (everything.double() @ weights)[:, None]
    assert_close(empirical_influence(everything, outputs).values[0], weights, 1e-12)
    half = everything[everything.sum(1) == 2]
    expected = [float(w - (weights.sum() - w) / 4) for w in weights]
    assert_close(empirical_influence(half, (half.double() @ weights)[:, None]).values[0], expected, 1e-12)


def test_empirical_influence_refuses_what_it_cannot_answer():
    masks = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 1]], dtype=bool)
    outputs = np.zeros((4, 2))
    with pytest.raises(UsageError, match=r"positions 2 are in all of the 4 subsets.*more subsets"):
        empirical_influence(masks, outputs)
    with pytest.raises(UsageError, match=r"positions 2 are in none of the 4"):
        empirical_influence(masks & [True, True, False], outputs)
    good = masks[:, :2]
    cases: list[tuple[Any, Any, str]] = [
        (good, outputs[:3], "do not fit"),
        (good[0], outputs, "do not fit"),
        (good.astype(float), outputs, "Give bool"),
    ]
    for first, second, expected in cases:
        with pytest.raises(UsageError, match=expected):
            empirical_influence(first, second)
    with pytest.raises(NumericalError, match=r"1 of 4 subsets.*first: 2"):
        empirical_influence(good, np.where(np.arange(4)[:, None] == 2, np.nan, outputs))
    with pytest.raises(UsageError, match=r"2 subsets \(first: 1\) are also subsets of the evaluation"):
        empirical_influence(good, outputs, evaluation_masks=good[[3, 1]])
    with pytest.raises(UsageError, match="do not fit masks"):
        empirical_influence(good, outputs, evaluation_masks=masks)
    assert empirical_influence(good, outputs, evaluation_masks=np.zeros((0, 2), dtype=bool)).values.shape == (2, 2)
    assert F.mse_loss(empirical_influence(good, outputs).values, torch.zeros(2, 2).double()) == 0
