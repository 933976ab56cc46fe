"""Runs as jobs: start one in a process of its own, see how far it is, cancel it. Jobs outlive the server's restart."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil

from tda_backend.errors import UsageError
from tda_backend.studies.jobs.progress import JOB_VARIABLE, JobState, new_job_id
from tda_backend.studies.store.owners import same_process
from tda_backend.studies.store.workspace import DATABASE_VARIABLE, Workspace, write_json, writing_to

STALE_SECONDS = 120.0
"""A run on another machine, whose processes cannot be asked, is given up after so long without a sign of life."""
START_SECONDS = 60.0
TERMINATE_SECONDS = 10.0
PACKAGE, CONSOLE_SCRIPTS = "tda_backend", ("tda", "tda.exe")


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
    root = str(Path(__file__).resolve().parents[3])
    environment = {
        **os.environ,
        JOB_VARIABLE: job_id,
        DATABASE_VARIABLE: str(place.catalogue),
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
    }
    with writing_to(place.jobs), (place.jobs / f"{job_id}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tda_backend", *args],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=cwd,
            start_new_session=True,
        )
    _children.append(process)
    _note_process(place.jobs / f"{job_id}.json", process.pid)
    return job_id


def _note_process(path: Path, pid: int) -> None:
    """Write a new process into its job's file, unless it has done so: what lives is starting, however long it takes."""
    try:
        began = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return
    state = JobState.read(path)
    if state is not None and not state.pid:
        write_json(path, asdict(replace(state, pid=pid, create_time=began)))


_children: list[subprocess.Popen] = []  # polled on each listing, so that ended children do not stay zombies


def _study_of(args: list[str]) -> str:
    return next((arg for arg in args[1:] if not arg.startswith("-")), "")


def _state(path: Path) -> JobState | None:
    """Return one job with the status that its process supports.

    A process that lives runs, however busy the machine is and however long its last sign of life is ago: a
    decomposition of minutes lets no other thread of it write.
    """
    state, now = JobState.read(path), time.time()
    if state is None or not state.is_running:
        return state
    if state.host not in ("", socket.gethostname()):
        return _far(state, now)
    if not state.pid:
        if now - state.started <= START_SECONDS:
            return state
        hint = f"See {path.with_suffix('.log')}."
        return replace(state, status="failed", message="The run did not start.", hint=hint)
    if not same_process(state.pid, state.create_time):
        hint = "Run the study again to go on."
        return replace(state, status="stale", message="The run was ended from outside.", hint=hint)
    return state


def _far(state: JobState, now: float) -> JobState:
    """Return a job of another machine; its clock may differ from this one's by less than what is waited."""
    if now - state.updated <= STALE_SECONDS:
        return state
    message = f"The run on {state.host} has not reported for two minutes."
    return replace(state, status="stale", message=message, hint="Run the study again to go on.")


def list_jobs(workspace: Workspace | str | Path | None = None) -> list[JobState]:
    """Return the jobs of a workspace, newest first, each with the status that its process supports."""
    for process in [*_children]:
        if process.poll() is not None:
            _children.remove(process)
    place = Workspace.at(workspace)
    states = [_state(path) for path in sorted(place.jobs.glob("*.json"), reverse=True)]
    return [state for state in states if state is not None]


def job(job_id: str, workspace: Workspace | str | Path | None = None) -> JobState:
    """Return one job.

    Raises:
        UsageError: There is no such job.
    """
    place = Workspace.at(workspace)
    state = _state(_file_of(place, job_id))
    if state is None:
        raise _unknown(job_id, place)
    return state


def _file_of(place: Workspace, job_id: str) -> Path:
    return place.jobs / f"{Path(job_id).name}.json"


def _unknown(job_id: str, place: Workspace) -> UsageError:
    return UsageError(f"There is no job {job_id!r} in {place.folder}.", "See the list of jobs.")


def cancel(job_id: str, workspace: Workspace | str | Path | None = None) -> bool:
    """End a running job and its worker processes; return whether there was something to end.

    The recorded process is ended only if it is still that process (same start time): process ids are reused. And it
    must be a run: a file in a copied or shared workspace may name any process.

    Raises:
        UsageError: There is no such job, it works on another machine, or its process is no run.
    """
    place = Workspace.at(workspace)
    path = _file_of(place, job_id)
    state = JobState.read(path)
    if state is None:
        raise _unknown(job_id, place)
    if not state.is_running:
        return False
    if state.host not in ("", socket.gethostname()):
        raise UsageError(f"The run works on {state.host}.", "Cancel it there.")
    ended = False
    if same_process(state.pid, state.create_time):
        try:
            parent = psutil.Process(state.pid)
            if not _is_run(parent):
                raise UsageError(
                    f"Process {state.pid}, which the job's file names, is no run of this program.",
                    "End it yourself if it is one of yours.",
                )
            family = [*parent.children(recursive=True), parent]
            parent.terminate()
            _, alive = psutil.wait_procs([parent], timeout=TERMINATE_SECONDS)
            for process in [*alive, *[member for member in family if member.is_running()]]:
                process.kill()
            ended = True
        except psutil.NoSuchProcess:
            ended = True
    last = JobState.read(path) or state
    hint = "Run the study again to go on where it stopped."
    write_json(path, asdict(replace(last, status="cancelled", message="Cancelled.", hint=hint, updated=time.time())))
    return ended


def _is_run(process: psutil.Process) -> bool:
    """Return whether a process was started as ``tda …``, ``python -m tda_backend …`` or by a file of this package."""
    try:
        words = process.cmdline()
    except psutil.AccessDenied:
        return False
    by_name = any(Path(word).name in CONSOLE_SCRIPTS for word in words[:2])
    return by_name or any(PACKAGE in Path(word).parts for word in words[:4])


def mark_stale(workspace: Workspace) -> int:
    """Write the end of jobs whose process is gone into their files (at server start); return how many."""
    count = 0
    for path in workspace.jobs.glob("*.json"):
        before, now = JobState.read(path), _state(path)
        if before and now and before.status != now.status:
            write_json(path, asdict(now))
            count += 1
    return count


def running_jobs(workspace: Workspace, study_id: str) -> list[JobState]:
    """Return the runs that compute a study at this moment."""
    return [state for state in list_jobs(workspace) if state.is_running and state.study_id == study_id]
