"""What a task gets in another process: the same data and model, or `tda check` says what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tda_backend.interfaces.cli.main import main
from tests.runs.conftest import TASK

SHUFFLED = """

class Shuffled(type(factory())):
    def datasets(self):
        data = super().datasets()
        order = torch.randperm(len(data["train"]["y"]), generator=torch.Generator().manual_seed(abs(hash("a")) % 2**31))
        return {**data, "train": {key: value[order] for key, value in data["train"].items()}}

    def build_model(self, seed):
        print("building")
        return super().build_model(seed)

def shuffled():
    return Shuffled()
"""
REFUSING = """
import os
if os.environ.get("PYTHONHASHSEED") in ("1", "2"):
    raise OSError("no such share")
"""


def checked(capsys: pytest.CaptureFixture[str], spec: str) -> dict[str, tuple[bool, str]]:
    main(["check", spec, "--json"])
    out = capsys.readouterr().out
    return {row["name"]: (row["passed"], row["detail"]) for row in json.loads(out[out.index("[") :])}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    return tmp_path / "given.py"


def test_data_that_hashes_of_texts_decide_are_told(file: Path, capsys):
    file.write_text(TASK + SHUFFLED)
    found = checked(capsys, f"{file}:shuffled")
    passed, detail = found.pop("another process")
    assert not passed
    assert 'other values of "x" of split "train", "y" of split "train": every run' in detail
    assert all(each for each, _ in found.values())


def test_a_right_task_is_the_same_there(file: Path, capsys):
    file.write_text(TASK)
    passed, detail = checked(capsys, f"{file}:factory")["another process"]
    assert passed
    assert "5 compared" in detail


def test_a_task_that_cannot_be_loaded_there_is_told(file: Path, capsys):
    file.write_text(REFUSING + TASK)
    passed, detail = checked(capsys, f"{file}:factory")["another process"]
    assert not passed
    assert "cannot load the task" in detail
    assert "no such share" in detail
