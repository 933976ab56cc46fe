"""Studies that retrain until their LDS is known: where they stop, what they leave, and what a second run does."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tda_backend.errors import CatalogueError, StudyError
from tda_backend.interfaces.papers.provenance import provenance_of
from tda_backend.interfaces.papers.verdicts import COMPUTED
from tda_backend.interfaces.reading.records.studies import facts_of
from tda_backend.interfaces.reading.remarks import remarks
from tda_backend.interfaces.reading.study import list_studies, open_study
from tda_backend.studies.jobs.ingest_loop import IngestLoop
from tda_backend.studies.runs.rounds import Judgement
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.repository import query
from tda_backend.studies.store.tables.all import ALL
from tda_backend.studies.store.tables.bookkeeping import INGESTED, JOBS, META
from tda_backend.studies.store.tables.studies import STUDIES
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import resolve
from tda_backend.studies.study.quick import quick
from tests.runs.conftest import TASK, tda

STUDY = """
name = "rounds"
task = "tiny_task.py:factory"
seed = 3
[data]
train = 60
validation = 12
queries = 10
[training]
epochs = [4]
[ground_truth]
subsets = 70
alphas = [0.5, 0.25]
[regularization]
count = 4
[methods.iffim]
projection_dim = [8]
[methods.tracin]
[evaluation]
bootstrap = 200
"""
UNTIL, ENOUGH = 0.15, 50
"""An aim that this study reaches with 50 subsets, after 20 and 40; it has 0.109 with all 70."""
TOO_NARROW = 0.05
OWN = {"study_id", "created", "seconds", "peak_memory_mib", "finished", "ingested"}
"""Columns that no two runs have in common, or no two studies."""


def write(folder: Path, text: str = STUDY) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tiny_task.py").write_text(TASK)
    path = folder / "rounds.toml"
    path.write_text(text)
    return path


def place(folder: Path) -> Workspace:
    return Workspace.at(folder / "w" / "c.duckdb")


def asking(until: float, *more: str) -> list[str]:
    return ["--set", f"ground_truth.until={until}", *(word for each in more for word in ("--set", each))]


def contents(workspace: Workspace, but: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """Return every table's rows, in some order, without what is one run's or one study's own."""
    found = {}
    for table in ALL:
        if table in (JOBS, META) or table.name in but:
            continue
        only = " WHERE label <> 'study'" if table is INGESTED else ""  # whose key is one study's own
        frame = query(workspace, f'FROM "{table.name}"{only}')
        frame = frame.drop(columns=list(OWN & set(frame.columns)))
        found[table.name] = sorted(frame.to_json(orient="records", lines=True).splitlines())
    return found


def finished(workspace: Workspace) -> dict[str, float]:
    """Return when each artifact was finished."""
    store = ArtifactStore(workspace.artifacts)
    return {key: store.open(key).finished for key in store.all_keys()}


def numbers(out: str) -> list[int]:
    """Return after how many subsets a run has said how well the LDS is known."""
    return [int(re.findall(r"after (\d+) subsets", line)[0]) for line in said(out)]


