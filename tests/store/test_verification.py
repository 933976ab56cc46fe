"""Checksums: every byte of every file counts; what was verified is remembered as long as it stays the same."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tda_backend.errors import ArtifactError, MachineError
from tda_backend.studies.store import artifact as artifact_module
from tda_backend.studies.store import verification
from tda_backend.studies.store.artifact import SMALL, Artifact
from tda_backend.studies.store.artifacts import MANIFEST, ArtifactStore

KEY = "ab" + "0" * 62
FILES = ["values.npy", "rows.parquet", "state.safetensors", "about.json", MANIFEST]


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    found = ArtifactStore(tmp_path / "artifacts")
    write(found)
    return found


def write(store: ArtifactStore, size: int = SMALL) -> None:
    with store.writing(KEY, "spectrum", {"k": 1}, []) as writer:
        writer.array("values", np.arange(size, dtype=np.float32))
        writer.table("rows", pd.DataFrame({"a": [1, 2]}))
        writer.tensors("state", {"w": torch.ones(2, 2)})
        writer.json("about", {"a": 1})
        writer.facts["num_cut"] = 3


def read_all(artifact: Artifact) -> None:
    artifact.array("values")
    artifact.table("rows")
    artifact.tensors("state")
    artifact.file("about.json")


def as_old(store: ArtifactStore) -> Path:
    """Make the artifact what version 0.1.0 wrote: no checksums of blocks, none of the manifest."""
    path = store.path(KEY) / MANIFEST
    content = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in content.items() if name not in ("crc32", "seal")}))
    return path


@pytest.mark.parametrize("size", [0, 1, 999, verification.BLOCK - 1, verification.BLOCK, verification.BLOCK * 2 + 5])
def test_checksums_of_blocks_are_those_of_their_bytes(tmp_path: Path, size: int):
    content = np.random.default_rng(size).bytes(size)
    path = tmp_path / "file"
    path.write_bytes(content)
    starts = range(0, size, verification.BLOCK)
    expected = [zlib.crc32(content[start : start + verification.BLOCK]) for start in starts]
    assert verification.block_checksums(path) == expected


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.sampled_from(FILES), where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_an_error_that_names_the_artifact(
    store: ArtifactStore, name: str, where: float, bit: int
):
    if not store.has(KEY):
        write(store)
    path = store.path(KEY) / name
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"(?s)(spectrum )?ab0000000000.*set aside.*Run the study again"):
        read_all(store.open(KEY))
    assert not store.has(KEY)
    assert store.set_aside_folders()


def test_a_file_is_read_once_and_again_once_it_has_changed(store: ArtifactStore, monkeypatch):
    read = []
    real = verification.block_checksums
    monkeypatch.setattr(verification, "block_checksums", lambda path: (read.append(path.name), real(path))[1])
    for _ in range(3):
        read_all(store.open(KEY))
    assert sorted(read) == sorted(FILES[:-1])
    path = store.path(KEY) / "values.npy"
    before = verification.generation()
    os.utime(path)  # touched, the same content
    assert not verification.is_unchanged(path.parent)
    read_all(store.open(KEY))
    assert read.count("values.npy") == 2
    assert verification.is_unchanged(path.parent)
    assert verification._memory.generation > before


def test_what_changes_under_a_reader_is_told_once(store: ArtifactStore):
    read_all(store.open(KEY))
    verification.changed_folders()
    path = store.path(KEY) / "values.npy"
    before = verification._memory.generation
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    assert store.path(KEY) in verification.changed_folders()
    assert store.path(KEY) not in verification.changed_folders()
    assert verification._memory.generation > before


def test_artifacts_of_earlier_versions_are_verified_by_what_they_have(store: ArtifactStore, monkeypatch):
    as_old(store)
    monkeypatch.setattr(verification, "block_checksums", lambda path: pytest.fail("there are none"))
    read_all(store.open(KEY))
    assert store.usable(KEY, thorough=True)
    path = store.path(KEY) / "values.npy"
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    with pytest.raises(ArtifactError, match=r"values\.npy of artifact spectrum ab0000000000 does not match"):
        store.open(KEY).array("values")


def test_an_artifact_of_a_newer_version_is_named_and_kept(store: ArtifactStore):
    path = as_old(store)
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(ArtifactError, match=r"newer version, in form 2.*Upgrade"):
        store.open(KEY)
    assert store.has(KEY)


def test_where_nothing_can_be_moved_the_damage_is_still_said(store: ArtifactStore, monkeypatch):
    path = store.path(KEY) / "values.npy"
    path.write_bytes(path.read_bytes()[:-8] + bytes(8))
    monkeypatch.setattr(artifact_module, "set_aside", lambda folder: None)
    for _ in range(2):
        with pytest.raises(ArtifactError, match=r"does not match its checksum.*cannot be written to"):
            store.open(KEY).array("values")


def test_a_file_that_cannot_be_read_is_not_called_damaged(store: ArtifactStore, monkeypatch):
    def fail(path: Path) -> list[int]:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(verification, "block_checksums", fail)
        with pytest.raises(MachineError, match=r"cannot be read \(Input/output error\)"):
            store.open(KEY).array("values")
    assert store.open(KEY).array("values")[-1] == SMALL - 1


def test_a_disk_that_stumbles_once_damages_nothing(store: ArtifactStore, monkeypatch):
    real, calls = verification.block_checksums, []

    def stumble(path: Path) -> list[int]:
        calls.append(path)
        return real(path) if len(calls) > 1 else [0]

    monkeypatch.setattr(verification, "block_checksums", stumble)
    assert store.open(KEY).array("values")[-1] == SMALL - 1


@pytest.mark.parametrize("key", ["../../etc/passwd", "", "a/b", "ab.c", "..", 7])
def test_a_key_never_leads_out_of_the_folder(store: ArtifactStore, key: object):
    with pytest.raises(ArtifactError, match="is no key"):
        store.path(key)  # type: ignore[arg-type]
