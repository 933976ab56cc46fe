"""Making the catalogue again from the artifacts, and removing a study."""

from __future__ import annotations

import contextlib
import logging
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb

from tda_backend.errors import ArtifactError, CatalogueError, MachineError
from tda_backend.studies.store import catalogue, owners, repository
from tda_backend.studies.store.artifacts import ArtifactStore, folder_bytes, provisional_key
from tda_backend.studies.store.drop import Kinds
from tda_backend.studies.store.durable import publish_file
from tda_backend.studies.store.inbox import EndedJob, FinishedStep, pending_drops
from tda_backend.studies.store.ingest import apply_drop
from tda_backend.studies.store.record import StudyRecord, damaged_records, study_records
from tda_backend.studies.store.workspace import Workspace, read_json, writing_to

logger = logging.getLogger(__name__)

NOT_THE_STEP = (
    CatalogueError,
    MachineError,
    duckdb.OutOfMemoryException,
    duckdb.IOException,
    duckdb.FatalException,
    duckdb.InternalError,
)
"""Errors that every other step would meet too: a rebuild ends with them, and the old catalogue stays."""


@dataclass(frozen=True)
class Rebuilt:
    """What a rebuild did.

    Attributes:
        studies: How many there are.
        steps: How many were taken in.
        skipped: How many were left out because their artifacts are damaged.
    """

    studies: int
    steps: int
    skipped: int


