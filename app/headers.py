"""Headers by which browsers hold pages to what they need: own files only, in no frame of others, no address told."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import streamlit
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
FIXED = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


def inline_scripts(page: bytes) -> list[str]:
    """Return the sources that allow exactly the scripts that stand in a page of ours."""
    digests = [hashlib.sha256(text).digest() for text in _SCRIPT.findall(page)]
    return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]


def content_policy(scripts: Iterable[str] = ()) -> str:
    """Return the Content-Security-Policy: nothing from elsewhere, no code from text but the scripts named.

    Streamlit's components are modules that it makes at run time (``blob:``), and its styles stand in the page.
    """
    rules = {
        "default-src": "'self'",
        "script-src": " ".join(["'self'", "blob:", *scripts]),
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self' blob: data:",
        "worker-src": "'self' blob:",
        "frame-src": "'self' blob:",
        "object-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'self'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


class SecurityHeaders:
    """ASGI middleware that adds the headers to every answer that does not have its own.

    The policy is the same for all answers: one that says "not modified" replaces that of the page in the browser.

    Args:
        app: What is wrapped.
        script: What is added to Streamlit's page, with its tags.
    """

    def __init__(self, app: ASGIApp, script: bytes = b"") -> None:
        self.app = app
        own = Path(streamlit.__file__).with_name("static") / "index.html"
        scripts = inline_scripts((own.read_bytes() if own.is_file() else b"") + script)
        self.fixed = {**FIXED, "content-security-policy": content_policy(scripts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on; extend the answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def extended(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name, value in self.fixed.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, extended)
