"""``tda serve``, ``tda demo`` and ``tda stop``: the dashboard, the embedded study beside it, and their end."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import html
import os
import re
import secrets
import signal
import sys
import time
import webbrowser
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tda_backend.errors import MachineError, TDAError, UsageError, command
from tda_backend.interfaces.cli import dashboard as processes
from tda_backend.interfaces.cli.dashboard import MINIMUM_TOKEN, POLL_SECONDS, Dashboard, Permissions
from tda_backend.interfaces.cli.printing import duration, print_line
from tda_backend.interfaces.cli.verb import EXIT_INTERRUPTED
from tda_backend.studies.jobs import jobs, servers
from tda_backend.studies.jobs.progress import JobState
from tda_backend.studies.store import owners
from tda_backend.studies.store.workspace import Workspace

DEMO_STUDY = "mnist-mlp"


def permissions(arguments: argparse.Namespace, read_only: bool) -> Permissions:
    """Return what the command line allows; a token is made up unless ``TDA_TOKEN`` gives one.

    Raises:
        UsageError: The given token is too short or has other signs, or is given together with ``--no-token``; or a name
            for ``--allow-host`` is none.
    """
    given = os.environ.get(servers.TOKEN_VARIABLE, "")
    if given and arguments.no_token:
        raise UsageError("--no-token was given, and a token in TDA_TOKEN.", "Leave one of them out.")
    # No hyphen first: what a person copies and a shell reads must not look like an option.
    if given and not re.fullmatch(f"[A-Za-z0-9_][A-Za-z0-9_-]{{{MINIMUM_TOKEN - 1},}}", given):
        raise UsageError(
            f"The token in TDA_TOKEN cannot be used ({len(given)} characters).",
            f"Give {MINIMUM_TOKEN} or more letters, digits, - and _, no - first; or leave TDA_TOKEN out.",
        )
    for name in arguments.allow_host:
        if servers.host_name(name) is None:
            raise UsageError(
                f"--allow-host {name} is no name of a host.",
                "Give the name alone, e.g. --allow-host tda.example.org; an IPv6 address in brackets.",
            )
    token = "" if arguments.no_token else given or f"t{secrets.token_urlsafe(32)}"
    return Permissions(read_only, arguments.allow_task_files, token, tuple(arguments.allow_host))


def _start(
    arguments: argparse.Namespace, console: Console, search: bool, read_only: bool
) -> tuple[Workspace, Dashboard]:
    workspace = Workspace.at(arguments.db)
    processes.find_dashboard()
    allowed = permissions(arguments, read_only)
    if not read_only and owners.server_lives(workspace):
        owner = owners.owner_process(workspace)
        raise MachineError(
            f"A dashboard runs on this catalogue already (process {owner.pid if owner else 'unknown'}).",
            "Open that one, end it with `tda stop`, add --read-only, or name another catalogue with --db FILE.",
        )
    dashboard = Dashboard(workspace, processes.free_port(arguments.port, search), allowed)
    try:
        dashboard.wait_until_ready()
        print_line(console, f"Dashboard: {dashboard.address}")
        if not allowed.token:
            print_line(
                Console(stderr=True),
                "Warning: --no-token: every user of this machine can open it, and start and cancel runs.",
            )
        if not arguments.no_browser and _has_display():
            with contextlib.suppress(TDAError, OSError, webbrowser.Error):  # the address stands there
                _open_browser(dashboard, console)
    except BaseException:
        dashboard.stop()
        raise
    return workspace, dashboard


def _open_browser(dashboard: Dashboard, console: Console) -> None:
    """Open the address by way of a file that only this user can read: command lines can be read by everybody."""
    if not dashboard.token:
        webbrowser.open(dashboard.url)
        return
    path = servers.user_folder() / f"open-{os.getpid()}.html"
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f'<!doctype html><meta http-equiv="refresh" content="0;url={html.escape(dashboard.address)}">')
    atexit.register(path.unlink, missing_ok=True)
    print_line(console, "If the browser cannot read that file, open the address above.")
    webbrowser.open(path.as_uri())


def _has_display() -> bool:
    if sys.platform in ("darwin", "win32"):
        return sys.stdout.isatty()
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _interrupt_on_signals() -> None:
    """Make a closed terminal and every polite request to end do what Ctrl-C does; what is ignored stays ignored."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    for number in _heeded("SIGTERM", "SIGHUP", "SIGQUIT"):
        signal.signal(number, interrupt)


