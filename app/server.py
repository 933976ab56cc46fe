"""What lives as long as the server: the loop that takes results into the catalogue. It starts before any visit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from app import services


@asynccontextmanager
async def lifespan(_app: Any) -> AsyncIterator[dict[str, Any]]:
    """Own the catalogue from the server's start to its end; a read-only server only reads it."""
    if services.read_only():
        yield {}
        return
    from tda_backend.runs.ingest import IngestLoop

    loop = IngestLoop(services.workspace())
    # Opening may wait for a short-lived writer: not on the server's own thread.
    await asyncio.to_thread(loop.start)
    try:
        yield {"ingest": loop}
    finally:
        await asyncio.to_thread(loop.stop)
