"""The hand-written route trains squared error as autograd does, with momentum and decay together too."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tda_backend.models.tasks import RegressionTask
from tda_backend.models.tasks.base import perceptron
from tda_backend.models.tasks.data import validate_data
from tda_backend.models.training.fit import train
from tda_backend.models.training.retraining.plan import Retraining
from tda_backend.models.training.retraining.retraining import retrain_subsets
from tda_backend.models.training.retraining.subsets import subset_masks
from tda_backend.models.training.routes.perceptron import mlp_architecture
from tda_backend.models.training.run import TrainingRun
from tests.training.test_routes import SETTINGS, final_states
from tests.training.tiny import NUM_TRAIN, WIDTH, TinyTask, made
from tests.training.tiny import SETTINGS as BASE


class Curve(RegressionTask):
    """A perceptron 12-9-7-1 with dropout on a curved target, float64."""

    name = "tiny-curve"
    widths: tuple[int, ...] = (WIDTH, 9, 7, 1)
    drop = 0.2

    def __init__(self, **options) -> None:
        self.training = replace(BASE, learning_rate=0.02, **options)

    def datasets(self):
        def split(seed: int, count: int):
            x = made(seed, count, torch.float64)["x"]
            return {"x": x, "y": x[:, 0] * x[:, 1] + x[:, 2].sin()}

        return {"train": split(1, NUM_TRAIN), "test": split(2, 21)}

    def build_model(self, seed: int) -> nn.Module:
        return perceptron(self.widths, seed, self.drop).double()


@pytest.mark.parametrize("route", ["mlp", "stacked", "functional"])
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_every_route_equals_the_autograd_loop(route, options):
    task = Curve(**options)
    indices = [np.flatnonzero(mask) for mask in subset_masks(NUM_TRAIN, 0.5, 3, seed=4)]
    found, expected = (final_states(task, each, indices, [11, 12, 13]) for each in (route, "loop"))
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name in other:
            torch.testing.assert_close(one[name], other[name], rtol=1e-10, atol=1e-12)
    assert not torch.equal(expected[0]["0.weight"], expected[1]["0.weight"])


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from([TinyTask, Curve]),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    decay=st.floats(0, 0.2),
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 2**62),
)
def test_momentum_with_decay_is_exact(kind, momentum, decay, schedule, batch_size, seed):
    """PyTorch adds ω·θ to the gradient before the momentum; so does the hand-written step."""
    task = kind(momentum=momentum, weight_decay=decay, schedule=schedule, batch_size=batch_size)
    indices = [np.arange(40)]
    found, expected = (final_states(task, route, indices, [seed])[0] for route in ("mlp", "loop"))
    for name in expected:
        if bool(expected[name].isfinite().all()):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-11)
        else:  # small batches, momentum and these rates: a run that diverges does so on both routes
            assert not bool(found[name].isfinite().all())


def test_only_the_unchanged_squared_error_of_one_output_is_taken():
    task = Curve()
    data = validate_data(task)["train"]
    model = task.build_model(0)
    found = mlp_architecture(task, model, data)
    assert found is not None
    assert (found.loss, found.sizes) == ("squared", Curve.widths)
    assert mlp_architecture(task, perceptron((WIDTH, 4, 2), 0).double(), data) is None
    assert mlp_architecture(task, model.float(), data) is None
    assert mlp_architecture(task, task.build_model(0), {**data, "y": data["y"].float()}) is None

    class OwnLoss(Curve):
        def output_loss(self, outputs, batch):
            return super().output_loss(outputs, batch) / 2

    class OwnOutputs(Curve):
        def outputs(self, model, batch):
            return 2 * super().outputs(model, batch)

    class OwnMeasurement(Curve):
        def measurement(self, model, batch):
            return self.train_loss(model, batch)

    assert mlp_architecture(OwnLoss(), OwnLoss().build_model(0), data) is None
    assert mlp_architecture(OwnOutputs(), OwnOutputs().build_model(0), data) is None
    assert mlp_architecture(OwnMeasurement(), OwnMeasurement().build_model(0), data) is not None


@pytest.mark.parametrize(("route", "count"), [("loop", None), ("mlp", 2), ("stacked", None)])
def test_retraining_a_regression_gives_goodness(route, count):
    task = Curve()
    masks = subset_masks(NUM_TRAIN, 0.5, 3, seed=2)
    data, rows = validate_data(task), range(NUM_TRAIN)
    reference = retrain_subsets(Retraining(task, data, rows, masks, [0, 1, 2], repeats=1, seed=5), num_processes=1)
    retraining = Retraining(task, data, rows, masks, [0, 1, 2], repeats=1, seed=5, route=route)
    found = retrain_subsets(retraining, num_processes=count)
    np.testing.assert_allclose(found, reference, rtol=1e-5, atol=1e-6)
    assert (found <= 0).all()  # minus an absolute error
    train(TrainingRun(task, data, rows, 0, route="mlp"), [1])