def _heeded(*names: str) -> list[signal.Signals]:
    found = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [each for each in found if signal.getsignal(each) is not signal.SIG_IGN]  # e.g. by nohup


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold requests to end back until the block is done: whoever ends what it starts must know what that is."""
    heard: list[int] = []
    numbers = _heeded("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
    before = [signal.signal(each, lambda number, frame: heard.append(number)) for each in numbers]
    try:
        yield
    finally:
        for each, handler in zip(numbers, before, strict=True):
            signal.signal(each, handler)
    if heard:
        raise KeyboardInterrupt


def serve(arguments: argparse.Namespace, console: Console) -> int:
    """Serve the dashboard until Ctrl-C."""
    _interrupt_on_signals()
    _, dashboard = _start(arguments, console, search=False, read_only=arguments.read_only)
    console.print("Stop it with Ctrl-C.", highlight=False)
    try:
        dashboard.process.wait()
        if not dashboard.was_stopped:
            raise dashboard.ended()
    except KeyboardInterrupt:
        pass
    else:
        print_line(console, "Dashboard stopped from outside.")
        return 0
    finally:
        dashboard.stop()
    print_line(console, "Dashboard stopped.")
    return 0


def demo(arguments: argparse.Namespace, console: Console) -> int:
    """Open the dashboard, compute the embedded study beside it, and go on serving until Ctrl-C."""
    _interrupt_on_signals()
    workspace, dashboard = _start(arguments, console, search=True, read_only=False)
    words = ["run", DEMO_STUDY, *(["--quick"] if arguments.quick else [])]
    again = command(
        "demo", *(["--quick"] if arguments.quick else []), *(["--db", arguments.db] if arguments.db else [])
    )
    job_id = ""
    try:
        with _undisturbed():
            job_id = jobs.submit(words, workspace)
        record = _follow(job_id, workspace, dashboard, console)
        if record.status == "done":
            console.print(
                f"Study ready: {record.message}. The dashboard goes on; stop it with Ctrl-C.", highlight=False
            )
        else:
            text = f"The study {record.status}: {record.message} {record.hint}".strip()
            console.print(f"{text} The dashboard goes on; stop it with Ctrl-C.", highlight=False, markup=False)
        dashboard.process.wait()
        if not dashboard.was_stopped:
            raise dashboard.ended()
        print_line(console, "Dashboard stopped from outside.")
        return 0
    except KeyboardInterrupt:
        running = bool(job_id) and jobs.job(job_id, workspace).is_running
        if running:
            jobs.cancel(job_id, workspace)
        what = "Finished steps are kept; go on with" if running else "Open it again with"
        print_line(console, f"Stopped. {what}: {again}")
        return EXIT_INTERRUPTED if running else 0
    finally:
        dashboard.stop()


def stop(arguments: argparse.Namespace, console: Console) -> int:
    """End the dashboards of a workspace.

    Raises:
        UsageError: There is none.
    """
    workspace = Workspace.at(arguments.db)
    found = servers.servers_of(workspace)
    if not found:
        raise UsageError(f"No dashboard of this user serves {workspace.catalogue}.", "Name another with --db FILE.")
    for server in found:
        servers.stop(server)
        print_line(console, f"Stopped the dashboard (process {server.pid}).")
    return 0


def _follow(job_id: str, workspace: Workspace, dashboard: Dashboard, console: Console) -> JobState:
    """Draw the job's progress until it ends; return its last record."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[detail]}"))
    shown = -1
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=1.0, detail="")
        while True:
            record = jobs.job(job_id, workspace)
            if not record.is_running:
                return record
            if dashboard.process.poll() is not None:
                jobs.cancel(job_id, workspace)
                raise dashboard.ended()
            left = f" · {duration(record.eta_seconds)} left" if record.eta_seconds else ""
            rate = f" · {record.rate:.3g}/s" if record.rate else ""
            detail = f"{record.done}/{record.total} steps{rate}{left}"
            bar.update(task, completed=record.fraction, description=record.step, detail=detail)
            if not console.is_terminal and record.done != shown and record.total:
                shown = record.done
                print_line(console, f"[{record.done}/{record.total}] {record.step}{left}")
            time.sleep(POLL_SECONDS)
