"""What stands before every request and every websocket: is the server meant, from where, and by whom."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.access import TOKEN_FIELD, Access, port_of, without_token

CLOSED = ("/_stcore/metrics", "/_stcore/agent", "/_stcore/upload_file", "/_stcore/script-health-check")
"""What Streamlit offers and the dashboard does not use, in whatever folder of a server it lives."""
POLICY_VIOLATION = 1008
logger = logging.getLogger("tda.server.guard")
_ASKING = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Token needed</title></head><body>
<h1>This dashboard asks for its token</h1>
<p>Open the address that <code>tda serve</code> or <code>tda demo</code> printed: it ends in <code>?token=…</code>.
Or type the token:</p>
<form><input name="{TOKEN_FIELD}" type="password" autocomplete="off" aria-label="Token"> <button>Open</button></form>
</body></html>"""


class Guard:
    """ASGI middleware that lets through what :class:`~app.access.Access` allows and refuses all else with 403.

    Args:
        app: What is guarded.
        access: What is asked.
        open_paths: Addresses that need no token.
    """

    def __init__(self, app: ASGIApp, access: Access, open_paths: Iterable[str] = ()) -> None:
        self.app = app
        self.access = access
        self.open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on or refuse."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers, path = Headers(scope=scope), scope.get("path", "")
        wrong = self._wrong(headers, path)
        if wrong:
            await _refuse(PlainTextResponse(f"{wrong}\n", 403), wrong, scope, receive, send)
            return
        port = port_of(scope)
        if scope["type"] == "http":
            word, rest = without_token(scope.get("query_string", b""))
            if word and self.access.is_token(word):
                await self._welcome(path, rest, port)(scope, receive, send)
                return
        if path not in self.open_paths and not self.access.knows_token(scope):
            wants_page = "text/html" in headers.get("accept", "")
            response = HTMLResponse(_ASKING, 403) if wants_page else PlainTextResponse("The token is missing.\n", 403)
            await _refuse(response, "The token is missing.", scope, receive, send)
            return
        await self.app(_as_own(scope), receive, send)

    def _wrong(self, headers: Headers, path: str) -> str:
        """Return what is wrong with a request whoever sends it; empty: nothing."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or not self.access.is_served(hosts[0]):
            return "This server is not served under that name (`tda serve --allow-host NAME` allows another)."
        if len(origins) > 1 or not self.access.is_own(origins[0] if origins else None, hosts[0]):
            return "Pages of other sites may not ask this server."
        if any(closed in path for closed in CLOSED):
            return "This address is closed."
        return ""

    def _welcome(self, path: str, query: str, port: int) -> Response:
        """Return the answer to a right token: a cookie, and the same page without the token in its address."""
        there = "./" + path.rpartition("/")[2] + (f"?{query}" if query else "")  # relative: it may live in a folder
        response = RedirectResponse(there, 303)
        response.set_cookie(self.access.cookie_name(port), self.access.cookie, httponly=True, samesite="lax", path="/")
        return response


def _as_own(scope: Scope) -> Scope:
    """Return a request that was let in as one of the server's own pages.

    Streamlit has a check of its own: an origin that is not the host, as behind a proxy, it refuses, and first asks a
    server on the internet for this machine's address there.
    """
    host = Headers(scope=scope)["host"].encode("latin-1")
    own = [(name, b"http://" + host if name == b"origin" else value) for name, value in scope["headers"]]
    return {**scope, "headers": own}


async def _refuse(response: Response, why: str, scope: Scope, receive: Receive, send: Send) -> None:
    headers = Headers(scope=scope)
    told = {name: headers.get(name, "")[:200] for name in ("host", "origin")}
    logger.warning(why, extra={"event": "refused", "path": scope.get("path", "")[:200], **told})
    if scope["type"] == "websocket":
        await receive()  # the request to connect
        await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": why[:100]})  # before it is accepted
        return
    await response(scope, receive, send)