def said(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith("LDS known")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("rounds")


@pytest.fixture(scope="module")
def stopped(folder: Path) -> tuple[Workspace, str]:
    """The study that stops with 50 of 70 subsets, and what its run printed. Do not write to it."""
    result = tda("run", write(folder), *asking(UNTIL), db=place(folder).catalogue)
    assert result.returncode == 0, result.stderr
    return place(folder), result.stdout


def test_retraining_stops_when_every_lds_is_known_well_enough(stopped):
    workspace, out = stopped
    first, second, last = said(out)
    assert re.fullmatch(r"LDS known to ±0\.194 after 20 subsets \(aim ±0\.15\): 20 more\.", first)
    assert re.fullmatch(r"LDS known to ±0\.156 after 40 subsets \(aim ±0\.15\): 10 more\.", second)
    assert re.fullmatch(r"LDS known to ±0\.132 after 50 subsets: the aim of ±0\.15 is reached\.", last)
    assert ": at most 24 steps in " in out
    study = open_study("rounds", workspace)
    assert study.subset_outputs(0.5).shape == study.subset_outputs(0.25).shape == (ENOUGH, 10)
    assert list_studies(workspace)["status"].tolist() == ["complete"]


def test_nothing_of_the_result_tells_that_it_was_found_in_rounds(stopped, tmp_path: Path):
    workspace, _ = stopped
    at_once = place(tmp_path)
    study = write(workspace.folder.parent)  # the same task: its place is part of the study
    result = tda("run", study, "--set", f"ground_truth.subsets={ENOUGH}", db=at_once.catalogue)
    assert result.returncode == 0, result.stderr
    assert contents(workspace, (STUDIES.name,)) == contents(at_once, (STUDIES.name,))
    missing = set(finished(at_once)) - set(finished(workspace))
    store = ArtifactStore(at_once.artifacts)
    assert [store.open(key).step for key in missing] == ["study"]


def test_whatever_says_how_many_subsets_there_are_says_how_many_there_are(stopped):
    workspace, _ = stopped
    study = open_study("rounds", workspace)
    assert facts_of(study.info).num_subsets == ENOUGH
    assert (study.info["until"], study.info["most_subsets"]) == (UNTIL, 70)
    assert list_studies(workspace)["num_subsets"].tolist() == [ENOUGH]
    assert set(query(workspace, "SELECT num_subsets FROM lds")["num_subsets"]) == {ENOUGH}
    assert provenance_of("rounds", COMPUTED, workspace).num_subsets == ENOUGH
    (sentence,) = [each for each in remarks(study) if each.startswith("Retraining goes on until")]
    assert "±0.15" in sentence
    assert "at most 70 subsets: after 50 the widest interval is ±0.132." in sentence
    assert sentence.endswith("intervals are a little too narrow.")


def test_a_second_run_computes_nothing_and_says_the_same(stopped, folder: Path):
    workspace, out = stopped
    before, rows = finished(workspace), contents(workspace)
    result = tda("run", write(folder), *asking(UNTIL), db=workspace.catalogue)
    assert result.returncode == 0, result.stderr
    assert "0 steps computed" in result.stdout
    assert said(result.stdout) == said(out)[-1:]
    assert "at most 2" not in result.stdout
    assert "models to train" not in result.stdout
    assert finished(workspace) == before
    assert contents(workspace) == rows


def test_a_plan_says_at_most_before_and_what_there_is_afterwards(stopped, folder: Path, tmp_path: Path, cli):
    words = ["plan", write(folder), *asking(UNTIL), "--db"]
    code, out, err = cli(*words, place(tmp_path).catalogue)
    assert code == 0, err
    assert "; at most " in out
    assert "Up to 141 models to train" in out  # the attributed one, and 70 at both shares
    assert "fewer once every LDS is known to ±0.15" in " ".join(out.split())
    code, out, _ = cli(*words, stopped[0].catalogue, "--json")
    found = json.loads(out)
    assert (found["num_cached"], found["retrainings"]) == (found["num_steps"], 0)


def test_the_catalogue_can_be_made_again(stopped, tmp_path: Path, cli):
    workspace, _ = stopped
    rows = contents(workspace)
    copy = tmp_path / "copy.duckdb"
    assert cli("backup", tmp_path / "backup", "--db", workspace.catalogue)[0] == 0
    assert cli("restore", tmp_path / "backup", "--db", copy)[0] == 0
    assert cli("rebuild", "--db", copy)[0] == 0
    assert contents(Workspace.at(copy)) == rows
    code, out, _ = cli("rm", "rounds", "--yes", "--db", copy)
    assert code == 0, out
    assert ArtifactStore(Workspace.at(copy).artifacts).all_keys() == []


def test_beside_a_dashboard_rounds_leave_the_same_and_no_page_loses_what_it_had(stopped, folder: Path, tmp_path: Path):
    there, seen = place(tmp_path), []
    with IngestLoop(there), ThreadPoolExecutor(1) as pool:
        running = pool.submit(tda, "run", write(folder), *asking(UNTIL), db=there.catalogue)
        while not running.done():
            with contextlib.suppress(CatalogueError):  # nothing is published yet
                seen.append(len(query(there, "SELECT DISTINCT configuration_id FROM lds")))
            time.sleep(0.05)
        assert running.result().returncode == 0, running.result().stderr
        assert list_studies(there)["status"].tolist() == ["complete"]
        assert contents(there) == contents(stopped[0])
    assert seen == sorted(seen)
    assert seen[-1] == 2


def test_the_most_subsets_end_it_where_the_aim_is_out_of_reach(tmp_path: Path, cli):
    db = place(tmp_path).catalogue
    code, out, err = cli("run", write(tmp_path), *asking(TOO_NARROW), "--db", db)
    assert code == 0, err
    assert numbers(out) == [20, 40, 70]
    assert said(out)[-1].endswith("the most that ground_truth.subsets allows: the aim of ±0.05 is not reached.")
    study = open_study("rounds", db)
    assert study.subset_outputs(0.5).shape == (70, 10)
    assert any(each.endswith("after 70 the widest interval is ±0.109.") for each in remarks(study))


def test_what_another_aim_has_measured_is_not_measured_again(stopped, folder: Path, tmp_path: Path, cli):
    copy = Workspace.at(shutil.copytree(stopped[0].folder, tmp_path / "copy") / "c.duckdb")
    before = finished(copy)
    code, out, err = cli("run", write(folder), *asking(TOO_NARROW), "--db", copy.catalogue)
    assert code == 0, err
    assert numbers(out) == [70]  # what 20 and 40 subsets show is known
    store = ArtifactStore(copy.artifacts)
    new = [store.open(key).step for key in finished(copy) if key not in before]
    assert sorted(new) == [
        "evaluate",
        "evaluate",
        "retrain",
        "retrain",
        "retrain",
        "retrain",
        "rules",
        "rules",
        "study",
    ]


def test_fewer_subsets_than_a_first_round_are_retrained_at_once(tmp_path: Path, cli):
    small = asking(UNTIL, "ground_truth.subsets=12")
    code, out, err = cli("run", write(tmp_path), *small, "--db", place(tmp_path).catalogue)
    assert code == 0, err
    assert len(said(out)) == 1
    assert "after 12 subsets, the most that ground_truth.subsets allows" in out


@pytest.mark.slow
def test_killed_after_any_evaluation_a_run_resumes_in_its_round(tmp_path: Path, stopped):
    workspace, _ = stopped
    study, there = write(workspace.folder.parent), place(tmp_path)
    before: dict[str, float] = {}
    kills = 0
    while True:
        result = tda("run", study, *asking(UNTIL), db=there.catalogue, env={"TDA_FAULT": "evaluate:renamed"})
        now = finished(there)
        assert before.items() <= now.items(), "a finished step was computed again"
        before = now
        if result.returncode == 0:
            break
        assert result.returncode == -signal.SIGKILL, result.stderr
        assert list_studies(there)["status"].tolist() != ["complete"]
        kills += 1
    assert kills == 2 * 3 + 1  # two configurations in three rounds, and the preview
    assert set(finished(there)) == set(finished(workspace))
    assert contents(there) == contents(workspace)


DIVERGING = """
[methods.if-lissa-run]
scaling = [0.01, 50.0]
depth = [50]
"""


@pytest.mark.slow
def test_a_configuration_that_fails_is_tried_once_and_the_others_decide(tmp_path: Path, cli):
    study, db = write(tmp_path, STUDY.replace("[evaluation]", f"{DIVERGING}[evaluation]")), place(tmp_path).catalogue
    code, out, err = cli("run", study, *asking(UNTIL), "--db", db)
    assert code == 1
    assert "all else is kept. LiSSA diverges" in err
    failures = [line for line in out.splitlines() if line.startswith("FAILED")]
    assert len(failures) == 1
    assert numbers(out)[:2] == [20, 40]
    before = finished(place(tmp_path))
    rows = contents(place(tmp_path))
    code, again, err = cli("run", study, *asking(UNTIL), "--db", db)
    assert code == 1
    assert "all else is kept. LiSSA diverges" in err
    assert len([line for line in again.splitlines() if line.startswith("FAILED")]) == 1
    assert "retrain" not in again
    now, store = finished(place(tmp_path)), ArtifactStore(place(tmp_path).artifacts)
    assert {store.open(key).step for key in now if now[key] != before.get(key)} == {"rules"}  # provisional ones
    assert contents(place(tmp_path)) == rows


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"until": 0}, "ground_truth.until = 0 is not allowed"),
        ({"until": 1.0}, "ground_truth.until = 1.0 is not allowed"),
        ({"until": -0.1}, "not allowed"),
        ({"until": True}, "not allowed"),
        ({"until": "narrow"}, "not allowed"),
        ({"until": float("nan")}, "not allowed"),
        ({"until": 0.01, "subsets": 0}, "nothing is retrained"),
    ],
)
def test_an_aim_that_means_nothing_is_refused(changes: dict, expected: str):
    with pytest.raises(StudyError, match=expected) as refused:
        resolve({"name": "a", "task": "mnist-lr", "training": {"epochs": [1]}, "ground_truth": changes})
    assert refused.value.hint


