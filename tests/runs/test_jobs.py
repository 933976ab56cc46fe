"""Jobs: started in their own process, seen, cancelled, found dead; and the server's ingest beside a running CLI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tda_backend.errors import UsageError
from tda_backend.interfaces.reading.study import catalogue_version, list_studies, open_study
from tda_backend.studies.jobs import jobs, servers
from tda_backend.studies.jobs.ingest_loop import IngestLoop
from tda_backend.studies.jobs.progress import JobFile
from tda_backend.studies.store import catalogue, repository
from tda_backend.studies.store.workspace import Workspace, write_json
from tests.runs.conftest import make_study, tda
from tests.store.test_catalogue import held_by_another_process

READ = """
import sys
from tda_backend.studies.store import repository
from tda_backend.studies.store.workspace import Workspace
print(len(repository.query(Workspace.at(sys.argv[1]), "SELECT * FROM ingested")))
"""


def wait_for(condition: Callable[[], object], seconds: float = 90.0) -> None:
    """Return once ``condition`` holds; polls, because what is awaited happens in another process."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_submitted_run_beside_a_server_lands_in_its_catalogue(tmp_path: Path):
    """The server owns the file; the run drops; readers in other processes see the snapshot."""
    workspace = Workspace.at(tmp_path / "workspace" / "catalogue.duckdb")
    study = make_study(tmp_path)
    with IngestLoop(workspace) as loop:
        assert loop.error is None
        before = catalogue_version(workspace)
        job_id = jobs.submit(["run", str(study)], workspace)
        wait_for(lambda: jobs.job(job_id, workspace).status != "running")
        record = jobs.job(job_id, workspace)
        assert record.status == "done", (workspace.jobs / f"{job_id}.log").read_text()
        assert record.done == record.total > 0
        wait_for(lambda: list_studies(workspace)["status"].tolist() == ["complete"], 5)
        assert catalogue_version(workspace) != before
        assert len(open_study("tiny", workspace).selections(0.5)) == 7
        expected = len(repository.query(workspace, "SELECT * FROM ingested"))

        def snapshot_rows() -> int:
            result = subprocess.run(
                [sys.executable, "-c", READ, str(workspace.catalogue)], capture_output=True, text=True, check=True
            )
            return int(result.stdout)

        wait_for(lambda: snapshot_rows() == expected, 10)
        # A second run in another process finds everything and computes nothing.
        again = tda("run", study, db=workspace.catalogue)
        assert again.returncode == 0, again.stderr
        assert "0 steps computed" in again.stdout
        refused = tda("rebuild", db=workspace.catalogue)
        assert refused.returncode == 1
        assert "owns the catalogue" in refused.stderr
    assert not workspace.server_file.exists()


def test_a_cancelled_job_and_its_children_are_gone(tmp_path: Path):
    workspace = Workspace.at(tmp_path / "catalogue.duckdb")
    job_id = jobs.submit(["run", str(make_study(tmp_path)), "--set", "ground_truth.subsets=20000"], workspace)
    wait_for(lambda: "retrain" in jobs.job(job_id, workspace).step)
    process = psutil.Process(jobs.job(job_id, workspace).pid)
    assert jobs.cancel(job_id, workspace)
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 15)
    record = jobs.job(job_id, workspace)
    assert record.status == "cancelled"
    assert "Run the study again" in record.hint
    assert not jobs.cancel(job_id, workspace)


def job_record(workspace: Workspace, **changes: object) -> str:
    """Write a job file by hand and return its id."""
    now = time.time()
    own = psutil.Process()
    record = {
        "job_id": "j",
        "study": "s",
        "study_id": "",
        "status": "running",
        "step": "x",
        "step_done": 0,
        "step_total": 0,
        "done": 0,
        "total": 0,
        "fraction": 0.0,
        "rate": 0.0,
        "eta_seconds": None,
        "started": now,
        "updated": now,
        "message": "",
        "hint": "",
        "pid": own.pid,
        "create_time": own.create_time(),
    }
    write_json(workspace.create().jobs / "j.json", {**record, **changes})
    return "j"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({}, "running"),
        ({"create_time": 1.0}, "stale"),  # the process id belongs to somebody else by now
        ({"pid": 2**22 + 1}, "stale"),
        ({"updated": 0.0}, "running"),  # it lives: a long decomposition, or a busy machine
        ({"updated": 0.0, "host": "elsewhere"}, "stale"),
        ({"pid": 2**22 + 1, "host": "elsewhere"}, "running"),
        ({"pid": 0}, "running"),  # submitted a moment ago
        ({"pid": 0, "started": 0.0}, "failed"),
        ({"status": "done", "create_time": 1.0}, "done"),
    ],
)
def test_status_follows_the_process_not_the_file(tmp_path: Path, changes: dict, status: str):
    workspace = Workspace.at(tmp_path / "c.duckdb")
    job_record(workspace, **changes)
    assert [each.status for each in jobs.list_jobs(workspace)] == [status]
    jobs.mark_stale(workspace)
    assert [each.status for each in jobs.list_jobs(workspace)] == [status]


def test_cancel_never_ends_a_process_that_is_not_the_job(tmp_path: Path):
    workspace = Workspace.at(tmp_path / "c.duckdb")
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        job_record(workspace, pid=process.pid, create_time=1.0)
        assert not jobs.cancel("j", workspace)
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def test_cancel_ends_runs_alone_whatever_a_job_file_names(tmp_path: Path):
    """The file names a living process with the right time of its start, but it is somebody's editor."""
    workspace = Workspace.at(tmp_path / "c.duckdb")
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        job_record(workspace, pid=process.pid, create_time=psutil.Process(process.pid).create_time())
        with pytest.raises(UsageError, match="is no run of this program"):
            jobs.cancel("j", workspace)
        assert process.poll() is None
        assert jobs.job("j", workspace).status == "running"
    finally:
        process.kill()
        process.communicate()


