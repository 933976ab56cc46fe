"""Real catalogues for the dashboard's tests, each computed once for all test processes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tda_backend.studies.store.workspace import Workspace
from tests.runs.conftest import make_study, tda


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all workers of one test run share."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Workspace:
    """Return the workspace ``name``, made by whichever process comes first while the others wait."""
    folder = shared_folder(factory) / f"dashboard-{name}"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            (folder / "done").touch()
    return Workspace.at(folder / "workspace" / "catalogue.duckdb")


def compute_tiny(folder: Path) -> None:
    """Compute a study of three classes of points, shown as text, with two subset sizes; a few seconds."""
    result = tda("run", make_study(folder), db=folder / "workspace" / "catalogue.duckdb")
    assert result.returncode == 0, result.stderr


ZOO = """
name = "zoo"
task = "tiny_task.py:factory"
seed = 3
[data]
train = 60
validation = 12
queries = 10
[training]
epochs = [1, 4]
seeds = 2
[ground_truth]
subsets = 24
[regularization]
count = 7
low = 1e-5
[methods.iffim]
projection_dim = [8, "none"]
unprojected_epochs = [4]
[methods.trak]
epochs = [4]
[methods.tracin]
epochs = [4]
normalization = [false, true]
[methods.if-explicit]
epochs = [4]
curvature = ["ggn"]
[methods.if-cg]
epochs = [4]
max_iter = [2, 5]
[methods.if-cg-run]
epochs = [4]
regularization = [0.01, 0.1]
[methods.if-lissa]
epochs = [4]
scaling = [20.0, 50.0]
depth = [5, 50]
[methods.ekfac]
epochs = [4]
fisher = ["true", "empirical"]
damping = ["absolute", "relative"]
[methods.logra]
epochs = [4]
rank = [2]
[methods.gradient-similarity]
epochs = [4]
[methods.random]
[evaluation]
bootstrap = 50
top = 7
"""
"""Many methods, two training seeds, hyper-parameters of every kind; λ beyond 40 − σ breaks LiSSA with scaling 20."""


def compute_zoo(folder: Path) -> None:
    """Compute many methods with their hyper-parameters on the tiny task; some ten seconds."""
    make_study(folder)
    path = folder / "zoo.toml"
    path.write_text(ZOO)
    result = tda("run", path, db=folder / "workspace" / "catalogue.duckdb")
    assert result.returncode == 0, result.stderr


def compute_quick(folder: Path) -> None:
    """Compute the quick version of the embedded study: real digits, 600 training images; under a minute."""
    result = tda("run", "mnist-mlp", "--quick", db=folder / "workspace" / "catalogue.duckdb")
    assert result.returncode == 0, result.stderr


def compute_failed(folder: Path) -> None:
    """Compute a part of the tiny study, as a job that is killed on the way."""
    from tda_backend.studies.jobs import jobs
    from tda_backend.studies.pipeline.courier import take_in
    from tda_backend.studies.steps.table import KINDS

    workspace = Workspace.at(folder / "workspace" / "catalogue.duckdb")
    os.environ["TDA_FAULT"] = "evaluate:computed"
    try:
        job_id = jobs.submit(["run", str(make_study(folder))], workspace)
    finally:
        del os.environ["TDA_FAULT"]
    process = jobs._children[-1]
    process.wait(timeout=400)
    assert jobs.job(job_id, workspace).status == "stale"
    take_in(workspace, KINDS)  # what the killed run had dropped; the next one, or a server, would


def copy_of(workspace: Workspace, folder: Path) -> Workspace:
    """Return a copy that a test may own and change."""
    shutil.copytree(workspace.folder, folder / "workspace")
    return Workspace.at(folder / "workspace" / workspace.catalogue.name)
