"""``tda check`` passes good tasks and finds each broken promise under its own name."""

from __future__ import annotations

import re

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tda_backend.errors import TaskError
from tda_backend.models.checking.check import check_task
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.training.checkpoints import load_checkpoints
from tda_backend.types import Display
from tests.training.tiny import BranchingTask, NormTask, RegressionTask, ResidualTask, TinyTask


def failures(task):
    """Return {name: detail} of the checks that fail."""
    return {check.name: check.detail for check in check_task(task) if not check.passed}


@pytest.mark.parametrize("kind", [TinyTask, ResidualTask, NormTask, RegressionTask])
def test_good_tasks_pass(kind):
    assert failures(kind()) == {}


@pytest.mark.shipped_data
@pytest.mark.parametrize("name", ["mnist-mlp", "mnist-lr"])
def test_built_in_tasks_pass(name):
    checks = check_task(load_task(name))
    assert all(check.passed for check in checks)
    assert len({check.name for check in checks}) == len(checks) >= 11
    assert all(check.detail and "\n" not in check.detail for check in checks)


class MeanLoss(TinyTask):
    def train_loss(self, model, batch):
        return super().train_loss(model, batch).mean()


class MixedLoss(TinyTask):
    def train_loss(self, model, batch):
        loss = super().train_loss(model, batch)
        return loss + 0.1 * loss.mean()


class CentredMeasurement(TinyTask):
    def measurement(self, model, batch):
        values = super().measurement(model, batch)
        return values - values.mean()


class Unseeded(TinyTask):
    def build_model(self, seed):
        return nn.Sequential(nn.Linear(12, 3)).double()


class Constant(TinyTask):
    def build_model(self, seed):
        return super().build_model(0)


class NoisyEval(TinyTask):
    def measurement(self, model, batch):
        values = super().measurement(model, batch)
        return values + 1e-9 * torch.randn_like(values)


class Detached(TinyTask):
    def train_loss(self, model, batch):
        loss = super().train_loss(model, batch)
        return loss + loss.detach() * 0.5 - 0.5 * loss


class ProbabilityMeasurement(TinyTask):
    def measurement(self, model, batch):
        return torch.sigmoid(super().measurement(model, batch))


class Unclaimed(TinyTask):
    margin_identity = False


class WrongSign(TinyTask):
    measurement_sign = -1


class LogitPrediction(TinyTask):
    def predict(self, model, batch):
        return self.logits(model, batch)


class FloatImage(TinyTask):
    def show(self, split, index):
        return Display("image", image=np.zeros((2, 2)))


class NotADisplay(TinyTask):
    def show(self, split, index):
        return "a string"


class Raises(TinyTask):
    def measurement(self, model, batch):
        raise KeyError("logits")


class InfiniteLoss(TinyTask):
    def train_loss(self, model, batch):
        return super().train_loss(model, batch) / 0


class FewNames(TinyTask):
    class_names = ("a", "b")


class NanData(TinyTask):
    def datasets(self):
        sets = super().datasets()
        sets["train"]["x"][0, 0] = float("nan")
        return sets


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        (MeanLoss, "shapes", "reduction"),
        (MixedLoss, "per-example values", "train_loss"),
        (CentredMeasurement, "per-example values", "measurement"),
        (Unseeded, "model", "manual_seed"),
        (Constant, "model", "equal"),
        (NoisyEval, "determinism", "measurement"),
        (Detached, "gradients", "finite differences"),
        (ProbabilityMeasurement, "margin identity", "margin_identity = False"),
        (WrongSign, "sign", r"should be \+1"),
        (LogitPrediction, "prediction", "shape"),
        (FloatImage, "display", "uint8"),
        (NotADisplay, "display", "Return a Display"),
        (Raises, "shapes", "KeyError"),
        (InfiniteLoss, "shapes", "not finite"),
        (FewNames, "data", "2 class_names for 3"),
        (NanData, "data", "NaN"),
        (BranchingTask, "per-example values", "batch of one"),
    ],
)
def test_each_broken_promise_is_found(kind, name, words):
    found = failures(kind())
    assert name in found
    assert re.search(words, found[name]), found[name]


def test_an_identity_that_holds_unclaimed_is_told():
    detail = next(check.detail for check in check_task(Unclaimed()) if check.name == "margin identity")
    assert "holds" in detail
    assert "margin_identity = True" in detail


class Trained(TinyTask):
    """An already trained model: files instead of settings."""

    def __init__(self, *files):
        super().__init__()
        self.training = None
        self.checkpoint_files = files


def saved(tmp_path, name, content):
    """Write a checkpoint file of any kind and return its path."""
    path = tmp_path / name
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path)
    return path


def test_trained_models_load_from_each_format_and_pass(tmp_path):
    states = [dict(TinyTask().build_model(seed).state_dict()) for seed in range(3)]
    task = Trained(
        saved(tmp_path, "a.safetensors", states[0]),
        saved(tmp_path, "b.pt", states[1]),
        saved(tmp_path, "c.pt", {"epoch": 3, "state_dict": states[2]}),
    )
    found = load_checkpoints(task)
    assert [checkpoint.epoch for checkpoint in found] == [1, 2, 3]
    for checkpoint, state in zip(found, states, strict=True):
        for name, value in state.items():
            assert torch.equal(checkpoint.state[name], value)
    assert failures(task) == {}


def test_wrong_checkpoints_are_named(tmp_path):
    other = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3)).double().state_dict()
    spoiled = dict(TinyTask().build_model(0).state_dict())
    spoiled["6.bias"] = torch.full_like(spoiled["6.bias"], float("nan"))
    text = tmp_path / "text.pt"
    text.write_text("not a checkpoint")
    for path, words in (
        (saved(tmp_path, "other.pt", other), r"other\.pt does not fit .* lacks 3\.weight.*unknown 2\.weight"),
        (saved(tmp_path, "nan.safetensors", spoiled), r"NaN or infinity in 6\.bias"),
        (saved(tmp_path, "list.pt", [1, 2]), "holds no state dict"),
        (saved(tmp_path, "whole.pt", nn.Linear(2, 2)), "cannot be read"),
        (text, "cannot be read"),
        (tmp_path / "absent.pt", "no checkpoint file"),
    ):
        with pytest.raises(TaskError, match=words) as caught:
            load_checkpoints(Trained(path))
        assert "\n" not in str(caught.value)
    assert "checkpoint files" in failures(Trained(tmp_path / "absent.pt"))
