"""A probe asks a model about rows of the splits; passes over it do not change it."""

from __future__ import annotations

import pytest
import torch

from tda_backend.errors import NumericalError, TaskError
from tda_backend.models.probe import Probe
from tda_backend.numerics.features.streaming import batches, naming_group
from tests.helpers_numerics import QUERIES, TASKS, VALIDATION, probe_of


def test_groups_name_rows_of_their_split():
    task = TASKS["mlp"]
    probe = probe_of(task, train=torch.tensor([5, 0, 7]))
    assert probe.rows("train").tolist() == [5, 0, 7]
    assert (probe.count("validation"), probe.count("query")) == (len(VALIDATION), len(QUERIES))
    assert probe.split("train") is task.datasets()["train"]
    assert probe.split("query") is probe.split("validation") is task.datasets()["test"]
    assert probe.dtype == torch.float64
    assert probe.only("query", [2]).rows("query").tolist() == [2]
    other = task.build_model(1)
    assert probe.at(other).model is other
    assert probe.at(other).rows("train").tolist() == [5, 0, 7]
    assert [probe.in_batches(size).batch_size for size in (3, 10_000)] == [3, 512]


def test_batches_stream_a_groups_rows_in_order():
    probe = probe_of(TASKS["mlp"], train=[5, 0, 7, 2, 9], batch_size=2)
    parts = list(batches(probe, "train"))
    assert [where for where, _ in parts] == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert torch.equal(torch.cat([batch["x"] for _, batch in parts]), probe.split("train")["x"][[5, 0, 7, 2, 9]])
    assert list(batches(probe.only("train", []), "train")) == []


def test_the_first_empty_group_is_named():
    task = TASKS["mlp"]
    with pytest.raises(TaskError, match="no validation examples"):
        Probe(task, task.build_model(0), task.datasets(), [0]).refuse_empty()
    probe_of(task).refuse_empty()


def test_an_error_says_which_group_it_lies_in():
    with pytest.raises(NumericalError, match="In the query examples: bad") as caught, naming_group("query"):
        raise NumericalError("bad", "do this")
    assert caught.value.hint == "do this"
