"""Runs whose device has too little memory: what is said, what is stored, what fails, and what is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tda_backend.interfaces.reading.study import open_study
from tda_backend.models.tasks.registry import load_task
from tda_backend.numerics.spectral.contraction import scores
from tda_backend.studies.pipeline.executor import execute
from tda_backend.studies.pipeline.facts import task_facts
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.steps.spectrum import SpectrumStep
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store import repository
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import resolve
from tests.benchmarks.scale_tasks import write_study
from tests.device.limited import Limited, Most
from tests.device.standin import NAME as STAND_IN
from tests.device.standin import watching
from tests.runs.conftest import make_study
from tests.runs.fake_plans import Notes
from tests.runs.test_scale import content

ROOM = {"features": 20_000, "retrain": 80_000}
"""Kind of step → bytes on the device; with usual blocks they take 25 440 and 140 152."""


@pytest.fixture
def on_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Let commands compute on the stand-in."""
    monkeypatch.setattr("tda_backend.interfaces.cli.request.chosen_device", lambda name: STAND_IN)
    with watching():
        yield monkeypatch


def limit(patch: pytest.MonkeyPatch, most: Most) -> Limited:
    limited = Limited(most)
    patch.setattr("tda_backend.studies.pipeline.backend.compute", limited)
    return limited


def test_a_run_goes_on_and_says_so_once(on_device, computed: Workspace, tmp_path: Path, cli):
    limited = limit(on_device, lambda step: ROOM.get(step.NAME, math.inf))
    db = tmp_path / "workspace" / "catalogue.duckdb"
    code, out, err = cli("run", make_study(tmp_path), "--db", db)
    assert code == 0, err
    assert sum(limited.refused.values()) >= 2
    said = [line for line in out.splitlines() if "out of memory" in line]
    assert said == [
        "retrain subsets 1–20 at α=0.5: out of memory with blocks of 32 models trained side by side; goes on with 16",
        "features epoch 4: out of memory with blocks of 60 examples; goes on with 30",
    ]
    timings = repository.query(Workspace.at(db), "SELECT label, remark FROM timings WHERE remark IS NOT NULL")
    assert [f"{row.label}: {row.remark}" for row in timings.itertuples()] == said
    found, expected = open_study("tiny", db), open_study("tiny", computed)
    assert found.timings()["remark"].notna().sum() == 2
    np.testing.assert_allclose(found.subset_outputs(), expected.subset_outputs(), rtol=0, atol=1e-4)
    for name, value in (("iffim", 0.1), ("trak", 0.1), ("tracin", None)):
        values, right = found.scores(name, value), expected.scores(name, value)
        np.testing.assert_allclose(values, right, rtol=0, atol=1e-4 * abs(right).max())
    code, out, _ = cli("run", "tiny", "--db", db)
    assert code == 0
    assert "0 steps computed" in out
    assert "out of memory" not in out


def test_where_not_one_row_fits_the_step_fails_in_a_line_and_the_others_go_on(on_device, tmp_path: Path, cli):
    db = tmp_path / "workspace" / "catalogue.duckdb"
    limited = limit(on_device, lambda step: 3_000 if step.label == "features epoch 4" else math.inf)
    path = make_study(tmp_path)
    path.write_text(path.read_text().replace("subsets = 24\n", "subsets = 0\n"))  # retraining is not what fails
    code, out, err = cli("run", path, "--db", db)
    assert code == 1
    failed = [line for line in out.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1
    assert failed[0].startswith(
        "FAILED features epoch 4: Memory ran out in features epoch 4 on standin, with the smalle"
    )
    assert "GiB were asked for, " in failed[0]
    assert "GiB are free. Take a smaller projection, " in failed[0]
    assert "--device cpu" in failed[0]
    assert "--memory" in failed[0]
    assert "Traceback" not in out + err
    assert "features epoch 4" in err
    assert limited.left["features epoch 4"] == 0
    labels = {row.label for row in open_study("tiny", db).timings().itertuples()}
    assert "features epoch 1" in labels
    assert "evaluate Influence function (FIM) · unprojected · epoch 1" in labels
    limit(on_device, lambda step: math.inf)
    code, out, err = cli("run", "tiny", "--db", db)
    assert code == 0, err
    done = [line.partition("] ")[2].partition(":")[0] for line in out.splitlines() if line.startswith("[")]
    assert "features epoch 4" in done
    assert not {"features epoch 1", "train", "evaluate Influence function (FIM) · unprojected · epoch 1"} & set(done)


@pytest.mark.parametrize("kind", ["sparse", "rademacher"])
def test_dense_gradients_and_their_projections_fit_into_less(kind: str, tmp_path: Path, monkeypatch):
    write_study(tmp_path, "cnn", 60, num_queries=12, num_validation=8)
    spec = f"{tmp_path / 'scale_task.py'}:cnn"
    methods = {"iffim": {"projection_dim": [16, "none"]}}
    asked = content(task_facts(load_task(spec), spec), kind, 60, **methods)
    plan = replace(build_plan(resolve(asked), task_facts(load_task(spec), spec)), device=STAND_IN)

    def spectra(folder: str, limited: Limited) -> list[np.ndarray]:
        monkeypatch.setattr("tda_backend.studies.pipeline.backend.compute", limited)
        with watching():
            execute(plan, Workspace.at(tmp_path / folder / "c.duckdb"), notes, KINDS)
        store = ArtifactStore(tmp_path / folder / "artifacts")
        steps = [step for step in plan.steps if isinstance(step, SpectrumStep)]
        return [scores(SpectrumStep.read(store, [step.key]), 1e-3) for step in steps]

    notes, usual = Notes(), Limited()
    expected = spectra("usual", usual)
    assert not notes.remarks
    large = [
        label for label in usual.peaks if label.startswith(("features", "spectrum")) and "unprojected" not in label
    ]
    short = Limited(lambda step: (0.7 if step.label in large else math.inf) * usual.peaks[step.label])
    for found, right in zip(spectra("short", short), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-5 * abs(right).max())  # float32 passes
    assert [label for label, _ in notes.remarks] == [label for label in usual.peaks if short.refused[label]]
    assert {label.split()[0] for label, _ in notes.remarks} == {"features", "spectrum"}
