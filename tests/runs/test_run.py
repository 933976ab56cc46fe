"""Running studies: resuming after SIGKILL anywhere, doing nothing the second time, recomputing what is damaged."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tda_backend.errors import MachineError
from tda_backend.interfaces.reading.study import list_studies, open_study
from tda_backend.studies.store import repository
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace
from tests.runs.conftest import ROOT, make_study, tda

KILL_POINTS = [
    "retrain:progress",  # in the middle of retraining
    "retrain:written",  # files written, not renamed
    "features:renamed",  # artifact there, no drop
    "spectrum:undropped",
    "ingest:uncommitted",
    "ingest:committed",  # rows there, drop not removed
    "evaluate:computed",
]


def finished_steps(workspace: Workspace) -> dict[str, float]:
    """Return when each artifact was finished."""
    store = ArtifactStore(workspace.artifacts)
    return {key: store.open(key).manifest["finished"] for key in store.all_keys()}


@pytest.mark.slow
def test_killed_anywhere_a_run_resumes_without_recomputing(tmp_path: Path, computed: Workspace):
    study = make_study(tmp_path)
    db = tmp_path / "workspace" / "catalogue.duckdb"
    workspace = Workspace.at(db)
    before: dict[str, float] = {}
    for point in KILL_POINTS:
        result = tda("run", study, db=db, env={"TDA_FAULT": point})
        assert result.returncode == -signal.SIGKILL, f"{point}: {result.stderr}"
        now = finished_steps(workspace)
        assert before.items() <= now.items(), f"{point}: a finished step was recomputed"
        before = now
    result = tda("run", study, db=db)
    assert result.returncode == 0, result.stderr
    after = finished_steps(workspace)
    assert before.items() <= after.items()
    assert not list(workspace.inbox.glob("*.json"))
    assert not list((workspace.artifacts / "tmp").glob("*"))
    # Same seeds, same machine: what was pieced together equals what one run computed, bit for bit.
    resumed, whole = open_study("tiny", db), open_study("tiny", computed)
    np.testing.assert_array_equal(resumed.subset_outputs(), whole.subset_outputs())
    assert list_studies(db)["status"].tolist() == ["complete"]
    for table in ("lds", "lds_query", "indicator", "selections", "top_examples", "retrainings", "timings", "ingested"):
        count = f"SELECT count(*) AS num FROM {table}"
        assert repository.query(workspace, count)["num"][0] == repository.query(computed, count)["num"][0], table


def test_running_twice_does_nothing_the_second_time(copied: Workspace, cli):
    before = finished_steps(copied)
    code, out, _ = cli("run", "tiny", "--db", copied.catalogue)
    assert code == 0
    assert "0 steps computed" in out
    assert finished_steps(copied) == before
    assert not list(copied.inbox.glob("*.json"))


def test_a_damaged_artifact_is_set_aside_and_recomputed_alone(copied: Workspace, cli):
    store = ArtifactStore(copied.artifacts)
    damaged = next(key for key in store.all_keys() if store.open(key).step == "spectrum")
    path = store.path(damaged) / "train.npy"
    path.write_bytes(path.read_bytes()[:-100])
    study = open_study("tiny", copied)
    before = finished_steps(copied)
    code, out, _ = cli("run", "tiny", "--db", copied.catalogue)
    assert code == 0
    assert "1 steps computed" in out
    after = finished_steps(copied)
    assert {key for key in after if after[key] != before.get(key)} == {damaged}
    assert len(list((copied.artifacts / "damaged").iterdir())) == 1
    assert np.isfinite(study.scores("iffim", 1e-2)).all()


def test_changed_task_code_recomputes_and_replaces(copied: Workspace, tmp_path: Path, cli):
    study = make_study(tmp_path)
    task = tmp_path / "tiny_task.py"
    code, _, err = cli("run", study, "--db", copied.catalogue, "--set", "ground_truth.subsets=0")
    assert code == 0, err
    task.write_text(task.read_text().replace("* 2\n", "* 3\n"))
    code, out, err = cli("run", study, "--db", copied.catalogue, "--set", "ground_truth.subsets=0")
    assert code == 0, err
    assert " 0 cached" in out


def test_more_subsets_keep_the_finished_chunks(copied: Workspace, cli):
    before = finished_steps(copied)
    code, _, _ = cli("run", "tiny", "--db", copied.catalogue, "--set", "ground_truth.subsets=34")
    assert code == 0
    store = ArtifactStore(copied.artifacts)
    steps = [store.open(key).step for key in set(finished_steps(copied)) - set(before)]
    assert steps.count("retrain") == 4  # two fractions, subsets 21–30 and 31–34; the first 20 are kept
    assert "spectrum" not in steps
    assert "train" not in steps
    assert open_study("tiny", copied).subset_masks().shape == (34, 60)


@pytest.mark.parametrize("place", ["artifact", "catalogue"])
def test_a_full_disk_gives_one_line_and_the_next_run_goes_on(tmp_path: Path, cli, monkeypatch, place: str):
    study = make_study(tmp_path)
    db = tmp_path / "workspace" / "catalogue.duckdb"
    error = OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        if place == "artifact":
            real = np.save

            def save(file, *args, **kwargs):
                if "eigenvalues" in str(file):
                    raise error
                return real(file, *args, **kwargs)

            patch.setattr(np, "save", save)
        else:
            import duckdb

            from tda_backend.studies.steps.table import KINDS

            def refuse(*args):
                raise duckdb.IOException("IO Error: Could not write file: No space left on device")

            patch.setattr(KINDS["retrain"], "ingest", refuse)
        code, _, err = cli("run", study, "--db", db)
    assert code == 1
    assert err.startswith("tda: No space left")
    assert "hint: " in err
    assert len(err.splitlines()) == 2
    code, _, _ = cli("run", study, "--db", db)
    assert code == 0
    assert list_studies(db)["status"].tolist() == ["complete"]


def test_ctrl_c_says_how_to_go_on(tmp_path: Path):
    study = make_study(tmp_path)
    db = tmp_path / "catalogue.duckdb"
    process = subprocess.Popen(
        [sys.executable, "-m", "tda_backend", "run", str(study), "--db", str(db)],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "retrain" in line or "train" in line:
            process.send_signal(signal.SIGINT)
            break
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "go on with" in err
    assert "Traceback" not in err
    (record,) = [json.loads(path.read_text()) for path in (tmp_path / "jobs").glob("*.json")]
    assert record["status"] == "cancelled"


def test_a_study_that_needs_too_much_memory_is_refused(tmp_path: Path, cli):
    code, _, err = cli("run", make_study(tmp_path), "--db", tmp_path / "c.duckdb", "--memory", "0.1")
    assert code == MachineError.exit_code
    assert "GiB" in err
