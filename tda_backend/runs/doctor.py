"""``tda doctor``: is this machine and this workspace in order, and what to do if not."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from dataclasses import dataclass

import psutil
import torch

from tda_backend.errors import ArtifactError, CatalogueError, TDAError
from tda_backend.runs import jobs
from tda_backend.runs.reporting import size
from tda_backend.store import catalogue, rebuild, repository
from tda_backend.store.artifacts import ArtifactStore
from tda_backend.store.ingest import pending_drops
from tda_backend.store.workspace import Workspace
from tda_backend.training.data import shipped_arrays

PACKAGES = ("torch", "numpy", "scipy", "duckdb", "pandas", "pyarrow", "streamlit", "plotly")
LOW_DISK = 2 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: What was looked at.
        state: ``ok``, ``note``, ``problem`` or ``repaired``.
        detail: What was found, and what to do.
    """

    name: str
    state: str
    detail: str


def examine(workspace: Workspace, repair: bool) -> list[Finding]:
    """Look at versions, device, memory, disk, shipped data, artifacts, catalogue and jobs; repair if asked to."""
    findings = [_versions(), _device(), _memory(), _disk(workspace), _data()]
    if not workspace.folder.is_dir():
        return [*findings, Finding("workspace", "note", f"{workspace.folder} does not exist yet: `tda run` makes it.")]
    findings += _artifacts(workspace, repair)
    findings += _catalogue(workspace, repair)
    findings += _jobs(workspace, repair)
    return findings


def _versions() -> Finding:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            return Finding("versions", "problem", f"{name} is not installed. Install the project again (make env).")
    return Finding("versions", "ok", f"Python {platform.python_version()}, {', '.join(found)}")


def _device() -> Finding:
    cores = f"{psutil.cpu_count(logical=False) or psutil.cpu_count()} cores, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        return Finding("device", "ok", f"{torch.cuda.get_device_name()} (--device auto takes it); {cores}")
    return Finding("device", "ok", f"CPU: {cores}; no CUDA")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    return Finding("memory", "ok", f"{size(memory.available)} free of {size(memory.total)}")


def _disk(workspace: Workspace) -> Finding:
    place = next(path for path in (workspace.folder, *workspace.folder.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if free < LOW_DISK:
        detail = f"{size(free)} free at {place}: too little for the demo study. Free some, or use --db elsewhere."
        return Finding("disk", "problem", detail)
    return Finding("disk", "ok", f"{size(free)} free at {place}")


def _data() -> Finding:
    try:
        shipped_arrays("mnist.npz")
    except TDAError as error:
        return Finding("data", "problem", str(error))
    return Finding("data", "ok", "shipped files match their checksums")


def _artifacts(workspace: Workspace, repair: bool) -> list[Finding]:
    """Verify every checksum; ``repair`` sets damaged artifacts aside, to be computed again by the next run."""
    store = ArtifactStore(workspace.artifacts)
    findings, keys = [], [path.name for path in workspace.artifacts.glob("??/*") if path.is_dir()]
    for key in keys:
        try:
            artifact = store.open(key)
            name, problems = artifact.describe(), artifact.problems(thorough=True)
        except ArtifactError as error:
            name, problems = f"artifact {key[:12]}", [error.message]
        if problems:
            detail = "; ".join(problems)
            if repair:
                store.set_aside(key)
                findings.append(Finding(name, "repaired", f"{detail}. Set aside; run its study again to recompute it."))
            else:
                findings.append(Finding(name, "problem", f"{detail}. `tda doctor --repair` sets it aside."))
    leftovers = store.clear_leftovers() if repair else 0
    use = rebuild.disk_use(workspace)
    total = sum(path.stat().st_size for path in workspace.artifacts.rglob("*") if path.is_file())
    notes = [f"{size(use[name])} {name} (tda rm --unused)" for name in ("unused", "damaged") if use[name]]
    if leftovers:
        notes.append(f"{leftovers} leftovers of killed runs removed")
    detail = ", ".join([f"{len(keys)} checked, {size(total)}", *notes])
    return [*findings, Finding("artifacts", "ok" if not findings else "note", detail)]


def _catalogue(workspace: Workspace, repair: bool) -> list[Finding]:
    if not workspace.catalogue.exists() and not any(workspace.artifacts.glob("??/*")):
        return [Finding("catalogue", "note", f"{workspace.catalogue} does not exist yet: `tda run` makes it.")]
    try:
        with catalogue.reading(workspace) as connection:
            for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall():
                connection.execute(f'SELECT count(COLUMNS(*)) FROM "{name}"').fetchall()  # reads every block
        rows = repository.query(workspace, "SELECT count(*) AS num FROM studies")
        findings = [Finding("catalogue", "ok", f"{workspace.catalogue}: {int(rows['num'].iloc[0])} studies")]
    except catalogue.LockedError as error:
        return [Finding("catalogue", "problem", str(error))]
    except CatalogueError as error:
        if not repair:
            return [Finding("catalogue", "problem", f"{error.message} `tda doctor --repair` rebuilds it.")]
        counts = rebuild.rebuild(workspace)
        detail = f"{error.message} Made again: {counts['studies']} studies, {counts['steps']} steps."
        findings = [Finding("catalogue", "repaired", detail)]
    waiting = len(pending_drops(workspace))
    if waiting and not catalogue.server_lives(workspace):
        findings.append(
            Finding("inbox", "note", f"{waiting} results wait; the next `tda run` or `tda serve` takes them in.")
        )
    refused = list(workspace.inbox.glob("*.refused"))
    if refused and repair:
        for path in refused:
            path.unlink(missing_ok=True)
        findings.append(Finding("inbox", "repaired", f"{len(refused)} refused drops removed; run their studies again."))
    elif refused:
        findings.append(
            Finding("inbox", "note", f"{len(refused)} drops of damaged artifacts; run their studies again.")
        )
    return findings


def _jobs(workspace: Workspace, repair: bool) -> list[Finding]:
    frame = jobs.list_jobs(workspace)
    stale = frame[frame["status"] == "stale"]
    running = frame[frame["status"] == "running"]
    if repair:
        jobs.mark_stale(workspace)
    text = f"{len(frame)} known, {len(running)} running"
    return [
        Finding("jobs", "ok", text + (f", {len(stale)} ended from outside (run again to go on)" if len(stale) else ""))
    ]
