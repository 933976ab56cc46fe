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
from pathlib import Path

import duckdb

from tda_backend.errors import CatalogueError, MachineError, TDAError, command
from tda_backend.studies.store.durable import publish_file
from tda_backend.studies.store.migration import OLDEST, migrate
from tda_backend.studies.store.owners import server_lives
from tda_backend.studies.store.tables.all import ALL, VIEWS
from tda_backend.studies.store.tables.base import STUDY_ID, delete_rows, quoted
from tda_backend.studies.store.workspace import Workspace, as_disk_error, writing_to

SCHEMA_VERSION = 5
LOCK_RETRY_SECONDS = 0.1
READ_PATIENCE_SECONDS = 3.0
CONFIGURATION: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
CLOSED = "SET enable_external_access = false"
"""A copied catalogue may hold views that read other files of this machine."""


class LockedError(CatalogueError):
    """Another process has the catalogue open."""


class ForeignError(CatalogueError):
    """The file is another program's, or a newer version's: nothing of it is damaged."""


_FILE_ERRORS = (duckdb.OperationalError, duckdb.InternalError, duckdb.FatalException, duckdb.CatalogException)

_owned: dict[Path, duckdb.DuckDBPyConnection] = {}
_owned_lock = threading.Lock()
_held: dict[Path, duckdb.DuckDBPyConnection] = {}


def is_file_error(error: duckdb.Error) -> bool:
    """Return whether DuckDB complains of the file (missing tables included); anything else is a fault of the query.

    Of a block whose checksum is wrong it says so in an error of no class of its own.
    """
    return isinstance(error, _FILE_ERRORS) or type(error) is duckdb.Error


def _is_lock_error(error: duckdb.Error) -> bool:
    text = str(error).lower()
    return "conflicting lock" in text or "could not set lock" in text or "being used by another process" in text


def _holder(error: duckdb.Error) -> str:
    text = str(error)
    return f" by process {text.split('(PID ')[1].split(')')[0]}" if "(PID " in text else ""


def _made_again(path: Path, what: str) -> str:
    """Return the advice to make a catalogue again; where that cannot be written, to copy it first."""
    if os.access(path.parent, os.W_OK):
        return f"{what}: {command('rebuild', '--db', path)}"
    return f"The folder {path.parent} is read-only here: copy it, and run `tda rebuild` on the copy."


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
        _made_again(path, "Make it again from the artifacts"),
    )


def _missing(workspace: Workspace) -> CatalogueError:
    path = workspace.catalogue
    if workspace.artifacts.is_dir() and any(workspace.artifacts.glob("??/*")):
        return CatalogueError(
            f"There is no catalogue at {path}, but its artifacts are there.",
            _made_again(path, "Make it again from them"),
        )
    return CatalogueError(
        f"There is no catalogue at {path}.",
        "Make one with `tda run mnist-mlp` (or `tda demo`), or name another with --db FILE.",
    )


