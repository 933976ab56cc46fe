"""Nothing gets its name before its content is on the disk: the order of flushes and renames, for each kind of file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store import catalogue, owners
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.inbox import EndedJob, write_drop
from tda_backend.studies.store.rebuild import rebuild
from tda_backend.studies.store.workspace import Workspace, write_json
from tests.store.disk import RecordedDisk

KEY = "ab" + "0" * 62


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "c.duckdb").create()


def artifact(workspace: Workspace) -> None:
    with ArtifactStore(workspace.artifacts).writing(KEY, "spectrum", {}, []) as writer:
        writer.array("values", np.arange(9))
        writer.json("about", {"a": 1})


def snapshot(workspace: Workspace) -> None:
    catalogue.own(workspace)
    try:
        catalogue.publish_snapshot(workspace)
    finally:
        catalogue.disown(workspace)


WRITERS: dict[str, Callable[[Workspace], object]] = {
    "artifact": artifact,
    "drop": lambda place: write_drop(place, EndedJob("s", "j", "done", 1.0, 2.0)),
    "job file": lambda place: write_json(place.jobs / "j.json", {"job_id": "j"}),
    "server file": owners.announce,
    "snapshot": snapshot,
    "rebuilt catalogue": lambda place: rebuild(place, KINDS),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_content_then_folder_then_name_then_folder(workspace: Workspace, kind: str, monkeypatch):
    disk = RecordedDisk(monkeypatch)
    WRITERS[kind](workspace)
    assert disk.renames
    for rename in disk.renames:
        assert rename.unflushed == [], f"{kind}: renamed before it was flushed"
    assert disk.unflushed_renames() == [], f"{kind}: the folder was not flushed after the rename"


def test_the_recorder_sees_a_rename_without_flush(tmp_path: Path, monkeypatch):
    disk = RecordedDisk(monkeypatch)
    (tmp_path / "a").write_text("x")
    os.replace(tmp_path / "a", tmp_path / "b")
    assert disk.renames[0].unflushed == [tmp_path / "a"]
    assert disk.unflushed_renames() == [tmp_path / "b"]
