"""A tiny task and a study of it, computed once a session."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tda_backend.interfaces.cli.main import main
from tda_backend.studies.store.workspace import Workspace
from tests.forks import Job, session_server

ROOT = Path(__file__).resolve().parents[2]
TASK = """
import torch
from torch import nn
from tda_backend.models.tasks import ClassificationTask
from tda_backend.types import Display, TrainingSettings


def blobs(num, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % 3
    centres = torch.eye(3, 6) * 2
    return {"x": centres[labels] + torch.randn(num, 6, generator=generator), "y": labels}


class Tiny(ClassificationTask):
    name = "tiny"
    num_classes = 3
    class_names = ("ant", "bee", "cat")
    training = TrainingSettings(num_epochs=4, batch_size=16, learning_rate=0.1, momentum=0.9)

    def datasets(self):
        return {"train": blobs(90, 1), "test": blobs(48, 2)}

    def build_model(self, seed):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))

    def show(self, split, index):
        return Display("text", caption="a point", text=f"{split} {index}")


def factory():
    return Tiny()
"""
STUDY = """
name = "tiny"
task = "tiny_task.py:factory"
seed = 3
[data]
train = 60
validation = 12
queries = 10
[training]
epochs = [1, 4]
[ground_truth]
subsets = 24
alphas = [0.5, 0.25]
repeats = 2
[regularization]
count = 6
[methods.iffim]
projection_dim = [8, "none"]
[methods.trak]
projection_dim = [8, "none"]
unprojected_epochs = [4]
[methods.tracin]
normalization = [false, true]
[evaluation]
bootstrap = 50
top = 7
"""


def make_study(folder: Path) -> Path:
    """Write the tiny task and its study into ``folder``."""
    (folder / "tiny_task.py").write_text(TASK)
    path = folder / "tiny.toml"
    path.write_text(STUDY)
    return path


def tda(*words: str | Path, db: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run ``tda`` in a process of its own."""
    job = Job("tests.forks:typed", [[*map(str, words), "--db", str(db)]], env or {})
    return session_server().start(job).completed(400)


@pytest.fixture(scope="session")
def computed(tmp_path_factory) -> Workspace:
    """The tiny study, computed. Do not write to it; take ``copied`` for that."""
    folder = tmp_path_factory.mktemp("computed")
    db = folder / "workspace" / "catalogue.duckdb"
    assert main(["run", str(make_study(folder)), "--db", str(db)]) == 0
    return Workspace.at(db)


@pytest.fixture
def copied(computed: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the computed study's workspace that a test may damage."""
    shutil.copytree(computed.folder, tmp_path / "workspace")
    return Workspace.at(tmp_path / "workspace" / computed.catalogue.name)


@pytest.fixture
def cli(capsys) -> Callable[..., tuple[int, str, str]]:
    """Call ``tda`` in this process; returns exit code, stdout and stderr."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
