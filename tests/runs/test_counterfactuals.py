"""Counterfactual retraining: removal with its chain, leave-one-out, flipped labels and their detection."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tda_backend.errors import StudyError
from tda_backend.interfaces.cli.main import main
from tda_backend.interfaces.reading.study import open_study
from tda_backend.studies.steps.leave_one_out import in_turn
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store import repository
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.rebuild import DiskUse, disk_use, rebuild, remove_study
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import check_study, read_study_file, resolve
from tda_backend.studies.study.quick import quick
from tests.runs.conftest import STUDY, TASK, tda
from tests.runs.counterfactual_tasks import DECIDING, OPTIMUM, VALUES, write_study

NUM_DECIDING = 6
NOISY = STUDY.replace("train = 60", "train = 60\nflip_labels = 0.15").replace("subsets = 24", "subsets = 0")


@pytest.fixture(scope="module")
def deciding(tmp_path_factory) -> Workspace:
    folder = tmp_path_factory.mktemp("deciding")
    db = folder / "catalogue.duckdb"
    assert main(["run", str(write_study(folder, DECIDING)), "--db", str(db)]) == 0
    return Workspace.at(db)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory) -> Workspace:
    folder = tmp_path_factory.mktemp("noisy")
    (folder / "tiny_task.py").write_text(TASK)
    (folder / "tiny.toml").write_text(NOISY)
    db = folder / "catalogue.duckdb"
    assert main(["run", str(folder / "tiny.toml"), "--db", str(db)]) == 0
    return Workspace.at(db)


# ---------------------------------------------------------------- subset removal


def test_queries_flip_exactly_when_the_six_deciding_examples_are_gone(deciding: Workspace):
    study = open_study("deciding", deciding)
    known = study.brittleness()
    ours, random = known[known["configuration_id"].notna()], known[known["configuration_id"].isna()]
    assert len(ours) == 8  # two methods, four queries
    assert (ours["flips_at"] == NUM_DECIDING).all()
    assert (ours["holds_at"] == 2).all()
    assert random["flips_at"].isna().all()
    curves = study.removal_curves().set_index(["label", "size"])["fraction"]
    for label in set(ours["label"]):
        assert curves[label].tolist() == [0, 0, 0, 1]
    assert curves["random, same class"].tolist() == [0, 0, 0, 0]
    assert open_study("deciding", deciding).removals()["regularization"].dropna().unique().tolist() == [0.1]


def test_goodness_falls_with_every_deciding_example(deciding: Workspace):
    rows = open_study("deciding", deciding).removals()
    rows = rows[rows["configuration_id"].notna()]
    for _, own in rows.groupby(["label", "query"]):
        goodness = own.sort_values("size")["mean_goodness"].to_numpy()
        assert (np.diff(goodness) < 0).all()


def test_the_first_removed_are_the_deciding_ones(deciding: Workspace):
    store = ArtifactStore(deciding.artifacts)
    orders = [store.open(key) for key in store.all_keys() if store.open(key).step == "removal-order"]
    chosen = [
        set(row[:NUM_DECIDING].tolist())
        for order in orders
        if order.manifest["settings"]["selector"]
        for row in order.array("positions")
    ]
    assert chosen
    assert all(row == set(range(NUM_DECIDING)) for row in chosen)


def test_a_removal_is_what_retraining_by_hand_gives(deciding: Workspace):
    from tda_backend.models.tasks.registry import load_task
    from tda_backend.models.training.fit import model_from
    from tda_backend.models.training.fit import train as train_once
    from tda_backend.models.training.outputs import evaluate
    from tda_backend.models.training.retraining.subsets import retraining_seed
    from tda_backend.models.training.run import TrainingRun
    from tda_backend.seeds import hashed_seed
    from tda_backend.studies.pipeline.context import RunContext
    from tda_backend.studies.pipeline.facts import task_facts

    study = open_study("deciding", deciding)
    task = load_task(study.config["task"])
    facts = task_facts(task, study.config["task"])
    context = RunContext.begin(resolve(study.config), facts, "cpu", ArtifactStore(deciding.artifacts))
    queries = study.examples("queries")["index"].to_numpy()
    kept = np.arange(NUM_DECIDING, 86)
    found = []
    for repeat in range(2):
        seed = retraining_seed(hashed_seed("counterfactual", study.config["seed"]), 0, repeat)
        (checkpoint,) = train_once(TrainingRun(task, context.data, kept, seed), [60])
        found.append(evaluate(task, model_from(task, checkpoint.state), context.data["test"]).goodness.numpy()[queries])
    rows = study.removals().query(f"size == {NUM_DECIDING} and configuration_id.notna()")
    for row in rows.to_dict("records"):
        assert row["mean_goodness"] == pytest.approx(np.mean(found, axis=0)[row["query"]], rel=1e-4)


def test_a_flipped_query_is_not_retrained_again_and_bisection_narrows_down(tmp_path: Path, cli):
    path = write_study(tmp_path, DECIDING)
    db = tmp_path / "catalogue.duckdb"
    settings = ("--set", "removal.sizes=[2, 6, 10]", "--set", "removal.bisections=2", "--set", "removal.random=false")
    code, _, err = cli("run", path, "--db", db, *settings)
    assert code == 0, err
    rows = open_study("deciding", db).removals()
    assert 10 not in set(rows["size"])
    known = open_study("deciding", db).brittleness()
    assert known["done"].all()
    assert known["flips_at"].between(3, 6).all()
    assert (known["flips_at"] - known["holds_at"] == 1).all()


@pytest.mark.slow
def test_a_run_killed_inside_the_chain_goes_on_at_the_unfinished_size(tmp_path: Path, deciding: Workspace):
    path = write_study(tmp_path, DECIDING)
    db = tmp_path / "catalogue.duckdb"
    result = tda("run", path, db=db, env={"TDA_FAULT": "removal:written"})
    assert result.returncode == -signal.SIGKILL, result.stderr
    workspace = Workspace.at(db)
    result = tda("run", path, db=db, env={"TDA_FAULT": "removal:undropped"})
    assert result.returncode == -signal.SIGKILL, result.stderr
    store = ArtifactStore(workspace.artifacts)
    before = {key: store.open(key).manifest["finished"] for key in store.all_keys()}
    assert sum(store.open(key).step == "removal" for key in before) >= 1
    result = tda("run", path, db=db)
    assert result.returncode == 0, result.stderr
    after = {key: store.open(key).manifest["finished"] for key in store.all_keys()}
    assert before.items() <= after.items()
    columns = ["label", "query", "size", "mean_goodness", "flipped"]
    pd.testing.assert_frame_equal(
        open_study("deciding", db).removals()[columns], open_study("deciding", deciding).removals()[columns]
    )


def test_where_nothing_is_right_or_wrong_goodness_is_followed_and_nothing_flips(tmp_path: Path, cli):
    db = tmp_path / "catalogue.duckdb"
    code, _, err = cli("run", write_study(tmp_path, VALUES), "--db", db)
    assert code == 0, err
    study = open_study("values", db)
    rows = study.removals()
    assert rows["mean_correct"].isna().all()
    assert not rows["flipped"].any()
    assert (rows["mean_goodness"] < 0).all()  # minus the absolute error
    assert set(rows["size"]) == {0, 2, 4}
    assert (study.removal_curves()["fraction"] == 0).all()
    assert study.brittleness()["done"].all()
    assert len(study.loo_effects()) == 3
    code, _, err = cli("run", "values", "--db", db, "--set", "data.flip_labels=0.1")
    assert code != 0
    assert "needs classes" in err


def test_rebuild_and_rm_know_the_tables(deciding: Workspace, tmp_path: Path):
    import shutil

    shutil.copytree(deciding.folder, tmp_path / "w")
    workspace = Workspace.at(tmp_path / "w" / deciding.catalogue.name)
    before = open_study("deciding", workspace).removals()
    workspace.catalogue.unlink()
    rebuild(workspace, KINDS)
    pd.testing.assert_frame_equal(open_study("deciding", workspace).removals(), before)
    study_id = open_study("deciding", workspace).study_id
    remove_study(workspace, study_id)
    assert len(repository.removals(workspace, study_id)) == 0
    assert disk_use(workspace) == DiskUse({}, unused=0, damaged=0)


# ---------------------------------------------------------------- leave-one-out


def test_leave_one_out_at_a_linear_optimum_is_foretold_by_the_influence_function(tmp_path: Path, cli):
    db = tmp_path / "catalogue.duckdb"
    code, _, err = cli("run", write_study(tmp_path, OPTIMUM), "--db", db)
    assert code == 0, err
    study = open_study("optimum", db)
    grid = study.loo().query("not is_selected").set_index("regularization")["mean"]
    assert grid.idxmax() == pytest.approx(0.01)  # the λ of the L2 decay
    assert grid.max() > 0.95
    effects = study.loo_effects()
    assert len(effects) == 15
    assert effects["effects"].iloc[0].shape == (20,)
    predicted = study.scores("if-explicit", 0.01)[:, effects["position"]].T / study.num_train
    measured = np.stack(effects["effects"].tolist())
    slope = (predicted * measured).sum() / (predicted**2).sum()
    assert slope == pytest.approx(1.0, abs=0.15)  # sign and scale, not order alone


def test_the_most_influential_of_several_methods_in_turn():
    np.testing.assert_array_equal(in_turn([np.array([3, 1, 0, 2]), np.array([3, 2, 1, 0])], 3), [3, 1, 2])


# ---------------------------------------------------------------- flipped labels


def test_exactly_the_asked_share_is_flipped_and_the_whole_pipeline_sees_it(noisy: Workspace):
    study = open_study("tiny", noisy)
    rows = study.noisy_rows()
    assert len(rows) == 9  # ⌊0.15 · 60⌋
    train = study.examples("train").set_index("position")
    clean = {position: str(("ant", "bee", "cat")[index % 3]) for position, index in train["index"].items()}
    for position, row in train.iterrows():
        assert (row["label"] != clean[position]) == (position in set(rows["position"]))
    assert all(clean[row["position"]] == row["original_label"] for row in rows.to_dict("records"))
    assert "was " in train.loc[rows["position"].iloc[0], "caption"]
    assert (study.examples("test")["label"] == [("ant", "bee", "cat")[i % 3] for i in range(48)]).all()
    # The model was trained on the wrong labels: its loss there is higher than elsewhere.
    loss = train["loss"].to_numpy()
    assert loss[rows["position"]].mean() > 1.5 * np.delete(loss, rows["position"]).mean()


def test_detection_of_the_flipped_labels_at_every_regularization(noisy: Workspace):
    study = open_study("tiny", noisy)
    found = study.noisy_labels()
    assert set(found["method"]) == {"iffim", "trak", "tracin"}
    iffim = found[(found["method"] == "iffim") & found["projection_dim"].isna() & (found["training_epoch"] == 4)]
    assert len(iffim) == 7 + 1  # λ = 0, six of the grid, λ*
    assert iffim["is_selected"].sum() == 1
    assert (found["num_flipped"] == 9).all()
    assert iffim["auc"].max() > 0.7
    assert (found["auc_low"] <= found["auc"]).all()
    recall = np.stack(found["recall"].tolist())
    assert recall.shape[1] == len(study.recall_shares) == 9
    assert (np.diff(recall, axis=1) >= 0).all()
    own = study.self_influence("iffim", 0.0, None, 4)[0]
    wrong = np.isin(np.arange(60), study.noisy_rows()["position"])
    by_hand = (own[wrong][:, None] > own[~wrong][None]).mean()
    assert iffim.loc[iffim["regularization"] == 0.0, "auc"].iloc[0] == pytest.approx(by_hand, abs=1e-9)


# ---------------------------------------------------------------- study files and plans


def test_sections_left_out_change_nothing():
    study = resolve({"name": "a", "task": "mnist-mlp", "training": {"epochs": [1]}}).to_json()
    assert "removal" not in study
    assert "loo" not in study
    assert "flip_labels" not in study["data"]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"removal": {"sizes": [5, 2], "of": [{"method": "iffim"}]}}, "not ascending"),
        ({"removal": {"of": [{"method": "iffim"}]}}, "without sizes"),
        ({"removal": {"sizes": [5], "random": False}}, "nothing to remove"),
        ({"removal": {"sizes": [5000]}}, "leaves nothing"),
        ({"removal": {"sizes": [5], "queries": 900}}, "too many"),
        ({"removal": {"sizes": [5], "of": [{"method": "iffim", "regularization": "some"}]}}, "regularization"),
        ({"removal": {"size": [5]}}, "Did you mean removal.sizes"),
        ({"loo": {"choice": "top"}}, "loo.of is empty"),
        ({"loo": {"examples": 9000, "choice": "random"}}, "too many"),
        ({"data": {"flip_labels": 1.5}}, "flip_labels"),
        ({"ground_truth": {"alphas": ["1-2/n"]}}, "all but one"),
    ],
)
def test_a_wrong_section_is_named(section: dict, words: str):
    with pytest.raises(StudyError) as caught:
        resolve({"name": "a", "task": "mnist-mlp", "training": {"epochs": [1]}, **section})
    assert words in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("num_train", [5000, 6144, 60, 86])
@pytest.mark.parametrize("text", ["1-1/n", "loo", "1 - 1/n"])
def test_all_but_one_can_be_written_as_alpha(num_train: int, text: str):
    study = resolve(
        {
            "name": "a",
            "task": "mnist-mlp",
            "training": {"epochs": [1]},
            "data": {"train": num_train},
            "ground_truth": {"alphas": [0.5, text]},
        }
    )
    alpha = study.ground_truth.alphas[1]
    assert int(alpha * num_train + 0.5) == num_train - 1
    assert float(f"{alpha:g}") == alpha  # as links and labels write it


def test_the_quick_version_is_small_and_names_what_it_has():
    study = quick(
        {
            "name": "a",
            "task": "mnist-mlp",
            "training": {"epochs": [1, 20]},
            "methods": {"iffim": {}},
            "removal": {"sizes": [50, 100, 200, 400], "of": [{"method": "iffim", "epoch": 20}, {"method": "iffim"}]},
            "loo": {"of": [{"method": "iffim", "projection_dim": 512}]},
        }
    )
    resolved = resolve(study)
    assert resolved.removal is not None
    assert resolved.loo is not None
    assert resolved.removal.queries <= 5
    assert len(resolved.removal.sizes) <= 3
    assert resolved.removal.of[0].epoch in resolved.training.epochs
    assert resolved.loo.of[0].projection_dim in resolved.methods["iffim"]["projection_dim"]


def test_a_study_file_of_counterfactuals_survives_checking_twice(tmp_path: Path):
    content = read_study_file(write_study(tmp_path, DECIDING))
    assert resolve(resolve(content).to_json()) == resolve(content)
    assert check_study(content)["removal"]["of"][0] == {"method": "iffim", "regularization": 0.1}


def test_the_plan_says_what_it_costs_before_anything_starts(tmp_path: Path, cli):
    path, db = write_study(tmp_path, DECIDING), tmp_path / "w" / "catalogue.duckdb"
    code, out, err = cli("plan", path, "--db", db, "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert not db.exists()
    assert not db.parent.exists()
    models = {step["label"].split(":")[0]: step["retrainings"] for step in plan["steps"] if step["retrainings"]}
    assert models == {
        "train": 1,
        "retrain on everything, 2 seeds": 2,
        "remove 1": 8,
        "remove 2": 8,
        "remove 6": 8,
    }
    assert plan["retrainings"] == 1 + 2 + 3 * 3 * 8  # three curves of three sizes, four queries with two seeds each
    assert plan["num_cached"] == 0
    assert plan["seconds"] == pytest.approx(sum(step["seconds"] for step in plan["steps"]))
    code, out, _ = cli("plan", path, "--db", db)
    assert "Up to 75 models to train" in out
    assert "remove 6" in out


def test_the_plan_knows_what_is_finished(deciding: Workspace, cli):
    code, out, _ = cli("plan", "deciding", "--db", deciding.catalogue, "--json")
    assert code == 0
    plan = json.loads(out)
    assert plan["num_cached"] == plan["num_steps"]
    assert plan["retrainings"] == 0
    code, out, _ = cli("plan", "deciding", "--db", deciding.catalogue, "--set", "removal.sizes=[1,2,6,8]", "--json")
    assert json.loads(out)["retrainings"] == 3 * 8  # one more size, for three curves


def test_a_run_says_what_its_retraining_costs(tmp_path: Path, cli):
    path, db = write_study(tmp_path, DECIDING), tmp_path / "catalogue.duckdb"
    few = ("--set", "removal.sizes=[6]", "--set", "removal.queries=1", "--set", "removal.seeds=1")
    code, out, err = cli("run", path, "--db", db, *few)
    assert code == 0, err
    assert "Up to 5 models to train, about" in out  # the attributed one, the base, one of each curve
