"""However the terminal that started it ends, the dashboard ends too, and port and catalogue are free."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from tda_backend.errors import MachineError, UsageError
from tda_backend.interfaces.cli import dashboard as processes
from tda_backend.interfaces.cli import serving as serving_module
from tda_backend.interfaces.cli.main import build_parser
from tda_backend.interfaces.cli.serving import permissions
from tda_backend.studies.jobs import servers
from tda_backend.studies.store import catalogue, owners
from tda_backend.studies.store.workspace import Workspace, write_json
from tests.runs.conftest import ROOT, tda

SECONDS = 240.0


class Starting:
    """``tda serve`` in a process of its own that has just begun."""

    def __init__(self, folder: Path) -> None:
        self.workspace = Workspace.at(folder / "w" / "c.duckdb")
        with socket.socket() as probe:  # any free one: other workers of the suite look from 8501 on at the same time
            probe.bind((processes.ADDRESS, 0))
            self.port = probe.getsockname()[1]
        self.said = folder / "said"
        words = ["serve", "--db", str(self.workspace.catalogue), "--port", str(self.port), "--no-browser"]
        with self.said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tda_backend", *words],
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
            )

    def wait_for(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + SECONDS
        while not holds():
            assert time.monotonic() < deadline, self.said.read_text()
            try:
                self.process.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            psutil.wait_procs([], timeout=0.1)

    def is_free(self) -> bool:
        """Return whether no process has the port or the catalogue on its command line."""
        own = {str(self.port), str(self.workspace.catalogue)}
        running = [
            each
            for each in psutil.process_iter(["cmdline", "status"])
            if each.info["status"] != psutil.STATUS_ZOMBIE and own & {*(each.info["cmdline"] or [])}
        ]
        return not running

    def check_free(self) -> None:
        """Take port and catalogue at once."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((processes.ADDRESS, self.port))
        assert not owners.server_lives(self.workspace)
        with catalogue.writing(self.workspace):
            pass
        assert servers.servers_of(self.workspace) == []


