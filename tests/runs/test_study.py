"""Study files: every wrong key and value is named, with what is allowed."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tda_backend.errors import StudyError, UsageError
from tda_backend.studies.config.study import Data
from tda_backend.studies.study.file import override, read_study_file, resolve
from tda_backend.studies.study.quick import quick

MINIMAL = {"name": "a", "task": "mnist-mlp", "training": {"epochs": [1, 5]}, "methods": {"iffim": {}}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"seeed": 1}, ["seeed", "Did you mean seed", "Allowed here"]),
        ({"data": {"trian": 5}}, ["data.trian", "data.train"]),
        ({"data": {"train": -3}}, ["data.train = -3", "at least"]),
        ({"data": 5}, ["data = 5", "[data]"]),
        ({"training": {"epochs": []}}, ["training.epochs", "list"]),
        ({"training": {"epochs": [1, 1]}}, ["twice"]),
        ({"ground_truth": {"alphas": [1.5]}}, ["1.5", "between 0 and 1"]),
        ({"projection": {"kind": "gauss"}}, ["'gauss'", "'rademacher'"]),
        ({"projection": {"max_dim": 4}, "methods": {"iffim": {"projection_dim": [8]}}}, ["max_dim", "8"]),
        ({"methods": {"iffim": {"projection_dim": ["all"]}}}, ["'all'", '"none"']),
        ({"methods": {"iffim": {"epochs": [7]}}}, ["[7]", "[1, 5]"]),
        ({"methods": {"iffim": {"epochs": [1], "unprojected_epochs": [5]}}}, ["unprojected_epochs", "[5]"]),
        ({"methods": {"tracin": {"normalization": "yes"}}}, ["'yes'", "true"]),
        ({"regularization": {"low": 1.0, "high": 0.1}}, ["low"]),
        ({"evaluation": {"threshold": 1}}, ["threshold = 1"]),
        ({"seed": True}, ["seed = True"]),
        ({"name": ""}, ["name"]),
    ],
)
def test_wrong_values_are_named_with_what_is_allowed(change: dict, expected: list[str]):
    with pytest.raises(StudyError) as caught:
        resolve({**MINIMAL, **change})
    for text in expected:
        assert text in str(caught.value)


def test_unknown_method_lists_the_allowed_ones():
    with pytest.raises(UsageError, match=r"(?s)'trackin'.*iffim, trak, tracin"):
        resolve({**MINIMAL, "methods": {"trackin": {}}})


@given(st.permutations(list(MINIMAL)))
def test_resolving_forgets_order_and_is_idempotent(order: list[str]):
    resolved = resolve({key: copy.deepcopy(MINIMAL[key]) for key in order})
    assert resolved == resolve(copy.deepcopy(MINIMAL))
    assert resolve(resolved.to_json()) == resolved


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("data.train=300", ("data", "train"), 300),
        ("name=other", ("name",), "other"),
        ("ground_truth.alphas=[0.25, 0.5]", ("ground_truth", "alphas"), [0.25, 0.5]),
    ],
)
def test_set_takes_toml_values_and_bare_words(text: str, key: tuple[str, ...], value: object):
    found = override(MINIMAL, [text])
    for part in key:
        found = found[part]
    assert found == value
    assert MINIMAL["name"] == "a"


@pytest.mark.parametrize("text", ["data.train", "=3", "name.x=3", "a..b=1"])
def test_set_refuses_what_is_no_assignment(text: str):
    with pytest.raises(StudyError):
        override(MINIMAL, [text])


def test_quick_is_small_whatever_the_study():
    resolved = resolve(quick({**MINIMAL, "training": {"epochs": [1, 5, 50]}, "projection": {"max_dim": 2048}}))
    assert resolved.data == Data(train=600, validation=100, queries=100)
    assert resolved.training.epochs == [1, 5]
    assert resolved.ground_truth.subsets == 12
    assert resolved.name == "a-quick"
    assert resolve(quick({**MINIMAL, "training": {"epochs": [50, 10, 20]}})).training.epochs == [10, 20]


def test_a_method_without_anything_to_compute_is_refused():
    settings = {"projection_dim": "none", "unprojected_epochs": []}
    with pytest.raises(StudyError, match="nothing to compute"):
        resolve({**MINIMAL, "methods": {"iffim": settings}})
    resolve({**MINIMAL, "methods": {"iffim": {**settings, "projection_dim": ["none", 8]}}})


def test_an_absolute_grid_is_by_default_zero_and_32_values():
    study = resolve({**copy.deepcopy(MINIMAL), "regularization": {}})
    grid = study.regularizations
    assert len(grid) == 33
    assert grid[:2] == [0.0, pytest.approx(1e-7)]
    assert grid[-1] == pytest.approx(10)
    assert not study.regularization.relative


def test_a_study_that_says_nothing_of_regularization_has_a_relative_grid_of_four_values_a_decade():
    study = resolve(copy.deepcopy(MINIMAL))
    grid = study.regularizations
    assert len(grid) == 34
    assert grid[:2] == [0.0, pytest.approx(1e-7)]
    assert grid[2] / grid[1] == pytest.approx(10**0.25)
    assert grid[-1] == pytest.approx(10)
    assert study.regularization.relative


@pytest.mark.parametrize("text", ["name = ", "\x00", "a = 1\na = 2"])
def test_a_file_that_is_no_toml_is_reported_with_its_place(tmp_path, text: str):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(StudyError, match=r"bad\.toml"):
        read_study_file(path)


def test_a_missing_file_is_a_study_error(tmp_path):
    with pytest.raises(StudyError, match="cannot be read"):
        read_study_file(tmp_path / "none.toml")


def test_task_files_are_relative_to_the_study_file(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text('task = "t.py:make"')
    content = read_study_file(path)
    assert content["task"] == f"{tmp_path / 't.py'}:make"
    assert content["name"] == "s"
