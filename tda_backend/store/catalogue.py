"""Opening the DuckDB catalogue: one writing process, many readers, and a clear message when it cannot be opened.

A process that owns the catalogue (the server) keeps it open and hands out cursors; everyone else opens it for one read
or one write at a time. Readers beside an owner use the snapshot that the owner publishes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import duckdb
import psutil

from tda_backend.errors import CatalogueError, TDAError
from tda_backend.store.workspace import Workspace, as_disk_error, read_json, writing_to

SCHEMA_VERSION = 3
LOCK_RETRY_SECONDS = 0.1
READ_PATIENCE_SECONDS = 3.0
CONFIGURATION: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}


class LockedError(CatalogueError):
    """Another process has the catalogue open."""


FILE_ERRORS = (duckdb.OperationalError, duckdb.InternalError, duckdb.CatalogException)
"""What DuckDB raises for a file's sake (missing tables included); anything else is a fault of the query."""

_owned: dict[Path, duckdb.DuckDBPyConnection] = {}
_owned_lock = threading.Lock()


def _is_lock_error(error: duckdb.Error) -> bool:
    text = str(error).lower()
    return "conflicting lock" in text or "could not set lock" in text or "being used by another process" in text


def _holder(error: duckdb.Error) -> str:
    text = str(error)
    return f" by process {text.split('(PID ')[1].split(')')[0]}" if "(PID " in text else ""


def catalogue_error(error: duckdb.Error, path: Path) -> TDAError:
    """Return the clear form of what DuckDB says about the file at ``path``."""
    disk = as_disk_error(error, path.parent)
    if disk is not None:
        return disk
    if _is_lock_error(error):
        return LockedError(
            f"The catalogue {path} is in use{_holder(error)}.",
            "Close the program that has it open (a dashboard, a notebook or another `tda`) and try again.",
        )
    first_line = str(error).strip().splitlines()[0][:200]
    return CatalogueError(
        f"The catalogue {path} is damaged or not a catalogue: {first_line}",
        f"Make it again from the artifacts: tda rebuild --db {path}",
    )


def _missing(workspace: Workspace) -> CatalogueError:
    path = workspace.catalogue
    if workspace.artifacts.is_dir() and any(workspace.artifacts.glob("??/*")):
        return CatalogueError(
            f"There is no catalogue at {path}, but its artifacts are there.",
            f"Make it again from them: tda rebuild --db {path}",
        )
    return CatalogueError(
        f"There is no catalogue at {path}.",
        "Make one with `tda run mnist-mlp` (or `tda demo`), or name another with --db FILE.",
    )


