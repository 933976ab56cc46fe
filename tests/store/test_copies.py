"""Backup and restore of small workspaces: what a catalogue leaves behind, edited files, archives from elsewhere."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tda_backend.errors import UsageError
from tda_backend.studies.store import backup as backup_module
from tda_backend.studies.store import catalogue, inbox
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.backup import back_up, bring_back
from tda_backend.studies.store.inbox import FinishedStep, pending_drops, read_drop
from tda_backend.studies.store.locks import removing
from tda_backend.studies.store.workspace import Workspace
from tests.store.test_unreadable import KEY, record, write


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace.at(tmp_path / "w" / "c.duckdb").create()
    with catalogue.writing(workspace):
        pass
    return workspace


@pytest.fixture
def other(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "other" / "c.duckdb").create()


def with_a_study(workspace: Workspace) -> None:
    store = ArtifactStore(workspace.artifacts)
    write(store, KEY)
    record(store, "s", "aa" * 32, [KEY, KEY, KEY])


def test_a_restored_catalogue_meets_nothing_of_one_that_was_removed(
    workspace: Workspace, other: Workspace, tmp_path: Path
):
    with_a_study(workspace)
    back_up(workspace, tmp_path / "b")
    for stale in (other.log, other.snapshot):
        stale.write_bytes(b"of another catalogue")
    bring_back(other, tmp_path / "b")
    assert not other.log.exists()
    assert not other.snapshot.exists()


def test_an_edited_file_is_backed_up_again_and_stays_where_it_is_restored(
    workspace: Workspace, other: Workspace, tmp_path: Path
):
    for place, text in ((workspace, "old"), (other, "its own")):
        (place.folder / "studies").mkdir()
        (place.folder / "studies" / "a.toml").write_text(text)
    back_up(workspace, tmp_path / "b")
    (workspace.folder / "studies" / "a.toml").write_text("new")  # as long as before
    back_up(workspace, tmp_path / "b")
    assert (tmp_path / "b" / "studies" / "a.toml").read_text() == "new"
    bring_back(other, tmp_path / "b")
    assert (other.folder / "studies" / "a.toml").read_text() == "its own"


@pytest.mark.parametrize("name", ["b", "b.tar"])
def test_a_workspace_without_artifacts_is_restored(workspace: Workspace, other: Workspace, tmp_path: Path, name: str):
    back_up(workspace, tmp_path / name)
    assert bring_back(other, tmp_path / name).artifacts == 0
    assert other.catalogue.is_file()


def test_no_removal_begins_while_a_backup_is_brought_back(workspace: Workspace, other: Workspace, tmp_path: Path):
    with_a_study(workspace)
    back_up(workspace, tmp_path / "b")
    refused = []

    def remove(done: int, total: int) -> None:
        with pytest.raises(UsageError), removing(other, patience=0.0):
            pass
        refused.append(done)

    bring_back(other, tmp_path / "b", remove)
    assert refused == [1, 2]
    with removing(other, patience=0.0):
        pass


def test_a_restore_looks_at_the_inbox_once_a_study(workspace: Workspace, other: Workspace, tmp_path: Path, monkeypatch):
    with_a_study(workspace)
    back_up(workspace, tmp_path / "b")
    looked = []

    def counted(place: Workspace) -> list[Path]:
        looked.append(place)
        return pending_drops(place)

    monkeypatch.setattr(inbox, "pending_drops", counted)
    bring_back(other, tmp_path / "b")
    assert len(looked) == 1
    drops = [read_drop(path) for path in pending_drops(other)]
    assert drops == [FinishedStep("s", "aa" * 32, "study")] + [FinishedStep("s", KEY, "a step")] * 3


BAD = {
    "a path upwards": tarfile.TarInfo("../escaped"),
    "an absolute path": tarfile.TarInfo("/tmp/escaped"),
    "a link": tarfile.TarInfo("link"),
    "a device": tarfile.TarInfo("device"),
}
BAD["a link"].type, BAD["a link"].linkname = tarfile.SYMTYPE, "/etc/passwd"
BAD["a device"].type = tarfile.CHRTYPE


@pytest.fixture
def old_python(monkeypatch) -> None:
    """Python up to 3.11.3, whose tar files have no filters."""
    monkeypatch.delattr(tarfile, "data_filter")
    extract = tarfile.TarFile.extractall

    def without_filter(archive: tarfile.TarFile, path: Path) -> None:
        extract(archive, path, filter="fully_trusted")

    monkeypatch.setattr(tarfile.TarFile, "extractall", without_filter)


@pytest.mark.usefixtures("old_python")
@pytest.mark.parametrize("name", BAD)
def test_a_python_without_filters_unpacks_nothing_outside(other: Workspace, tmp_path: Path, name: str):
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.addfile(BAD[name], io.BytesIO())
    with pytest.raises(UsageError, match="is no backup"):
        bring_back(other, tmp_path / "bad.tar")
    assert not list(tmp_path.rglob("escaped"))
    assert backup_module.CATALOGUE not in {path.name for path in other.folder.iterdir()}


@pytest.mark.usefixtures("old_python")
def test_a_python_without_filters_restores_a_backup(workspace: Workspace, other: Workspace, tmp_path: Path):
    with_a_study(workspace)
    back_up(workspace, tmp_path / "b.tar")
    assert bring_back(other, tmp_path / "b.tar").artifacts == 2
