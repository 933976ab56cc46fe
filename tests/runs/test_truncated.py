"""Studies that keep the largest eigenvalues alone: what is computed, stored, said and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tda_backend.errors import StudyError
from tda_backend.interfaces.reading.study import Study, open_study
from tda_backend.interfaces.reading.truncation import directions_left_out, lacking_at
from tda_backend.models.tasks.registry import load_task
from tda_backend.numerics.features.checkpoint_features import CheckpointFeatures
from tda_backend.studies.pipeline.facts import task_facts
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.steps import spectrum_size
from tda_backend.studies.store import repository
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import resolve
from tda_backend.studies.study.quick import quick
from tests.runs.conftest import make_study

KEPT = 4


def truncating(folder: Path) -> Path:
    """Write the tiny study with truncated spectra beside whole ones."""
    path = make_study(folder)
    text = path.read_text().replace('name = "tiny"', 'name = "truncated"').replace("repeats = 2", "repeats = 1")
    for method in ("iffim", "trak"):
        text = text.replace(f"[methods.{method}]", f"[methods.{method}]\nnum_eigenvalues = [0, {KEPT}]\nepochs = 4")
    path.write_text(text.replace("[methods.tracin]\nnormalization = [false, true]\n", ""))
    return path


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Workspace:
    from tda_backend.interfaces.cli.main import main

    folder = tmp_path_factory.mktemp("truncated")
    db = folder / "workspace" / "catalogue.duckdb"
    assert main(["run", str(truncating(folder)), "--db", str(db)]) == 0
    return Workspace.at(db)


@pytest.fixture(scope="module")
def study(workspace: Workspace) -> Study:
    return open_study("truncated", workspace)


@pytest.mark.parametrize("method", ["iffim", "trak"])
@pytest.mark.parametrize("dim", [8, None])
def test_scores_are_those_of_the_largest_eigenvalues(study: Study, method: str, dim: int | None):
    asked = {"projection_dim": dim, "training_epoch": 4}
    whole = study.source(study.configuration_id(method, num_eigenvalues=0, **asked))[0]
    found = study.source(study.configuration_id(method, num_eigenvalues=KEPT, **asked))[0]
    np.testing.assert_allclose(found.eigenvalues, whole.eigenvalues[:KEPT], rtol=1e-6)
    weights = 1 / (whole.eigenvalues[:KEPT] + 0.1)
    right = (whole.query[:, :KEPT] * weights).float() @ whole.train[:, :KEPT].T
    right = right * (1 if whole.train_weights is None else whole.train_weights)
    scores = study.scores(method, 0.1, num_eigenvalues=KEPT, **asked)
    np.testing.assert_allclose(scores, right, rtol=0, atol=1e-4 * float(abs(right).max()))


def test_configurations_are_told_apart_by_what_they_keep(study: Study):
    labels = study.configurations()["label"].tolist()
    assert "Influence function (FIM) · unprojected · epoch 4" in labels  # as without the setting
    assert f"Influence function (FIM) · unprojected · {KEPT} eigenvalues · epoch 4" in labels
    assert len(labels) == len(set(labels)) == 8


def test_lds_and_selection_are_there(study: Study):
    identity = study.configuration_id("iffim", projection_dim=None, num_eigenvalues=KEPT, training_epoch=4)
    assert study.curve(identity)["mean"].notna().all()
    assert identity in set(study.selections()["configuration_id"])


def test_what_is_left_out_is_stored(workspace: Workspace):
    rows = repository.query(
        workspace,
        """SELECT label, num_eigenvalues, trace_left_out, largest_left_out, s.eigenvalues
           FROM spectra s JOIN configurations USING (study_id, configuration_id)""",
    ).set_index("label")
    cut = rows[rows.num_eigenvalues == KEPT]
    assert len(cut) == 4
    assert rows.drop(cut.index).trace_left_out.isna().all()
    for label, row in cut.iterrows():
        sigma = np.array(rows.loc[str(label).replace(f" · {KEPT} eigenvalues", ""), "eigenvalues"])
        assert row.trace_left_out == pytest.approx(sigma[KEPT:].sum() / sigma.sum(), rel=1e-5)
        assert row.largest_left_out == pytest.approx(sigma[KEPT], rel=0.05)


def test_what_is_left_out_is_said(study: Study, workspace: Workspace, cli):
    said = directions_left_out(study)
    assert said.startswith(f"Truncated spectra ({KEPT} eigenvalues) leave out eigenvalues that hold ")
    code, out, _ = cli("show", "truncated", "--db", workspace.catalogue, "--json")
    assert code == 0
    assert said in json.loads(out)["remarks"]
    code, out, _ = cli("select", "truncated", "--db", workspace.catalogue)
    assert code == 0
    assert f"λ*: Here {KEPT} eigenvalues are kept; the others hold " in " ".join(out.split())


def test_how_much_scores_lack_at_a_regularization_is_said(study: Study):
    asked = {"projection_dim": None, "training_epoch": 4}
    cut = study.configuration_id("iffim", num_eigenvalues=KEPT, **asked)
    assert lacking_at(study, study.configuration_id("iffim", num_eigenvalues=0, **asked), 0.1) == ""
    assert "pseudo-inverse" in lacking_at(study, cut, 0.0)
    assert "% of a query's scores" in lacking_at(study, cut, 0.1)


def test_a_study_that_does_not_ask_is_planned_as_before(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_study(tmp_path)
    content = {"name": "s", "task": "tiny_task.py:factory", "data": {"train": 40, "validation": 8, "queries": 8}}
    content |= {"training": {"epochs": [1]}, "ground_truth": {"subsets": 0}}
    facts = task_facts(load_task("tiny_task.py:factory"), "tiny_task.py:factory")
    silent, zero = (
        build_plan(resolve({**content, "methods": {"iffim": more}}), facts) for more in ({}, {"num_eigenvalues": 0})
    )
    assert [step.key for step in silent.steps][1:] == [step.key for step in zero.steps][1:]
    cut = build_plan(resolve({**content, "methods": {"iffim": {"num_eigenvalues": 7}}}), facts)
    assert "spectrum Influence function (FIM) · unprojected · 7 eigenvalues · epoch 1" in [s.label for s in cut.steps]
    with pytest.raises(StudyError, match=r"num_eigenvalues = 40 leaves nothing out.*have 40 eigenvalues"):
        build_plan(resolve({**content, "methods": {"iffim": {"num_eigenvalues": 40}}}), facts)
    asked = {"num_eigenvalues": 8, "projection_dim": [8, "none"]}
    with pytest.raises(StudyError, match="have 8 eigenvalues"):
        build_plan(resolve({**content, "methods": {"trak": asked}}), facts)
    small = quick({**content, "methods": {"iffim": {"num_eigenvalues": [0, 39]}}}, facts.num_parameters)
    build_plan(resolve(small), facts)


def test_fifty_thousand_examples_fit_without_a_projection(tmp_path: Path, monkeypatch):
    """The whole answer takes 61 GiB there and is refused; the refusal names what fits."""
    from tests.benchmarks.scale_tasks import write_study

    write_study(tmp_path, "perceptron", 50_000)
    spec = f"{tmp_path / 'scale_task.py'}:perceptron"
    facts = task_facts(load_task(spec), spec)
    content = {"name": "s", "task": spec, "data": {"train": 50_000, "validation": 50, "queries": 200}}
    content |= {"training": {"epochs": [1]}, "ground_truth": {"subsets": 0}}
    plan = build_plan(resolve({**content, "methods": {"iffim": {"num_eigenvalues": 512}}}), facts)
    assert max(step.cost.memory_gib for step in plan.steps) < 4


def test_a_gram_matrix_that_is_not_held_gives_the_same(study: Study, tmp_path: Path, monkeypatch, cli):
    """As for many examples: every product forms it anew from the gradients' factors."""
    monkeypatch.setattr(spectrum_size, "MOST_HELD_GIB", 0.0)
    made: list[int] = []
    monkeypatch.setattr(CheckpointFeatures, "full_gram", lambda features: made.append(1))
    path = truncating(tmp_path)
    text = path.read_text().replace(f"[0, {KEPT}]", f"[{KEPT}]").replace("subsets = 24", "subsets = 0")
    path.write_text(text.replace('projection_dim = [8, "none"]', 'projection_dim = ["none"]'))
    db = tmp_path / "w" / "catalogue.duckdb"
    code, _, err = cli("run", path, "--db", db)
    assert code == 0, err
    assert not made
    found, asked = open_study("truncated", db), {"num_eigenvalues": KEPT, "training_epoch": 4}
    for method in ("iffim", "trak"):
        right = study.scores(method, 0.1, **asked)
        np.testing.assert_allclose(found.scores(method, 0.1, **asked), right, rtol=0, atol=1e-5 * abs(right).max())
