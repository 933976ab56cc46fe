"""Making the catalogue again from the artifacts, and removing a study."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tda_backend.errors import ArtifactError, CatalogueError
from tda_backend.store import catalogue
from tda_backend.store.artifacts import Artifact, ArtifactStore, provisional_key
from tda_backend.store.ingest import STUDY_TABLES, apply_drop, pending_drops
from tda_backend.store.workspace import Workspace, read_json, writing_to


def study_records(store: ArtifactStore) -> list[tuple[Artifact, dict[str, Any]]]:
    """Return every study in the artifacts with its record, oldest first."""
    found = []
    for key in store.all_keys():
        try:
            artifact = store.open(key)
            if artifact.step != "study":
                continue
            record = read_json(artifact.file("study.json"))
        except ArtifactError:
            continue
        if record is not None:
            found.append((artifact, record))
    return sorted(found, key=lambda pair: pair[0].manifest["finished"])


def rebuild(workspace: Workspace, on_progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, int]:
    """Make the catalogue again from the artifacts and put it in place of the old one, atomically.

    Returns:
        Numbers of ``studies``, ``steps`` taken in, and artifacts ``skipped`` because they are damaged.

    Raises:
        CatalogueError: Another process has the catalogue open.
    """
    _refuse_if_held(workspace)
    workspace.create()
    store = ArtifactStore(workspace.artifacts)
    temporary = Workspace(workspace.folder / f".rebuild-{uuid.uuid4().hex[:8]}.duckdb")
    records = study_records(store)
    total = sum(len(record["steps"]) for _, record in records)
    counts = {"studies": len(records), "steps": 0, "skipped": 0}
    try:
        with catalogue.writing(temporary) as connection:
            done = 0
            for artifact, record in records:
                study_id = record["study_id"]
                study = {"key": artifact.key, "label": "study", "context": {}}
                for step in [study, *record["steps"]]:
                    done += step is not study
                    on_progress(done, total)
                    keys = [key for key in (step["key"], provisional_key(step["key"])) if store.has(key)]
                    if not keys:
                        continue
                    try:
                        apply_drop(connection, store, {"kind": "step", "study_id": study_id, **step, "key": keys[0]})
                        counts["steps"] += step is not study
                    except ArtifactError:
                        counts["skipped"] += 1
            for drop in _job_drops(workspace):
                apply_drop(connection, store, drop)
            connection.execute("CHECKPOINT")
        with writing_to(workspace.folder):
            workspace.log.unlink(missing_ok=True)  # the old file's log must not be replayed into the new one
            os.replace(temporary.catalogue, workspace.catalogue)
            workspace.snapshot.unlink(missing_ok=True)
        for path in pending_drops(workspace):
            path.unlink(missing_ok=True)
    finally:
        for path in (temporary.catalogue, temporary.log):
            path.unlink(missing_ok=True)
    return counts


def _refuse_if_held(workspace: Workspace) -> None:
    if catalogue.server_lives(workspace):
        raise CatalogueError(
            f"A dashboard owns the catalogue {workspace.catalogue}.",
            "Stop it (Ctrl-C in its terminal), then try again.",
        )
    if not workspace.catalogue.exists():
        return
    try:
        with catalogue.writing(workspace):
            pass
    except catalogue.LockedError:
        raise
    except CatalogueError:
        pass  # damaged or of another version: the reason for rebuilding


def _job_drops(workspace: Workspace) -> list[dict[str, Any]]:
    drops = []
    for path in sorted(workspace.jobs.glob("*.json")):
        record = read_json(path) or {}
        if record.get("study_id") and record.get("status") not in (None, "running"):
            drops.append({
                "kind": "job", "study_id": record["study_id"], "job_id": record["job_id"], "status": record["status"],
                "started": record["started"], "finished": record["updated"], "steps_computed": None,
                "steps_cached": None, "seconds": record["updated"] - record["started"], "message": record["message"],
            })  # fmt: skip
    return drops


def artifact_keys(record: dict[str, Any], study: Artifact) -> set[str]:
    """Return the keys of all artifacts that a study refers to."""
    keys = [step["key"] for step in record["steps"]]
    return {study.key, *keys, *map(provisional_key, keys)}


def disk_use(workspace: Workspace) -> dict[str, int]:
    """Return bytes of artifacts by study id, of ``unused`` ones (no study refers to them) and of ``damaged`` ones.

    An artifact that several studies share counts for each.
    """
    store = ArtifactStore(workspace.artifacts)
    sizes = {key: _folder_bytes(store.path(key)) for key in store.all_keys()}
    use: dict[str, int] = {}
    referred: set[str] = set()
    for artifact, record in study_records(store):
        keys = artifact_keys(record, artifact)
        referred |= keys
        use[record["study_id"]] = max(use.get(record["study_id"], 0), sum(sizes.get(key, 0) for key in keys))
    use["unused"] = sum(size for key, size in sizes.items() if key not in referred)
    use["damaged"] = sum(_folder_bytes(path) for path in (workspace.artifacts / "damaged").glob("*"))
    return use


def remove_study(workspace: Workspace, study_id: str) -> int:
    """Remove a study from the catalogue, and its artifacts that no other study uses; return the bytes freed.

    Raises:
        CatalogueError: Another process has the catalogue open.
    """
    if catalogue.server_lives(workspace):
        raise CatalogueError(
            f"A dashboard owns the catalogue {workspace.catalogue}.",
            "Stop it (Ctrl-C in its terminal), then try again.",
        )
    store = ArtifactStore(workspace.artifacts)
    records = study_records(store)
    mine = [(artifact, record) for artifact, record in records if record["study_id"] == study_id]
    others = [artifact_keys(record, artifact) for artifact, record in records if record["study_id"] != study_id]
    with catalogue.writing(workspace, patience=5.0) as connection:
        connection.execute("BEGIN")
        for table in STUDY_TABLES:
            connection.execute(f"DELETE FROM {table} WHERE study_id = ?", [study_id])
        connection.execute("COMMIT")
        connection.execute("CHECKPOINT")
    kept = set().union(*others) if others else set()
    freed = 0
    for artifact, record in mine:  # the record first: what is left if this dies is "unused", not a broken study
        freed += store.remove(artifact.key)
        freed += sum(store.remove(key) for key in artifact_keys(record, artifact) - kept)
    return freed


def remove_unused(workspace: Workspace) -> int:
    """Remove artifacts that no study refers to and damaged ones that were set aside; return the bytes freed."""
    store = ArtifactStore(workspace.artifacts)
    referred: set[str] = set()
    for artifact, record in study_records(store):
        referred |= artifact_keys(record, artifact)
    freed = sum(store.remove(key) for key in store.all_keys() if key not in referred)
    import shutil

    damaged = workspace.artifacts / "damaged"
    freed += sum(_folder_bytes(path) for path in damaged.glob("*"))
    shutil.rmtree(damaged, ignore_errors=True)
    store.clear_leftovers()
    return freed


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.is_file())
