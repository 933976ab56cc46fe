"""The estimate of training time has the measured size and grows as the work does."""

from __future__ import annotations

import pytest
from torch import nn

from tda_backend.models.tasks.data import validate_data
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.training.retraining.cost import autograd_operations, training_seconds
from tests.training.tiny import ResidualTask, TinyTask


@pytest.mark.parametrize(
    ("name", "examples", "measured"),
    [
        ("fmnist-mlp", 4608, 20 * 0.199),  # seconds on one core of a 2-core server
        ("fmnist-mlp", 1536, 20 * 0.063),
        ("mnist-mlp", 2500, 50 * 0.0202),
        ("concrete-mlp", 412, 20 * 0.0025),
        ("mnist-lr-optimum", 2500, 5.07),
        ("concrete-linear-optimum", 824, 0.009),
        ("mnist-mlp-adamw", 6000, 0.146),
        ("mnist-cnn-adamw", 6000, 0.53),
        ("sotu-gpt", 512, 2.2),
    ],
)
def test_it_has_the_measured_size(name: str, examples: int, measured: float):
    assert training_seconds(load_task(name), examples) == pytest.approx(measured, rel=0.6)


def test_it_grows_with_examples_and_autograd_costs_more():
    task = load_task("mnist-mlp")
    assert training_seconds(task, 5000) == pytest.approx(2 * training_seconds(task, 2500), rel=0.05)
    assert training_seconds(ResidualTask(), 60) > 0


def test_operations_count_every_position():
    """A linear model needs 6 per parameter; a convolution and a GPT use theirs at many positions."""
    counts = {}
    for name in ("mnist-mlp-adamw", "mnist-cnn-adamw", "sotu-gpt"):
        task = load_task(name)
        model = task.build_model(0).train()
        counts[name] = autograd_operations(task, model, validate_data(task)["train"])
        assert model.training
    assert counts["mnist-mlp-adamw"] == 6 * 13_002
    outputs = 12 * 12 * 8 * 25 + 4 * 4 * 24 * 8 * 25 + 10 * 384
    assert counts["mnist-cnn-adamw"] == 6 * outputs
    assert 6 * 64 * 60_000 < counts["sotu-gpt"] < 6 * 64 * 80_000


def test_the_fused_layers_of_an_encoder_are_counted():
    class Encoder(TinyTask):
        name = "encoder"

        def modules(self) -> nn.Module:
            layer = nn.TransformerEncoderLayer(12, 2, 24, dropout=0.0, batch_first=True, dtype=self.dtype)
            return nn.Sequential(nn.Unflatten(1, (1, 12)), layer, nn.Flatten(), nn.Linear(12, 3))

    task = Encoder()
    products = 4 * 12 * 12 + 2 * 12 * 24 + 12 * 3  # attention's four, the perceptron's two, the head; one position
    counted = autograd_operations(task, task.build_model(0), validate_data(task)["train"])
    assert 6 * products <= counted <= 1.2 * 6 * products  # scores of attention and their mixture beside
