"""Artifacts: whole or absent, equal settings under equal keys, damage noticed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tda_backend.errors import ArtifactError, MachineError
from tda_backend.studies.store.artifact import SMALL
from tda_backend.studies.store.artifacts import ArtifactStore, content_key

KEY = "ab" + "0" * 62
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def write(store: ArtifactStore, key: str = KEY, size: int = 10) -> None:
    with store.writing(key, "spectrum", {"k": 1}, []) as writer:
        writer.array("values", np.arange(size, dtype=np.float32))
        writer.table("rows", pd.DataFrame({"a": [1, 2]}))
        writer.tensors("state", {"w": torch.ones(2, 2)})


@given(st.dictionaries(st.text(min_size=1).filter(str.isidentifier), values, max_size=4))
def test_keys_do_not_depend_on_the_order_of_settings(settings: dict):
    assert content_key(**settings) == content_key(**dict(reversed(list(settings.items()))))


@given(values, values)
def test_different_settings_have_different_keys(first: object, second: object):
    import json

    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (content_key(setting=first) == content_key(setting=second)) == same


@pytest.mark.parametrize("size", [10, SMALL])
def test_what_is_written_is_read_again(tmp_path: Path, size: int):
    store = ArtifactStore(tmp_path)
    write(store, size=size)
    artifact = store.open(KEY)
    np.testing.assert_array_equal(artifact.array("values"), np.arange(size, dtype=np.float32))
    assert isinstance(artifact.array("values"), np.memmap) == (size == SMALL)
    assert artifact.table("rows").to_pydict() == {"a": [1, 2]}
    assert torch.equal(artifact.tensors("state")["w"], torch.ones(2, 2))
    assert store.usable(KEY)
    assert artifact.problems(thorough=True) == []


def test_an_error_while_writing_leaves_nothing(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    with pytest.raises(ValueError, match=r"[Oo]bject arrays"), store.writing(KEY, "spectrum", {}, []) as writer:
        writer.array("values", np.array([None]))
    assert not store.has(KEY)
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("name", ["values.npy", "rows.parquet", "state.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "gone"])
def test_damage_is_noticed_and_the_artifact_set_aside(tmp_path: Path, name: str, damage: str):
    store = ArtifactStore(tmp_path)
    write(store)
    path = store.path(KEY) / name
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "changed":
        path.write_bytes(content[:5] + bytes([content[5] ^ 255]) + content[6:])
    else:
        path.unlink()
    assert not store.usable(KEY, thorough=True)
    assert not store.has(KEY)
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_a_large_array_with_a_broken_header_is_noticed(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    write(store, size=SMALL)
    path = store.path(KEY) / "values.npy"
    with path.open("r+b") as file:
        file.write(b"JUNKJUNK")
    with pytest.raises(ArtifactError, match=r"values\.npy.*does not match its checksum.*Run the study again"):
        store.open(KEY).array("values")
    assert not store.usable(KEY)


def test_a_changed_large_array_is_found_by_the_thorough_check(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    write(store, size=SMALL)
    path = store.path(KEY) / "values.npy"
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff")
    assert store.open(KEY).problems(thorough=False) == []
    assert store.open(KEY).problems(thorough=True) == ["values.npy does not match its checksum"]
    assert not store.usable(KEY, thorough=True)
    assert not store.has(KEY)


@pytest.mark.parametrize("at", ["fsync", "rename"])
def test_no_space_left_is_one_clear_error_and_leaves_nothing(tmp_path: Path, monkeypatch, at: str):
    store = ArtifactStore(tmp_path)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, at, full)
        with pytest.raises(MachineError, match=r"No space left.*tda rm"):
            write(store)
    assert not list((tmp_path / "tmp").iterdir())
    assert not store.has(KEY)
    write(store)
    assert store.usable(KEY)


def test_two_writers_of_one_key_agree(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    with store.writing(KEY, "spectrum", {}, []) as slow:
        slow.array("values", np.ones(3))
        write(store)  # another run finishes first
    assert store.usable(KEY)
    assert not list((tmp_path / "tmp").iterdir())


def test_leftovers_of_dead_writers_are_removed_and_those_of_living_ones_kept(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / "tmp" / f"abc-{ended.pid}-ffffff").mkdir(parents=True)
    with store.writing(KEY, "spectrum", {}, []) as writer:
        assert store.clear_leftovers() == 1
        assert writer.folder.is_dir()


def test_a_missing_artifact_says_so(tmp_path: Path):
    with pytest.raises(ArtifactError, match="is missing"):
        ArtifactStore(tmp_path).open(KEY)
