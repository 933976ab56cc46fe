"""Attacks on a running server: another user of the machine, a page of another site, a name that is not served."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.datastructures import Headers
from streamlit import net_util
from streamlit.web.server.starlette import starlette_websocket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.access import Access, without_token
from app.guard import Guard
from tests.app.loops import result_of
from tests.browser import harness

TOKEN = "t" + "k" * 31
PATHS = ("/", "/explorer", "/_stcore/health", "/_stcore/host-config", "/media/x.png", "/static/js/x.js")


NOBODY = {"type": "http", "headers": []}


class Served:
    """A running server, asked by hand: every header is the test's own."""

    def __init__(self, address: str) -> None:
        self.host = urlsplit(address).netloc

    def get(self, path: str, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.host, timeout=60)
        try:
            connection.request("GET", path, headers={"Host": self.host, **headers})
            answer = connection.getresponse()
            answer.content = answer.read()
            return answer
        finally:
            connection.close()

    def websocket(self, **headers: str) -> int:
        """Return the status with which a websocket is answered: 101 where it is accepted."""
        return result_of(self._connect(headers))

    async def _connect(self, headers: dict[str, str]) -> int:
        extra = {name: value for name, value in headers.items() if name != "Host"}
        address = f"ws://{headers.get('Host', self.host)}/_stcore/stream"
        where = {"host": self.host.split(":")[0], "port": int(self.host.split(":")[1])}
        try:
            async with connect(address, additional_headers=extra, subprotocols=["streamlit"], **where):
                return 101
        except InvalidStatus as refused:
            return refused.response.status_code

    @property
    def cookie(self) -> str:
        """What a browser holds that has opened the printed address."""
        return self.get(f"/?token={TOKEN}").headers["set-cookie"].split(";")[0]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    log = folder / "server.jsonl"
    with harness.dashboard(folder / "c.duckdb", TDA_TOKEN=TOKEN, TDA_SERVER_LOG=str(log)) as address:
        found = Served(address)
        found.log = log
        yield found


@pytest.mark.parametrize("path", PATHS)
def test_another_user_of_the_machine_gets_nothing(served: Served, path: str):
    for headers in ({}, {"Cookie": f"tda-{served.host.split(':')[1]}=0"}, {"Authorization": "Bearer wrong"}):
        assert served.get(path, **headers).status == 403
    assert served.get(f"{path}?token=wrong").status == 403


def test_another_user_gets_no_websocket(served: Served):
    assert served.websocket() == 403
    assert served.websocket(Cookie=f"tda-{served.host.split(':')[1]}=0") == 403


def test_the_token_opens_and_leaves_the_address(served: Served):
    answer = served.get(f"/explorer?study=a&token={TOKEN}&lam=0.1")
    assert answer.status == 303
    assert answer.headers["location"] == "./explorer?study=a&lam=0.1"
    assert TOKEN not in answer.headers["set-cookie"]
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert "samesite=lax" in answer.headers["set-cookie"].lower()
    assert served.get("/explorer", Cookie=served.cookie).status == 200
    assert served.get("/_stcore/health", Authorization=f"Bearer {TOKEN}").status == 200
    assert served.websocket(Cookie=served.cookie, Origin=f"http://{served.host}") == 101


@pytest.mark.parametrize("path", [*PATHS, "/healthz"])
@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "127.0.0.1@evil", ""])
def test_a_name_that_is_not_served_gets_nothing_even_with_the_token(served: Served, path: str, host: str):
    assert served.get(path, Host=host, Cookie=served.cookie).status == 403


def test_a_foreign_host_gets_no_websocket(served: Served):
    assert served.websocket(Host="evil.example", Cookie=served.cookie, Origin="http://evil.example") == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:1", "x"])
def test_pages_of_others_may_not_ask_even_from_another_port(served: Served, origin: str):
    assert served.get("/", Cookie=served.cookie, Origin=origin).status == 403
    assert served.websocket(Cookie=served.cookie, Origin=origin) == 403


@pytest.mark.parametrize(
    "path",
    ["/_stcore/metrics", "/_stcore/agent/openapi.json", "/_stcore/upload_file/a/b", "/base/_stcore/metrics"],
)
def test_what_the_dashboard_does_not_use_is_closed(served: Served, path: str):
    assert served.get(path, Cookie=served.cookie).status == 403


