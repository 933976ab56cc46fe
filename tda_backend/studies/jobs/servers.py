"""Dashboards that serve a workspace: how one is told what it may do, which ones live, and how to end one.

Each server leaves a small file in a folder of its user, outside the workspace: that may be read-only, or shared.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tda_backend.errors import MachineError
from tda_backend.studies.store.owners import owner_process, same_process, server_lives
from tda_backend.studies.store.workspace import Workspace, read_json, write_json

READ_ONLY_VARIABLE = "TDA_READ_ONLY"
TASK_FILES_VARIABLE = "TDA_ALLOW_TASK_FILES"
TOKEN_VARIABLE, NO_TOKEN_VARIABLE = "TDA_TOKEN", "TDA_NO_TOKEN"
HOSTS_VARIABLE = "TDA_HOSTS"
LIFELINE_VARIABLE = "TDA_LIFELINE"
"""Set where the server's standard input is a pipe that its parent holds: its end is the parent's end."""
LOG_VARIABLE = "TDA_SERVER_LOG"
STOP_SECONDS = 20.0
CACHE = ".cache"


@dataclass(frozen=True)
class RunningServer:
    """A dashboard's process.

    Attributes:
        pid: Process id.
        create_time: When it began: process ids are reused.
        catalogue: What it serves.
        read_only: Whether it only reads; empty where that is not known.
    """

    pid: int
    create_time: float
    catalogue: str = ""
    read_only: bool = False

    @property
    def lives(self) -> bool:
        """Whether it still runs."""
        return same_process(self.pid, self.create_time)


def user_folder() -> Path:
    """Return the folder of this user for what lives no longer than a server; nobody else may write to it.

    It is made in the first of three places that takes it: where ``XDG_RUNTIME_DIR`` says, among what is temporary, at
    home.

    Raises:
        MachineError: None takes it, or somebody else has made all three.
    """
    for folder in _candidates():
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, parents=folder.parent.name == CACHE, exist_ok=True)
            if _is_mine(folder):
                folder.chmod(0o700)
                if os.access(folder, os.W_OK | os.X_OK):
                    return folder
    places = ", ".join(str(folder) for folder in _candidates())
    raise MachineError(
        f"There is no folder for this user alone: {places} cannot be made, or belong to somebody else.",
        "Name a folder of yours with XDG_RUNTIME_DIR.",
    )


def _candidates() -> list[Path]:
    """Return where this user's folder may be: a server may have been started with another environment."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    places = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), os.path.expanduser(f"~/{CACHE}")]
    return [Path(place) / f"tda-{user}" for place in dict.fromkeys(places) if os.path.isabs(place)]


def _is_mine(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and (not hasattr(os, "getuid") or found.st_uid == os.getuid())


def enlist(workspace: Workspace, read_only: bool) -> Path:
    """Leave a file that says that this process serves a workspace; return its path, to be removed at the end."""
    path = user_folder() / f"{_mark(workspace)}-{os.getpid()}.json"
    own = RunningServer(os.getpid(), psutil.Process().create_time(), str(workspace.catalogue), read_only)
    write_json(path, asdict(own))
    return path


def servers_of(workspace: Workspace) -> list[RunningServer]:
    """Return the living servers of a workspace that this user knows of, its owner first."""
    found: dict[int, RunningServer] = {}
    owner = owner_process(workspace)
    if owner is not None and server_lives(workspace):  # the file alone may name any process
        found[owner.pid] = RunningServer(owner.pid, owner.create_time, str(workspace.catalogue))
    mine = [folder for folder in _candidates() if _is_mine(folder)]
    for path in sorted(path for folder in mine for path in folder.glob(f"{_mark(workspace)}-*.json")):
        try:
            server = RunningServer(**(read_json(path) or {}))
        except TypeError:
            continue
        if server.lives:
            found[server.pid] = server
        else:
            path.unlink(missing_ok=True)
    return [server for server in found.values() if server.lives and server.pid != os.getpid()]


def stop(server: RunningServer, patience: float = STOP_SECONDS) -> None:
    """End a server: gently, and after ``patience`` seconds for good.

    Raises:
        MachineError: It belongs to another user.
    """
    try:
        process = psutil.Process(server.pid)
        if not server.lives:
            return
        process.terminate()
        try:
            process.wait(patience)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(patience)
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied as error:
        raise MachineError(f"Process {server.pid} belongs to another user.", "Ask who started it.") from error


def host_name(address: str) -> str | None:
    """Return the name in ``NAME``, ``NAME:PORT`` or ``[IPv6]:PORT``; ``None`` where it says anything else."""
    try:
        parts = urlsplit(f"//{address}")
        _ = parts.port
    except ValueError:
        return None
    if parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return (parts.hostname or "").lower().rstrip(".") or None


def _mark(workspace: Workspace) -> str:
    return hashlib.sha256(str(workspace.catalogue.resolve()).encode()).hexdigest()[:16]
