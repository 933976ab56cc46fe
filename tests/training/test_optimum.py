"""Training to the exact optimum, and the theorem it is there for: influence functions predict leave-one-out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from tda_backend.errors import NumericalError, TaskError
from tda_backend.models.tasks import RegressionTask
from tda_backend.models.tasks.base import perceptron
from tda_backend.models.tasks.data import validate_data
from tda_backend.models.tasks.noise import flip_labels
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.training.fit import run_trainer, single_trainer, train
from tda_backend.models.training.retraining.plan import Retraining
from tda_backend.models.training.retraining.retraining import retrain_subsets
from tda_backend.models.training.retraining.subsets import subset_masks
from tda_backend.models.training.routes.optimum import GRADIENT_NORM
from tda_backend.models.training.run import TrainingRun
from tda_backend.types import TrainingSettings
from tests.training.tiny import NUM_TRAIN, WIDTH, TinyTask, made

DECAY = 1e-2
OPTIMUM = TrainingSettings(num_epochs=1, batch_size=8, learning_rate=0.1, weight_decay=DECAY, optimizer="lbfgs")


class Logistic(TinyTask):
    """Three classes by a linear model in float64, trained to the optimum."""

    name = "tiny-logistic"

    def __init__(self, **settings) -> None:
        super().__init__()
        self.training = replace(OPTIMUM, **settings)

    def datasets(self):
        train = made(1, 200, torch.float64)  # with wrong labels: separable classes would give single rows much leverage
        noisy, _ = flip_labels(train["y"], range(200), 0.3, 3, seed=0)
        return {"train": {**train, "y": noisy}, "test": made(2, 15, torch.float64)}

    def modules(self) -> nn.Module:
        return nn.Sequential(nn.Linear(WIDTH, 3))


class Ridge(RegressionTask):
    """Linear regression in float64, whose optimum has a closed form."""

    name = "tiny-ridge"
    training = OPTIMUM

    def datasets(self):
        def split(seed: int, count: int):
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(count, 5, generator=generator, dtype=torch.float64)
            noise = torch.randn(count, generator=generator, dtype=torch.float64)
            return {"x": x, "y": x[:, 0] - 2 * x[:, 1] + 0.5 * noise}

        return {"train": split(1, 200), "test": split(2, 15)}

    def build_model(self, seed: int) -> nn.Module:
        return perceptron((5, 1), seed).double()


def mean_loss(task, model, batch):
    penalty = sum(p.square().sum() for p in model.parameters())
    return task.train_loss(model, batch).mean() + 0.5 * task.training.weight_decay * penalty


def optimum(task, rows, seed=0):
    data = validate_data(task)["train"]
    return train(TrainingRun(task, {"train": data}, rows, seed), [1])[0].state


def test_ridge_regression_has_its_closed_form():
    """θ = (2XᵀX/n + ωI)⁻¹·2Xᵀy/n; the intercept is penalised like any other parameter."""
    task = Ridge()
    data = validate_data(task)["train"]
    rows = np.arange(3, 33)
    x = torch.cat([data["x"][rows], torch.ones(30, 1, dtype=torch.float64)], dim=1)
    gram = 2 * x.T @ x / 30 + DECAY * torch.eye(6, dtype=torch.float64)
    expected = torch.linalg.solve(gram, 2 * x.T @ data["y"][rows] / 30)
    state = optimum(task, rows)
    found = torch.cat([state["0.weight"][0], state["0.bias"]])
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("task", [Logistic(), Ridge()], ids=lambda task: task.name)
def test_gradient_vanishes_and_the_start_does_not_matter(task):
    data = validate_data(task)["train"]
    state, other = optimum(task, np.arange(40), 1), optimum(task, np.arange(40), 2)
    model = task.build_model(0)
    model.load_state_dict(state)
    batch = {key: value[:40] for key, value in data.items()}
    gradients = torch.autograd.grad(mean_loss(task, model, batch), list(model.parameters()))
    assert torch.cat([g.reshape(-1) for g in gradients]).norm() <= GRADIENT_NORM
    for name, value in state.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=2 * GRADIENT_NORM / DECAY)


@pytest.mark.parametrize("task", [Logistic(), Ridge()], ids=lambda task: task.name)
def test_influence_functions_at_the_optimum_predict_leave_one_out(task):
    """∇f·(H + ωI)⁻¹·∇ℓ_z / n against f(D) − f(D∖z): nearly perfect for every query, in rank and in size.

    Removing z also renormalises the mean, which adds the same (ω/n)·∇f·(H + ωI)⁻¹θ to every z of a query.
    """
    data = validate_data(task)
    count = 200
    rows = np.arange(count)
    model = task.build_model(0)
    model.load_state_dict(optimum(task, rows))
    parameters = list(model.parameters())
    batch = {key: value[:count] for key, value in data["train"].items()}

    def rowwise(values):
        return torch.stack(
            [
                torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters, retain_graph=True)])
                for value in values
            ]
        )

    gradient = torch.autograd.grad(mean_loss(task, model, batch), parameters, create_graph=True)
    hessian = rowwise(torch.cat([g.reshape(-1) for g in gradient]))  # holds ω: λ = weight decay
    losses = rowwise(task.train_loss(model, batch))
    goodness = task.measurement_sign * task.measurement(model, data["test"])
    queries = rowwise(goodness)
    theta = torch.cat([p.detach().reshape(-1) for p in parameters])
    predicted = -queries @ torch.linalg.solve(hessian, (losses + DECAY * theta).T) / (count - 1)

    left_out = ~np.eye(count, dtype=bool)
    outputs = retrain_subsets(Retraining(task, data, rows, left_out, range(count), repeats=1, seed=0), num_processes=1)[
        :, 0
    ]
    effect = goodness.detach().numpy()[:, None] - outputs.T  # positive: the example helped
    assert effect.shape == predicted.shape
    influence = predicted.numpy()
    correlations = [spearmanr(p, e).statistic for p, e in zip(influence, effect, strict=True)]
    assert np.mean(correlations) > 0.995
    assert min(correlations) > 0.97
    slope = float((influence * effect).sum() / (influence**2).sum())
    assert 1 < slope < 1 + 1.5 * len(theta) / count  # the second order: an effect grows by about its leverage, p/n


@pytest.mark.parametrize("name", ["concrete-linear-optimum", "diabetes-optimum"])
def test_shipped_tasks_reach_their_optimum(name):
    task = load_task(name)
    data = validate_data(task)["train"]
    model = task.build_model(0).double()
    rows = np.arange(200)
    model.load_state_dict(optimum(task, rows))
    batch = {key: value[rows].double() for key, value in data.items()}
    gradients = torch.autograd.grad(mean_loss(task, model, batch), list(model.parameters()))
    # stored in float32: the gradient is as far from zero as rounding the parameters takes it
    assert torch.cat([g.reshape(-1) for g in gradients]).norm() < 1e-6


def test_processes_agree_with_one_process():
    task = load_task("diabetes-optimum")
    data, rows = validate_data(task), np.arange(120)
    masks = subset_masks(120, 0.5, 3, 0)
    found = [
        retrain_subsets(Retraining(task, data, rows, masks, range(3), repeats=1, seed=3), num_processes=count)
        for count in (1, 2)
    ]
    np.testing.assert_array_equal(found[0], found[1])


def test_a_loss_without_optimum_says_how_far_it_came():
    class Unbounded(Ridge):
        name = "tiny-unbounded"

        def train_loss(self, model, batch):
            return -model(batch["x"])[:, 0].square()

    with pytest.raises(NumericalError, match=r"stops at a gradient of norm .*wanted 1e-08"):
        optimum(Unbounded(), np.arange(20))


def test_dropout_has_no_optimum():
    class Random(Logistic):
        def modules(self):
            return nn.Sequential(nn.Linear(WIDTH, 4), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4, 3))

    with pytest.raises(TaskError, match="Dropout"):
        optimum(Random(), np.arange(20))


@pytest.mark.parametrize(
    "settings",
    [{"num_epochs": 2}, {"weight_decay": 0.0}, {"optimizer": "adagrad"}, {"clip_norm": 1.0}, {"warmup": 0.1}],
    ids=lambda s: next(iter(s)),
)
def test_settings_that_have_no_meaning_are_refused(settings):
    task = Logistic(**settings)
    with pytest.raises(TaskError, match=r"optimizer|optimum"):
        train(TrainingRun(task, validate_data(task), [0], 0), [1])


def test_steps_cannot_be_replayed():
    task = Logistic()
    data, rows = validate_data(task)["train"], np.arange(NUM_TRAIN)
    with pytest.raises(TaskError, match="to its optimum"):
        single_trainer(TrainingRun(task, {"train": data}, rows, 0, "cpu", "auto"))
    assert len(run_trainer(TrainingRun(task, {"train": data}, rows, 0, "cpu", "auto")).states()) == 1
