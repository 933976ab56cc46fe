"""``/healthz``: whether the server can do what it is there for, asked anew each time."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse

from app import services
from tda_backend.errors import TDAError
from tda_backend.interfaces.reading.study import list_studies
from tda_backend.studies.jobs.ingest_loop import IngestLoop
from tda_backend.studies.store.workspace import Workspace

PATH = "/healthz"
DISK_BYTES = 256 * 2**20
"""Less than this is too little for the next result."""
OK, OFF = "ok", "off"


@dataclass(frozen=True)
class Health:
    """The parts of a server, each ``ok``, ``off`` (not needed here), or what is wrong with it.

    Attributes:
        catalogue: Whether it opens and its studies can be listed.
        ingest: Whether results are taken in; off where the server only reads.
        disk: Whether there is room for results; off where the server only reads.
    """

    catalogue: str
    ingest: str
    disk: str

    @property
    def is_well(self) -> bool:
        """Whether nothing is wrong."""
        return all(state in (OK, OFF) for state in asdict(self).values())


def examine(workspace: Workspace, ingest: IngestLoop | None) -> Health:
    """Return how a server is.

    Args:
        workspace: What it serves.
        ingest: Its loop that takes results in; ``None`` where it only reads.
    """
    if ingest is None:
        return Health(_catalogue(workspace), OFF, OFF)
    return Health(_catalogue(workspace), ingest_state(ingest), _disk(workspace.folder))


def ingest_state(ingest: IngestLoop) -> str:
    """Return whether results are taken in, or why not."""
    found = ingest.health()
    if not found.is_alive:
        return "The thread that takes results in has stopped; start the server again."
    if found.is_well:
        return OK
    return found.error or "Another program holds the catalogue."


def _catalogue(workspace: Workspace) -> str:
    if not workspace.catalogue.exists() and not workspace.snapshot.exists():
        return "There is no catalogue yet." if services.read_only() else OK
    try:
        list_studies(workspace)
    except TDAError as error:
        return error.message
    return OK


def _disk(folder: Path) -> str:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"The disk of {folder} cannot be asked: {error.strerror}."
    return OK if free >= DISK_BYTES else f"Only {free // 2**20} MiB are free."


def endpoint(
    ingest: Callable[[], IngestLoop | None], knows_token: Callable[[Request], bool]
) -> Callable[[Request], Awaitable[JSONResponse]]:
    """Return what answers ``/healthz``: 200 or 503, and, to those who know the token, what is wrong.

    Args:
        ingest: Returns the server's loop.
        knows_token: Of a request.
    """

    async def answer(request: Request) -> JSONResponse:
        health = await run_in_threadpool(examine, services.workspace(), ingest())
        content = {"status": OK if health.is_well else "failing"}
        if knows_token(request):
            content |= asdict(health)
        return JSONResponse(content, 200 if health.is_well else 503, {"cache-control": "no-store"})

    return answer
