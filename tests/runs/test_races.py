"""Removing against a run that starts; job files when the disk is full; a folder that only can be read."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import pytest

from tda_backend.errors import UsageError
from tda_backend.interfaces.cli.report import RunReport
from tda_backend.interfaces.reading.study import list_studies, open_study
from tda_backend.studies.jobs import jobs
from tda_backend.studies.jobs.progress import JobFile, JobState
from tda_backend.studies.store import catalogue, locks
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace, write_json
from tests.app.catalogues import copy_of
from tests.runs.conftest import ROOT, make_study, tda


def test_nothing_is_removed_while_a_run_plans(computed: Workspace, cli, tmp_path: Path, monkeypatch):
    copied = copy_of(computed, tmp_path)
    before = ArtifactStore(copied.artifacts).all_keys()
    planning = locks.Planning(copied)
    other = locks.Planning(copied)  # two runs may plan at once
    monkeypatch.setattr("tda_backend.studies.store.locks.PATIENCE_SECONDS", 0.2)
    for words in (["rm", "tiny", "--yes"], ["rm", "--unused", "--yes"]):
        code, _, err = cli(*words, "--db", copied.catalogue)
        assert code == 2
        assert "A run is starting" in err
    assert ArtifactStore(copied.artifacts).all_keys() == before
    planning.close()
    other.close()
    other.close()  # once more does no harm
    code, _, err = cli("rm", "tiny", "--yes", "--db", copied.catalogue)
    assert (code, err) == (0, "")


def test_a_run_waits_for_a_removal_and_then_finds_what_is_left(tmp_path: Path):
    workspace = Workspace.at(tmp_path / "c.duckdb").create()
    began, planned = threading.Event(), threading.Event()

    def plan() -> None:
        began.set()
        locks.Planning(workspace).close()
        planned.set()

    with locks.removing(workspace):
        thread = threading.Thread(target=plan)
        thread.start()
        assert began.wait(30)
        assert not planned.wait(0.3)
    assert planned.wait(30)
    thread.join()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_runs_and_removals_go_on(tmp_path: Path, monkeypatch, number: int):
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    workspace = Workspace.at(tmp_path / "c.duckdb").create()
    locks.Planning(workspace).close()
    with locks.removing(workspace, 0.0):
        pass


def test_the_lock_of_a_group_can_be_taken_by_the_group(tmp_path: Path):
    workspace = Workspace.at(tmp_path / "c.duckdb").create()
    before = os.umask(0o002)
    try:
        locks.Planning(workspace).close()
    finally:
        os.umask(before)
    assert (workspace.folder / ".planning.lock").stat().st_mode & 0o777 == 0o664


def test_a_run_lets_go_once_its_record_and_its_study_are_known(tmp_path: Path, monkeypatch):
    """What rm looks at: the record in the store, the study in the job file."""
    study = make_study(tmp_path)
    workspace = Workspace.at(tmp_path / "w" / "c.duckdb")
    seen: list[tuple[bool, list[str]]] = []
    planned = RunReport.planned

    def looking(self, plan) -> None:
        with pytest.raises(UsageError, match="A run is starting"), locks.removing(workspace, 0.0):
            pass
        planned(self, plan)
        with locks.removing(workspace, 0.0):
            known = [job.study_id for job in jobs.list_jobs(workspace) if job.is_running]
            seen.append((ArtifactStore(workspace.artifacts).has(plan.key), known))
            assert known == [plan.study_id]

    monkeypatch.setattr(RunReport, "planned", looking)
    from tda_backend.interfaces.cli.main import main

    assert main(["run", str(study), "--db", str(workspace.catalogue), "--set", "ground_truth.subsets=0"]) == 0
    assert [there for there, _ in seen] == [True]


def test_the_last_words_of_a_run_find_room_on_a_full_disk(tmp_path: Path, monkeypatch):
    workspace = Workspace.at(tmp_path / "c.duckdb")
    job = JobFile(workspace, "tiny")
    job.update(step="a step with a long name, so that what is left of it must be cut off" * 3)
    job.write()

    def full(path: Path, content: object) -> None:
        from tda_backend.studies.store.workspace import writing_to

        with writing_to(path.parent):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tda_backend.studies.jobs.progress.write_json", full)
    job.close("failed", "No space left.", "Free some.")
    monkeypatch.undo()
    state = jobs.job(job.state.job_id, workspace)
    assert (state.status, state.message, state.hint) == ("failed", "No space left.", "Free some.")


@pytest.mark.parametrize(
    "wrong",
    [{"pid": "x"}, {"started": None}, {"args": [1]}, {"fraction": float("inf")}, {"pid": 10**30}, {"status": 1}],
)
def test_a_job_file_that_no_run_has_written_is_none(tmp_path: Path, wrong: dict):
    workspace = Workspace.at(tmp_path / "c.duckdb").create()
    good = asdict(JobState("j"))
    write_json(workspace.jobs / "j.json", good)
    assert len(jobs.list_jobs(workspace)) == 1
    write_json(workspace.jobs / "j.json", {**good, **wrong})
    assert jobs.list_jobs(workspace) == []


def test_a_submitted_run_is_known_by_its_process_at_once(tmp_path: Path):
    """However long it takes to load on a busy machine, it is starting, not failed."""
    workspace = Workspace.at(tmp_path / "c.duckdb")
    job_id = jobs.submit(["run", "no-such-study"], workspace)
    state = jobs.job(job_id, workspace)
    assert state.pid > 0
    assert state.is_running
    jobs.cancel(job_id, workspace)


def is_mountable() -> bool:
    return hasattr(os, "getuid") and os.getuid() == 0 and sys.platform == "linux"


@pytest.mark.skipif(not is_mountable(), reason="needs the right to mount")
def test_a_read_only_folder_is_read_and_served_and_never_advised_to_be_made_again(computed: Workspace, tmp_path: Path):
    copied = copy_of(computed, tmp_path)
    place = tmp_path / "mounted"
    place.mkdir()
    if subprocess.run(["mount", "--bind", str(copied.folder), str(place)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=True)
        workspace = Workspace.at(place / copied.catalogue.name)
        assert list_studies(workspace)["name"].tolist() == ["tiny"]
        assert len(open_study("tiny", workspace).selections(0.5))
        words = [sys.executable, "-m", "tda_backend", "serve", "--read-only", "--no-browser", "--port", "0"]
        refused = subprocess.run([*words, "--db", str(workspace.catalogue)], cwd=ROOT, capture_output=True, text=True)
        assert "is not a port" in refused.stderr
        _serve(workspace)
        for command in (["run", str(make_study(tmp_path))], ["rm", "tiny", "--yes"], ["rebuild"]):
            result = tda(*command, db=workspace.catalogue)
            assert result.returncode == 1
            assert "cannot be written to" in result.stderr
            assert "unexpected" not in result.stderr
    finally:
        subprocess.run(["umount", str(place)], check=True)
    copied.catalogue.write_bytes(b"x" * 5000)
    os.chmod(copied.folder, 0o555)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue.os, "access", lambda path, mode: False)
        with pytest.raises(Exception, match="damaged") as caught, catalogue.reading(copied):
            pass
    os.chmod(copied.folder, 0o755)
    assert "read-only here: copy it" in caught.value.hint
    assert "Make it again" not in caught.value.hint


def _serve(workspace: Workspace) -> None:
    from tda_backend.interfaces.cli import dashboard as processes

    port = processes.free_port(None, search=True)
    dashboard = processes.Dashboard(workspace, port, processes.Permissions(read_only=True, token="t" * 32))
    try:
        dashboard.wait_until_ready()
    finally:
        dashboard.stop()
    assert workspace.folder not in dashboard.log.parents
