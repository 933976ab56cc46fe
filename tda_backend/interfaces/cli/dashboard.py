"""The dashboard's process: what it may do, its start, and its end."""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from tda_backend.errors import MachineError, UsageError
from tda_backend.studies.jobs import servers
from tda_backend.studies.store.workspace import DATABASE_VARIABLE, Workspace, writing_to

ADDRESS = "127.0.0.1"
DEFAULT_PORT = 8501
START_SECONDS = 60.0
POLL_SECONDS = 0.2
MINIMUM_TOKEN = 16


@dataclass(frozen=True)
class Permissions:
    """What a dashboard does for whom.

    Attributes:
        read_only: No runs, and the catalogue is not written.
        task_files: Visitors may have task files of their own run.
        token: What visitors must know; empty: everybody who reaches the port is let in.
        hosts: Names by which it is served besides this machine's own.
    """

    read_only: bool = False
    task_files: bool = False
    token: str = field(default="", repr=False)
    hosts: tuple[str, ...] = ()


def find_dashboard() -> Path:
    """Return ``app/main.py`` beside the package.

    Raises:
        MachineError: It is not there, or another package called ``app`` takes its place.
    """
    root = Path(__file__).resolve().parents[3]
    main = root / "app" / "main.py"
    if main.is_file() and (root / "app" / "services.py").is_file():
        return main
    spec = importlib.machinery.PathFinder.find_spec("app", [str(root), *sys.path])
    if spec is not None:
        where = spec.origin or next(iter(spec.submodule_search_locations or []), "somewhere on the path")
        raise MachineError(
            f"The module named app at {where} is not the dashboard.",
            "Another package called app hides it: install this project into an environment of its own.",
        )
    raise MachineError(f"The dashboard's files are missing ({main}).", "Run from the source tree, or install again.")


def dashboard_environment(workspace: Workspace, permissions: Permissions, log: Path) -> dict[str, str]:
    """Return the server's environment: our ``app`` first on the path, the catalogue, no current folder on the path.

    The token goes this way: command lines can be read by every user of the machine, environments by nobody else.
    """
    root = str(Path(__file__).resolve().parents[3])
    paths = [root, *(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != root)]
    return {
        **os.environ,
        DATABASE_VARIABLE: str(workspace.catalogue),
        servers.READ_ONLY_VARIABLE: "1" if permissions.read_only else "",
        servers.TASK_FILES_VARIABLE: "1" if permissions.task_files else "",
        servers.TOKEN_VARIABLE: permissions.token,
        servers.NO_TOKEN_VARIABLE: "" if permissions.token else "1",
        servers.HOSTS_VARIABLE: ",".join(permissions.hosts),
        servers.LIFELINE_VARIABLE: "1",
        servers.LOG_VARIABLE: str(log),
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",
        "TDA_CWD": os.getcwd(),
    }


def free_port(wanted: int | None, search: bool) -> int:
    """Return a port to listen on.

    Raises:
        UsageError: ``wanted`` is no port.
        MachineError: It is in use.
    """
    first = DEFAULT_PORT if wanted is None else wanted
    if not 1 <= first <= 65535:
        raise UsageError(f"--port {first} is not a port.", "Give 1 to 65535.")
    for port in range(first, min(first + 50, 65536)) if search and wanted is None else (first,):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ADDRESS, port))
            except PermissionError as error:
                raise MachineError(f"Port {port} is not allowed for this user.", "Give --port 8600.") from error
            except OSError:
                continue
            return port
    raise MachineError(f"Port {first} is in use.", f"Stop what listens there, or give another: --port {first + 1}.")


def log_folder(workspace: Workspace, read_only: bool) -> Path:
    """Return where a server's logs go: beside its catalogue or, where it only reads, in the user's folder."""
    if read_only:
        return servers.user_folder()
    folder = workspace.create().folder / "logs"
    with writing_to(workspace.folder):
        folder.mkdir(exist_ok=True)
    return folder


class Dashboard:
    """The Streamlit process. It ends when this process does, however that ends: its input is a pipe from here."""

    def __init__(self, workspace: Workspace, port: int, permissions: Permissions) -> None:
        self.url = f"http://{ADDRESS}:{port}"
        self.token = permissions.token
        main = find_dashboard()
        folder = log_folder(workspace, permissions.read_only)
        self.log = folder / f"server-{port}.jsonl"
        self.output = folder / f"server-{port}.output"
        options = {
            "server.port": str(port),
            "server.address": ADDRESS,
            "server.headless": "true",
            "browser.gatherUsageStats": "false",
            "server.fileWatcherType": "none",
            "server.enableAgentApi": "false",
        }
        command = [sys.executable, "-m", "streamlit", "run", str(main)]
        command += [word for name, value in options.items() for word in (f"--{name}", value)]
        # Made anew, and appended to: the server empties it where it grows too large.
        with writing_to(folder):
            self.output.unlink(missing_ok=True)
        with writing_to(folder), self.output.open("ab") as output:
            # A session of its own: Ctrl-C reaches this process alone, which then ends the dashboard in order.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=dashboard_environment(workspace, permissions, self.log),
                cwd=main.parents[1],
            )

    @property
    def address(self) -> str:
        """What a person opens: with the token, which the server makes a cookie."""
        return f"{self.url}/?token={self.token}" if self.token else self.url

    def wait_until_ready(self) -> None:
        """Return when the dashboard answers.

        Raises:
            MachineError: It ended, or did not answer within a minute.
        """
        deadline = time.monotonic() + START_SECONDS
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise self.ended()
            try:
                with opener.open(f"{self.url}/healthz", timeout=5):
                    return
            except urllib.error.HTTPError:
                return  # it answers that something is wrong, and its pages say what
            except (urllib.error.URLError, OSError):
                time.sleep(POLL_SECONDS)
        raise MachineError(f"The dashboard does not answer at {self.url}.", f"See {self.output}.")

    def ended(self) -> MachineError:
        """Return the error that says why the process ended."""
        lines = [line for line in self.output.read_text(errors="replace").splitlines() if line.strip()]
        last = f": {lines[-1].strip()[:200]}" if lines else ""
        return MachineError(f"The dashboard ended with status {self.process.returncode}{last}.", f"See {self.output}.")

    @property
    def was_stopped(self) -> bool:
        """Whether it has ended because somebody told it to; by ``tda stop``, if need be for good."""
        return self.process.poll() in (0, -15, -9)

    def stop(self) -> None:
        """End the process, gently first."""
        if self.process.poll() is not None:
            return
        self.process.terminate()
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            self.process.wait(timeout=servers.STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
