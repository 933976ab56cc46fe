"""The built-in tasks: data, models, settings and displays are those of the papers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
import pytest
import torch

from tda_backend.models.checking.check import check_task
from tda_backend.models.tasks import BUILT_IN, margin
from tda_backend.models.tasks.base import RegressionTask
from tda_backend.models.tasks.built_in.rotated import rotated
from tda_backend.models.tasks.data import shipped_arrays, take, validate_data
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.training.fit import model_from, train
from tda_backend.models.training.outputs import evaluate
from tda_backend.models.training.routes.perceptron import mlp_architecture
from tda_backend.models.training.run import TrainingRun
from tda_backend.types import Task

# name → (settings that differ from SGD without momentum or decay, widths, train rows, test rows)
EXPECTED = {
    "mnist-mlp": ((50, 64, 0.01, 0.9, 0.0), (784, 128, 64, 10), 7000, 2000),
    "mnist-mlp-early": ((3, 64, 0.01, 0.9, 0.0), (784, 128, 64, 10), 7000, 2000),
    "mnist-lr": ((20, 32, 0.01, 0.0, 0.0), (784, 10), 7000, 2000),
    "mnist-lr-optimum": ((1, 32, 0.01, 0.0, 1e-3), (784, 10), 7000, 2000),
    "mnist-mlp-512": ((20, 64, 0.03, 0.9, 1e-3), (784, 512, 256, 128, 10), 7000, 2000),
    "fmnist-mlp": ((20, 64, 0.03, 0.9, 1e-3), (784, 512, 256, 128, 10), 7000, 2000),
    "fmnist-noisy": ((3, 64, 0.01, 0.9, 3e-5), (784, 512, 256, 128, 10), 7000, 2000),
    "fmnist-mlp-128": ((50, 64, 0.01, 0.9, 0.0), (784, 128, 64, 10), 7000, 2000),
    "fmnist-lr": ((20, 32, 0.01, 0.0, 0.0), (784, 10), 7000, 2000),
    "rotated-mnist": ((20, 64, 0.03, 0.9, 1e-3), (784, 512, 256, 128, 10), 7000, 2000),
    "concrete-mlp": ((20, 32, 0.03, 0.9, 1e-5), (8, 128, 128, 128, 1), 824, 206),
    "concrete-linear": ((3, 32, 0.01, 0.0, 0.0), (8, 1), 824, 206),
    "concrete-linear-optimum": ((1, 32, 0.01, 0.0, 1e-3), (8, 1), 824, 206),
    "diabetes-lr": ((3, 32, 0.01, 0.0, 0.0), (10, 1), 342, 100),
    "diabetes-optimum": ((1, 32, 0.01, 0.0, 1e-3), (10, 1), 342, 100),
    "mnist-mlp-adamw": ((1, 64, 0.001, 0.0, 0.0), (784, 16, 16, 10), 7000, 2000),
}
NO_PERCEPTRONS = ("mnist-mlp-gelu", "mnist-cnn-adamw", "sotu-gpt")  # test_differentiable_tasks.py
REGRESSION = [name for name, row in EXPECTED.items() if row[1][-1] == 1]


@cache
def loaded(name: str) -> Task:
    return load_task(name)


def small(task: Task, rows: int = 40) -> Task:
    """The same task with few examples, so that every check is quick."""
    few = {split: take(batch, slice(0, rows)) for split, batch in validate_data(task).items()}

    class Small(type(task)):
        def datasets(self):
            return few

    copy = Small()
    copy.name = task.name
    return copy


def test_every_task_is_listed_here():
    assert {*EXPECTED, *NO_PERCEPTRONS} == set(BUILT_IN)


@pytest.mark.parametrize("name", EXPECTED)
def test_settings_widths_and_sizes(name: str):
    task = loaded(name)
    settings, widths, num_train, num_test = EXPECTED[name]
    assert task.name == name
    found = task.training
    assert found is not None
    assert (
        found.num_epochs,
        found.batch_size,
        found.learning_rate,
        found.momentum,
        found.weight_decay,
    ) == settings
    assert found.optimizer == {"optimum": "lbfgs", "adamw": "adamw"}.get(name.rpartition("-")[2], "sgd")
    assert found.schedule == "constant"
    data = validate_data(task)
    assert {split: len(batch["y"]) for split, batch in data.items()} == {"train": num_train, "test": num_test}
    architecture = mlp_architecture(task, task.build_model(0), data["train"])
    linear = [module for module in task.build_model(0).modules() if isinstance(module, torch.nn.Linear)]
    assert (linear[0].in_features, *(module.out_features for module in linear)) == widths
    if found.optimizer != "sgd":
        assert architecture is None
        return
    assert architecture is not None, "the hand-written route serves every built-in perceptron trained by SGD"
    assert architecture.sizes == widths
    assert architecture.dropout == ((0.1, 0.1) if widths == (784, 128, 64, 10) else (0.0,) * (len(widths) - 2))


@pytest.mark.parametrize("name", [*EXPECTED, *NO_PERCEPTRONS])
def test_every_task_keeps_its_contract(name: str):
    checks = check_task(small(loaded(name)))
    assert [check for check in checks if not check.passed] == []
    assert {"sign", "gradients", "display", "training route", "margin identity"} <= {check.name for check in checks}


@pytest.mark.parametrize("name", EXPECTED)
def test_inputs_are_standardised(name: str):
    data = validate_data(loaded(name))["train"]
    assert float(data["x"].mean()) == pytest.approx(0, abs=0.05)
    assert float(data["x"].std()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", REGRESSION)
def test_regression_targets_lead_back_to_their_own_unit(name: str):
    task = loaded(name)
    assert isinstance(task, RegressionTask)
    data = validate_data(task)
    assert float(data["train"]["y"].mean()) == pytest.approx(0, abs=1e-5)
    assert float(data["train"]["y"].std(correction=0)) == pytest.approx(1, abs=1e-5)
    shown = task.show("test", 3)
    assert shown.kind == "row"
    assert isinstance(shown.row, Mapping)
    assert len(shown.row) == data["test"]["x"].shape[1] + 1
    value = list(shown.row.values())[-1]
    assert task.target_text(float(data["test"]["y"][3])).split()[0] == f"{value:.4g}"
    assert f"{value:.4g}" in shown.caption


def test_table_splits_are_disjoint_and_whole():
    task = loaded("concrete-mlp")
    strengths = sorted(
        list(task.show(split, index).row.values())[-1]
        for split, count in (("train", 824), ("test", 206))
        for index in range(count)
    )
    assert strengths == sorted(shipped_arrays("concrete.npz")["targets"].tolist())


def test_regression_loss_measurement_and_samples():
    """(ŷ − y)² is −log p of variance ½: samples have it, and its expected squared score is the Gauss–Newton matrix."""
    task = loaded("concrete-linear")
    assert isinstance(task, RegressionTask)
    batch = take(validate_data(task)["train"], slice(0, 5))
    model = task.build_model(0)
    value = model(batch["x"])[:, 0]
    torch.testing.assert_close(task.train_loss(model, batch), (value - batch["y"]) ** 2)
    torch.testing.assert_close(task.measurement(model, batch), (value - batch["y"]).abs())
    torch.testing.assert_close(task.predict(model, batch), value)
    outputs = torch.zeros(100_000, 1)
    drawn = task.sample_targets(outputs, torch.Generator().manual_seed(0))
    assert float(drawn.var()) == pytest.approx(0.5, rel=0.02)
    scores = 2 * (outputs[:, 0] - drawn)  # ∂loss/∂output
    assert float(scores.square().mean()) == pytest.approx(2, rel=0.02)  # its second derivative
    assert task.measurement_sign == -1


def test_noisy_task_relabels_thirty_per_cent_of_the_training_labels():
    noisy, clean = loaded("fmnist-noisy"), loaded("fmnist-mlp")
    flipped = noisy.noisy_rows()
    assert flipped is not None
    assert int(flipped.sum()) == 2100
    labels, truth = (validate_data(task)["train"]["y"] for task in (noisy, clean))
    assert torch.equal(labels != truth, flipped)
    assert torch.equal(validate_data(noisy)["test"]["y"], validate_data(clean)["test"]["y"])
    assert torch.equal(validate_data(noisy)["train"]["x"], validate_data(clean)["train"]["x"])
    wrong, right = int(flipped.nonzero()[0]), int((~flipped).nonzero()[0])
    assert clean.class_names[int(truth[wrong])] in noisy.show("train", wrong).caption.partition("(in truth ")[2]
    assert "truth" not in noisy.show("train", right).caption
    assert clean.noisy_rows() is None


def test_noise_does_not_depend_on_the_instance_and_the_source_names_its_class():
    one, other = load_task("fmnist-noisy"), load_task("fmnist-noisy")
    assert torch.equal(validate_data(one)["train"]["y"], validate_data(other)["train"]["y"])
    assert "noise_fraction" in one.source()


def test_pictures_turn_counter_clockwise():
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28)).astype(np.uint8)
    np.testing.assert_array_equal(rotated(images, 90), np.rot90(images, 1, axes=(1, 2)))
    np.testing.assert_array_equal(rotated(images, 0), images)
    turned = rotated(rotated(images // 4 * 0 + 200, 45), -45)
    assert turned[:, 14, 14].tolist() == [200, 200]
    assert turned[0, 0, 0] == 0  # a corner leaves the picture


def test_rotated_mnist_has_five_equal_domains_and_queries_of_the_last():
    task = loaded("rotated-mnist")
    data = validate_data(task)
    assert int(data["train"]["stage"].sum()) == 1400
    assert bool((data["test"]["stage"] == 1).all())
    captions = [task.show("train", index).caption for index in range(0, 7000, 50)]
    assert {caption.rpartition(" ")[2] for caption in captions} == {"0°", "15°", "30°", "45°", "60°"}
    assert task.show("test", 0).caption.endswith("60°")
    assert [stage.num_epochs for stage in task.stages] == [10, 10]
    shown = task.show("test", 5).image
    assert shown is not None
    expected = rotated(shipped_arrays("mnist.npz")["test_images"][5:6], 60)[0]
    np.testing.assert_array_equal(shown, expected)
    assert "Stage(" in task.source()


@pytest.mark.parametrize(("name", "least"), [("concrete-mlp", 0.8), ("fmnist-lr", 0.75)])
def test_what_is_trained_predicts(name: str, least: float):
    """Explained variance, or accuracy, on the test split after a short training on few rows."""
    task = loaded(name)
    data = validate_data(task)
    end = 20 if name == "concrete-mlp" else 6
    rows = np.arange(len(data["train"]["y"]))[:2000]
    state = train(TrainingRun(task, data, rows, 0), [end])[-1].state
    says = evaluate(task, model_from(task, state), data["test"])
    assert says.prediction is not None
    if task.num_classes is None:
        error = (says.prediction - data["test"]["y"]).square().mean() / data["test"]["y"].var()
        assert 1 - float(error) > least
        torch.testing.assert_close(says.goodness, -(says.prediction - data["test"]["y"]).abs())
    else:
        assert float((says.prediction == data["test"]["y"]).float().mean()) > least


def test_margin_stays_exported():
    assert float(margin(torch.tensor([[0.0, 0.0]]), torch.tensor([0]))[0]) == 0
