"""The server's log: one JSON object a line, appended over all starts, a new file when one is full."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tda_backend.studies.jobs.servers import LOG_VARIABLE

FILE_BYTES, FILES = 5_000_000, 5
STANDARD_OUTPUT = 1
logger = logging.getLogger("tda.server")
_USUAL = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time, level, logger, event and whatever ``extra`` says."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        extra = {name: value for name, value in vars(record).items() if name not in _USUAL}
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {
            "time": when,
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "event": extra.pop("event", "message"),
            "message": record.getMessage(),
            **extra,
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def begin_log() -> None:
    """Write what is logged from here on to the file that the environment names, if it names one."""
    path = os.environ.get(LOG_VARIABLE, "")
    if not path:
        return
    handler = RotatingFileHandler(path, maxBytes=FILE_BYTES, backupCount=FILES, encoding="utf-8", delay=True)
    handler.setFormatter(JsonLines())
    logger.setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    logging.getLogger().addHandler(OutputLimit(Path(path).with_suffix(".output")))
    logging.raiseExceptions = False  # a full disk must not end a request


class OutputLimit(logging.Handler):
    """Empties the file of this process's plain output once it is full; looks whenever something is logged.

    Args:
        path: Of the file; another one, e.g. a terminal, is left alone.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def emit(self, record: logging.LogRecord) -> None:
        """Look."""
        with contextlib.suppress(OSError):
            found = self.path.stat()
            if found.st_size > FILE_BYTES and os.path.samestat(found, os.fstat(STANDARD_OUTPUT)):
                os.truncate(self.path, 0)


class RequestLog:
    """ASGI middleware that logs every request: how long it took and how it ended; never its query, which has tokens."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and log."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] in ("websocket.accept", "websocket.close") and not status:
                status = 101 if message["type"] == "websocket.accept" else 403
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            facts = {
                "method": scope.get("method", "WEBSOCKET"),
                "path": str(scope.get("path", ""))[:200],
                "status": status,
                "milliseconds": round(1e3 * (time.perf_counter() - begun), 1),
            }
            level = logging.DEBUG if facts["path"].startswith("/static/") else logging.INFO
            logger.log(level, "%(method)s %(path)s %(status)s", facts, extra={"event": "request", **facts})


def log_page(page: str, seconds: float) -> None:
    """Log how long a page took to draw."""
    facts = {"event": "page", "page": page, "milliseconds": round(1e3 * seconds, 1)}
    logger.info("page %s", page, extra=facts)


def log_job(what: str, job_id: str, **more: object) -> None:
    """Log that a visitor started or cancelled a job."""
    logger.info("job %s %s", job_id, what, extra={"event": f"job {what}", "job": job_id, **more})
