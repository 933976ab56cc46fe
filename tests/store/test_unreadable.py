"""What cannot be read at the moment is whole as far as anybody knows: it is kept, it waits, and the error says why."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tda_backend.errors import CatalogueError, MachineError
from tda_backend.interfaces.cli.care import examine_workspace
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store import artifact as artifact_module
from tda_backend.studies.store import catalogue, verification
from tda_backend.studies.store.artifacts import MANIFEST, ArtifactStore, content_key
from tda_backend.studies.store.inbox import EndedJob, FinishedStep, pending_drops, refused_drops, write_drop
from tda_backend.studies.store.ingest import ingest_inbox
from tda_backend.studies.store.rebuild import rebuild, remove_unused
from tda_backend.studies.store.record import write_study_record
from tda_backend.studies.store.workspace import Workspace

KEY = content_key(a=1)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "c.duckdb").create()


@pytest.fixture
def store(workspace: Workspace) -> ArtifactStore:
    store = ArtifactStore(workspace.artifacts)
    write(store, KEY)
    return store


def write(store: ArtifactStore, key: str) -> None:
    with store.writing(key, "scores", {}, []) as writer:
        writer.array("x", np.arange(10))


@contextmanager
def no_more_files() -> Iterator[None]:
    """Within the block no file can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 1, hard))
    try:
        yield
    finally:
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(params=[errno.ESTALE, errno.EIO, errno.EACCES], ids=["ESTALE", "EIO", "EACCES"])
def stumbling(request: pytest.FixtureRequest, monkeypatch) -> Iterator[None]:
    """The system cannot say what becomes of ``x.npy``."""
    stat = os.stat

    def fail(path: str | Path, *more: Any, **named: Any) -> os.stat_result:
        if str(path).endswith("x.npy"):
            raise OSError(request.param, os.strerror(request.param))
        return stat(path, *more, **named)

    with monkeypatch.context() as patch:
        patch.setattr(verification.os, "stat", fail)
        yield


def kept(store: ArtifactStore) -> bool:
    return store.path(KEY).is_dir() and not store.set_aside_folders()


def test_a_full_table_of_open_files_damages_no_manifest(store: ArtifactStore):
    with no_more_files(), pytest.raises(MachineError, match=r"manifest of artifact .* cannot be read .*Too many open"):
        store.open(KEY)
    assert kept(store)
    assert store.usable(KEY, thorough=True)


@pytest.mark.parametrize("thorough", [False, True])
def test_a_file_of_which_the_system_cannot_say_is_not_missing(store: ArtifactStore, stumbling: None, thorough: bool):
    with pytest.raises(MachineError, match=r"x\.npy of .* cannot be read"):
        store.open(KEY).array("x")
    with pytest.raises(MachineError, match=r"x\.npy of .* cannot be read"):
        store.usable(KEY, thorough)
    assert kept(store)