def test_stop_trusts_no_file_that_names_a_process_without_the_catalogue(tmp_path: Path):
    workspace = Workspace.at(tmp_path / "c.duckdb").create()
    catalogue.connect_writer(workspace).close()
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        created = psutil.Process(process.pid).create_time()
        write_json(workspace.server_file, {"pid": process.pid, "create_time": created})
        assert servers.servers_of(workspace) == []
    finally:
        process.kill()
        process.communicate()


def test_unknown_jobs_are_refused(tmp_path: Path):
    workspace = Workspace.at(tmp_path / "c.duckdb").create()
    for call in (jobs.job, jobs.cancel):
        with pytest.raises(UsageError, match="no job"):
            call("nope", workspace)
    assert len(jobs.list_jobs(workspace)) == 0
    assert len(jobs.list_jobs(tmp_path / "nowhere" / "c.duckdb")) == 0


def test_a_job_file_beats_and_ends(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("tda_backend.studies.jobs.progress.HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr("tda_backend.studies.jobs.progress.WRITE_SECONDS", 0.0)
    workspace = Workspace.at(tmp_path / "c.duckdb")
    job = JobFile(workspace, "tiny")
    first = json.loads(job.path.read_text())["updated"]
    wait_for(lambda: json.loads(job.path.read_text())["updated"] > first, 5)
    job.close("failed", "It broke.", "Mend it.")
    record = jobs.job(job.state.job_id, workspace)
    assert (record.status, record.message, record.hint) == ("failed", "It broke.", "Mend it.")
    assert record.pid == os.getpid()


def test_a_server_waits_for_a_short_writer_and_recovers_from_a_damaged_catalogue(copied: Workspace, cli, monkeypatch):
    monkeypatch.setattr("tda_backend.studies.jobs.ingest_loop.RETRY_SECONDS", 0.05)
    copied.catalogue.write_bytes(b"x" * 5000)
    with IngestLoop(copied) as loop:
        assert loop.error is not None
        assert "rebuild" in loop.error.hint
        code, _, _ = cli("rebuild", "--db", copied.catalogue)
        assert code == 0
        wait_for(lambda: loop.error is None and catalogue.owned_here(copied), 10)
        assert list_studies(copied)["status"].tolist() == ["complete"]


def test_a_run_beside_a_program_that_holds_the_catalogue_leaves_its_results_in_the_inbox(tmp_path, cli, monkeypatch):
    monkeypatch.setattr("tda_backend.studies.pipeline.courier.FINAL_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(catalogue, "READ_PATIENCE_SECONDS", 0.1)
    study = make_study(tmp_path)
    workspace = Workspace.at(tmp_path / "c.duckdb")
    with catalogue.writing(workspace):
        pass
    with held_by_another_process(workspace.catalogue, "read"):
        code, out, err = cli("run", study, "--db", workspace.catalogue, "--set", "ground_truth.subsets=0")
        assert code == 0, err
        assert "results wait" in out
    code, out, _ = cli("run", study, "--db", workspace.catalogue, "--set", "ground_truth.subsets=0")
    assert code == 0
    assert "0 steps computed" in out
    assert list_studies(workspace)["status"].tolist() == ["complete"]


SLOW_PUBLISHER = """
import sys
from tda_backend.studies.jobs import ingest_loop
from tda_backend.studies.store.workspace import Workspace
ingest_loop.SNAPSHOT_SECONDS = 4.0
with ingest_loop.IngestLoop(Workspace.at(sys.argv[1])):
    print("owns", flush=True)
    sys.stdin.read()
"""


def test_a_run_waits_until_readers_see_what_a_server_has_taken_in(tmp_path: Path, cli):
    """The server has taken everything in, and has not published it yet, when the run has computed its last step."""
    study = make_study(tmp_path)
    workspace = Workspace.at(tmp_path / "c.duckdb")
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_PUBLISHER, str(workspace.catalogue)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"owns\n"
            code, out, err = cli("run", study, "--db", workspace.catalogue, "--set", "ground_truth.subsets=0")
            assert code == 0, err
            assert "results wait" not in out
            assert list_studies(workspace)["status"].tolist() == ["complete"]
        finally:
            server.kill()


def test_a_study_is_not_computed_by_two_processes_at_once(copied: Workspace, cli):
    job_record(copied, study_id=open_study("tiny", copied).study_id)
    code, _, err = cli("run", "tiny", "--db", copied.catalogue)
    assert code == 2
    assert f"already by process {os.getpid()}" in err
    code, _, err = cli("rm", "tiny", "--yes", "--db", copied.catalogue)
    assert code == 2
    assert "Cancel" in err


def test_read_while_ingesting_in_one_process(copied: Workspace):
    with IngestLoop(copied) as loop:
        study = open_study("tiny", copied)
        assert loop.error is None
        assert len(study.configurations()) == 9
        with catalogue.writing(copied) as connection:
            connection.execute("BEGIN")
            connection.execute("DELETE FROM configurations")
            assert len(repository.configurations(copied, study.study_id)) == 9  # readers see what is committed
            connection.execute("ROLLBACK")