def test_an_aim_needs_draws_to_be_measured_by():
    content = {"name": "a", "task": "mnist-lr", "training": {"epochs": [1]}, "ground_truth": {"until": 0.01}}
    with pytest.raises(StudyError, match="so few draws give no interval"):
        resolve({**content, "evaluation": {"bootstrap": 99}})
    assert resolve({**content, "evaluation": {"bootstrap": 100}}).ground_truth.until == 0.01


def test_a_study_that_sets_no_aim_is_what_it_was():
    content = {"name": "a", "task": "mnist-lr", "training": {"epochs": [1]}}
    assert "until" not in resolve(content).to_json()["ground_truth"]


def test_the_quick_version_has_no_aim_for_it_retrains_too_few():
    content = {"name": "a", "task": "mnist-lr", "training": {"epochs": [1]}, "ground_truth": {"until": 0.01}}
    assert resolve(quick(content)).ground_truth.until is None
    assert content["ground_truth"] == {"until": 0.01}


def test_a_judgement_goes_on_from_what_is_known():
    judged = Judgement(40, 0.0123, 0.01, 1000)
    assert not judged.is_last
    assert judged.following == 70
    assert Judgement(40, 0.01, 0.01, 1000).is_reached
    assert Judgement(40, float("inf"), 0.01, 40).is_last
