"""``tda doctor``: is this machine and this workspace in order, and what to do if not."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil

import psutil
import torch

from tda_backend.errors import TDAError
from tda_backend.interfaces.cli.care import Finding, examine_workspace
from tda_backend.interfaces.cli.printing import size
from tda_backend.models.tasks.data import shipped_arrays
from tda_backend.studies.store.workspace import Workspace

PACKAGES = ("torch", "numpy", "scipy", "duckdb", "pandas", "pyarrow", "streamlit", "plotly")
LOW_DISK = 2 * 1024**3


def examine(workspace: Workspace, repair: bool) -> list[Finding]:
    """Look at versions, device, memory, disk, shipped data, artifacts, catalogue and jobs; repair if asked to."""
    findings = [_versions(), _device(), _memory(), _disk(workspace), _data()]
    if not workspace.folder.is_dir():
        return [*findings, Finding("workspace", "note", f"{workspace.folder} does not exist yet: `tda run` makes it.")]
    return [*findings, *examine_workspace(workspace, repair)]


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