def _version(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Return the schema version of a file.

    Raises:
        CatalogueError: It is no catalogue, of a newer version, or of one that cannot be brought up to date.
    """
    try:
        rows = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchall()
    except (duckdb.CatalogException, duckdb.BinderException) as error:
        raise ForeignError(
            f"{path} is a DuckDB file, but not a catalogue of this program.",
            "Name another file with --db FILE, or move this one away.",
        ) from error
    text = str(rows[0][0]) if rows else ""
    version = int(text) if text.isdecimal() else 0
    if version > SCHEMA_VERSION:
        raise ForeignError(
            f"The catalogue {path} has schema version {version}, this program knows version {SCHEMA_VERSION}.",
            f"Upgrade tda-dashboard, or make the catalogue again for this version: {command('rebuild', '--db', path)}",
        )
    if version < OLDEST:
        raise CatalogueError(
            f"The catalogue {path} has schema version {version}, this program needs version {SCHEMA_VERSION}.",
            _made_again(path, "Bring it up to date from the artifacts"),
        )
    return version


def _create_schema(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("BEGIN")
    for each in (*ALL, *VIEWS):
        connection.execute(each.create())
    connection.execute(
        "INSERT INTO meta VALUES ('schema_version', ?), ('created', now()::VARCHAR)", [str(SCHEMA_VERSION)]
    )
    connection.execute("COMMIT")


def _version_or_new(connection: duckdb.DuckDBPyConnection, path: Path) -> int:
    """Return :func:`_version`; of an empty file, after the tables have been made in it.

    Whether a file is empty is asked last: listing its tables takes as long as opening it.
    """
    try:
        return _version(connection, path)
    except ForeignError:
        if connection.execute("SELECT 1 FROM duckdb_tables() LIMIT 1").fetchall():
            raise
        _create_schema(connection)
        return SCHEMA_VERSION


def delete_study(connection: duckdb.DuckDBPyConnection, study_id: str) -> None:
    """Delete a study's rows from every table that has any."""
    found = connection.execute(
        """SELECT table_name FROM duckdb_columns()
           WHERE column_name = ? AND table_name IN (SELECT table_name FROM duckdb_tables())""",
        [STUDY_ID],
    ).fetchall()
    for (table,) in found:
        delete_rows(connection, table, {STUDY_ID: study_id})


def connect_writer(workspace: Workspace, patience: float = 0.0) -> duckdb.DuckDBPyConnection:
    """Open the catalogue for writing: made if there is none, brought up to date if an earlier version made it.

    Args:
        workspace: Whose catalogue.
        patience: Seconds to go on trying while another process holds it.

    Raises:
        CatalogueError: It is locked, damaged, or of another schema version.
        MachineError: The disk is full or cannot be written to.
    """
    workspace.create()
    if not os.access(workspace.folder, os.W_OK):
        raise MachineError(f"{workspace.folder} cannot be written to.", "Give another place with --db FILE.")
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
        if shutil.which("cp"):  # else copying the catalogue attaches a file
            connection.execute(CLOSED)
        version = _version_or_new(connection, workspace.catalogue)
        if version < SCHEMA_VERSION:
            migrate(connection, version, SCHEMA_VERSION)
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
    except duckdb.Error as error:
        if not is_file_error(error):
            raise
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


def _reader(path: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(str(path), read_only=True, config=CONFIGURATION)
    connection.execute(CLOSED)
    return connection


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
            return _reader(target)
        except duckdb.Error as error:
            if not _is_lock_error(error):
                raise catalogue_error(error, target) from error
            if time.monotonic() >= deadline:
                if not workspace.snapshot.exists():
                    raise catalogue_error(error, target) from error
                return _reader(workspace.snapshot)
            time.sleep(LOCK_RETRY_SECONDS)


@contextlib.contextmanager
def reading(workspace: Workspace) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection for reading, closed afterwards; a catalogue of an earlier version is brought up to date first.

    Raises:
        CatalogueError: Missing, locked without a snapshot, damaged, or of another schema version.
    """
    with _owned_lock:
        owner = _owned.get(workspace.catalogue, _held.get(workspace.catalogue))
        connection = owner.cursor() if owner is not None else None
    if connection is None:
        connection = _connect_reader(workspace)
    try:
        if owner is None and _version(connection, workspace.catalogue) < SCHEMA_VERSION:
            if workspace.read_only:
                raise CatalogueError(
                    f"The catalogue {workspace.catalogue} is of an earlier version, and is only read here.",
                    "Start a dashboard that may write there once: it brings the catalogue up to date.",
                )
            connection.close()
            connect_writer(workspace, READ_PATIENCE_SECONDS).close()
            connection = _connect_reader(workspace)
            if _version(connection, workspace.catalogue) < SCHEMA_VERSION:
                raise CatalogueError(
                    f"The snapshot {workspace.snapshot} is of an earlier version.",
                    "Stop the dashboard that runs on it, and start it again with this version.",
                )
        yield connection
    except duckdb.Error as error:
        if not is_file_error(error):
            raise
        raise catalogue_error(error, workspace.catalogue) from error
    finally:
        connection.close()


@contextlib.contextmanager
def held(workspace: Workspace) -> Iterator[None]:
    """Keep the catalogue open for reading, for many queries: each opens it otherwise, which takes about 30 ms.

    All of them see the same state of it. Writers wait meanwhile, those of this process fail. What cannot be opened is
    not kept: the queries say why.
    """
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(TDAError):
            if workspace.catalogue not in _owned and workspace.catalogue not in _held:
                connection = stack.enter_context(reading(workspace))
                stack.callback(_let_go, workspace.catalogue)
                _held[workspace.catalogue] = connection
        yield


def _let_go(path: Path) -> None:
    with _owned_lock:  # nobody may be about to take a cursor of it
        del _held[path]


def publish_snapshot(workspace: Workspace) -> None:
    """Write the owner's catalogue to the snapshot, atomically."""
    connection = _owned[workspace.catalogue].cursor()
    try:
        copy_catalogue(connection, workspace, workspace.snapshot)
    finally:
        connection.close()


def copy_catalogue(connection: duckdb.DuckDBPyConnection, workspace: Workspace, target: Path) -> None:
    """Write what a catalogue holds now to another file, atomically.

    The file is copied by another process on purpose: closing *any* descriptor of the file in this one would drop the
    lock by which DuckDB keeps other writers out (POSIX record locks belong to the process, not to the descriptor).

    Args:
        connection: Open for writing.
        workspace: Whose catalogue.
        target: The copy.

    Raises:
        CatalogueError: The catalogue is damaged.
        MachineError: The disk is full or cannot be written to.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    copier = shutil.which("cp")
    try:
        with writing_to(target.parent):
            if copier:
                connection.execute("CHECKPOINT")
                command = [copier, "--", str(workspace.catalogue), str(temporary)]
                result = subprocess.run(command, capture_output=True, text=True, check=False)
                if result.returncode:
                    raise OSError(result.stderr.strip())
            else:
                source = connection.execute("SELECT current_database()").fetchall()[0][0]
                connection.execute(f"ATTACH '{str(temporary).replace(chr(39), chr(39) * 2)}' AS publication")
                connection.execute(f"COPY FROM DATABASE {quoted(source)} TO publication")
                connection.execute("DETACH publication")
            publish_file(temporary, target)
    except duckdb.Error as error:
        raise catalogue_error(error, workspace.catalogue) from error
    finally:
        temporary.unlink(missing_ok=True)
