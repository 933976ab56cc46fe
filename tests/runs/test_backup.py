"""Backup and restore beside a running server; verify finds what was computed otherwise."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tda_backend.interfaces.reading.study import list_studies, open_study
from tda_backend.studies.jobs.ingest_loop import IngestLoop
from tda_backend.studies.runs.recompute import TOLERANCE, deviation
from tda_backend.studies.store.artifacts import MANIFEST, ArtifactStore
from tda_backend.studies.store.rebuild import remove_study
from tda_backend.studies.store.verification import describe_file
from tda_backend.studies.store.workspace import Workspace
from tests.runs.conftest import tda
from tests.runs.test_damage import zero_half
from tests.runs.test_jobs import wait_for


def selected(workspace: Workspace) -> list[dict]:
    return open_study("tiny", workspace).selections().to_dict("records")


@pytest.mark.parametrize("name", ["backup", "backup.tar"])
def test_a_backup_beside_a_server_restores_anywhere(copied: Workspace, tmp_path: Path, name: str):
    before, target = selected(copied), tmp_path / "b" / name
    keys = ArtifactStore(copied.artifacts).all_keys()
    with IngestLoop(copied):
        result = tda("backup", target, db=copied.catalogue)
        assert result.returncode == 0, result.stderr
        assert f"{len(keys)} artifacts backed up" in result.stdout
    other = Workspace.at(tmp_path / "other" / "c.duckdb")
    result = tda("restore", target, db=other.catalogue)
    assert result.returncode == 0, result.stderr
    assert selected(other) == before
    assert np.isfinite(open_study("tiny", other).scores("iffim", 1e-2)).all()
    assert ArtifactStore(other.artifacts).all_keys() == keys
    assert not list((other.artifacts / "tmp").iterdir())
    assert not list(other.inbox.iterdir())


def test_a_restore_beside_a_server_brings_a_lost_study_back(copied: Workspace, tmp_path: Path, cli):
    before = selected(copied)
    assert cli("backup", tmp_path / "b", "--db", copied.catalogue)[0] == 0
    remove_study(copied, open_study("tiny", copied).study_id)
    with IngestLoop(copied):
        assert len(list_studies(copied)) == 0
        result = tda("restore", tmp_path / "b", db=copied.catalogue)
        assert result.returncode == 0, result.stderr
        wait_for(lambda: not list(copied.inbox.glob("*.json")), 60)
        assert list_studies(copied)["status"].tolist() == ["complete"]
        assert selected(copied) == before


def test_a_second_backup_copies_what_is_new_and_mends_what_is_damaged(copied: Workspace, tmp_path: Path, cli):
    target = tmp_path / "b"
    assert cli("backup", target, "--db", copied.catalogue)[0] == 0
    zero_half(max((target / "artifacts").rglob("*.npy"), key=lambda path: path.stat().st_size))
    code, out, _ = cli("backup", target, "--db", copied.catalogue)
    assert code == 0
    assert "1 artifacts backed up" in out
    assert f"{len(ArtifactStore(copied.artifacts).all_keys()) - 1} were there" in out


def test_a_damaged_artifact_is_left_out_and_named(copied: Workspace, tmp_path: Path, cli):
    path = max(copied.artifacts.rglob("*.npy"), key=lambda path: path.stat().st_size)
    zero_half(path)
    code, out, _ = cli("backup", tmp_path / "b", "--db", copied.catalogue)
    assert code == 1
    assert f"1 damaged artifacts were left out: {path.parent.name[:12]}" in out
    assert not (tmp_path / "b" / "artifacts" / path.parent.name[:2] / path.parent.name).exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["backup", "w/b"], "lies in the workspace"),
        (["backup", "other"], "is no backup"),
        (["backup", "file.tar"], "is there already"),
        (["restore", "none"], "There is no"),
        (["restore", "other"], "is no backup"),
        (["restore", "file.tar"], "is no backup"),
    ],
)
def test_what_is_no_backup_is_refused(copied: Workspace, tmp_path: Path, cli, words: list[str], said: str):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("keep")
    (tmp_path / "file.tar").write_text("keep")
    place = copied.folder / "b" if words[1] == "w/b" else tmp_path / words[1]
    code, _, err = cli(words[0], place, "--db", copied.catalogue)
    assert code == 2
    assert said in err
    assert (tmp_path / "other" / "mine.txt").read_text() == "keep"
    assert (tmp_path / "file.tar").read_text() == "keep"


def test_verify_computes_every_step_again_and_agrees(copied: Workspace, cli):
    before = ArtifactStore(copied.artifacts).all_keys()
    code, out, err = cli("verify", "tiny", "--steps", "100", "--json", "--db", copied.catalogue)
    assert code == 0, out + err
    rows = json.loads(out)
    assert len(rows) == len(before) - 1, "every step, but not the record of the study"
    assert max(row["deviation"] for row in rows) <= TOLERANCE
    assert ArtifactStore(copied.artifacts).all_keys() == before
    assert not list((copied.artifacts / "tmp").glob("*"))


def test_verify_finds_numbers_that_the_code_does_not_compute(copied: Workspace, cli):
    """Wrong, but with right checksums: only computing again finds it."""
    store = ArtifactStore(copied.artifacts)
    folder = next(store.path(key) for key in store.all_keys() if store.open(key).step == "retrain")
    path = folder / "outputs.npy"
    np.save(path, np.load(path) * np.float32(1.001))
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][path.name]["sha256"] = describe_file(path).sha256
    for made_later in ("crc32", "seal"):
        del manifest[made_later]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert cli("doctor", "--db", copied.catalogue)[0] == 0
    code, out, _ = cli("verify", "tiny", "--steps", "100", "--db", copied.catalogue)
    assert code == 1
    first, *rest = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert "retrain subsets" in first
    assert "(outputs.npy)" in first
    assert rest, "what is computed from it differs too"
    assert not [line for line in rest if "spectrum" in line or "features" in line]


def test_verify_draws_by_its_seed(copied: Workspace, cli):
    words = ("verify", "tiny", "--steps", "2", "--json", "--db", copied.catalogue)
    first, second, other = (
        [row["label"] for row in json.loads(cli(*words, "--seed", seed)[1])] for seed in ("1", "1", "4")
    )
    assert first == second != other
    shutil.rmtree(copied.artifacts)
    code, _, err = cli(*words)
    assert code == 1
    assert "run it again" in err


@pytest.mark.parametrize(
    ("stored", "again", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0, 2.2], 0.1),
        ([np.nan, 2.0], [np.nan, 2.0], 0.0),
        ([np.nan, 2.0], [1.0, 2.0], np.inf),
        ([np.inf, 2.0], [-np.inf, 2.0], np.inf),
        ([0.0, 0.0], [0.0, 1e-9], np.inf),
        ([1, 2], [1, 3], np.inf),
        ([1.0], [1.0, 2.0], np.inf),
        (["a"], ["a"], 0.0),
    ],
)
def test_deviation(stored: list, again: list, expected: float):
    assert deviation(np.array(stored), np.array(again)) == pytest.approx(expected, rel=1e-6)