def test_every_answer_has_the_headers(served: Served):
    for answer in (served.get("/"), served.get("/", Cookie=served.cookie), served.get("/healthz")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'self'" in policy
        assert "object-src 'none'" in policy
        scripts = next(rule for rule in policy.split("; ") if rule.startswith("script-src"))
        assert "unsafe" not in scripts
        assert "http" not in scripts


def test_health_says_little_to_strangers_and_all_to_its_owner(served: Served):
    assert json.loads(served.get("/healthz").content) == {"status": "ok"}
    own = json.loads(served.get("/healthz", Cookie=served.cookie).content)
    assert own == {"status": "ok", "catalogue": "ok", "ingest": "ok", "disk": "ok"}


def test_the_log_has_requests_and_refusals_but_no_token(served: Served):
    served.get(f"/?token={TOKEN}")
    served.get("/explorer?token=guess")
    text = Path(served.log).read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {"start", "request", "refused"} <= {line["event"] for line in lines}
    refused = next(line for line in lines if line["event"] == "refused")
    assert {"time", "level", "path", "host"} <= refused.keys()
    asked = next(line for line in lines if line["event"] == "request")
    assert {"method", "path", "status", "milliseconds"} <= asked.keys()
    assert TOKEN not in text
    assert "guess" not in text


def test_the_environment_says_who_is_asked_for_what():
    environment = {"TDA_TOKEN": "abc", "TDA_HOSTS": "Box.example, proxy."}
    access = Access.of(environment)
    assert access.token == "abc"
    assert "TDA_TOKEN" not in environment  # no child of the server gets it
    assert "abc" not in repr(access)
    assert all(access.is_served(name) for name in ("box.example", "BOX.example:8501", "proxy", "localhost", "[::1]:80"))
    assert not any(access.is_served(name) for name in (None, "", "x", "box.example/x", "box.example:port", "[::1"))
    assert access.is_own("https://proxy", "127.0.0.1:8501")  # which passes the pages of that name on
    assert not access.is_own("http://localhost:9", "127.0.0.1:8501")
    assert Access.of({"TDA_NO_TOKEN": "1"}).knows_token(NOBODY)
    made_up = Access.of({})
    assert len(made_up.token) > 30
    assert not made_up.knows_token(NOBODY)


@pytest.mark.parametrize(
    ("query", "token", "rest"),
    [
        (b"", "", ""),
        (b"token=a%20b&c=%41", "a b", "c=%41"),
        (b"x=1&token=a&token=b&y", "a", "x=1&y"),
        (b"&&", "", "&&"),
        (b"%74oken=a&x=1", "a", "x=1"),
    ],
)
def test_a_token_is_taken_out_of_an_address(query: bytes, token: str, rest: str):
    assert without_token(query) == (token, rest)


def test_names_are_allowed_with_a_port_or_as_an_address():
    access = Access.of({"TDA_HOSTS": "proxy.example:8443,[fd00::1], ,https://no.example,UP.example."})
    assert access.hosts == {"127.0.0.1", "localhost", "::1", "proxy.example", "fd00::1", "up.example"}
    assert access.is_served("[fd00::1]:8501")


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("https://tda.example", "127.0.0.1:8501", True),  # a proxy that asks under this machine's name
        ("https://tda.example:8443", "tda.example", True),  # a proxy that passes its name on
        ("http://tda.example:8501", "tda.example:8501", True),  # no proxy
        ("http://tda.example:9999", "tda.example:8501", False),  # another server under the same name
        ("http://other.example", "127.0.0.1:8501", False),
        ("http://127.0.0.1:9999", "tda.example", False),
    ],
)
def test_whose_pages_may_ask_under_a_name_that_is_allowed(origin: str, host: str, own: bool):
    assert Access.of({"TDA_HOSTS": "tda.example"}).is_own(origin, host) is own


def test_behind_a_proxy_streamlit_agrees_and_asks_nobody_outside(monkeypatch):
    """nginx as it comes: the host is where it passes requests to, the origin is the name in the browser."""
    asked: list[str] = []
    monkeypatch.setattr(net_util, "get_external_ip", lambda: asked.append("outside"))
    seen: list[Headers] = []

    async def streamlit(scope, receive, send) -> None:
        seen.append(Headers(scope=scope))

    origin = "https://tda.example"
    headers = [
        (b"host", b"127.0.0.1:8501"),
        (b"origin", origin.encode()),
        (b"authorization", f"Bearer {TOKEN}".encode()),
    ]
    scope = {"type": "websocket", "path": "/_stcore/stream", "headers": headers, "server": ("127.0.0.1", 8501)}
    guard = Guard(streamlit, Access.of({"TDA_HOSTS": "tda.example", "TDA_TOKEN": TOKEN}))
    result_of(guard(scope, None, None))
    assert starlette_websocket._is_origin_allowed(seen[0]["origin"], seen[0]["host"])
    assert asked == []
    assert not starlette_websocket._is_origin_allowed(origin, seen[0]["host"])  # as it was sent
    assert asked == ["outside"]
