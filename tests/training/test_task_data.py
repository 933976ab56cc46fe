"""Data are refused at the border, with split, count and first index."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from tda_backend.errors import DataError, TaskError
from tda_backend.models.tasks import MNIST_MEAN, MNIST_STD, margin
from tda_backend.models.tasks.data import as_batch, data_folder, shipped_arrays, validate_data
from tda_backend.models.tasks.registry import load_task
from tests.training.tiny import NUM_TEST, NUM_TRAIN, TinyTask


class Rows(Dataset):
    """A mapping-style set."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


class Spoiled(TinyTask):
    """A tiny task whose datasets pass through a function first."""

    def __init__(self, spoil):
        super().__init__(torch.float32)
        self.spoil = spoil

    def datasets(self):
        sets = super().datasets()
        return self.spoil(sets) or sets


def test_a_mapping_style_set_equals_the_dict_of_tensors():
    batch = TinyTask().datasets()["train"]
    rows = Rows([{"x": batch["x"][i], "y": int(batch["y"][i])} for i in range(NUM_TRAIN)])
    found = as_batch(rows)
    for key, value in batch.items():
        assert torch.equal(found[key], value)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({}, "empty dict"),
        ({"x": torch.zeros(3), "y": torch.zeros(2)}, "differ in length"),
        (Rows([]), "must be dicts"),
        (Rows([(1, 2)]), "found tuple"),
        (Rows([{"x": torch.zeros(2)}, {"x": torch.zeros(3)}]), "do not stack"),
        (3, "no length or index"),
        ({"x": ["a", "b"]}, "no tensor"),
        (Rows([{"x": "a"}, {"x": "b"}]), '"x" of a dataset is no tensor'),
    ],
)
def test_datasets_that_are_none(dataset, words):
    with pytest.raises(DataError, match=words):
        as_batch(dataset)


def set_value(split, key, index, value):
    """Return a spoiler that overwrites one entry."""

    def spoil(sets):
        sets[split][key][index] = value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (set_value("train", "x", 5, float("nan")), '1 examples of split "train" hold NaN .* in "x"; .* index 5'),
        (set_value("test", "x", slice(3, 5), float("inf")), '2 examples of split "test" .* index 3'),
        (set_value("train", "y", 7, 3), '1 labels of split "train" lie outside 0…2; the first is 3 at index 7'),
        (set_value("test", "y", 0, -1), "the first is -1 at index 0"),
        (lambda sets: sets["test"].pop("y") is None, "different keys"),
        (lambda sets: {split: {"x": b["x"]} for split, b in sets.items()}, 'has no "y"'),
        (lambda sets: {"train": sets["train"], "test": {k: v[:0] for k, v in sets["test"].items()}}, "is empty"),
        (lambda sets: {s: {"x": b["x"], "y": b["y"].float()} for s, b in sets.items()}, "integer labels"),
    ],
)
def test_bad_data_are_named(spoil, words):
    with pytest.raises(DataError, match=words):
        validate_data(Spoiled(spoil))


def test_both_splits_are_needed():
    with pytest.raises(TaskError, match="lacks test"):
        validate_data(Spoiled(lambda sets: {"train": sets["train"]}))


def test_an_error_in_a_persons_datasets_names_the_task():
    def spoil(sets):
        raise FileNotFoundError("no such file: digits.csv")

    with pytest.raises(TaskError, match=r'datasets\(\) of task "tiny" fails: FileNotFoundError: no such file'):
        validate_data(Spoiled(spoil))


def test_data_are_validated_once():
    calls = []
    task = Spoiled(lambda sets: calls.append(1))
    assert validate_data(task) is validate_data(task)
    assert len(calls) == 1
    assert len(validate_data(task)["test"]["y"]) == NUM_TEST


def test_margin_is_the_log_odds_and_does_not_overflow():
    logits = torch.randn(50, 4, dtype=torch.float64)
    labels = torch.arange(50) % 4
    p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(margin(logits, labels), torch.logit(p), rtol=1e-10, atol=1e-12)
    assert margin(torch.tensor([[200.0, 0.0]]), torch.tensor([0])).item() == 200


@pytest.fixture
def _forget():
    shipped_arrays.cache_clear()
    yield
    shipped_arrays.cache_clear()


@pytest.mark.shipped_data
@pytest.mark.usefixtures("_forget")
def test_shipped_data_are_verified(tmp_path, monkeypatch):
    source = data_folder()
    monkeypatch.setenv("TDA_DATA", str(tmp_path))
    with pytest.raises(DataError, match="cannot be read or has no checksum"):
        shipped_arrays("mnist.npz")
    for name in ("mnist.npz", "checksums.json"):
        shutil.copy(source / name, tmp_path)
    assert len(shipped_arrays("mnist.npz")["train_labels"]) == 7000
    shipped_arrays.cache_clear()
    damaged = bytearray((tmp_path / "mnist.npz").read_bytes())
    damaged[1000] ^= 1
    (tmp_path / "mnist.npz").write_bytes(damaged)
    with pytest.raises(DataError, match="damaged"):
        shipped_arrays("mnist.npz")
    (tmp_path / "checksums.json").write_text(json.dumps({}))
    with pytest.raises(DataError, match="no checksum"):
        shipped_arrays("mnist.npz")
    monkeypatch.setenv("TDA_DATA", str(tmp_path / "absent"))
    with pytest.raises(DataError, match="is no folder"):
        data_folder()


@pytest.mark.shipped_data
@pytest.mark.parametrize("name", ["mnist-mlp", "mnist-lr"])
def test_mnist_tasks_follow_the_benchmark_settings(name):
    task = load_task(name)
    data = validate_data(task)
    assert data["train"]["x"].shape == (7000, 784)
    assert data["test"]["x"].shape == (2000, 784)
    assert data["train"]["x"].min() == pytest.approx(-MNIST_MEAN / MNIST_STD)
    assert data["train"]["x"].max() == pytest.approx((1 - MNIST_MEAN) / MNIST_STD)
    shown = task.show("test", 3)
    assert shown.kind == "image"
    assert shown.image is not None
    assert shown.image.dtype == np.uint8
    assert str(int(data["test"]["y"][3])) in shown.caption
    sizes = [tuple(p.shape) for p in task.build_model(0).parameters() if p.ndim == 2]
    settings = task.training
    assert settings is not None
    if name == "mnist-mlp":
        assert sizes == [(128, 784), (64, 128), (10, 64)]
        assert (settings.num_epochs, settings.batch_size, settings.momentum) == (50, 64, 0.9)
    else:
        assert sizes == [(10, 784)]
        assert (settings.num_epochs, settings.batch_size, settings.momentum) == (20, 32, 0.0)
    assert settings.learning_rate == 0.01


@pytest.mark.parametrize("names", [("a", "b"), ("a", "b", "c", "d")])
def test_classes_and_their_names_are_equally_many(names):
    task = TinyTask()
    task.class_names = names
    with pytest.raises(TaskError, match=f"{len(names)} class_names for 3 classes"):
        validate_data(task)
