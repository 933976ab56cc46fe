"""How much is tried, from which seed, and the undisturbed run that everything is compared with."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tda_backend.studies.store.workspace import Workspace
from tests.app.conftest import page as page
from tests.forks import ForkServer, Job
from tests.runs.conftest import TASK
from tests.torture.compare import State
from tests.torture.jobs import job
from tests.torture.report import PATH, Report

FULL = os.environ.get("TDA_TORTURE", "") == "full"
SEED = int(os.environ.get("TDA_TORTURE_SEED", "1"))
SHARE = float(os.environ.get("TDA_TORTURE_SHARE", "1"))
STUDY = """
name = "victim"
task = "tiny_task.py:factory"
seed = 3
[data]
train = 40
validation = 8
queries = 6
[training]
epochs = [2]
[ground_truth]
subsets = 12
[regularization]
count = 5
[methods.iffim]
projection_dim = [8, "none"]
[methods.tracin]
[evaluation]
bootstrap = 20
top = 5
"""
STORED, HOSTILE = "Stored data", "Hostile input"
_reports = {title: Report(title) for title in (STORED, HOSTILE)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here; only the whole suite may take its time."""
    here = Path(__file__).parent
    for item in items:
        if here in Path(item.path).parents:
            item.add_marker("torture")
            if FULL:
                item.add_marker(pytest.mark.timeout(3600))


def pytest_sessionfinish() -> None:
    """Write the page after a whole suite."""
    if FULL:
        for report in _reports.values():
            report.write(PATH, SEED, SHARE)


def times(small: int, full: int) -> int:
    """Return how often a fault is tried."""
    return max(1, round(full * SHARE)) if FULL else small


def randomness(name: str) -> random.Random:
    """Return the random numbers of one test: the same for the same seed, whatever else runs."""
    return random.Random(f"{SEED} {name}")


@dataclass
class Faults:
    """How many faults came before the next comparison.

    Attributes:
        num: So far.
    """

    num: int = 1


@contextmanager
def attempt(
    fault: str, compared: str = "all tables and checksums", section: str = STORED, num: int = 1
) -> Iterator[Faults]:
    """Count what is tried, and its survival if nothing is raised."""
    faults = Faults(num)
    survived = False
    try:
        yield faults
        survived = True
    finally:
        _reports[section].count(fault, compared, faults.num, faults.num if survived else 0)


class Place:
    """Workspaces with the victim study, made and compared."""

    def __init__(self, folder: Path, server: ForkServer) -> None:
        self.folder, self.server, self._number = folder, server, 0
        (folder / "tiny_task.py").write_text(TASK)
        self.study = folder / "victim.toml"
        self.study.write_text(STUDY)

    def new(self) -> Workspace:
        """Return a workspace where nothing is."""
        self._number += 1
        return Workspace.at(self.folder / f"w{self._number:04d}" / "c.duckdb")

    def copy(self, workspace: Workspace) -> Workspace:
        """Return a copy of a workspace."""
        new = self.new()
        shutil.copytree(workspace.folder, new.folder)
        return new

    def run(self, workspace: Workspace, fault: str = "", seed: int = 0, at: int = 0) -> Job:
        """Return the job that computes the study."""
        return job("run", workspace, [str(self.study)], fault, seed, at)

    def finish(self, workspace: Workspace, reference: State) -> None:
        """Run the study to its end and compare all of it with the undisturbed run."""
        ended = self.server.do(self.run(workspace))
        assert ended.wait() == 0, ended.said()
        self.check(workspace, reference)

    def check(self, workspace: Workspace, reference: State) -> None:
        """Compare a finished workspace with the undisturbed run, and remove it."""
        assert reference.differences(State.of(workspace)) == []
        assert not list(workspace.inbox.glob("*.json"))
        shutil.rmtree(workspace.folder)


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("torture")
    server = ForkServer(tmp_path_factory.mktemp("logs"), environment={"PYTHONHASHSEED": "0"})
    try:
        yield Place(folder, server)
    finally:
        server.close()


@pytest.fixture(scope="session")
def undisturbed(place: Place) -> Workspace:
    """The study, computed in peace. Do not write to it."""
    workspace = place.new()
    ended = place.server.do(place.run(workspace))
    assert ended.wait() == 0, ended.said()
    return workspace


@pytest.fixture(scope="session")
def reference(undisturbed: Workspace) -> State:
    """What the undisturbed run left."""
    return State.of(undisturbed)


@pytest.fixture(scope="session")
def duration(place: Place, reference: State) -> float:
    """Seconds that an undisturbed run takes in a forked process."""
    workspace = place.new()
    started = time.monotonic()
    place.server.do(place.run(workspace))
    seconds = time.monotonic() - started
    place.check(workspace, reference)
    return seconds
