"""What lives as long as the server: the loop that takes results into the catalogue. It starts before any visit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware
from starlette.routing import Route

from app import health, lifeline, navigation, services
from app.access import TOKEN_FIELD, Access
from app.base_address import BaseAddress, script_of
from app.guard import Guard
from app.headers import SecurityHeaders
from app.late_ticks import LateTicks
from app.server_log import RequestLog, begin_log
from tda_backend.errors import TDAError
from tda_backend.studies.jobs.ingest_loop import IngestLoop
from tda_backend.studies.jobs.servers import TOKEN_VARIABLE, enlist

logger = logging.getLogger("tda.server")


class Server:
    """The pieces around the pages.

    Attributes:
        access: What visitors must show.
    """

    def __init__(self) -> None:
        lifeline.end_with_parent()
        begin_log()
        given = bool(os.environ.get(TOKEN_VARIABLE))
        self.access = Access.of()
        self._loop: IngestLoop | None = None
        if self.access.token and not given:
            sys.stdout.write(f"No token was given: add ?{TOKEN_FIELD}={self.access.token} to the address.\n")
            sys.stdout.flush()

    @asynccontextmanager
    async def lifespan(self, _app: Any) -> AsyncIterator[dict[str, Any]]:
        """Own the catalogue from the server's start to its end; a read-only server only reads it."""
        lifeline.end_within_seconds()
        workspace, read_only = services.workspace(), services.read_only()
        listed = _enlisted(read_only)
        logger.info("started", extra={"event": "start", "catalogue": workspace.catalogue, "read_only": read_only})
        if not read_only:
            self._loop = IngestLoop(workspace)
            # Opening may wait for a short-lived writer: not on the server's own thread.
            await asyncio.to_thread(self._loop.start)
        try:
            yield {"ingest": self._loop}
        finally:
            if self._loop is not None:
                await asyncio.to_thread(self._loop.stop)
            if listed is not None:
                listed.unlink(missing_ok=True)
            logger.info("stopped", extra={"event": "stop"})

    def middleware(self) -> list[Middleware]:
        """Return what stands before the pages, outermost first."""
        return [
            Middleware(SecurityHeaders, script=script_of(navigation.ADDRESSES)),
            Middleware(RequestLog),
            Middleware(Guard, access=self.access, open_paths=[health.PATH]),
            Middleware(LateTicks),
            Middleware(BaseAddress, pages=navigation.ADDRESSES),
        ]

    def routes(self) -> list[Route]:
        """Return what is served besides the pages."""
        answer = health.endpoint(lambda: self._loop, lambda request: self.access.knows_token(request.scope))
        return [Route(health.PATH, answer, methods=["GET"])]


def _enlisted(read_only: bool) -> Path | None:
    """Say that this server lives, where there is a place to say it: without, only its terminal can end it."""
    with contextlib.suppress(TDAError, OSError):
        return enlist(services.workspace(), read_only)
    return None
