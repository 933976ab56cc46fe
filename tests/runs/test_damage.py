"""Stored data that is damaged under a finished study and under a running server: named, set aside, computed anew."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tda_backend.errors import ArtifactError
from tda_backend.interfaces.reading.study import Study, catalogue_version, open_study
from tda_backend.studies.jobs.ingest_loop import IngestLoop
from tda_backend.studies.store import artifact as artifact_module
from tda_backend.studies.store import ingest, owners, repository
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.inbox import refused_drops
from tda_backend.studies.store.workspace import Workspace, write_json
from tests.runs.conftest import tda
from tests.runs.test_jobs import wait_for

SETTINGS = ("iffim", 1e-2)


@pytest.fixture
def mapped(monkeypatch) -> None:
    """Map every array, as large ones are: what lies on the disk is what is read."""
    monkeypatch.setattr(artifact_module, "SMALL", 64)


def used_by(study: Study) -> Path:
    """Return the training coordinates that the scores of :data:`SETTINGS` are read from."""
    rows = repository.sources(study.workspace, study.study_id, study.configuration_id("iffim"))
    return ArtifactStore(study.workspace.artifacts).path(str(rows["artifact"].iloc[0])) / "train.npy"


def zero_half(path: Path) -> None:
    """Zero the second half of a file in its place, keeping its size: what a lost write leaves."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def remove(path: Path) -> None:
    path.unlink()


