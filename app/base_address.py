"""Tell the browser where the server is, and which addresses are steps of its history (``history.js``).

Without the first, opening a page's own address begins with failed requests.

Streamlit's browser side cannot know whether ``/explorer`` is a page or the folder that the server lives in, and tries
both; the wrong try shows as two errors in the console of everyone who opens a copied link. It skips that where the
page names the address, as pages do that embed it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HISTORY = (Path(__file__).parent / "history.js").read_text(encoding="utf-8")


def script_of(pages: Sequence[str]) -> bytes:
    """Return the script that is added, for the pages of these names."""
    names = "|".join(re.escape(name) for name in pages)
    return (
        "<script>window.__streamlit={BACKEND_BASE_URL:location.origin+"
        f'location.pathname.replace(/\\/({names})\\/?$/,"/")}};{_HISTORY}</script>'
    ).encode()


class BaseAddress:
    """ASGI middleware that adds a script to the HTML of the dashboard's pages.

    Args:
        app: What is wrapped.
        pages: The pages' names in the URL; the first one's address is the server's own, and its name leads there.
    """

    def __init__(self, app: ASGIApp, pages: Sequence[str]) -> None:
        self.app = app
        self.pages = {"/", *(f"/{name}" for name in pages)}
        self.first = f"/{pages[0]}"
        self.script = script_of(pages)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on; extend the HTML."""
        path = scope.get("path", "")
        if scope["type"] != "http" or scope["method"] != "GET" or (path.rstrip("/") or "/") not in self.pages:
            await self.app(scope, receive, send)
            return
        if path.rstrip("/") == self.first:
            query = scope.get("query_string", b"").decode()
            # Relative, for the server may live in a folder.
            there = ("../" if path.endswith("/") else "./") + (f"?{query}" if query else "")
            await RedirectResponse(there)(scope, receive, send)
            return
        plain = [pair for pair in scope["headers"] if pair[0] not in (b"accept-encoding", b"range")]
        start: Message | None = None
        body = b""

        async def extend(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            if message["type"] != "http.response.body" or start is None:
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            headers = MutableHeaders(raw=start["headers"])
            if headers.get("content-type", "").startswith("text/html"):
                body = body.replace(b"<head>", b"<head>" + self.script, 1)
                headers["content-length"] = str(len(body))
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self.app({**scope, "headers": plain}, receive, extend)
