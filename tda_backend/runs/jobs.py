"""Runs as jobs: start one in a process of its own, see how far it is, cancel it. Jobs outlive the server's restart."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import psutil

from tda_backend.errors import UsageError
from tda_backend.runs.progress import JOB_VARIABLE, JobState, new_job_id
from tda_backend.store.catalogue import same_process
from tda_backend.store.workspace import DATABASE_VARIABLE, Workspace, read_json, write_json, writing_to

STALE_SECONDS = 120.0
START_SECONDS = 60.0
TERMINATE_SECONDS = 10.0
COLUMNS = [
    "job_id", "study", "study_id", "status", "step", "step_done", "step_total", "done", "total", "fraction", "rate",
    "eta_seconds", "started", "updated", "message", "hint", "pid",
]  # fmt: skip


def submit(args: list[str], workspace: Workspace | str | Path | None = None, cwd: str | Path | None = None) -> str:
    """Start ``tda ARGS`` in a new session and return its job id.

    Args:
        args: As on the command line, e.g. ``["run", "mnist-mlp", "--quick"]``; ``--db`` is not needed.
        workspace: Where the study goes (or its catalogue file).
        cwd: Folder that relative paths in ``args`` start from.
    """
    place = Workspace.at(workspace).create()
    job_id = new_job_id()
    state = JobState(job_id=job_id, study=_study_of(args), step="starting", args=list(args), pid=0, create_time=0.0)
    write_json(place.jobs / f"{job_id}.json", asdict(state))
    root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        JOB_VARIABLE: job_id,
        DATABASE_VARIABLE: str(place.catalogue),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
    }
    with writing_to(place.jobs), (place.jobs / f"{job_id}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tda_backend", *args],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=cwd,
            start_new_session=True,
        )  # fmt: skip
    _children.append(process)
    return job_id


_children: list[subprocess.Popen] = []  # polled on each listing, so that ended children do not stay zombies


def _study_of(args: list[str]) -> str:
    return next((arg for arg in args[1:] if not arg.startswith("-")), "")


def _record(place: Workspace, path: Path) -> dict | None:
    """Return one job's record with the status that its process supports."""
    record = read_json(path)
    if record is None or "job_id" not in record:
        return None
    now = time.time()
    if record.get("status") == "running":
        starting = not record.get("pid")
        if starting and now - record.get("started", 0) > START_SECONDS:
            record.update(status="failed", message="The run did not start.", hint=f"See {path.with_suffix('.log')}.")
        elif not starting and not same_process(record):
            record.update(
                status="stale", message="The run was ended from outside.", hint="Run the study again to go on."
            )
        elif not starting and now - record.get("updated", 0) > STALE_SECONDS:
            record.update(status="stale", message="The run has not reported for two minutes.",
                          hint="Cancel it and run the study again to go on.")  # fmt: skip
    return record


def list_jobs(workspace: Workspace | str | Path | None = None) -> pd.DataFrame:
    """Return one row per job, newest first.

    Columns: job_id, study, study_id, status (running, done, failed, stale or cancelled), step, step_done, step_total
    (units of the present step), done, total (steps of the plan), fraction (0..1 of the work, estimated), rate (units a
    second), eta_seconds, started, updated (seconds since 1970), message, hint, pid.
    """
    for process in [*_children]:
        if process.poll() is not None:
            _children.remove(process)
    place = Workspace.at(workspace)
    records = [_record(place, path) for path in sorted(place.jobs.glob("*.json"), reverse=True)]
    return pd.DataFrame([record for record in records if record is not None], columns=COLUMNS)


def job(job_id: str, workspace: Workspace | str | Path | None = None) -> dict:
    """Return one job as a dict with the columns of :func:`list_jobs`.

    Raises:
        UsageError: There is no such job.
    """
    place = Workspace.at(workspace)
    record = _record(place, place.jobs / f"{Path(job_id).name}.json")
    if record is None:
        raise UsageError(f"There is no job {job_id!r} in {place.folder}.", "See the list of jobs.")
    return {name: record.get(name) for name in COLUMNS}


def log_text(job_id: str, workspace: Workspace | str | Path | None = None, num_lines: int = 50) -> str:
    """Return the last lines that a job printed."""
    path = Workspace.at(workspace).jobs / f"{Path(job_id).name}.log"
    if not path.is_file():
        return ""
    return "\n".join(path.read_text(errors="replace").splitlines()[-num_lines:])


def cancel(job_id: str, workspace: Workspace | str | Path | None = None) -> bool:
    """End a running job and its worker processes; return whether there was something to end.

    The recorded process is ended only if it is still that process (same start time): process ids are reused.
    """
    place = Workspace.at(workspace)
    path = place.jobs / f"{Path(job_id).name}.json"
    record = read_json(path)
    if record is None:
        raise UsageError(f"There is no job {job_id!r} in {place.folder}.", "See the list of jobs.")
    if record.get("status") != "running":
        return False
    ended = False
    if same_process(record):
        try:
            parent = psutil.Process(record["pid"])
            family = [*parent.children(recursive=True), parent]
            parent.terminate()
            _, alive = psutil.wait_procs([parent], timeout=TERMINATE_SECONDS)
            for process in [*alive, *[member for member in family if member.is_running()]]:
                process.kill()
            ended = True
        except psutil.NoSuchProcess:
            ended = True
    write_json(path, {**(read_json(path) or record), "status": "cancelled", "message": "Cancelled.",
                      "hint": "Run the study again to go on where it stopped.", "updated": time.time()})  # fmt: skip
    return ended


def mark_stale(workspace: Workspace) -> int:
    """Write the end of jobs whose process is gone into their files (at server start); return how many."""
    count = 0
    for path in workspace.jobs.glob("*.json"):
        before, now = read_json(path), _record(workspace, path)
        if before and now and before.get("status") != now["status"]:
            write_json(path, now)
            count += 1
    return count