class Serving(Starting):
    """``tda serve`` that answers."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.wait_for(lambda: "Dashboard:" in self.said.read_text())
        self.wait_for(lambda: len(self._dashboards()) == 1)  # a child has its own command line a moment after its start
        (self.child,) = self._dashboards()

    def _dashboards(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):  # a helper of its start that has just ended: look again
            return [each for each in psutil.Process(self.process.pid).children() if "streamlit" in each.cmdline()]
        return []

    def is_gone(self) -> bool:
        return not self.child.is_running() or self.child.status() == psutil.STATUS_ZOMBIE

    def check_free(self) -> None:
        """Wait until the dashboard has ended; then port and catalogue can be taken at once."""
        self.wait_for(self.is_gone)
        super().check_free()

    def end(self) -> None:
        for process in (self.process, self.child):
            if isinstance(process, psutil.Process):
                if process.is_running():
                    process.kill()
            elif process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    found = Serving(tmp_path)
    try:
        yield found
    finally:
        found.end()


@pytest.mark.parametrize(
    ("seconds", "number"),
    [(0.1, signal.SIGTERM), (0.6, signal.SIGHUP), (1.3, signal.SIGTERM), (2.2, signal.SIGHUP), (3.5, signal.SIGTERM)],
)
def test_a_server_that_is_ended_while_it_starts_leaves_nothing(tmp_path: Path, seconds: float, number: signal.Signals):
    starting = Starting(tmp_path)
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            starting.process.wait(seconds)
        starting.process.send_signal(number)
        starting.process.wait(SECONDS)
        starting.wait_for(starting.is_free)
        starting.check_free()
    finally:
        starting.process.kill()
        starting.process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM])
def test_the_dashboard_ends_with_what_started_it(serving: Serving, number: signal.Signals):
    os.kill(serving.process.pid, number)
    serving.check_free()
    serving.wait_for(lambda: serving.process.poll() is not None)
    if number != signal.SIGKILL:
        assert serving.process.returncode == 0
        assert "Dashboard stopped." in serving.said.read_text()


def test_stop_ends_the_server_of_a_workspace(serving: Serving, tmp_path: Path):
    elsewhere = tda("stop", db=tmp_path / "other.duckdb")
    assert elsewhere.returncode == 2
    assert "No dashboard of this user serves" in elsewhere.stderr
    assert not serving.is_gone()
    stopped = tda("stop", db=serving.workspace.catalogue)
    assert stopped.returncode == 0, stopped.stderr
    assert f"process {serving.child.pid}" in stopped.stdout
    serving.check_free()
    serving.wait_for(lambda: serving.process.poll() is not None)
    assert serving.process.returncode == 0
    assert "stopped from outside" in serving.said.read_text()


def options(*words: str):
    return build_parser(["serve"]).parse_args(["serve", *words])


def test_a_token_is_made_up_or_given_or_left_out(monkeypatch):
    monkeypatch.delenv("TDA_TOKEN", raising=False)
    one, other = (permissions(options(), read_only=False) for _ in range(2))
    assert len(one.token) > 40
    assert one.token != other.token
    assert one.token not in repr(one)
    assert permissions(options("--no-token"), read_only=True) == processes.Permissions(read_only=True)
    allowed = permissions(options("--allow-host", "a", "--allow-host", "b", "--allow-task-files"), read_only=False)
    assert (allowed.hosts, allowed.task_files) == (("a", "b"), True)
    monkeypatch.setenv("TDA_TOKEN", "given-by-me-12345")
    assert permissions(options(), read_only=False).token == "given-by-me-12345"
    monkeypatch.setenv("TDA_TOKEN", "0123456789abcdef")
    assert permissions(options(), read_only=False).token == "0123456789abcdef"
    with pytest.raises(UsageError, match="Leave one"):
        permissions(options("--no-token"), read_only=False)
    for short in ("short", "with spaces in it, many", "-" + "1" * 30, "ä" * 20):
        monkeypatch.setenv("TDA_TOKEN", short)
        with pytest.raises(UsageError, match="cannot be used"):
            permissions(options(), read_only=False)


def test_no_token_stands_on_a_command_line(serving: Serving):
    token = serving.said.read_text().partition("token=")[2].split()[0]
    assert len(token) > 40
    for process in (serving.child, psutil.Process(serving.process.pid)):
        assert token not in " ".join(process.cmdline())


def test_the_folder_of_a_user_is_not_taken_from_another(tmp_path: Path, monkeypatch):
    places = [tmp_path / "run", tmp_path / "temporary", tmp_path / "home" / ".cache"]
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(places[0]))
    monkeypatch.setattr(servers.tempfile, "gettempdir", lambda: str(places[1]))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    places[1].mkdir()
    folder = servers.user_folder()  # the first place does not exist, e.g. after sudo -u
    assert (folder.parent, folder.stat().st_mode & 0o777) == (places[1], 0o700)
    assert not places[0].exists()
    workspace = Workspace.at(tmp_path / "w" / "c.duckdb")
    other = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        there = servers.RunningServer(other.pid, psutil.Process(other.pid).create_time(), str(workspace.catalogue))
        left = servers.enlist(workspace, read_only=True)
        write_json(left, asdict(there))
        places[0].mkdir()
        assert servers.user_folder().parent == places[0]
        assert servers.servers_of(workspace) == [there]  # it was started when there was no other place
    finally:
        other.kill()
        other.communicate()
    left.unlink()
    for place, at in zip(places, (places[0] / folder.name, folder), strict=False):
        at.rmdir()
        (place / "elsewhere").mkdir()
        at.symlink_to(place / "elsewhere")
    assert servers.user_folder().parent == places[2]
    (places[2] / folder.name).rmdir()
    places[2].rmdir()
    places[2].write_text("a file")
    with pytest.raises(MachineError, match="no folder for this user alone") as caught:
        servers.user_folder()
    assert "XDG_RUNTIME_DIR" in caught.value.hint
    assert servers.servers_of(workspace) == []


def test_logs_of_a_server_that_only_reads_go_to_the_users_own_folder(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    workspace = Workspace.at(tmp_path / "w" / "c.duckdb").create()
    before = sorted(workspace.folder.rglob("*"))
    assert processes.log_folder(workspace, read_only=True) == servers.user_folder()
    assert sorted(workspace.folder.rglob("*")) == before


@pytest.mark.parametrize("name", ["https://tda.example", "a/b", "me@tda.example", "tda.example:port", "fd00::1", ""])
def test_a_name_to_be_served_under_must_be_one(monkeypatch, name: str):
    monkeypatch.delenv("TDA_TOKEN", raising=False)
    with pytest.raises(UsageError, match="is no name of a host"):
        permissions(options("--allow-host", name), read_only=False)
    assert permissions(options("--allow-host", "[fd00::1]"), read_only=False).hosts == ("[fd00::1]",)


def test_a_browser_that_cannot_be_opened_ends_no_server(tmp_path: Path, monkeypatch):
    ended: list[str] = []

    class Ready:
        address, token = "http://127.0.0.1:1/?token=x", "x"

        def __init__(self, *_: object) -> None: ...

        def wait_until_ready(self) -> None: ...

        def stop(self) -> None:
            ended.append("stopped")

    def refuse() -> Path:
        raise MachineError("no folder", "none")

    monkeypatch.delenv("TDA_TOKEN", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(serving_module, "Dashboard", Ready)
    monkeypatch.setattr(servers, "user_folder", refuse)
    arguments = options("--db", str(tmp_path / "c.duckdb"))
    _, dashboard = serving_module._start(arguments, Console(quiet=True), search=True, read_only=True)
    assert isinstance(dashboard, Ready)
    assert ended == []


def test_a_request_to_end_waits_until_what_is_started_is_known():
    known: list[str] = []

    def start() -> None:
        with serving_module._undisturbed():
            signal.raise_signal(signal.SIGINT)
            known.append("job")

    with pytest.raises(KeyboardInterrupt):
        start()
    assert known == ["job"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


SIGNALLED = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from app import lifeline
lifeline.GRACE_SECONDS = 0.1
signal.signal(signal.SIGTERM, lambda number, frame: None)  # a server that is too busy to end
lifeline.end_within_seconds()
os.kill(os.getpid(), signal.SIGHUP)
print("goes on", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
while True:
    signal.pause()
"""


def test_a_busy_server_ends_without_failure_and_heeds_no_signal_that_is_ignored():
    ended = subprocess.run([sys.executable, "-c", SIGNALLED], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("goes on\n", "", 0)


WRITES = """
import logging, os, sys
from app import server_log
server_log.FILE_BYTES = 1000
server_log.begin_log()
for number in range(100):
    os.write(1, b"x" * 99 + b"\\n")
    logging.getLogger("tda.server").info("again")
"""


def test_the_plain_output_does_not_grow_without_end(tmp_path: Path):
    output = tmp_path / "server-1.output"
    environment = {**os.environ, "TDA_SERVER_LOG": str(tmp_path / "server-1.jsonl")}
    with output.open("ab") as file:
        subprocess.run([sys.executable, "-c", WRITES], stdout=file, cwd=ROOT, env=environment, check=True, timeout=120)
    assert 0 < output.stat().st_size <= 1100
    assert set(output.read_bytes()) == set(b"x\n")  # appended to what is left, with no hole before
