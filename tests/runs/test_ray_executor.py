"""The loop on a real Ray with two workers: the same keys, tables, failures and messages as on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from tda_backend.errors import IncompleteError, MachineError
from tda_backend.studies.runs.ray import RayBackend
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.repository import query
from tda_backend.studies.store.tables.all import ALL
from tda_backend.studies.store.tables.bookkeeping import INGESTED, JOBS, META
from tda_backend.studies.store.tables.evaluation import LDS
from tda_backend.studies.store.tables.rules import RULES
from tda_backend.studies.store.workspace import Workspace
from tests.runs.conftest import make_study
from tests.runs.fake_plans import Base, Notes, Number, fake_plan
from tests.runs.test_executor import ladder, number, run
from tests.runs.test_rounds import UNTIL, asking
from tests.runs.test_rounds import write as write_rounds

DIVERGING = """
name = "diverging"
task = "tiny_task.py:factory"
[data]
train = 40
validation = 8
queries = 6
[training]
epochs = [4]
[ground_truth]
subsets = 12
[regularization]
count = 4
[evaluation]
bootstrap = 20
[methods.iffim]
projection_dim = [8]
[methods.if-lissa-run]
scaling = [0.01, 50.0]
depth = [50]
"""
TIMES = {"created", "seconds", "peak_memory_mib", "finished", "ingested"}
"""Columns that no two runs have in common."""


@pytest.fixture(scope="module", autouse=True)
def two_workers() -> Iterator[None]:
    """A Ray of two workers on this machine; its sockets need a short path."""
    handler = signal.getsignal(signal.SIGTERM)
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=folder,
            object_store_memory=100 * 2**20,
        )
        yield
        ray.shutdown()
    signal.signal(signal.SIGTERM, handler)


def keys(folder: Path) -> list[str]:
    return ArtifactStore(Workspace.at(folder / "w" / "c.duckdb").artifacts).all_keys()


def rows(workspace: Workspace, table: str) -> list[str]:
    """Return the rows of a table, in some order, without times."""
    frame = query(workspace, f'FROM "{table}"')
    return sorted(
        frame.drop(columns=list(TIMES & set(frame.columns))).to_json(orient="records", lines=True).splitlines()
    )


def num_computing() -> int:
    """Return how many workers compute a step at the moment."""
    count = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            count += any("ray::compute_unit" in word for word in process.cmdline())
    return count


def test_two_workers_compute_what_this_process_computes(tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    plan, notes = ladder(tmp_path), Notes()
    local, remote = run(plan, here, Notes()), run(plan, there, notes, RayBackend())
    assert keys(there) == keys(here)
    assert sorted(remote.computed) == sorted(local.computed)
    assert number(plan, there, "judge") == 9
    assert set(notes.started) == set(notes.finished) == set(local.computed)
    assert {("one", 1, 2), ("one", 2, 2)} <= set(notes.progress)
    assert len(run(plan, there, Notes(), RayBackend()).cached) == 6


def test_a_failure_is_the_same_as_in_this_process(tmp_path: Path):
    errors, finished = [], []
    for folder, backend in ((tmp_path / "here", None), (tmp_path / "there", RayBackend())):
        notes = Notes()
        with pytest.raises(IncompleteError) as caught:
            run(ladder(tmp_path, two="fail"), folder, notes, backend)
        errors.append((caught.value.message, caught.value.hint, caught.value.num_computed, notes.failed))
        finished.append(sorted(notes.finished))
    assert errors[0] == errors[1]
    assert finished[0] == finished[1] == ["base", "judge", "one", "three"]
    assert keys(tmp_path / "here") == keys(tmp_path / "there")


def test_a_worker_that_dies_is_replaced(tmp_path: Path):
    base = Base(label="base", value=1)
    first = Number(label="first", value=2, reads=(base,), group="one worker")
    dying = Number(label="dying", value=3, reads=(base,), group="one worker", killed=str(tmp_path / "killed"))
    plan = fake_plan(tmp_path, base, first, dying, Number(label="sum", value=0, reads=(first, dying)))
    run(plan, tmp_path, Notes(), RayBackend())
    assert (tmp_path / "killed").exists()
    assert number(plan, tmp_path, "sum") == 7
    assert len(keys(tmp_path)) == 5


def test_steps_of_one_affinity_go_to_one_worker(tmp_path: Path):
    numbers = [Number(label=f"{place}", value=place, group="ab"[place % 2]) for place in range(8)]
    plan = fake_plan(tmp_path, *numbers)
    run(plan, tmp_path, Notes(), RayBackend())
    store = ArtifactStore(Workspace.at(tmp_path / "w" / "c.duckdb").artifacts)
    processes = [store.open(step.key).fact("process") for step in plan.steps]
    assert len(set(processes[::2])) == len(set(processes[1::2])) == 1


def test_an_interrupt_cancels_what_the_workers_compute(tmp_path: Path):
    class Interrupting(Notes):
        def step_progress(self, step, done: int, total: int) -> None:
            assert num_computing() == 1
            raise KeyboardInterrupt

    plan = fake_plan(tmp_path, Number(label="endless", value=1, behaviour="wait"))
    with pytest.raises(KeyboardInterrupt):
        run(plan, tmp_path, Interrupting(), RayBackend())
    deadline = time.monotonic() + 60
    while num_computing():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_another_task_on_a_worker_ends_the_run(tmp_path: Path):
    plan = ladder(tmp_path)
    file = tmp_path / "tiny_task.py"
    file.write_text(file.read_text().replace("* 2\n", "* 3\n"))
    with pytest.raises(MachineError, match="sees other code or data of task 'tiny'"):
        run(plan, tmp_path, Notes(), RayBackend())


def test_without_ray_the_extra_is_named(tmp_path: Path, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, err = cli("run", make_study(tmp_path), "--db", tmp_path / "c.duckdb", "--executor", "ray")
    assert code == 1
    assert "optional extra 'ray'" in err
    assert "tda-dashboard[ray]" in err


@contextlib.contextmanager
def killed_while_computing(place: Workspace, after: int) -> Iterator[list[int]]:
    """Kill the first worker that is seen at work after ``after`` steps; the list holds its process.

    A worker's folder is named by its step and its process. It is looked for all the time: a step of a tiny study is
    over before its progress is told.
    """
    killed: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        seen = set()
        while not killed and not ended.wait(0.001):
            for folder in (place.artifacts / "tmp").glob("*-*"):
                seen.add(folder.name)
                process = int(folder.name.split("-")[1])
                if len(seen) > after and process != os.getpid():
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)
                    break

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield killed
    finally:
        ended.set()
        watcher.join()


@pytest.mark.slow
def test_a_study_has_the_same_keys_and_tables_though_a_worker_is_killed(tmp_path: Path, computed: Workspace, cli):
    place = Workspace.at(tmp_path / "c.duckdb")
    with killed_while_computing(place, after=3) as killed:
        code, out, err = cli("run", computed.folder.parent / "tiny.toml", "--db", place.catalogue, "--executor", "ray")
    assert code == 0, err
    assert " 0 cached" in out
    assert len(killed) == 1
    assert ArtifactStore(place.artifacts).all_keys() == ArtifactStore(computed.artifacts).all_keys()
    for table in ALL:
        if table not in (JOBS, META):
            assert rows(place, table.name) == rows(computed, table.name), table.name
    code, out, _ = cli("run", "tiny", "--db", place.catalogue, "--executor", "ray")
    assert code == 0
    assert "0 steps computed" in out


@pytest.mark.slow
def test_a_configuration_that_diverges_leaves_the_others_as_in_this_process(tmp_path: Path, cli):
    make_study(tmp_path)
    (tmp_path / "diverging.toml").write_text(DIVERGING)
    here, there = (Workspace.at(tmp_path / name / "c.duckdb") for name in ("here", "there"))
    said = []
    for place, executor in ((here, "local"), (there, "ray")):
        code, out, err = cli("run", tmp_path / "diverging.toml", "--db", place.catalogue, "--executor", executor)
        assert code == 1
        said.append((err, [line for line in out.splitlines() if line.startswith("FAILED")]))
    assert said[0] == said[1]
    assert "all else is kept. LiSSA diverges" in said[0][0]
    assert len(said[0][1]) == 1
    kept = ArtifactStore(here.artifacts).all_keys()
    assert len(kept) > 8
    assert ArtifactStore(there.artifacts).all_keys() == kept
    for table in (LDS, RULES, INGESTED):
        assert rows(here, table.name) == rows(there, table.name)


@pytest.mark.slow
def test_rounds_of_retraining_are_the_same_as_in_this_process(tmp_path: Path, cli):
    study = write_rounds(tmp_path)
    here, there = (Workspace.at(tmp_path / name / "c.duckdb") for name in ("here", "there"))
    said = []
    for place, executor in ((here, "local"), (there, "ray")):
        code, out, err = cli("run", study, *asking(UNTIL), "--db", place.catalogue, "--executor", executor)
        assert code == 0, err
        said.append([line for line in out.splitlines() if line.startswith("LDS known")])
    assert said[0] == said[1]
    assert len(said[0]) == 3
    assert ArtifactStore(there.artifacts).all_keys() == ArtifactStore(here.artifacts).all_keys()
    for table in ALL:
        if table not in (JOBS, META):
            assert rows(there, table.name) == rows(here, table.name), table.name
