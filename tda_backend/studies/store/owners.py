"""Which process owns a catalogue: the server announces itself in a file, and readers ask whether it lives."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from tda_backend.studies.store.workspace import Workspace, read_json, write_json


@dataclass(frozen=True)
class OwnerProcess:
    """The process that owns a catalogue, as it announced itself.

    Attributes:
        pid: Process id.
        create_time: When the process began: process ids are reused.
    """

    pid: int
    create_time: float


def server_lives(workspace: Workspace) -> bool:
    """Return whether another living process has announced itself as the catalogue's owner, and is it."""
    owner = owner_process(workspace)
    return (
        owner is not None
        and owner.pid != os.getpid()
        and same_process(owner.pid, owner.create_time)
        and _has_open(owner.pid, workspace.catalogue)
    )


def _has_open(pid: int, path: Path) -> bool:
    """Return whether a process has a file open, as far as this user may know; a file of its name may be anybody's.

    The system is asked: opening the file here and closing it again would drop this process's own locks on it.
    """
    try:
        return any(Path(each.path) == path.resolve() for each in psutil.Process(pid).open_files())
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError):
        return True


def owner_process(workspace: Workspace) -> OwnerProcess | None:
    """Return the process that has announced itself as the catalogue's owner; it may be gone."""
    content = read_json(workspace.server_file) or {}
    pid, created = content.get("pid"), content.get("create_time")
    if not isinstance(pid, int) or not isinstance(created, int | float) or pid <= 0:
        return None
    return OwnerProcess(pid, float(created))


def announce(workspace: Workspace) -> None:
    """Announce this process as the catalogue's owner."""
    write_json(workspace.server_file, asdict(OwnerProcess(os.getpid(), psutil.Process().create_time())))


def same_process(pid: int, create_time: float) -> bool:
    """Return whether the process that began at ``create_time`` under this id still lives."""
    try:
        process = psutil.Process(int(pid))
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return alive and abs(process.create_time() - float(create_time)) < 1.0
    except (psutil.Error, TypeError, ValueError):
        return False