def _check_version(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Raise a CatalogueError unless the file has this program's schema version."""
    try:
        rows = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchall()
    except duckdb.CatalogException as error:
        raise CatalogueError(
            f"{path} is a DuckDB file, but not a catalogue of this program.",
            "Name another file with --db FILE, or move this one away.",
        ) from error
    version = int(rows[0][0]) if rows else 0
    if version > SCHEMA_VERSION:
        raise CatalogueError(
            f"The catalogue {path} has schema version {version}, this program knows version {SCHEMA_VERSION}.",
            f"Upgrade tda-dashboard, or make the catalogue again for this version: tda rebuild --db {path}",
        )
    if version < SCHEMA_VERSION:
        raise CatalogueError(
            f"The catalogue {path} has schema version {version}, this program needs version {SCHEMA_VERSION}.",
            f"Bring it up to date from the artifacts: tda rebuild --db {path}",
        )


def _create_schema(connection: duckdb.DuckDBPyConnection) -> None:
    schema = resources.files("tda_backend.store").joinpath("schema.sql").read_text(encoding="utf-8")
    connection.execute("BEGIN")
    connection.execute(schema)
    connection.execute(
        "INSERT INTO meta VALUES ('schema_version', ?), ('created', now()::VARCHAR)", [str(SCHEMA_VERSION)]
    )
    connection.execute("COMMIT")


def connect_writer(workspace: Workspace, patience: float = 0.0) -> duckdb.DuckDBPyConnection:
    """Open the catalogue for writing, creating it if there is none.

    Args:
        workspace: Whose catalogue.
        patience: Seconds to go on trying while another process holds it.

    Raises:
        CatalogueError: It is locked, damaged, or of another schema version.
        MachineError: The disk is full or cannot be written to.
    """
    workspace.create()
    deadline = time.monotonic() + patience
    while True:
        try:
            connection = duckdb.connect(str(workspace.catalogue), config=CONFIGURATION)
            break
        except duckdb.Error as error:
            if not _is_lock_error(error) or time.monotonic() >= deadline:
                raise catalogue_error(error, workspace.catalogue) from error
            time.sleep(LOCK_RETRY_SECONDS)
    try:
        if not connection.execute("SELECT 1 FROM duckdb_tables() LIMIT 1").fetchall():
            _create_schema(connection)
        _check_version(connection, workspace.catalogue)
    except duckdb.Error as error:
        connection.close()
        raise catalogue_error(error, workspace.catalogue) from error
    except TDAError:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def writing(workspace: Workspace, patience: float = 0.0) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a writing connection: the owner's cursor in the owning process, else one held only for this block."""
    owner = _owned.get(workspace.catalogue)
    connection = owner.cursor() if owner is not None else connect_writer(workspace, patience)
    try:
        yield connection
    except FILE_ERRORS as error:
        raise catalogue_error(error, workspace.catalogue) from error
    finally:
        connection.close()


def own(workspace: Workspace, patience: float = 10.0) -> None:
    """Make this process the owner of the catalogue until :func:`disown`; readers here then share its connection."""
    connection = connect_writer(workspace, patience)
    with _owned_lock:
        _owned[workspace.catalogue] = connection


def disown(workspace: Workspace) -> None:
    """Close the owner's connection."""
    with _owned_lock:
        connection = _owned.pop(workspace.catalogue, None)
    if connection is not None:
        connection.close()


def owned_here(workspace: Workspace) -> bool:
    """Return whether this process owns the catalogue."""
    return workspace.catalogue in _owned


def server_lives(workspace: Workspace) -> bool:
    """Return whether another living process has announced itself as the catalogue's owner."""
    record = read_json(workspace.server_file)
    return record is not None and record.get("pid") != os.getpid() and same_process(record)


def same_process(record: dict) -> bool:
    """Return whether the process that wrote ``pid`` and ``create_time`` into ``record`` still lives."""
    try:
        process = psutil.Process(int(record["pid"]))
        alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return alive and abs(process.create_time() - float(record["create_time"])) < 1.0
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _connect_reader(workspace: Workspace) -> duckdb.DuckDBPyConnection:
    """Return a read-only connection to the catalogue or, while it is held, to the newest snapshot."""
    path = workspace.catalogue
    deadline = time.monotonic() + READ_PATIENCE_SECONDS
    while True:
        live = not (server_lives(workspace) and workspace.snapshot.exists())
        target = path if live else workspace.snapshot
        if not target.exists():
            raise _missing(workspace)
        try:
            return duckdb.connect(str(target), read_only=True, config=CONFIGURATION)
        except duckdb.Error as error:
            if not _is_lock_error(error):
                raise catalogue_error(error, target) from error
            if time.monotonic() >= deadline:
                if not workspace.snapshot.exists():
                    raise catalogue_error(error, target) from error
                return duckdb.connect(str(workspace.snapshot), read_only=True, config=CONFIGURATION)
            time.sleep(LOCK_RETRY_SECONDS)


@contextlib.contextmanager
def reading(workspace: Workspace) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection for reading, closed afterwards.

    Raises:
        CatalogueError: Missing, locked without a snapshot, damaged, or of another schema version.
    """
    with _owned_lock:
        owner = _owned.get(workspace.catalogue)
        connection = owner.cursor() if owner is not None else None
    if connection is None:
        connection = _connect_reader(workspace)
    try:
        if owner is None:
            _check_version(connection, workspace.catalogue)
        yield connection
    except FILE_ERRORS as error:
        raise catalogue_error(error, workspace.catalogue) from error
    finally:
        connection.close()


def publish_snapshot(workspace: Workspace) -> None:
    """Write the owner's catalogue to the snapshot, atomically.

    The file is copied by another process on purpose: closing *any* descriptor of the file in this one would drop the
    lock by which DuckDB keeps other writers out (POSIX record locks belong to the process, not to the descriptor).
    """
    connection = _owned[workspace.catalogue].cursor()
    temporary = workspace.snapshot.with_name(f".{workspace.snapshot.name}.{uuid.uuid4().hex[:8]}")
    copier = shutil.which("cp")
    try:
        with writing_to(workspace.folder):
            if copier:
                connection.execute("CHECKPOINT")
                command = [copier, "--", str(workspace.catalogue), str(temporary)]
                result = subprocess.run(command, capture_output=True, text=True, check=False)
                if result.returncode:
                    raise OSError(result.stderr.strip())
            else:
                source = connection.execute("SELECT current_database()").fetchall()[0][0]
                connection.execute(f"ATTACH '{str(temporary).replace(chr(39), chr(39) * 2)}' AS publication")
                connection.execute(f'COPY FROM DATABASE "{source}" TO publication')
                connection.execute("DETACH publication")
            os.replace(temporary, workspace.snapshot)
    except duckdb.Error as error:
        raise catalogue_error(error, workspace.catalogue) from error
    finally:
        connection.close()
        temporary.unlink(missing_ok=True)
