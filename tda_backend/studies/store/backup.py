"""Copies of a workspace that can be made while it is used, and brought back while it is used.

Artifacts never change, so copying them needs no lock; the catalogue is copied first, in one consistent state, so that
everything it speaks of is among the artifacts copied after it. A backup is a folder, or a tar file of it: the
catalogue, the artifacts, the study files and what ended runs left. Every artifact is verified on its way, in both
directions.
"""

from __future__ import annotations

import contextlib
import filecmp
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from tda_backend.errors import ArtifactError, CatalogueError, UsageError
from tda_backend.studies.store import catalogue, owners
from tda_backend.studies.store.artifacts import MANIFEST, ArtifactStore
from tda_backend.studies.store.durable import make_folder, publish_file, publish_folder
from tda_backend.studies.store.inbox import write_drops
from tda_backend.studies.store.locks import Planning
from tda_backend.studies.store.record import study_records
from tda_backend.studies.store.workspace import Workspace, read_json, writing_to

CATALOGUE = "catalogue.duckdb"
ARCHIVE = ".tar"
BESIDE = ("studies", "jobs")
PATIENCE_SECONDS = 10.0
OnProgress = Callable[[int, int], None]


def no_progress(done: int, total: int) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Copied:
    """What a backup or a restore did.

    Attributes:
        artifacts: How many were copied.
        there: How many were there already.
        damaged: Short names of those that are damaged and were left out.
        bytes: Copied.
        path: Where to.
    """

    artifacts: int
    there: int
    damaged: tuple[str, ...]
    bytes: int
    path: Path


