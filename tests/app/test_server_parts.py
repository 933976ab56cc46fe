"""What stands before the pages, asked without a network: headers, the pages' script, the log, and ``/healthz``."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message

from app import health, lifeline, server_log, services
from app.access import Access
from app.headers import FIXED, inline_scripts
from app.navigation import ADDRESSES
from app.server import Server
from tda_backend.studies.store.workspace import Workspace
from tests.app.loops import result_of

TOKEN = "t" * 32
PAGE = "<html><head><title>A page</title></head></html>"
Ask = Callable[..., "Answer"]


@dataclass
class Answer:
    """What a server said."""

    status: int
    headers: dict[str, str]
    body: bytes


def page(_request: Request) -> Response:
    return HTMLResponse(PAGE, headers={"x-frame-options": "DENY"})


def plain(_request: Request) -> Response:
    return PlainTextResponse("<head>")


async def ask(app: Starlette, path: str, query: str = "", host: str = "127.0.0.1:8501", **headers: str) -> Answer:
    given = {"host": host, **headers}
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "server": ("127.0.0.1", 8501),
    }
    said: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        said.append(message)

    await app(scope, receive, send)
    found = {name.decode(): value.decode() for name, value in said[0]["headers"]}
    return Answer(said[0]["status"], found, b"".join(each.get("body", b"") for each in said[1:]))


@pytest.fixture
def logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of the server's log; the handlers go with the test."""
    monkeypatch.setenv(server_log.LOG_VARIABLE, str(tmp_path / "server.jsonl"))
    root, before = logging.getLogger(), list(logging.getLogger().handlers)
    monkeypatch.setattr(logging, "raiseExceptions", True)
    monkeypatch.setattr(server_log.logger, "level", logging.NOTSET)
    yield tmp_path / "server.jsonl"
    for handler in [each for each in root.handlers if each not in before]:
        root.removeHandler(handler)
        handler.close()


@pytest.fixture
def asked(logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Ask]:
    """Return what asks a server that lives as long as one question, with a page of its own."""
    monkeypatch.setattr(lifeline, "end_within_seconds", lambda: None)  # signals belong to the program's main thread

    def serving(read_only: str = "") -> Ask:
        monkeypatch.setenv("TDA_DB", str(tmp_path / "workspace" / "c.duckdb"))
        monkeypatch.setenv("TDA_READ_ONLY", read_only)
        monkeypatch.setenv("TDA_TOKEN", TOKEN)
        monkeypatch.delenv("TDA_NO_TOKEN", raising=False)
        server = Server()
        pages = [Route("/", page), Route(f"/{ADDRESSES[1]}", page), Route(f"/{ADDRESSES[2]}", plain)]
        app = Starlette(routes=[*server.routes(), *pages], middleware=server.middleware())

        async def within(path: str, **more: str) -> Answer:
            async with server.lifespan(app):
                return await ask(app, path, **more)

        return lambda path, **more: result_of(within(path, **more))

    return serving


def test_a_page_gets_the_script_and_headers_that_allow_it(asked):
    answer = asked()(f"/{ADDRESSES[1]}", authorization=f"Bearer {TOKEN}")
    assert answer.status == 200
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert answer.body.count(b"window.__streamlit=") == 1
    assert {name: answer.headers[name] for name in FIXED} == {**FIXED, "x-frame-options": "DENY"}  # its own is kept
    policy = answer.headers["content-security-policy"]
    assert all(source in policy for source in inline_scripts(answer.body))
    assert "'unsafe-eval'" not in policy


def test_what_is_no_page_stays_as_it_is(asked):
    assert asked()(f"/{ADDRESSES[2]}", authorization=f"Bearer {TOKEN}").body == b"<head>"


@pytest.mark.parametrize(("path", "there"), [("", "./?a=1"), ("/", "../?a=1")])
def test_the_first_page_s_name_leads_to_the_server_s_own_address(asked, path: str, there: str):
    answer = asked()(f"/{ADDRESSES[0]}{path}", query="a=1", authorization=f"Bearer {TOKEN}")
    assert (answer.status, answer.headers["location"]) == (307, there)


def test_who_does_not_know_the_token_gets_no_page_and_a_wrong_name_not_even_the_health(asked):
    strange, stranger = asked()("/", accept="text/html"), asked()(health.PATH, host="evil.example")
    assert strange.status == stranger.status == 403
    assert b"window.__streamlit" not in strange.body
    assert asked()("/").body == b"The token is missing.\n"
    assert asked()("/_stcore/metrics", authorization=f"Bearer {TOKEN}").status == 403
    welcome = asked()("/", query=f"lam=0.1&token={TOKEN}")
    assert (welcome.status, welcome.headers["location"]) == (303, "./?lam=0.1")


