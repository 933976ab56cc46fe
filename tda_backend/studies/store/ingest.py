"""From finished artifacts to catalogue rows, one transaction a drop.

A finished step leaves a drop in the inbox that names the study and the artifact. Whoever may write to the catalogue
reads drops; each kind of step says what its rows are. A drop is deleted after its commit and reading it again changes
nothing, so a process may die anywhere in between.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from tda_backend.errors import ArtifactError, CatalogueError, MachineError, TDAError, command
from tda_backend.studies.store import faults
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.catalogue import catalogue_error, is_file_error
from tda_backend.studies.store.drop import Drop, Kinds
from tda_backend.studies.store.inbox import EndedJob, FinishedStep, pending_drops, read_drop, refuse
from tda_backend.studies.store.record import StudyRecord, is_study
from tda_backend.studies.store.tables.all import ALL
from tda_backend.studies.store.tables.base import delete_rows, utc
from tda_backend.studies.store.tables.bookkeeping import INGESTED, JOBS, TIMINGS
from tda_backend.studies.store.workspace import Workspace, as_disk_error
from tda_backend.version import __version__

logger = logging.getLogger(__name__)


def ingest_inbox(
    workspace: Workspace,
    connection: duckdb.DuckDBPyConnection,
    kinds: Kinds,
    on_drop: Callable[[], object] = lambda: None,
) -> int:
    """Ingest every waiting drop and return how many there were.

    A drop that fails, for whatever reason that is its own, is set aside as ``*.refused`` with the reason beside it, and
    the others go on; the next run of its study finds that the step is not in the catalogue, checks the artifact and
    drops it again.

    Args:
        workspace: Whose inbox.
        connection: To its catalogue, open for writing.
        kinds: What each kind of step says about its rows.
        on_drop: Called before each drop: thousands may wait.

    Raises:
        CatalogueError: The catalogue cannot be written; drops wait.
        MachineError: The disk is full, a bad drop cannot be set aside, or something cannot be read at the moment (what
            comes of other studies is taken in).
    """
    count, stuck = 0, None
    waiting: set[str] = set()
    store = ArtifactStore(workspace.artifacts)
    for path in pending_drops(workspace):
        on_drop()
        study = None
        try:
            content = read_drop(path)
            study = str(content.study_id)
            if study in waiting:
                continue
            apply_drop(connection, store, content, kinds)
        except MachineError as error:
            if study is None:
                raise
            stuck = error  # nothing is wrong with the drop: it waits, and so do the later ones of its study
            waiting.add(study)
            continue
        except Exception as error:  # whoever wrote the file, it must not stop the others
            fault = _fault_of_catalogue(workspace, connection, error)
            if fault is not None:
                raise fault from error
            stuck = _set_aside(path, error) or stuck
            continue
        path.unlink(missing_ok=True)
        count += 1
    if stuck is not None:
        raise stuck
    return count


def _set_aside(path: Path, error: Exception) -> MachineError | None:
    """Refuse a drop; return why that is not possible, if it is not."""
    logger.warning("drop %s refused: %s: %s", path.name, type(error).__name__, error)
    try:
        refuse(path, error)
    except FileNotFoundError:
        return None  # somebody else has taken it
    except OSError as failure:
        return MachineError(f"The drop {path.name} cannot be set aside ({failure}).", f"Move it out of {path.parent}.")
    return None


def _fault_of_catalogue(
    workspace: Workspace, connection: duckdb.DuckDBPyConnection, error: Exception
) -> TDAError | None:
    """Return the error where the catalogue is to blame, so that no drop would be taken in; ``None``: the drop is."""
    disk = as_disk_error(error, workspace.folder)
    if disk is not None and not isinstance(error, ArtifactError):
        return disk
    if not isinstance(error, duckdb.Error):
        return None
    try:
        check_writable(workspace, connection)  # so that a table that is not there is one that only the drop names
        whole = isinstance(error, duckdb.OutOfMemoryException | duckdb.CatalogException) or not is_file_error(error)
    except CatalogueError as missing:
        return missing
    except duckdb.Error:
        whole = False
    return None if whole else catalogue_error(error, workspace.catalogue)


def apply_drop(
    connection: duckdb.DuckDBPyConnection, store: ArtifactStore, content: FinishedStep | EndedJob, kinds: Kinds
) -> None:
    """Write the rows of one drop in one transaction.

    Args:
        connection: Open for writing.
        store: Where the artifact lies.
        content: What the drop says.
        kinds: What each kind of step says about its rows.

    Raises:
        ArtifactError: The artifact is damaged, or the drop does not say what its rows need.
    """
    connection.execute("BEGIN")
    try:
        if isinstance(content, EndedJob):
            _ingest_job(connection, content)
        else:
            _ingest_step(connection, store, content, kinds)
        faults.reach("ingest", "uncommitted")
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(duckdb.Error):  # a catalogue that failed may refuse this too
            connection.execute("ROLLBACK")
        raise
    faults.reach("ingest", "committed")


def _ingest_job(connection: duckdb.DuckDBPyConnection, job: EndedJob) -> None:
    JOBS.delete(connection, job_id=job.job_id)
    row = {**dataclasses.asdict(job), "started": utc(job.started), "finished": utc(job.finished)}
    JOBS.insert(connection, JOBS.rows([row]))


def _ingest_step(connection: duckdb.DuckDBPyConnection, store: ArtifactStore, step: FinishedStep, kinds: Kinds) -> None:
    if INGESTED.holds(connection, study_id=step.study_id, artifact=step.key) and not step.provisional:
        return
    artifact = store.open(step.key)
    _forget(connection, step)
    drop = Drop(connection, step, artifact)
    if is_study(artifact):  # the same study with other steps (the task's code changed) replaces the old one
        record = StudyRecord.read(artifact)
        record.clear(connection)
        record.ingest(drop)
    else:
        _ingest_results(drop, kinds)
        drop.insert_records(TIMINGS, [_timing(artifact, step.label)])
    drop.insert_records(INGESTED, [{"label": step.label, "ingested": datetime.now(UTC)}])


def _ingest_results(drop: Drop, kinds: Kinds) -> None:
    kind = kinds.get(drop.artifact.step)
    if kind is None:
        raise ArtifactError(
            f"{drop.artifact.describe()} is of a kind of step that tda-dashboard {__version__} does not know.",
            "A newer version wrote it: stop the dashboard and start that version.",
        )
    for table in kind.TABLES:
        if table not in ALL:  # of a kind of step that came later: the catalogue may be older than it
            drop.connection.execute(table.create(absent=True))
    kind.ingest(drop)


def _timing(artifact: Artifact, label: str) -> dict[str, object]:
    return {
        "step": artifact.step,
        "label": label,
        "seconds": artifact.seconds,
        "peak_memory_mib": artifact.fact("peak_memory_mib"),
        "bytes": artifact.num_bytes,
        "finished": utc(artifact.finished),
        "device": artifact.fact("device", "cpu"),
        "remark": "; ".join(artifact.remarks) or None,
    }


def _forget(connection: duckdb.DuckDBPyConnection, step: FinishedStep) -> None:
    """Delete what a step has left that was computed without some inputs: the rows that it replaces, and itself."""
    if step.replaces is None:
        return
    for table, columns in step.replaces.items():
        delete_rows(connection, table, {"study_id": step.study_id, **columns})
    for table in (TIMINGS, INGESTED):
        table.delete(connection, study_id=step.study_id, label=step.label)


def check_writable(workspace: Workspace, connection: duckdb.DuckDBPyConnection) -> None:
    """Raise a CatalogueError if the file does not hold the tables that drops are written to."""
    names = {name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    missing = sorted({table.name for table in ALL} - names)
    if missing:
        raise CatalogueError(
            f"The catalogue {workspace.catalogue} lacks the tables {', '.join(missing)}.",
            f"Make it again from the artifacts: {command('rebuild', '--db', workspace.catalogue)}",
        )
