"""What a task is counts in every key: its factory, its settings, its helper files, its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tda_backend.errors import StudyError, TaskError
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.tasks.source_text import task_files
from tda_backend.studies.pipeline.facts import task_facts
from tda_backend.studies.study.checks import check_against_task
from tda_backend.studies.study.file import default_study, resolve
from tda_backend.studies.study.quick import quick
from tests.runs.conftest import TASK

WIDTHS = (
    TASK.replace(
        "class Tiny(ClassificationTask):",
        "class Tiny(ClassificationTask):\n    def __init__(self, width=5):\n        self.width = width\n",
    )
    .replace("nn.Linear(6, 5)", "nn.Linear(6, self.width)")
    .replace("nn.Linear(5, 3)", "nn.Linear(self.width, 3)")
    + "\n\ndef wide():\n    return Tiny(9)\n"
)
CONVOLUTIONAL = TASK.replace(
    "nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))",
    "nn.Sequential(nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))",
)


def fingerprint(path: Path, factory: str = "factory") -> str:
    spec = f"{path}:{factory}"
    return task_facts(load_task(spec), spec).fingerprint


def test_two_factories_of_one_class_are_two_tasks(tmp_path: Path):
    (tmp_path / "two.py").write_text(WIDTHS)
    assert fingerprint(tmp_path / "two.py") == fingerprint(tmp_path / "two.py")
    assert fingerprint(tmp_path / "two.py") != fingerprint(tmp_path / "two.py", "wide")


def test_files_that_the_task_imports_from_beside_it_count(tmp_path: Path):
    package = tmp_path / "parts"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "deep.py").write_text("WIDTH = 5\n")
    (tmp_path / "helper_of_task.py").write_text("from parts import deep\n")
    (tmp_path / "unrelated.py").write_text("")
    (tmp_path / "with_helper.py").write_text("import helper_of_task\n" + TASK)
    spec = f"{tmp_path / 'with_helper.py'}:factory"
    files = {path.relative_to(tmp_path).as_posix() for path in task_files(load_task(spec), spec)}
    assert files == {"with_helper.py", "helper_of_task.py", "parts/__init__.py", "parts/deep.py"}
    before = fingerprint(tmp_path / "with_helper.py")
    (package / "deep.py").write_text("WIDTH = 6\n")
    assert fingerprint(tmp_path / "with_helper.py") != before


def test_a_missing_checkpoint_file_is_named(tmp_path: Path):
    code = TASK.replace(
        "training = TrainingSettings(num_epochs=4, batch_size=16, learning_rate=0.1, momentum=0.9)",
        'training = None\n    checkpoint_files = ("nothere.pt",)',
    )
    (tmp_path / "given.py").write_text(code)
    with pytest.raises(TaskError, match=r"nothere\.pt .*does not exist"):
        fingerprint(tmp_path / "given.py")


def test_a_trained_model_runs_without_retraining(tmp_path: Path, cli):
    code = TASK.replace(
        "training = TrainingSettings(num_epochs=4, batch_size=16, learning_rate=0.1, momentum=0.9)",
        f"training = None\n    checkpoint_files = ({str(tmp_path / 'model.pt')!r},)",
    )
    (tmp_path / "given.py").write_text(code)
    (tmp_path / "plain.py").write_text(TASK)
    torch.save(load_task(f"{tmp_path / 'plain.py'}:factory").build_model(1).state_dict(), tmp_path / "model.pt")
    status, out, err = cli("run", "--task", f"{tmp_path / 'given.py'}:factory", "--db", tmp_path / "c.duckdb")
    assert status == 0, out + err
    status, out, err = cli("select", "tiny", "--json", "--db", tmp_path / "c.duckdb")
    assert status == 0, err
    assert '"lds_selected": null' in out


@pytest.mark.parametrize("kind", ["rademacher", "gaussian-dense", "gaussian"])
def test_every_projection_works_for_a_model_with_convolutions(tmp_path: Path, cli, kind: str):
    (tmp_path / "conv_task.py").write_text(CONVOLUTIONAL)
    status, out, err = cli(
        "run",
        "--task",
        f"{tmp_path / 'conv_task.py'}:factory",
        "--db",
        tmp_path / "c.duckdb",
        "--set",
        f"projection.kind={kind}",
        "--set",
        "ground_truth.subsets=0",
        "--set",
        "methods.iffim.projection_dim=[8]",
        "--set",
        'methods.trak.projection_dim=["none"]',
    )
    assert status == 0, out + err


@pytest.fixture
def facts(tmp_path: Path):
    (tmp_path / "plain.py").write_text(TASK)
    spec = f"{tmp_path / 'plain.py'}:factory"
    return task_facts(load_task(spec), spec)


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ({"subsets": 1}, "no rank correlation"),
        ({"subsets": 4, "alphas": [0.999]}, "90 of 90"),
        ({"subsets": 4, "alphas": [0.001]}, "0 of 90"),
    ],
)
def test_what_cannot_succeed_is_refused_before_the_first_step(facts, truth: dict, expected: str):
    content = default_study("tiny", facts.spec, 90, 48, 4)
    content["ground_truth"] = truth
    with pytest.raises(StudyError, match=expected):
        check_against_task(resolve(content), facts)


def test_the_last_checkpoints_are_the_latest_in_whatever_order_they_are_written():
    study = {"name": "a", "task": "mnist-lr", "training": {"epochs": [1, 2]}, "methods": {"tracin": {"epochs": [2, 1]}}}
    assert resolve(study).methods["tracin"]["epochs"] == [1, 2]


@pytest.mark.parametrize(
    "change",
    [{"training": {"epochs": 2}}, {"ground_truth": {"alphas": 0.5}}, {"methods": {"iffim": {"epochs": [2]}}}],
)
def test_quick_takes_every_valid_study(change: dict):
    assert resolve(quick({"name": "a", "task": "mnist-lr", "training": {"epochs": [2]}, **change})).name == "a-quick"


@pytest.mark.parametrize("change", [{"data": 3}, {"methods": "iffim"}, {"training": {"epochs": "x"}}])
def test_quick_names_what_is_wrong(change: dict):
    with pytest.raises(StudyError):
        quick({"name": "a", "task": "mnist-lr", **change})
