"""Studies that unroll a run and select while training: sections, plan, stored rows, claims, resumption, export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tda_backend.errors import StudyError, TaskError
from tda_backend.interfaces.cli.main import main
from tda_backend.interfaces.reading.study import Study, open_study
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.evaluation.claims import Measured, ratio
from tda_backend.numerics.trajectory.unrolled.influence import unrolled_influence
from tda_backend.numerics.trajectory.unrolled.queries import Queries
from tda_backend.numerics.trajectory.unrolled.recording import record
from tda_backend.studies.claims.unrolled import times_better
from tda_backend.studies.pipeline.facts import task_facts
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.steps.lookahead import complete_runs, stored_runs
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.steps.unroll import horizon_steps, removed_positions
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.rebuild import rebuild
from tda_backend.studies.store.tables import lookahead, trajectory
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import read_study_file, resolve
from tda_backend.studies.study.quick import quick
from tests.runs.conftest import TASK

TRAJECTORY_TABLES = tuple(table.name for table in (*trajectory.TABLES, *lookahead.TABLES))
ADAMW = TASK.replace(
    "TrainingSettings(num_epochs=4, batch_size=16, learning_rate=0.1, momentum=0.9)",
    'TrainingSettings(num_epochs=2, batch_size=16, learning_rate=0.01, optimizer="adamw", betas=(0.9, 0.95), '
    'weight_decay=0.1, clip_norm=1.0, schedule="cosine", warmup=0.1)',
).replace("nn.ReLU()", "nn.Tanh()")
STUDY = """
name = "unrolled"
task = "tiny_task.py:factory"
seed = 3
[data]
train = 60
validation = 12
queries = 26
flip_labels = 0.2
[training]
epochs = [2]
[ground_truth]
subsets = 0
[evaluation]
bootstrap = 200
[methods.unrolled-influence]
assume = ["as trained", "sgd"]
curvature = ["hessian", "none"]
[trajectory]
learning_rates = [0.01, 0.001]
seeds = 2
removed = 20
curvatures = ["hessian", "gauss-newton"]
horizons = 4
[lookahead]
learning_rates = [0.01, 0.05]
horizons = [1, 3, "all"]
seeds = 3
[[claims]]
id = "matched"
paper = "trajectory"
place = "Abstract"
statement = "It matters which optimizer is assumed."
check = "matched"
learning_rates = [0.01, 0.001]
[[claims]]
id = "longer"
paper = "trajectory"
place = "Abstract"
statement = "The error grows."
check = "error-grows"
along = "length"
learning_rates = [0.01]
[[claims]]
id = "faster"
paper = "trajectory"
place = "Abstract"
statement = "The error grows with the rate."
check = "error-grows"
along = "learning rate"
learning_rates = [0.001, 0.01]
[[claims]]
id = "proxy"
paper = "trajectory"
place = "Abstract"
statement = "The proxy follows the error."
check = "proxy"
learning_rates = [0.001]
[[claims]]
id = "online"
paper = "trajectory"
place = "Abstract"
statement = "Online rivals offline."
check = "selection"
left = {strategy = "look-ahead", horizon = 1}
right = [{strategy = "look-ahead", horizon = "all"}, {strategy = "random"}]
bound = -0.5
"""


def write(folder: Path, study: str = STUDY, task: str = ADAMW) -> Path:
    (folder / "tiny_task.py").write_text(task)
    path = folder / "unrolled.toml"
    path.write_text(study)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    folder = tmp_path_factory.mktemp("unrolled")
    db = folder / "workspace" / "catalogue.duckdb"
    assert main(["run", str(write(folder)), "--db", str(db)]) == 0
    return open_study("unrolled", db)


def plan_of(folder: Path, study: str = STUDY, task: str = ADAMW):
    content = read_study_file(write(folder, study, task))
    return build_plan(resolve(content), task_facts(load_task(content["task"]), content["task"]))


# ---------------------------------------------------------------- predictions, truth and errors


def test_every_run_has_its_agreement_and_every_rate_the_mean_over_seeds(study: Study):
    rows = study.trajectory_agreement()
    variants = {("as trained", "hessian"), ("as trained", "gauss-newton"), ("sgd", "hessian")}
    assert set(zip(rows["assumed"], rows["curvature"], strict=True)) == variants
    assert len(rows) == 2 * 3 * 3 * 2  # rates, two seeds and their mean, predictions, truths
    single, mean = rows[rows["seed_index"].notna()], rows[rows["seed_index"].isna()]
    keys = ["learning_rate", "assumed", "curvature", "variant"]
    expected = single.groupby(keys)["mean"].mean()
    np.testing.assert_allclose(mean.set_index(keys)["mean"].sort_index(), expected.sort_index(), atol=1e-12)
    assert (rows["ci_low"] <= rows["mean"]).all()
    assert (rows["mean"] <= rows["ci_high"]).all()
    matched = mean[(mean["assumed"] == "as trained") & (mean["curvature"] == "hessian") & (mean["variant"] == "fixed")]
    assert (matched["mean"] > 0.8).all()


def test_gains_are_the_differences_of_the_agreements(study: Study):
    gains, rows = study.trajectory_gains(), study.trajectory_agreement()
    for gain in gains.to_dict("records"):
        same = rows[(rows["learning_rate"] == gain["learning_rate"]) & (rows["variant"] == gain["variant"])]
        seed = gain["seed_index"]
        same = same[same["seed_index"].isna() if pd.isna(seed) else same["seed_index"] == seed]
        of = same[same["curvature"] == gain["curvature"]].set_index("assumed")["mean"]
        assert gain["difference"] == pytest.approx(of["as trained"] - of["sgd"], abs=1e-12)
        assert gain["ratio"] == pytest.approx(of["as trained"] / of["sgd"])
        assert gain["difference_low"] <= gain["difference"] <= gain["difference_high"]


def test_stored_effects_are_those_of_the_library(study: Study, tmp_path: Path):
    task = load_task(f"{write(tmp_path).parent / 'tiny_task.py'}:factory")
    rows = study.trajectory_effects(0.01, 1)
    mean = rows[rows["query"].isna()].iloc[0]
    queries = np.stack([np.asarray(row) for row in rows[rows["query"].notna()]["truth"]])
    assert len(queries) == 24
    positions = removed_positions(60, 20, 3)
    assert list(mean["positions"]) == positions.tolist()
    run = study.trajectory_runs().set_index(["learning_rate", "seed_index"]).loc[(0.01, 1)]
    assert run["num_steps"] == 8
    assert list(run["steps"]) == horizon_steps(8, 4) == [2, 4, 6, 8]
    assert "AdamW" in run["optimizer"]
    assert task.training is not None
    paths = study.trajectory_paths(0.01, 1).set_index("position")
    for number, position in enumerate(positions):
        path = paths.loc[position]
        assert len(path["seen"]) == 2
        assert path["truth"][-1] == pytest.approx(mean["truth"][number], rel=1e-5, abs=1e-12)
        assert path["predicted"][-1] == pytest.approx(mean["predicted"][number], rel=1e-2, abs=1e-6)
        early = [value for step, value in zip(path["steps"], path["truth"], strict=True) if step < path["seen"][0]]
        assert not any(early)


def test_the_prediction_meets_the_truth_to_first_order(study: Study):
    for rate in (0.01, 0.001):
        row = study.trajectory_effects(rate, 0).iloc[0]
        truth, predicted = np.asarray(row["truth"]), np.asarray(row["predicted"])
        assert np.corrcoef(truth, predicted)[0, 1] > 0.85
        after = np.abs(truth - predicted - np.asarray(row["proxy"])).mean()
        assert after < np.abs(truth - predicted).mean()  # the second order explains part of what the first misses


def test_errors_are_those_of_the_paths(study: Study):
    errors = study.trajectory_errors()
    own = errors[(errors["seed_index"] == 0) & (errors["learning_rate"] == 0.01) & (errors["estimator"] == "proxy")]
    paths = study.trajectory_paths(0.01, 0)
    for row in own.to_dict("records"):
        index = list(paths["steps"].iloc[0]).index(row["step"])
        seen = np.array([steps[0] <= row["step"] for steps in paths["seen"]])
        truth, predicted, proxy = (
            np.array([values[index] for values in paths[name]])[seen] for name in ("truth", "predicted", "proxy")
        )
        size = np.abs(truth - predicted).mean() / np.abs(truth).mean()
        assert row["relative_error"] == pytest.approx(size, rel=1e-4)
        if len(truth) > 4:
            assert row["pearson"] == pytest.approx(np.corrcoef(proxy, truth - predicted)[0, 1], abs=1e-3)
    assert errors["seed_index"].isna().any()


def test_the_method_scores_the_study_s_own_run(study: Study, tmp_path: Path):
    scores = study.scores("unrolled-influence", assume="as trained", curvature="hessian")
    task = load_task(f"{write(tmp_path).parent / 'tiny_task.py'}:factory")
    assert scores.shape == (26, 60)
    data = {split: {k: torch.as_tensor(v) for k, v in part.items()} for split, part in task.datasets().items()}
    rows = {split: study.examples(split)["index"].to_numpy() for split in ("train", "queries")}
    labels = study.examples("train")["label"].tolist()
    names = list(task.class_names)
    data["train"]["y"][torch.from_numpy(rows["train"].copy())] = torch.tensor([names.index(label) for label in labels])
    seed = plan_of(tmp_path).steps[1].settings()["seed"]
    found = unrolled_influence(record(TrainingRun(task, data, rows["train"], seed)), Queries(rows["queries"]))
    np.testing.assert_allclose(np.asarray(scores), found.scores.numpy() * 60, rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------- selection


def test_every_strategy_is_run_tuned_and_compared(study: Study):
    runs = study.lookahead_runs()
    counts = runs[runs["split"] == "test"].groupby("strategy").size().to_dict()
    assert counts == {"look-ahead": 18, "look-ahead (sgd)": 18, "alignment": 6, "random": 6, "full": 6}
    assert set(runs[runs["strategy"] == "look-ahead"]["horizon"]) == {1, 3, 8}
    tuned = study.lookahead_tuned().set_index("strategy")
    tuning = runs[runs["split"] == "tuning"].fillna({"horizon": 0})
    for name, row in tuned.iterrows():
        mine = tuning[tuning["strategy"] == name].groupby(["horizon", "learning_rate"])["loss"].mean()
        assert row["tuning_loss"] == pytest.approx(mine.min(), rel=1e-5)
        assert mine.idxmin() == (0 if pd.isna(row["horizon"]) else row["horizon"], row["learning_rate"])
    gains = study.lookahead_gains().set_index(["strategy", "against"])
    there, back = gains.loc[("look-ahead", "random")], gains.loc[("random", "look-ahead")]
    assert there["loss_gain"] == pytest.approx(-back["loss_gain"])
    assert there["loss_gain"] == pytest.approx(
        tuned.loc["random", "test_loss"] - tuned.loc["look-ahead", "test_loss"], abs=1e-6
    )


def test_every_candidate_is_counted(study: Study):
    kept = study.lookahead_examples()
    full = kept[kept["strategy"] == "full"]
    assert (full["times_seen"] == 6).all()  # two epochs, three seeds
    assert (full["times_kept"] == 6).all()
    half = kept[kept["strategy"] == "look-ahead"]
    assert half["times_kept"].sum() * 2 == half["times_seen"].sum()
    assert half["mean_score"].notna().all()


# ---------------------------------------------------------------- claims


def test_claims_carry_the_stored_numbers(study: Study):
    verdicts = study.verdicts().set_index("claim_id")
    assert list(verdicts.index) == ["matched", "longer", "faster", "proxy", "online"]
    gains = study.trajectory_gains()
    gains = gains[gains["seed_index"].isna() & (gains["variant"] == "fixed")].set_index("learning_rate")
    entries = json.loads(str(verdicts.loc["matched", "comparisons"]))
    assert [entry["value"] for entry in entries] == pytest.approx([gains.loc[rate, "ratio"] for rate in (0.01, 0.001)])
    errors = study.trajectory_errors()
    mean = errors[errors["seed_index"].isna() & (errors["estimator"] == "proxy")].set_index(["learning_rate", "step"])
    at = {rate: mean.loc[rate]["relative_error"] for rate in (0.01, 0.001)}
    assert verdicts.loc["longer", "value"] == pytest.approx(_growth_of_the_examples_seen_first(study, 0.01), rel=1e-4)
    assert verdicts.loc["faster", "value"] == pytest.approx(at[0.01].iloc[-1] - at[0.001].iloc[-1])
    found = [entry["value"] for entry in json.loads(str(verdicts.loc["proxy", "comparisons"]))]
    assert found == pytest.approx([mean.loc[(0.001, 8), name] for name in ("spearman", "pearson")])
    assert len(json.loads(str(verdicts.loc["online", "comparisons"]))) == 2


def _growth_of_the_examples_seen_first(study: Study, rate: float) -> float:
    """Return the rise of the relative error from the first horizon to the last, mean over both seeds."""
    rises = []
    for seed in (0, 1):
        paths = study.trajectory_paths(rate, seed)
        early = np.array([steps[0] <= paths["steps"].iloc[0][0] for steps in paths["seen"]])
        truth, predicted = (
            np.stack([np.asarray(row) for row in paths[name]])[early] for name in ("truth", "predicted")
        )
        error = np.abs(truth - predicted).sum(axis=0) / np.abs(truth).sum(axis=0)
        rises.append(error[-1] - error[0])
    return float(np.mean(rises))


def test_a_baseline_near_zero_leaves_a_factor_s_lower_end():
    draws = np.linspace(0.5, 0.7, 1000)
    left = Measured("left", 0.6, draws)
    near = Measured("near", 0.1, np.linspace(-0.05, 0.25, 1000))
    found = times_better(left, near, 1.1)
    assert found.value == pytest.approx(6.0)
    assert found.low == pytest.approx(
        np.percentile(np.where(near.draws > 0, draws / near.draws, np.inf), 2.5), rel=1e-2
    )
    assert found.status == "reproduced"
    clear = Measured("clear", 0.5, np.full(1000, 0.5))
    assert times_better(left, clear, 1.1) == ratio(left, clear, 1.1)
    assert times_better(Measured("none", 0.0, -draws), near, 1.1).status == "inconclusive"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("removed = 20", "removed = 61", r"trajectory.removed = 61 is too many.*60"),
        ("removed = 20", "removes = 20", r"Did you mean trajectory.removed"),
        ('horizons = [1, 3, "all"]', "horizons = [0]", r"lookahead.horizons.*at least 1"),
        ("[lookahead]", "[lookahead]\nfraction = 1.0", r"lookahead.fraction = 1"),
        ("[lookahead]", '[lookahead]\nstrategies = ["best"]', r"lookahead.strategies = 'best'.*look-ahead"),
        ('["hessian", "gauss-newton"]\nhorizons', '["diagonal"]\nhorizons', r"trajectory.curvatures.*gauss-newton"),
        ("learning_rates = [0.01, 0.001]\nseeds", "learning_rates = [-1.0]\nseeds", r"learning_rates = -1"),
        ("learning_rates = [0.001]\n", "learning_rates = [0.5]\n", r"Claim proxy names the learning rate 0.5.*0.01"),
        ("horizon = 1}", "horizon = 7}", r"Claim online names .*does not run"),
        ("horizon = 1}", "horizon = 0}", r"horizon 0 is not allowed"),
        ('{strategy = "random"}', '{strategy = "random", horizon = 1}', r"random looks nowhere ahead"),
        ('along = "length"', 'along = "time"', r"along = 'time'.*length"),
        ('["hessian", "gauss-newton"]\nhorizons', '["gauss-newton"]\nhorizons', r"exact Hessian.*Put .hessian. first"),
        ("horizons = 4", "horizons = 1", r"Claim longer compares horizons"),
        ("learning_rates = [0.001, 0.01]", "learning_rates = [0.01]", r"compares learning rates.*at least two"),
        ("queries = 26", "queries = 35", r"\[lookahead\] needs test examples beside the 12"),
        ("queries = 26", "queries = 36", r"\[lookahead\] needs test examples beside the 12"),
    ],
)
def test_what_contradicts_itself_is_named(tmp_path: Path, old: str, new: str, said: str):
    assert old in STUDY
    with pytest.raises(StudyError, match=r"(?s)" + said) as caught:
        plan_of(tmp_path, STUDY.replace(old, new))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('optimizer="lbfgs", weight_decay=0.1', "is trained to its optimum"),
        ("momentum=0.9", None),
    ],
)
def test_a_run_must_have_steps(tmp_path: Path, settings: str, said: str | None):
    epochs = 1 if "lbfgs" in settings else 2
    task = TASK.replace(
        "TrainingSettings(num_epochs=4, batch_size=16, learning_rate=0.1, momentum=0.9)",
        f"TrainingSettings(num_epochs={epochs}, batch_size=16, learning_rate=0.1, {settings})",
    )
    text = STUDY.replace("epochs = [2]", f"epochs = [{epochs}]")
    if said is None:
        assert any(step.NAME == "trajectory-truth" for step in plan_of(tmp_path, text, task).steps)
        return
    text = text.replace(
        '[methods.unrolled-influence]\nassume = ["as trained", "sgd"]\ncurvature = ["hessian", "none"]', ""
    )
    with pytest.raises(StudyError, match=said):
        plan_of(tmp_path, text, task)


def test_horizons_beyond_the_end_are_one(tmp_path: Path):
    steps = [
        step for step in plan_of(tmp_path, STUDY.replace("[1, 3, ", "[1, 3, 8, 20, ")).steps if step.NAME == "lookahead"
    ]
    assert [step.settings()["horizons"] for step in steps] == [[1, 3, "all"]] * 6


def test_a_setting_that_diverged_under_a_seed_is_left_out(study: Study):
    store = ArtifactStore(study.workspace.artifacts)
    stored = [each for key in store.all_keys() if (a := store.open(key)).step == "lookahead" for each in stored_runs(a)]
    whole, none = complete_runs(stored)
    assert len(whole) == len(stored)
    assert not none
    gone = next(each for each in stored if each.name == "look-ahead" and each.run.strategy.horizon == 1)
    rest, left_out = complete_runs([each for each in stored if each is not gone])
    assert len(rest) == len(stored) - 3
    said = [str(each) for each in left_out]
    assert said == [f"Look-ahead, K = 1 at learning rate {gone.run.learning_rate:g}: 2 of 3 seeds"]


def test_dropout_is_refused_before_anything_is_computed(tmp_path: Path):
    task = ADAMW.replace("nn.Tanh()", "nn.Tanh(), nn.Dropout(0.1)")
    with pytest.raises(TaskError, match="draws random numbers"):
        plan_of(tmp_path, STUDY, task)


# ---------------------------------------------------------------- around it


def test_quick_keeps_the_rates_and_takes_its_own_limits():
    text = {
        "name": "x",
        "task": "mnist-mlp-adamw",
        "quick": {"train": 50, "removed": 4},
        "trajectory": {"learning_rates": [1e-3, 1e-4, 1e-5]},
        "lookahead": {"seeds": 9},
    }
    small = quick(text)
    assert small["data"]["train"] == 50
    assert small["trajectory"]["learning_rates"] == [1e-3, 1e-4, 1e-5]
    assert small["trajectory"]["removed"] == 4
    assert small["trajectory"]["seeds"] == 1
    assert small["lookahead"]["seeds"] == 2
    assert "quick" not in resolve({**small, "methods": {"iffim": {"epochs": [1]}}}).to_json()


def test_a_rebuilt_catalogue_holds_the_same(study: Study, tmp_path: Path):
    before = {name: study.trajectory_table(name) for name in TRAJECTORY_TABLES}
    assert all(len(frame) for frame in before.values())
    workspace = Workspace.at(study.workspace.catalogue)
    rebuild(workspace, KINDS)
    again = open_study("unrolled", workspace)
    for name, frame in before.items():
        pd.testing.assert_frame_equal(frame, again.trajectory_table(name))


def test_a_second_run_computes_nothing(study: Study, capsys):
    path = study.workspace.folder.parent / "unrolled.toml"
    assert main(["run", str(path), "--db", str(study.workspace.catalogue)]) == 0
    assert "0 steps computed" in capsys.readouterr().out