def test_every_request_is_logged_without_its_query(asked, logged: Path):
    asked()("/", query="token=secret", authorization=f"Bearer {TOKEN}")
    lines = [json.loads(line) for line in logged.read_text().splitlines()]
    events = [line["event"] for line in lines if line["logger"] == "tda.server"]
    assert events == ["start", "request", "stop"]
    request = next(line for line in lines if line["event"] == "request")
    assert (request["method"], request["path"], request["status"]) == ("GET", "/", 200)
    assert "secret" not in logged.read_text()


def test_health_is_for_all_and_its_parts_for_those_who_know_the_token(asked):
    well = asked()(health.PATH)
    assert (well.status, json.loads(well.body)) == (200, {"status": "ok"})
    parts = json.loads(asked()(health.PATH, authorization=f"Bearer {TOKEN}").body)
    assert parts == {"status": "ok", "catalogue": "ok", "ingest": "ok", "disk": "ok"}


def test_a_server_that_only_reads_has_nothing_to_take_in(asked, tmp_path: Path):
    none = asked("1")(health.PATH, authorization=f"Bearer {TOKEN}")
    assert none.status == 503
    assert json.loads(none.body)["catalogue"] == "There is no catalogue yet."
    asked()(health.PATH)  # this one makes it
    parts = json.loads(asked("1")(health.PATH, authorization=f"Bearer {TOKEN}").body)
    assert parts == {"status": "ok", "catalogue": "ok", "ingest": "off", "disk": "off"}


def test_a_catalogue_that_does_not_open_is_said_to_those_who_know_the_token(asked, tmp_path: Path):
    place = Workspace.at(tmp_path / "workspace" / "c.duckdb")
    place.create()
    place.catalogue.write_bytes(b"no catalogue" * 1000)
    stranger, known = asked("1")(health.PATH), asked("1")(health.PATH, authorization=f"Bearer {TOKEN}")
    assert stranger.status == known.status == 503
    assert json.loads(stranger.body) == {"status": "failing"}
    assert json.loads(known.body)["catalogue"] != health.OK


def test_little_room_on_the_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(health, "DISK_BYTES", 2**80)
    assert "MiB are free" in health._disk(tmp_path)
    assert "cannot be asked" in health._disk(tmp_path / "nowhere")


@dataclass
class Loop:
    """An ingest loop that is in some state."""

    is_alive: bool
    is_well: bool = False
    error: str = ""

    def health(self) -> Loop:
        return self


@pytest.mark.parametrize(
    ("loop", "words"),
    [
        (Loop(False), "has stopped"),
        (Loop(True, error="The disk is full."), "The disk is full."),
        (Loop(True), "holds the catalogue"),
        (Loop(True, True), "ok"),
    ],
)
def test_the_state_of_the_loop_is_said(loop, words: str):
    assert words in health.ingest_state(loop)


def test_a_server_without_a_given_token_makes_one_up_and_says_it(monkeypatch, capsys):
    for name in ("TDA_TOKEN", "TDA_NO_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    assert f"?token={server.access.token}" in capsys.readouterr().out
    assert isinstance(server.access, Access)
    assert services.workspace() is not None


def test_the_plain_output_is_emptied_once_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "server.output"
    path.write_bytes(b"x" * 100)
    limit, record = server_log.OutputLimit(path), logging.makeLogRecord({})
    monkeypatch.setattr(server_log, "FILE_BYTES", 99)
    limit.emit(record)
    assert path.stat().st_size == 100  # it is not this process's output
    with path.open("ab") as file:
        monkeypatch.setattr(server_log, "STANDARD_OUTPUT", file.fileno())
        limit.emit(record)
        assert path.stat().st_size == 0
    path.unlink()
    limit.emit(record)
    assert not path.exists()


def test_a_server_ends_when_its_parent_is_gone(monkeypatch: pytest.MonkeyPatch):
    ended: list[object] = []
    monkeypatch.setattr(lifeline, "_end_soon", lambda: ended.append("soon"))
    monkeypatch.setattr(lifeline.os, "kill", lambda *told: ended.append(told))
    reading, writing = os.pipe()
    os.close(writing)
    lifeline._watch(reading)
    os.close(reading)
    assert ended == ["soon", (os.getpid(), lifeline.signal.SIGTERM)]