def back_up(workspace: Workspace, target: Path, on_progress: OnProgress = no_progress) -> Copied:
    """Copy a workspace to a folder, or to a file whose name ends with ``.tar``.

    Raises:
        UsageError: The target is there already and no backup, or lies in the workspace.
        CatalogueError: The catalogue is damaged or missing.
        MachineError: The disk is full or cannot be written to.
    """
    target = target.absolute()
    if workspace.folder in (target, *target.parents):
        raise UsageError(f"{target} lies in the workspace that is backed up.", "Name a place outside it.")
    if target.suffix != ARCHIVE:
        return _to_folder(workspace, target, on_progress)
    if target.exists():
        raise UsageError(f"{target} is there already.", "Name another file.")
    with writing_to(target.parent):
        make_folder(target.parent)
        with tempfile.TemporaryDirectory(prefix=".backup-", dir=target.parent) as folder:
            copied = _to_folder(workspace, Path(folder) / "backup", on_progress)
            temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
            try:
                with tarfile.open(temporary, "w") as archive:
                    archive.add(Path(folder) / "backup", ".")
                publish_file(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
    return Copied(copied.artifacts, copied.there, copied.damaged, copied.bytes, target)


def _to_folder(workspace: Workspace, target: Path, on_progress: OnProgress) -> Copied:
    if target.exists() and any(target.iterdir()) and not (target / CATALOGUE).is_file():
        raise UsageError(f"{target} is there already, and is no backup.", "Name a new or an empty folder.")
    with writing_to(target):
        make_folder(target)
        _copy_catalogue(workspace, target / CATALOGUE)
        for name in BESIDE:
            _copy_files(workspace.folder / name, target / name, renew=True)
        make_folder(target / "artifacts")  # a backup of a workspace without any is a backup too
        return _copy_artifacts(ArtifactStore(workspace.artifacts), ArtifactStore(target / "artifacts"), on_progress)


def _copy_catalogue(workspace: Workspace, target: Path) -> None:
    """Write one state of the catalogue: of a server's, the newest that it has published."""
    if owners.server_lives(workspace):
        if not workspace.snapshot.exists():
            raise CatalogueError("The dashboard has published no snapshot yet.", "Try again in some seconds.")
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        shutil.copyfile(workspace.snapshot, temporary)
        publish_file(temporary, target)
        return
    if not workspace.catalogue.exists():
        raise CatalogueError(f"There is no catalogue at {workspace.catalogue}.", "Name another with --db FILE.")
    with catalogue.writing(workspace, PATIENCE_SECONDS) as connection:
        catalogue.copy_catalogue(connection, workspace, target)


def _copy_files(source: Path, target: Path, renew: bool) -> None:
    """Copy the plain files of a folder that are not there yet, but none of a run that goes on.

    Args:
        source: Folder with the files.
        target: Where they go.
        renew: Copy those too that are there with another content.
    """
    if not source.is_dir():
        return
    make_folder(target)
    for path in sorted(source.iterdir()):
        is_running = path.suffix == ".json" and (read_json(path) or {}).get("status") == "running"
        if not path.is_file() or is_running or path.name.startswith("."):
            continue
        place = target / path.name
        if not place.exists() or (renew and not filecmp.cmp(path, place, shallow=False)):
            temporary = target / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
            shutil.copyfile(path, temporary)
            publish_file(temporary, place)


def _copy_artifacts(source: ArtifactStore, target: ArtifactStore, on_progress: OnProgress) -> Copied:
    """Copy every artifact that is not there; one that is damaged, here or on its way, is left out and named."""
    keys = source.all_keys()
    copied, there, num_bytes, damaged = 0, 0, 0, []
    for number, key in enumerate(keys, 1):
        on_progress(number, len(keys))
        if target.usable(key, thorough=True):
            there += 1
            continue
        try:
            num_bytes += _copy_artifact(source, target, key)
        except ArtifactError:
            damaged.append(key[:12])
            continue
        copied += 1
    return Copied(copied, there, tuple(damaged), num_bytes, target.folder.parent)


def _copy_artifact(source: ArtifactStore, target: ArtifactStore, key: str) -> int:
    """Copy one artifact, verified as it lies there, and return its bytes.

    Raises:
        ArtifactError: It is damaged.
    """
    temporary = target.temporary(key[:12])
    artifact = source.peek(key)
    make_folder(temporary)
    try:
        for name in [*artifact.files, MANIFEST]:
            if not (artifact.folder / name).is_file():
                raise ArtifactError(f"{name} of {artifact.describe()} is missing.")
            shutil.copyfile(artifact.folder / name, temporary / name)
        problems = target.peek(key, temporary).problems(thorough=True)
        if problems:
            raise ArtifactError("; ".join(problems))
        if not target.has(key):
            publish_folder(temporary, target.path(key))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return artifact.num_bytes


def bring_back(workspace: Workspace, source: Path, on_progress: OnProgress = no_progress) -> Copied:
    """Bring a backup into a workspace: what is there stays, what is missing or damaged comes from the backup.

    Where there is no catalogue, the backup's becomes it. Beside a catalogue the studies of the backup are dropped into
    the inbox: a running dashboard takes them in, or whoever opens the catalogue next.

    Raises:
        UsageError: The source is no backup.
        MachineError: The disk is full or cannot be written to.
    """
    if not source.exists():
        raise UsageError(f"There is no {source}.", "Give a folder or a .tar file that `tda backup` made.")
    workspace.create()
    with _unpacked(source.absolute(), workspace) as folder:
        if not (folder / CATALOGUE).is_file() or not (folder / "artifacts").is_dir():
            raise UsageError(f"{source} is no backup.", "Give a folder or a .tar file that `tda backup` made.")
        store, backup = ArtifactStore(workspace.artifacts), ArtifactStore(folder / "artifacts")
        with contextlib.closing(Planning(workspace)):  # no removal takes what nothing refers to yet
            with writing_to(workspace.folder):
                copied = _copy_artifacts(backup, store, on_progress)
                for name in BESIDE:
                    _copy_files(folder / name, workspace.folder / name, renew=False)
                if not workspace.catalogue.exists():
                    _bring_catalogue(folder / CATALOGUE, workspace)
            _offer(workspace, backup)
    return Copied(copied.artifacts, copied.there, copied.damaged, copied.bytes, workspace.catalogue)


def _bring_catalogue(source: Path, workspace: Workspace) -> None:
    """Put a catalogue where there is none, with nothing beside it that belonged to one that was removed."""
    temporary = workspace.folder / f".{workspace.catalogue.name}.{uuid.uuid4().hex[:8]}.tmp"
    shutil.copyfile(source, temporary)
    for stale in (workspace.log, workspace.snapshot):  # the log would be replayed into the new file
        stale.unlink(missing_ok=True)
    publish_file(temporary, workspace.catalogue)


@contextlib.contextmanager
def _unpacked(source: Path, workspace: Workspace) -> Iterator[Path]:
    """Yield the folder of a backup, unpacked beside the artifacts if it is a file."""
    if not source.is_file():
        yield source
        return
    folder = ArtifactStore(workspace.artifacts).temporary("restore")
    try:
        with writing_to(workspace.artifacts), tarfile.open(source) as archive:
            _extract(archive, folder)
        yield folder
    except tarfile.TarError as error:
        raise UsageError(f"{source} is no backup: {error}.", "Give a file that `tda backup` made.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Unpack plain files and folders, none of them outside ``folder``.

    Raises:
        tarfile.TarError: A member is something else, or would lie outside.
    """
    if hasattr(tarfile, "data_filter"):
        archive.extractall(folder, filter="data")
        return
    for member in archive.getmembers():  # Python 3.11.0 to 3.11.3
        path = PureWindowsPath(member.name)  # knows slashes of both kinds
        if not (member.isfile() or member.isdir()) or path.anchor or ".." in path.parts:
            raise tarfile.TarError(f"{member.name!r} is no file or folder within it")
        member.mode = 0o755 if member.isdir() else 0o644
    archive.extractall(folder)


def _offer(workspace: Workspace, backup: ArtifactStore) -> None:
    """Drop the studies of a backup and their finished steps, unless there is a newer plan of the same study."""
    store = ArtifactStore(workspace.artifacts)
    newest = {record.study_id: record.artifact.key for record in study_records(store)}
    for record in study_records(backup):
        if newest.get(record.study_id) != record.artifact.key:
            continue
        write_drops(workspace, [record.study, *(step for step in record.steps if store.has(step.key))])
