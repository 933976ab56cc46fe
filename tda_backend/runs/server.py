"""``tda serve`` and ``tda demo``: the dashboard's process, and the embedded study beside it."""

from __future__ import annotations

import argparse
import importlib.machinery
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tda_backend.errors import MachineError, UsageError
from tda_backend.runs import jobs
from tda_backend.runs.reporting import duration
from tda_backend.store import catalogue
from tda_backend.store.workspace import DATABASE_VARIABLE, Workspace, read_json, writing_to

ADDRESS = "127.0.0.1"
DEFAULT_PORT = 8501
READ_ONLY_VARIABLE = "TDA_READ_ONLY"
START_SECONDS = 60.0
POLL_SECONDS = 0.2
EXIT_INTERRUPTED = 130
DEMO_STUDY = "mnist-mlp"


def find_dashboard() -> Path:
    """Return ``app/main.py`` beside the package.

    Raises:
        MachineError: It is not there, or another package called ``app`` takes its place.
    """
    root = Path(__file__).resolve().parents[2]
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


def dashboard_environment(workspace: Workspace, read_only: bool) -> dict[str, str]:
    """Return the server's environment: our ``app`` first on the path, the catalogue, no current folder on the path."""
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != root)]
    return {
        **os.environ,
        DATABASE_VARIABLE: str(workspace.catalogue),
        READ_ONLY_VARIABLE: "1" if read_only else "",
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


class Dashboard:
    """The Streamlit process."""

    def __init__(self, workspace: Workspace, port: int, read_only: bool) -> None:
        self.url = f"http://{ADDRESS}:{port}"
        main = find_dashboard()
        log_folder = workspace.folder if read_only and workspace.folder.is_dir() else workspace.create().folder
        self.log = log_folder / "server.log"
        command = [
            sys.executable, "-m", "streamlit", "run", str(main), "--server.port", str(port),
            "--server.address", ADDRESS, "--server.headless", "true",
            "--browser.gatherUsageStats", "false", "--server.fileWatcherType", "none",
        ]  # fmt: skip
        with writing_to(log_folder), self.log.open("wb") as output:
            # A session of its own: Ctrl-C reaches this process alone, which then ends the dashboard in order.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env=dashboard_environment(workspace, read_only), cwd=main.parents[1],
            )  # fmt: skip

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
                with opener.open(f"{self.url}/_stcore/health", timeout=1):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(POLL_SECONDS)
        raise MachineError(f"The dashboard does not answer at {self.url}.", f"See {self.log}.")

    def ended(self) -> MachineError:
        """Return the error that says why the process ended."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        last = f": {lines[-1].strip()[:200]}" if lines else ""
        return MachineError(f"The dashboard ended with status {self.process.returncode}{last}.", f"See {self.log}.")

    def stop(self) -> None:
        """End the process, gently first."""
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _start(
    arguments: argparse.Namespace, console: Console, search: bool, read_only: bool
) -> tuple[Workspace, Dashboard]:
    workspace = Workspace.at(arguments.db)
    find_dashboard()
    if not read_only and catalogue.server_lives(workspace):
        owner = (read_json(workspace.server_file) or {}).get("pid")
        raise MachineError(
            f"A dashboard runs on this catalogue already (process {owner}).",
            "Open that one, add --read-only, or name another catalogue with --db FILE.",
        )
    dashboard = Dashboard(workspace, free_port(arguments.port, search), read_only)
    try:
        dashboard.wait_until_ready()
    except BaseException:
        dashboard.stop()
        raise
    console.print(f"Dashboard: {dashboard.url}", highlight=False, markup=False, soft_wrap=True)
    if not arguments.no_browser and _has_display():
        webbrowser.open(dashboard.url)
    return workspace, dashboard


def _has_display() -> bool:
    if sys.platform in ("darwin", "win32"):
        return sys.stdout.isatty()
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _interrupt_on_terminate() -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def serve(arguments: argparse.Namespace, console: Console) -> int:
    """Serve the dashboard until Ctrl-C."""
    _interrupt_on_terminate()
    _, dashboard = _start(arguments, console, search=False, read_only=arguments.read_only)
    console.print("Stop it with Ctrl-C.", highlight=False)
    try:
        dashboard.process.wait()
        raise dashboard.ended()
    except KeyboardInterrupt:
        console.print("Dashboard stopped.", highlight=False)
        return 0
    finally:
        dashboard.stop()


def demo(arguments: argparse.Namespace, console: Console) -> int:
    """Open the dashboard, compute the embedded study beside it, and go on serving until Ctrl-C."""
    _interrupt_on_terminate()
    workspace, dashboard = _start(arguments, console, search=True, read_only=False)
    command = ["run", DEMO_STUDY, *(["--quick"] if arguments.quick else [])]
    again = "tda demo" + (" --quick" if arguments.quick else "") + (f" --db {arguments.db}" if arguments.db else "")
    job_id = ""
    try:
        job_id = jobs.submit(command, workspace)
        record = _follow(job_id, workspace, dashboard, console)
        if record["status"] == "done":
            console.print(
                f"Study ready: {record['message']}. The dashboard goes on; stop it with Ctrl-C.", highlight=False
            )
        else:
            text = f"The study {record['status']}: {record['message']} {record['hint']}".strip()
            console.print(f"{text} The dashboard goes on; stop it with Ctrl-C.", highlight=False, markup=False)
        dashboard.process.wait()
        raise dashboard.ended()
    except KeyboardInterrupt:
        running = bool(job_id) and jobs.job(job_id, workspace)["status"] == "running"
        if running:
            jobs.cancel(job_id, workspace)
        what = "Finished steps are kept; go on with" if running else "Open it again with"
        console.print(f"Stopped. {what}: {again}", highlight=False, markup=False, soft_wrap=True)
        return EXIT_INTERRUPTED if running else 0
    finally:
        dashboard.stop()


def _follow(job_id: str, workspace: Workspace, dashboard: Dashboard, console: Console) -> dict:
    """Draw the job's progress until it ends; return its last record."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[detail]}"))
    shown = -1
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=1.0, detail="")
        while True:
            record = jobs.job(job_id, workspace)
            if record["status"] != "running":
                return record
            if dashboard.process.poll() is not None:
                jobs.cancel(job_id, workspace)
                raise dashboard.ended()
            left = f" · {duration(record['eta_seconds'])} left" if record["eta_seconds"] else ""
            rate = f" · {record['rate']:.3g}/s" if record["rate"] else ""
            detail = f"{record['done']}/{record['total']} steps{rate}{left}"
            bar.update(task, completed=record["fraction"] or 0.0, description=record["step"], detail=detail)
            if not console.is_terminal and record["done"] != shown and record["total"]:
                shown = record["done"]
                line = f"[{record['done']}/{record['total']}] {record['step']}{left}"
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            time.sleep(POLL_SECONDS)
