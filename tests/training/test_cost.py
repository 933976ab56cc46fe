"""The estimate of training time has the measured size and grows as the work does."""

from __future__ import annotations

import pytest

from tda_backend.training.cost import training_seconds
from tda_backend.training.registry import load_task
from tests.training.tiny import ResidualTask


@pytest.mark.parametrize(
    ("name", "examples", "measured"),
    [
        ("fmnist-mlp", 4608, 20 * 0.199),  # seconds on one core of a 2-core server
        ("fmnist-mlp", 1536, 20 * 0.063),
        ("mnist-mlp", 2500, 50 * 0.0202),
        ("concrete-mlp", 412, 20 * 0.0025),
        ("mnist-lr-optimum", 2500, 5.07),
        ("concrete-linear-optimum", 824, 0.009),
    ],
)
def test_it_has_the_measured_size(name: str, examples: int, measured: float):
    assert training_seconds(load_task(name), examples) == pytest.approx(measured, rel=0.6)


def test_it_grows_with_examples_and_autograd_costs_more():
    task = load_task("mnist-mlp")
    assert training_seconds(task, 5000) == pytest.approx(2 * training_seconds(task, 2500), rel=0.05)
    assert training_seconds(ResidualTask(), 60) > 0
