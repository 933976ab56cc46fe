"""Who may talk to the server: requests to a name that it serves, with the token of its start."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote_plus

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from tda_backend.studies.jobs.servers import HOSTS_VARIABLE, NO_TOKEN_VARIABLE, TOKEN_VARIABLE, host_name

LOCAL_NAMES = ("127.0.0.1", "localhost", "::1")
TOKEN_FIELD = "token"


@dataclass(frozen=True)
class Access:
    """What a server asks of a request.

    Attributes:
        token: What its visitors must know; empty: nothing is asked.
        hosts: Names by which it is served, small letters.
    """

    token: str = field(repr=False)
    hosts: frozenset[str] = frozenset(LOCAL_NAMES)

    @classmethod
    def of(cls, environment: MutableMapping[str, str] = os.environ) -> Access:
        """Return what the environment says, and take the token out of it: no child of the server needs it.

        A server that was given no token, and was not told to do without, makes one up: nobody gets in unasked.
        """
        given = environment.pop(TOKEN_VARIABLE, "")
        off = environment.get(NO_TOKEN_VARIABLE, "") not in ("", "0")
        more = [host_name(name.strip()) for name in environment.get(HOSTS_VARIABLE, "").split(",")]
        hosts = frozenset((*LOCAL_NAMES, *(name for name in more if name is not None)))
        return cls("" if off else given or secrets.token_urlsafe(32), hosts)

    def is_served(self, host: str | None) -> bool:
        """Return whether a Host header names this server, at any port: a tunnel has a port of its own.

        A page of another site that makes its name point here (DNS rebinding) still sends that name.
        """
        return host_name(host) in self.hosts if host else False

    def is_own(self, origin: str | None, host: str | None) -> bool:
        """Return whether a request comes from this server's own pages, or from no page at all.

        Another port of this machine is another server, maybe another user's. A proxy says whom it serves by the name
        alone, and passes it on or asks under this machine's own name; a name with a port was asked without a proxy.
        """
        if origin is None:
            return True
        scheme, _, netloc = origin.lower().partition("://")
        own = (host or "").lower()
        if scheme not in ("http", "https"):
            return False
        behind_proxy = host_name(own) in LOCAL_NAMES or own.rstrip(".") == host_name(own)
        proxies = self.hosts.difference(LOCAL_NAMES)
        return netloc == own or (behind_proxy and host_name(netloc) in proxies)

    def knows_token(self, scope: Scope) -> bool:
        """Return whether a request carries the token: in its cookie, or as ``Authorization: Bearer …``."""
        if not self.token:
            return True
        headers, port = Headers(scope=scope), port_of(scope)
        scheme, _, word = headers.get("authorization", "").partition(" ")
        if scheme.lower() in ("bearer", "token") and self.is_token(word.strip()):
            return True
        cookies = [found for text in headers.getlist("cookie") for found in cookie_parser(text).items()]
        return any(name == self.cookie_name(port) and _same(value, self.cookie) for name, value in cookies)

    def is_token(self, word: str) -> bool:
        """Return whether ``word`` is the token; takes as long for one that is nearly right."""
        return bool(self.token) and _same(word, self.token)

    @property
    def cookie(self) -> str:
        """What the browser keeps: made from the token, which it does not tell."""
        return hashlib.sha256(b"tda cookie " + self.token.encode()).hexdigest()

    def cookie_name(self, port: int) -> str:
        """Return the cookie's name: browsers send a machine's cookies to all of its ports."""
        return f"tda-{port}"


def port_of(scope: Scope) -> int:
    """Return the port on which a request came in; 0: none, e.g. a socket of the file system."""
    return (scope.get("server") or ("", 0))[1] or 0


def without_token(query: bytes) -> tuple[str, str]:
    """Return the token that a URL's query holds (empty: none) and the query without it, as it was written."""
    parts = query.decode("latin-1").split("&") if query else []
    words = [value for name, value in parse_qsl(query.decode("latin-1")) if name == TOKEN_FIELD]
    return (words[0] if words else ""), "&".join(
        part for part in parts if unquote_plus(part.split("=")[0]) != TOKEN_FIELD
    )


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "surrogateescape"), other.encode())