def test_a_library_that_the_system_refuses_a_file_finds_no_damage(store: ArtifactStore, monkeypatch):
    def fail(*given: object, **named: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(artifact_module.np, "load", fail)
    with pytest.raises(MachineError, match=r"x\.npy of .* cannot be read"):
        store.open(KEY).array("x")
    assert kept(store)


@pytest.fixture
def verified(store: ArtifactStore) -> None:
    store.open(KEY).array("x")
    verification.changed_folders()


@pytest.mark.usefixtures("verified", "stumbling")
def test_what_was_verified_has_not_changed_because_the_system_stumbles(store: ArtifactStore):
    assert verification.is_unchanged(store.path(KEY))
    assert store.path(KEY) not in verification.changed_folders()


def test_doctor_moves_nothing_that_it_cannot_read(workspace: Workspace, store: ArtifactStore, monkeypatch):
    def fail(path: Path, stored: verification.StoredFile) -> str:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(artifact_module, "verify", fail)
    (found,) = [each for each in examine_workspace(workspace, repair=True) if each.name.startswith("artifact ")]
    assert found.state == "problem"
    assert "cannot be read" in found.detail
    assert kept(store)


def record(store: ArtifactStore, study_id: str, key: str, steps: list[str]) -> None:
    words = dict.fromkeys(("name", "spec", "fingerprint", "training"), "t")
    content = {
        "study_id": study_id,
        "name": study_id,
        "config": {},
        "info": {},
        "task": {"num_classes": 1, "class_names": ["a"], "measurement_sign": 1, "margin_identity": True, **words},
        "counts": {"train": 1, "validation": 1, "queries": 1, "subsets": 1},
        "configurations": [],
        "steps": [{"key": step, "label": "a step", "context": {}} for step in steps],
    }
    write_study_record(store, key, study_id, content)


def test_a_drop_whose_artifact_cannot_be_read_waits_with_its_study(
    workspace: Workspace, store: ArtifactStore, monkeypatch
):
    for study, key in (("first", "aa" * 32), ("second", "bb" * 32)):
        record(store, study, key, [])
        write_drop(workspace, FinishedStep(study, key, "study"))
        write_drop(workspace, EndedJob(study, f"job of {study}", "done", 1.0, 2.0))
    read = Path.read_text

    def fail(path: Path, *more: Any, **named: Any) -> str:
        if path.name == MANIFEST and "aa" * 32 in path.parts:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return read(path, *more, **named)

    with catalogue.writing(workspace) as connection:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", fail)
            with pytest.raises(MachineError, match="cannot be read"):
                ingest_inbox(workspace, connection, KINDS)
        assert [json.loads(path.read_text())["study_id"] for path in pending_drops(workspace)] == ["first", "first"]
        assert refused_drops(workspace) == []
        assert connection.execute("SELECT name FROM studies").fetchall() == [("second",)]
        assert ingest_inbox(workspace, connection, KINDS) == 2
        assert connection.execute("SELECT count(*) FROM studies").fetchall() == [(2,)]


@pytest.mark.parametrize("name", ["study.json", MANIFEST])
def test_without_a_catalogue_nothing_is_unused_while_a_record_is_damaged(
    workspace: Workspace, store: ArtifactStore, name: str
):
    record(store, "s", "aa" * 32, [KEY])
    (store.path("aa" * 32) / name).write_bytes(b"\0" * 50)
    for _ in range(2):  # the second time it has been set aside
        with pytest.raises(CatalogueError, match=r"records of some studies are damaged \(aaaaaaaaaaaa\)"):
            remove_unused(workspace)
    assert store.has(KEY)
    record(store, "s", "aa" * 32, [KEY])
    remove_unused(workspace)
    assert store.has(KEY)
    assert store.set_aside_folders() == []


def test_of_two_whole_copies_one_goes_back(workspace: Workspace, store: ArtifactStore):
    store.set_aside(KEY)
    write(store, KEY)
    store.set_aside(KEY)
    found = [each.detail for each in examine_workspace(workspace, repair=True) if each.name == "set aside"]
    assert found[0].startswith("1 artifacts were whole")
    assert found[1].startswith("1 damaged artifacts")
    assert store.usable(KEY, thorough=True)


def test_a_folder_of_a_name_that_is_no_key_is_set_aside(workspace: Workspace, store: ArtifactStore):
    (workspace.artifacts / "ab" / "foo.bar").mkdir(parents=True)
    states = [each.state for each in examine_workspace(workspace, repair=True) if "foo.bar" in each.name]
    assert states == ["repaired"]
    assert not (workspace.artifacts / "ab" / "foo.bar").exists()
    assert len(store.set_aside_folders()) == 1


FOREIGN = [{}, {"updated": "x", "started": 1.0}, {"updated": 2.0, "started": 1.0, "job_id": {"a": [1]}}]


@pytest.mark.parametrize("more", FOREIGN)
def test_a_rebuild_skips_a_job_file_that_does_not_fit(workspace: Workspace, store: ArtifactStore, more: dict):
    good = {"job_id": "mine", "study_id": "s", "status": "done", "started": 1.0, "updated": 2.0}
    (workspace.jobs / "a.json").write_text(json.dumps({"job_id": "j", "study_id": "s", "status": "done"} | more))
    (workspace.jobs / "b.json").write_text(json.dumps(good))
    rebuild(workspace, KINDS)
    with catalogue.reading(workspace) as connection:
        assert ("mine",) in connection.execute("SELECT job_id FROM jobs").fetchall()


def test_a_rebuild_keeps_the_drops_that_come_meanwhile(workspace: Workspace, store: ArtifactStore):
    record(store, "s", "aa" * 32, [KEY])
    before = write_drop(workspace, FinishedStep("s", "aa" * 32, "study"))
    later = []
    rebuild(workspace, KINDS, lambda done, total: later.append(write_drop(workspace, FinishedStep("t", KEY, "later"))))
    assert pending_drops(workspace) == later
    assert before not in later
    assert len(later) == 1
