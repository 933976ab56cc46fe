"""Every method of the table through a whole study of two training seeds: plan, steps, catalogue, interface, payload."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import tda_backend as tda
from tda_backend.errors import NumericalError, UsageError
from tda_backend.interfaces.cli.main import main
from tda_backend.interfaces.reading.payload import payload_of, payload_scores
from tda_backend.interfaces.reading.study import Study
from tda_backend.models.tasks.registry import load_task
from tda_backend.numerics.spectral.contraction import ScoreMatrix, admissible
from tda_backend.numerics.spectral.contraction import scores as contract
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.numerics.spectral.filters.damped import StrictDampedInverse
from tda_backend.studies.methods import METHODS
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.facts import task_facts
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.steps.scores import Scores
from tda_backend.studies.study.file import resolve
from tests.runs.conftest import TASK

STUDY = """
name = "all"
task = "tiny_task.py:factory"
seed = 3
[data]
train = 40
validation = 8
queries = 6
[training]
epochs = [2, 4]
seeds = 2
[ground_truth]
subsets = 12
[regularization]
count = 5
[projection]
kind = "kronecker"
[methods.iffim]
epochs = 4
projection_dim = [8, "none"]
[methods.trak]
epochs = 4
projection_dim = [8]
half_subset_models = [0, 3]
[methods.tracin]
projection_dim = ["none", 8]
[methods.if-explicit]
epochs = 4
curvature = ["empirical-fisher", "true-fisher", "ggn", "hessian"]
indefinite = "absolute"
[methods.if-cg]
epochs = 4
curvature = ["empirical-fisher", "ggn"]
indefinite = "absolute"
[methods.if-cg-run]
epochs = 4
[methods.if-lissa]
epochs = 4
scaling = 100.0
depth = [10, 999]
[methods.if-lissa-run]
epochs = 4
scaling = 100.0
depth = 20
[methods.if-arnoldi]
epochs = 4
num_iterations = 20
num_eigenvalues = 10
[methods.ekfac]
epochs = 4
fisher = ["true", "empirical"]
damping = ["absolute", "relative"]
[methods.kfac]
epochs = 4
[methods.diagonal]
epochs = 4
[methods.logra]
epochs = 4
rank = 3
initialization = ["random", "pca"]
[methods.source]
epochs = 4
num_segments = 2
num_checkpoints = 4
self_influence = true
[methods.fast-source]
epochs = 4
num_segments = 2
num_checkpoints = 4
[methods.hydra-fast]
epochs = 4
[methods.unrolled-influence]
assume = ["as trained", "sgd"]
curvature = ["hessian", "none"]
[methods.repsim]
epochs = 4
[methods.gradient-similarity]
epochs = 4
similarity = ["dot", "cosine"]
[methods.nearest-inputs]
metric = ["euclidean", "cosine"]
[methods.empirical-influence]
subsets = 14
[methods.random]
[evaluation]
bootstrap = 20
"""


@pytest.fixture(scope="module")
def every(tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("all")
    (folder / "tiny_task.py").write_text(TASK)
    (folder / "all.toml").write_text(STUDY)
    db = folder / "workspace" / "catalogue.duckdb"
    assert main(["run", str(folder / "all.toml"), "--db", str(db)]) == 0
    return tda.open_study("all", db=db)


def rows(study: Study, method: str | None = None):
    frame = study.configurations()
    records = frame.to_dict("records")
    return [row for row in records if method in (None, row["method"])]


def test_every_method_has_finished_configurations_with_lds(every: Study):
    assert {row["method"] for row in rows(every)} == set(METHODS)
    assert all(row["has_lds"] for row in rows(every))
    table = every.lds_table()
    assert set(table["configuration_id"]) == {row["configuration_id"] for row in rows(every)}
    assert np.isfinite(table["mean"]).all()
    assert (table["ci_low"] <= table["ci_high"]).all()


def test_scores_are_finite_and_the_payload_rebuilds_them(every: Study):
    for row in rows(every):
        source = every.source(row["configuration_id"])
        grid = [None] if isinstance(source, ScoreMatrix) else admissible(source, every.info["regularizations"])
        for value in grid:
            found = contract(source, value)
            assert found.shape == (6, 40), row["label"]
            assert np.isfinite(found).all(), row["label"]
        payload = every.explorer_payload(row["configuration_id"], 2, num=5)
        assert json.dumps(payload.parameters)
        assert np.isfinite(payload.products).all()
        if payload.filter_name == "damped_inverse":
            for value in (1e-3, 1.0):
                rebuilt = payload.products @ (1 / (payload.eigenvalues.astype(np.float64) + value))
                truth = contract(source, value, 2)[payload.positions]
                scale = np.abs(payload.products) @ (1 / (payload.eigenvalues.astype(np.float64) + value))
                assert np.all(np.abs(rebuilt - truth) <= 1e-5 * scale + 1e-6 * np.abs(truth).max()), row["label"]


def test_filters_on_shared_coordinates_share_their_artifacts(every: Study):
    def artifacts(method: str, **wanted):
        found = [
            row
            for row in rows(every, method)
            if all(json.loads(row["parameters"]).get(key) == value for key, value in wanted.items())
        ]
        return [[each.artifact for each in every._sources(row["configuration_id"], None)] for row in found]

    exact = every.configuration_id("iffim")
    unprojected = [[each.artifact for each in every._sources(exact, None)]]
    assert artifacts("if-lissa")[0] == artifacts("if-lissa")[1] == unprojected[0]
    assert artifacts("if-cg", curvature="empirical-fisher")[0] == unprojected[0]
    assert artifacts("if-cg", curvature="ggn")[0] == artifacts("if-explicit", curvature="ggn")[0]


def test_limits_tie_the_methods_together(every: Study):
    value = 0.3
    exact = every.scores("iffim", value)
    scale = np.abs(exact).max()
    explicit = every.scores("if-explicit", value, curvature="empirical-fisher")
    assert np.abs(explicit - exact).max() < 1e-4 * scale
    assert np.abs(every.scores("if-lissa", value, depth=999) - exact).max() < 0.06 * scale
    long = every.scores("if-lissa", 3.0, depth=999)
    assert np.abs(long - every.scores("iffim", 3.0)).max() < 1e-4 * np.abs(long).max()
    run = every.scores("if-cg-run")  # λ = 0.01, 10 steps of conjugate gradients
    spectral = every.scores("if-cg", 1e-2, curvature="empirical-fisher")
    assert np.abs(run - spectral).max() < 2e-2 * np.abs(run).max()  # the run is in float32
    large = 1e6
    dot = every.scores("gradient-similarity", similarity="dot")
    for method, parameters in [
        ("iffim", {}),
        ("ekfac", {"damping": "absolute", "fisher": "true"}),
        ("kfac", {}),
        ("diagonal", {}),
        ("if-explicit", {"curvature": "hessian"}),
    ]:
        assert np.abs(large * every.scores(method, large, **parameters) - dot).max() < 1e-3 * np.abs(dot).max(), method


def test_layers_sum_to_the_scores_and_relative_damping_is_absolute_per_layer(every: Study):
    for method, parameters in [
        ("ekfac", {"damping": "relative", "fisher": "true"}),
        ("logra", {"initialization": "pca"}),
    ]:
        layers = every.layer_scores(method, 0.1, **parameters)
        assert set(layers) == {"0", "2"}
        total = every.scores(method, 0.1, **parameters)
        assert np.abs(sum(layers.values()) - total).max() < 1e-5 * np.abs(total).max()
    with pytest.raises(UsageError, match="blocks"):
        every.layer_scores("iffim", 0.1)


def test_self_influence_of_every_method_that_has_one(every: Study):
    for name, spec in METHODS.items():
        settings = {"depth": 999} if name == "if-lissa" else {}
        if not spec.has_self_influence:
            with pytest.raises(UsageError, match="has no self-influence"):
                every.self_influence(name)
            continue
        if name == "fast-source":
            with pytest.raises(UsageError, match="without self-influence"):
                every.self_influence(name)
            continue
        value = 0.1 if spec.has_regularization else None
        dim = 8 if name == "trak" else None
        found = every.self_influence(name, value, dim, **settings)
        assert found.shape == (1, 40), name
        assert np.isfinite(found).all(), name
        assert (found >= -1e-6 * np.abs(found).max()).all() or spec.recipe == "scores", name


def test_rank_intervals_hold_the_ranks_of_both_seeds(every: Study):
    for method, value in [("iffim", 0.1), ("tracin", None), ("trak", 0.1)]:
        dim = 8 if method == "trak" else None
        identity = every.configuration_id(method, dim)
        positions = [0, 7, 39]
        found = every.rank_intervals(identity, 1, positions, None if value is None else [value])
        ranks = []
        for seed in (0, 1):
            if method == "tracin":
                matrices = [each.artifact for each in every._sources(identity, [seed])]
                values = every._store.open(matrices[0]).array("scores")[1]
            else:
                values = every.scores(method, value, dim, query=1, seeds=seed)
            ranks.append((-values).argsort(kind="stable").argsort(kind="stable")[positions] + 1)
        assert found.shape == (1, 3, 2)
        assert (found[0, :, 0] == np.minimum(*ranks)).all()
        assert (found[0, :, 1] == np.maximum(*ranks)).all()


def test_trak_of_half_subset_models_is_an_ensemble_of_its_own(every: Study):
    three = every.configuration_id("trak", 8, half_subset_models=3)
    assert len(every.source(three)) == 3
    assert len(every.source(every.configuration_id("trak", 8))) == 2  # what is not said is the default: no half subsets
    weights = every.source(three)[0].train_weights
    assert weights is not None
    assert float(weights.min()) > 0


def test_what_a_run_measures_is_not_passed_off_as_a_curve(every: Study):
    with pytest.raises(UsageError, match="no regularization"):
        every.scores("if-lissa-run", 0.1)
    assert METHODS["if-lissa-run"].curve == "measured run"
    assert METHODS["if-lissa"].curve == "mean of a stochastic method"


def test_what_is_not_said_means_the_default_and_what_is_ambiguous_is_refused(every: Study):
    assert every.configuration_id("ekfac") == every.configuration_id("ekfac", fisher="true", damping="absolute")
    with pytest.raises(UsageError, match="2 configurations of if-lissa") as refused:
        every.configuration_id("if-lissa")  # the study has neither of the defaults
    assert "depth 10" in refused.value.hint


def test_several_regularizations_at_once(every: Study):
    for method, parameters in [("iffim", {}), ("ekfac", {"damping": "relative", "fisher": "true"})]:
        table = every.scores(method, [1e-3, 0.1, 10.0], **parameters)
        assert table.shape == (3, 6, 40)
        for value, found in zip([1e-3, 0.1, 10.0], table, strict=True):
            expected = every.scores(method, value, **parameters)
            assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
        one = every.scores(method, [0.1, 10.0], query=2, **parameters)
        assert np.abs(one - table[1:, 2]).max() < 1e-5 * np.abs(table[1:, 2]).max()
    with pytest.raises(UsageError, match="no regularization"):
        every.scores("random", [0.1, 1.0])


@pytest.mark.parametrize(
    ("method", "parameters"), [("if-explicit", {"curvature": "ggn"}), ("if-lissa", {"depth": 999})]
)
def test_the_study_s_grid_means_those_of_its_values_that_the_method_has(every: Study, method: str, parameters: dict):
    source = every.source(every.configuration_id(method, **parameters))
    grid = admissible(source, every.info["regularizations"])
    assert (len(grid) < len(every.info["regularizations"])) == (method == "if-explicit")
    assert every.lds(method, **parameters)["regularization"].tolist() == grid
    assert every.self_influence(method, **parameters).shape == (len(grid), 40)


def test_source_says_how_far_it_is(every: Study):
    task = load_task(every.info["task_spec"])
    plan = build_plan(resolve(every.config), task_facts(task, every.info["task_spec"]))
    shares: list[float] = []
    context = RunContext.begin(plan.study, plan.facts, plan.device, every._store)
    context.on_progress = lambda done, total: shares.append(done / total)
    step = next(step for step in plan.steps if isinstance(step, Scores) and step.method == "source")
    METHODS["source"].score(context, step)
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_one_singular_curvature_of_an_ensemble_refuses_zero():
    rows = torch.eye(3)
    regular, singular = (
        Spectrum(torch.ones(3, dtype=torch.float64), rows, rows, rows, None, cut, StrictDampedInverse(cut, 3 + cut))
        for cut in (0, 2)
    )
    assert payload_of([regular, regular], 0, [0, 1]).parameters == {"refuses_zero": False}
    for ensemble in ([regular, singular], [singular, regular]):
        with pytest.raises(NumericalError, match="singular"):
            payload_scores(payload_of(ensemble, 0, [0, 1]), 0.0)


def test_own_subsets_are_not_those_of_lds(every: Study):
    timings = every.timings()
    own = timings[timings["step"] == "downsample"]
    assert len(own) == 2
    masks = every.subset_masks()
    stored = np.concatenate([every._store.open(key).array("masks") for key in _keys(every, "downsample")])
    assert len(stored) == 14
    assert not any((stored[:, None] == masks[None]).all(-1).any(1))


def _keys(study: Study, step: str) -> list[str]:
    found = [key for key in study._store.all_keys() if study._store.open(key).step == step]
    return sorted(found, key=lambda key: study._store.open(key).manifest["settings"]["first"])


def test_torch_is_left_with_its_threads(every: Study):
    before = torch.get_num_threads()
    every.self_influence("ekfac", 0.1)
    assert torch.get_num_threads() == before


def test_a_method_that_fails_leaves_the_others_whole(tmp_path, capsys):
    (tmp_path / "tiny_task.py").write_text(TASK)
    study = """
name = "half"
task = "tiny_task.py:factory"
[data]
train = 40
validation = 8
queries = 6
[training]
epochs = 4
[ground_truth]
subsets = 0
[methods.if-lissa-run]
scaling = [0.001, 200.0]
depth = 5
[methods.iffim]
"""
    (tmp_path / "half.toml").write_text(study)
    db = tmp_path / "c.duckdb"
    assert main(["run", str(tmp_path / "half.toml"), "--db", str(db)]) == 1
    said = capsys.readouterr()
    assert "FAILED" in said.out
    assert "scaling" in said.err
    assert "all else is kept" in said.err
    study = tda.open_study("half", db=db)
    jobs = study.workspace
    from tda_backend.studies.store.repository import query

    row = query(jobs, "SELECT status, steps_computed FROM jobs")
    assert row["status"].tolist() == ["failed"]
    assert row["steps_computed"].tolist()[0] >= 5
    assert np.isfinite(study.scores("iffim", 0.1)).all()
    assert np.isfinite(study.scores("if-lissa-run", scaling=200.0)).all()
    with pytest.raises(UsageError, match=r"scaling=0\.001"):
        study.scores("if-lissa-run", scaling=0.001)