DAMAGES: dict[str, Callable[[Path], None]] = {"zeroed": zero_half, "truncated": truncate, "gone": remove}


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_under_an_open_study_is_an_error_and_the_next_run_mends_it(copied: Workspace, cli, damage: str):
    study = open_study("tiny", copied)
    before = study.scores(*SETTINGS)
    path = used_by(study)
    token = catalogue_version(copied)
    DAMAGES[damage](path)
    with pytest.raises(ArtifactError, match=rf"train\.npy of artifact spectrum {path.parent.name[:12]}.*set aside"):
        study.scores(*SETTINGS)
    with pytest.raises(ArtifactError, match=rf"Artifact {path.parent.name[:12]} is missing.*Run the study again"):
        study.scores(*SETTINGS)
    wait_for(lambda: catalogue_version(copied) != token, 5)
    code, out, err = cli("run", "tiny", "--db", copied.catalogue)
    assert code == 0, err
    assert "1 steps computed" in out
    np.testing.assert_allclose(study.scores(*SETTINGS), before, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize("damage", DAMAGES)
def test_who_only_reads_leaves_it_in_its_place(copied: Workspace, damage: str):
    study = open_study("tiny", replace(copied, read_only=True))
    study.scores(*SETTINGS)
    path = used_by(study)
    DAMAGES[damage](path)
    for _ in range(2):
        with pytest.raises(ArtifactError, match=r"train\.npy of artifact spectrum .* only read here"):
            study.scores(*SETTINGS)
    assert path.parent.exists()
    assert not ArtifactStore(copied.artifacts).set_aside_folders()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_run_that_finds_damage_computes_it_anew(copied: Workspace, cli, damage: str):
    path = used_by(open_study("tiny", copied))
    num_steps = len(ArtifactStore(copied.artifacts).all_keys()) - 1  # all but the record of the study
    DAMAGES[damage](path)
    code, out, err = cli("run", "tiny", "--db", copied.catalogue)
    assert code == 0, err
    assert f"1 steps computed, {num_steps - 1} cached" in out
    assert [folder.name[:64] for folder in ArtifactStore(copied.artifacts).set_aside_folders()] == [path.parent.name]


@pytest.mark.usefixtures("mapped")
def test_a_running_server_notices_and_its_caches_go(copied: Workspace):
    """Nobody reads the artifact again: the server's own watch finds it, and the token of every cache has changed."""
    with IngestLoop(copied) as loop:
        study = open_study("tiny", copied)
        study.scores(*SETTINGS)
        before = catalogue_version(copied)
        path = used_by(study)
        zero_half(path)
        wait_for(lambda: not path.parent.exists(), 20)
        assert catalogue_version(copied) != before
        assert loop.health().num_damaged == 1
        assert loop.health().is_well
        with pytest.raises(ArtifactError, match="missing"):
            study.scores(*SETTINGS)
        assert len(study.lds_table())


def test_nothing_ends_the_ingest_thread_unseen(copied: Workspace, monkeypatch):
    from tda_backend.studies.jobs import ingest_loop

    real, calls = ingest.ingest_inbox, []

    def fail(*arguments: object) -> int:
        calls.append(1)
        if len(calls) <= 2:
            raise SystemExit("somebody's code ended it") if len(calls) == 1 else ZeroDivisionError("no")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ingest_loop, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(ingest_loop, "ingest_inbox", fail)
    with IngestLoop(copied) as loop:
        wait_for(lambda: len(calls) > 3, 20)
        wait_for(lambda: loop.error is None, 20)
        health = loop.health()
        assert health.is_well
        assert health.num_restarts == 2
        assert health.last_failure == "ZeroDivisionError: no"
    assert not loop.health().is_alive


def test_a_server_that_takes_in_many_drops_is_no_standstill(copied: Workspace, monkeypatch):
    from tda_backend.studies.jobs import ingest_loop

    seen = []

    def slow(workspace: Workspace, connection: object, kinds: object, on_drop: Callable[[], object]) -> int:
        for _ in range(20):
            time.sleep(0.05)
            on_drop()
            seen.append(loop.health().is_alive)
        return 0

    loop = IngestLoop(copied)
    monkeypatch.setattr(ingest_loop, "STUCK_SECONDS", 0.5)
    monkeypatch.setattr(ingest_loop, "ingest_inbox", slow)
    with loop:
        wait_for(lambda: len(seen) > 20, 20)
    assert all(seen)


def test_a_server_takes_poison_and_goes_on(copied: Workspace):
    with IngestLoop(copied) as loop:
        (copied.inbox / "00000000000000000001-abc.json").write_text('{"kind": "step"}')
        wait_for(lambda: refused_drops(copied), 20)
        assert loop.health().num_refused == 1
        assert loop.health().is_well
        assert not loop.health().num_restarts
        assert "not complete" in refused_drops(copied)[0].reason
        result = tda("doctor", "--repair", db=copied.catalogue)
        assert result.returncode == 0
        assert "0 of 1 refused drops were taken in; 1 are kept" in result.stdout
        assert loop.health().num_refused == 0


def test_poison_in_the_inbox_of_a_run(copied: Workspace, cli):
    (copied.inbox / "00000000000000000001-abc.json").write_text('{"kind": "step"}')
    code, out, err = cli("run", "tiny", "--db", copied.catalogue, "--set", "regularization.count=5")
    assert code == 0, err
    assert "steps computed" in out
    (refused,) = refused_drops(copied)
    assert "not complete" in refused.reason
    code, out, err = cli("doctor", "--repair", "--db", copied.catalogue)
    assert code == 0
    assert "0 of 1 refused drops were taken in; 1 are kept" in out
    assert not list(copied.inbox.glob("*.json"))
    assert len(list(copied.inbox.glob("*.set-aside-*"))) == 1


def test_a_foreign_server_file_keeps_no_result_waiting(copied: Workspace, cli):
    """It names a process that lives, but not one that has the catalogue open."""
    import psutil

    parent = psutil.Process(os.getppid())
    write_json(copied.server_file, {"pid": parent.pid, "create_time": parent.create_time()})
    assert not owners.server_lives(copied)
    code, out, err = cli("run", "tiny", "--db", copied.catalogue, "--set", "regularization.count=5")
    assert code == 0, err
    assert "wait" not in out
    for content in ('{"pid": "x"}', "[]", '{"pid": 1.5, "create_time": 0}', "{}", "zz"):
        copied.server_file.write_text(content)
        assert owners.owner_process(copied) is None
        code, out, _ = cli("doctor", "--db", copied.catalogue)
        assert code == 1
        assert "server.json is no file of a dashboard" in out
    assert cli("doctor", "--repair", "--db", copied.catalogue)[0] == 0
    assert not copied.server_file.exists()
    assert cli("doctor", "--db", copied.catalogue)[0] == 0


@pytest.mark.parametrize("content", ["", "{", '{"job_id": 3}', '{"job_id": "a", "started": "x"}', "\0" * 50, "[1]"])
def test_a_job_file_that_is_none_is_passed_over_and_moved_by_doctor(copied: Workspace, cli, content: str):
    (copied.jobs / "20250101-000000-aaaaaa.json").write_text(content)
    assert cli("studies", "--db", copied.catalogue)[0] == 0
    code, out, _ = cli("doctor", "--db", copied.catalogue)
    assert code == 1
    assert "1 job files cannot be read (20250101-000000-aaaaaa.json)" in out
    assert cli("doctor", "--repair", "--db", copied.catalogue)[0] == 0
    assert cli("doctor", "--db", copied.catalogue)[0] == 0


def test_a_removed_study_record_protects_its_artifacts(copied: Workspace, cli):
    """`tda rm --unused` must not take a study whose record is damaged for one that nobody refers to."""
    store = ArtifactStore(copied.artifacts)
    record = next(key for key in store.all_keys() if store.open(key).step == "study")
    zero_half(store.path(record) / "study.json")
    code, _, err = cli("rm", "--unused", "--yes", "--db", copied.catalogue)
    assert code == 1
    assert "tiny" in err
    assert len(store.all_keys()) >= 31
    assert cli("run", "tiny", "--db", copied.catalogue)[0] == 0
    assert cli("rm", "--unused", "--yes", "--db", copied.catalogue)[0] == 0
    assert len(store.all_keys()) == 32
    assert json.loads((store.path(record) / "study.json").read_text())["name"] == "tiny"