def rebuild(
    workspace: Workspace, kinds: Kinds, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Rebuilt:
    """Make the catalogue again from the artifacts and put it in place of the old one, atomically.

    Args:
        workspace: Whose catalogue.
        kinds: What each kind of step says about its rows.
        on_progress: Told how many steps of how many are done.

    Raises:
        CatalogueError: Another process has the catalogue open.
    """
    _refuse_if_held(workspace)
    workspace.create()
    store = ArtifactStore(workspace.artifacts)
    temporary = Workspace(workspace.folder / f".rebuild-{uuid.uuid4().hex[:8]}.duckdb")
    pending = pending_drops(workspace)  # before the artifacts are looked at: what comes later may not be among them
    records = study_records(store)
    try:
        with catalogue.writing(temporary) as connection:
            taken, skipped = _take_in(connection, store, records, kinds, on_progress)
            for job in _ended_jobs(workspace):
                _is_taken(connection, store, job, kinds)
            connection.execute("CHECKPOINT")
        with writing_to(workspace.folder):
            workspace.log.unlink(missing_ok=True)  # the old file's log must not be replayed into the new one
            publish_file(temporary.catalogue, workspace.catalogue)
            workspace.snapshot.unlink(missing_ok=True)
        for path in pending:
            path.unlink(missing_ok=True)
    finally:
        for path in (temporary.catalogue, temporary.log):
            with contextlib.suppress(OSError):  # on a read-only disk: it was never there
                path.unlink(missing_ok=True)
    return Rebuilt(len(records), taken, skipped)


def _take_in(
    connection: duckdb.DuckDBPyConnection,
    store: ArtifactStore,
    records: Sequence[StudyRecord],
    kinds: Kinds,
    on_progress: Callable[[int, int], None],
) -> tuple[int, int]:
    """Take in every finished step of some studies; return how many that were, and how many were damaged."""
    done, taken, skipped, total = 0, 0, 0, sum(len(record.steps) for record in records)
    for record in records:
        skipped += not _is_taken(connection, store, record.study, kinds)
        for step in record.steps:
            done += 1
            on_progress(done, total)
            there = [key for key in (step.key, provisional_key(step.key)) if store.has(key)]
            if there:
                whole = _is_taken(connection, store, replace(step, key=there[0]), kinds)
                taken, skipped = taken + whole, skipped + (not whole)
    return taken, skipped


def _is_taken(
    connection: duckdb.DuckDBPyConnection, store: ArtifactStore, content: FinishedStep | EndedJob, kinds: Kinds
) -> bool:
    """Return whether a drop fits and was taken in."""
    try:
        apply_drop(connection, store, content, kinds)
    except NOT_THE_STEP:
        raise
    except Exception as error:  # whoever wrote the artifact, it must not stop the others
        logger.warning("%s left out: %s: %s", content, type(error).__name__, error)
        return False
    return True


def _refuse_beside_server(workspace: Workspace) -> None:
    if owners.server_lives(workspace):
        raise CatalogueError(
            f"A dashboard owns the catalogue {workspace.catalogue}.",
            "Stop it (Ctrl-C in its terminal), then try again.",
        )


def _refuse_if_held(workspace: Workspace) -> None:
    _refuse_beside_server(workspace)
    if not workspace.catalogue.exists():
        return
    try:
        with catalogue.writing(workspace):
            pass
    except catalogue.LockedError:
        raise
    except CatalogueError:
        pass  # damaged or of another version: the reason for rebuilding


def _ended_jobs(workspace: Workspace) -> Iterator[EndedJob]:
    for path in sorted(workspace.jobs.glob("*.json")):
        record = read_json(path) or {}
        if not record.get("study_id") or record.get("status") in (None, "running"):
            continue
        with contextlib.suppress(ArtifactError, KeyError, TypeError):  # somebody else's file
            seconds = record["updated"] - record["started"]
            yield EndedJob.read({**record, "finished": record["updated"], "seconds": seconds})


@dataclass(frozen=True)
class DiskUse:
    """Bytes of artifacts.

    Attributes:
        studies: By study id; an artifact that several studies share counts for each.
        unused: Of artifacts that no study refers to.
        damaged: Of those that were set aside.
    """

    studies: Mapping[str, int]
    unused: int
    damaged: int

    @property
    def removable(self) -> list[tuple[str, int]]:
        """What nobody needs: ``unused`` and ``damaged`` with their bytes, as far as there are any."""
        return [(name, size) for name, size in (("unused", self.unused), ("damaged", self.damaged)) if size]


def disk_use(workspace: Workspace) -> DiskUse:
    """Return what the artifacts of a workspace use."""
    store = ArtifactStore(workspace.artifacts)
    sizes = {key: folder_bytes(store.path(key)) for key in store.all_keys()}
    keys: dict[str, set[str]] = {}
    for record in study_records(store):  # several of a study: of other code, or of rounds of retraining
        keys.setdefault(record.study_id, set()).update(record.keys)
    studies = {name: sum(sizes.get(key, 0) for key in found) for name, found in keys.items()}
    referred: set[str] = set().union(*keys.values())
    unused = sum(size for key, size in sizes.items() if key not in referred)
    return DiskUse(studies, unused, sum(map(folder_bytes, store.damaged.glob("*"))))


def remove_study(workspace: Workspace, study_id: str) -> int:
    """Remove a study from the catalogue, and its artifacts that no other study uses; return the bytes freed.

    Raises:
        CatalogueError: Another process has the catalogue open.
    """
    _refuse_beside_server(workspace)
    store = ArtifactStore(workspace.artifacts)
    records = study_records(store)
    with catalogue.writing(workspace, patience=5.0) as connection:
        connection.execute("BEGIN")
        catalogue.delete_study(connection, study_id)
        connection.execute("COMMIT")
        connection.execute("CHECKPOINT")
    kept: set[str] = set().union(*(record.keys for record in records if record.study_id != study_id))
    freed = 0
    for record in records:
        if record.study_id == study_id:
            # The record first: what is left if this dies is "unused", not a broken study.
            freed += store.remove(record.artifact.key)
            freed += sum(store.remove(key) for key in record.keys - kept)
    return freed


def _refuse_without_records(workspace: Workspace, store: ArtifactStore, records: Sequence[StudyRecord]) -> None:
    if not workspace.catalogue.exists():
        if damaged := damaged_records(store, records):
            raise CatalogueError(
                f"The records of some studies are damaged ({', '.join(damaged)}): what they need looks unused, but is "
                "not.",
                "Run those studies again first, which writes their records.",
            )
        return
    known = {record.study_id for record in records}
    lost = [study.name for study in repository.known_studies(workspace) if study.study_id not in known]
    if lost:
        raise CatalogueError(
            f"The records of {', '.join(lost)} are missing or damaged: their artifacts look unused, but are not.",
            f"Run them again first, which writes the records: tda run {lost[0]}",
        )


def remove_unused(workspace: Workspace) -> int:
    """Remove artifacts that no study refers to and damaged ones that were set aside; return the bytes freed.

    Raises:
        CatalogueError: The record of a study is damaged, so that nobody knows what it refers to.
        MachineError: A record cannot be read at the moment.
    """
    store = ArtifactStore(workspace.artifacts)
    records = study_records(store)
    _refuse_without_records(workspace, store, records)
    referred: set[str] = set().union(*(record.keys for record in records))
    freed = sum(store.remove(key) for key in store.all_keys() if key not in referred)
    freed += sum(map(folder_bytes, store.damaged.glob("*")))
    shutil.rmtree(store.damaged, ignore_errors=True)
    store.clear_leftovers()
    return freed
