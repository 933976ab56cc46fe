"""Drops: each taken in once and whole, in any order; a preview never replaces what more subsets gave."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest

from tda_backend.errors import CatalogueError, MachineError
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store import catalogue, repository
from tda_backend.studies.store import ingest as ingest_module
from tda_backend.studies.store.artifacts import ArtifactStore, content_key, provisional_key
from tda_backend.studies.store.drop import Drop, Kind
from tda_backend.studies.store.inbox import (
    EndedJob,
    FinishedStep,
    offer_again,
    pending_drops,
    read_drop,
    refused_drops,
    write_drop,
)
from tda_backend.studies.store.ingest import check_writable, ingest_inbox
from tda_backend.studies.store.rebuild import rebuild
from tda_backend.studies.store.record import study_records, write_study_record
from tda_backend.studies.store.tables.base import INTEGER, STUDY, VARCHAR, Column, Table, given
from tda_backend.studies.store.workspace import Workspace
from tda_backend.version import __version__


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.at(tmp_path / "catalogue.duckdb").create()


CONTENT: dict[str, Any] = {
    "study_id": "s",
    "name": "n",
    "config": {},
    "info": {},
    "task": {
        "num_classes": 2,
        "class_names": ["a", "b"],
        "measurement_sign": 1,
        "margin_identity": True,
        **dict.fromkeys(("name", "spec", "fingerprint", "training"), "t"),
    },
    "counts": {"train": 1, "validation": 1, "queries": 1, "subsets": 1},
    "configurations": [],
}
"""Of a study's record, all but its steps."""


def evaluated(workspace: Workspace, num_subsets: int) -> str:
    """Write an evaluation of one configuration and return its key."""
    key = content_key(num_subsets=num_subsets)
    lds = pd.DataFrame(
        {
            "alpha": [0.5],
            "regularization": [1e-3],
            "num_subsets": [num_subsets],
            "mean": [num_subsets / 100],
            "ci_low": [0.0],
            "ci_high": [1.0],
            "num_undefined": [0],
            "is_selected": [False],
        }
    )
    with ArtifactStore(workspace.artifacts).writing(key, "evaluate", {}, []) as writer:
        writer.table("lds", lds)
    return key


def drop(workspace: Workspace, key: str, num_subsets: int) -> None:
    context = {"configuration_id": "c", "num_subsets": num_subsets}
    write_drop(workspace, FinishedStep("s", key, "evaluate", context))


def ingest(workspace: Workspace) -> int:
    with catalogue.writing(workspace) as connection:
        return ingest_inbox(workspace, connection, KINDS)


@pytest.mark.parametrize("order", list(itertools.permutations([20, 30, 50])))
def test_whatever_the_order_the_most_subsets_win(workspace: Workspace, order: tuple[int, ...]):
    for num_subsets in order:
        drop(workspace, evaluated(workspace, num_subsets), num_subsets)
    assert ingest(workspace) == 3
    rows = repository.query(workspace, "SELECT num_subsets, mean FROM lds")
    assert rows.to_dict("records") == [{"num_subsets": 50, "mean": 0.5}]
    assert pending_drops(workspace) == []


def test_a_drop_that_comes_twice_changes_nothing(workspace: Workspace):
    key = evaluated(workspace, 20)
    for _ in range(2):
        drop(workspace, key, 20)
        ingest(workspace)
    assert len(repository.query(workspace, "SELECT * FROM ingested")) == 1
    assert len(repository.query(workspace, "SELECT * FROM timings")) == 1


def test_damaged_artifacts_and_unreadable_drops_are_put_aside_and_the_rest_goes_on(workspace: Workspace):
    drop(workspace, "ff" * 32, 20)
    (workspace.inbox / "00000.json").write_text("{ not json")
    drop(workspace, evaluated(workspace, 30), 30)
    assert ingest(workspace) == 1
    assert len(list(workspace.inbox.glob("*.refused"))) == 2
    assert len(repository.query(workspace, "SELECT * FROM lds")) == 1


def test_a_failing_transaction_leaves_no_row_and_keeps_the_drop(workspace: Workspace, monkeypatch):
    from tda_backend.studies.store import ingest as module

    drop(workspace, evaluated(workspace, 20), 20)

    def die(step: str, point: str) -> None:
        if point == "uncommitted":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module.faults, "reach", die)
        with pytest.raises(KeyboardInterrupt):
            ingest(workspace)
    assert len(repository.query(workspace, "SELECT * FROM lds")) == 0
    assert ingest(workspace) == 1
    assert len(repository.query(workspace, "SELECT * FROM lds")) == 1


class Counting(Kind):
    """A kind of step that came later than the catalogue, with a table of its own."""

    COUNTS = Table("counts", "How many", (STUDY, given("seed_index", INTEGER), Column("number", INTEGER)))
    TABLES = (COUNTS,)


def test_a_new_kind_of_step_brings_its_own_table(workspace: Workspace):
    key = content_key(kind="count")
    with ArtifactStore(workspace.artifacts).writing(key, "count", {}, []) as writer:
        writer.table("counts", Counting.COUNTS.rows([{"number": 3}]))
    write_drop(workspace, FinishedStep("s", key, "count", {"columns": {"seed_index": 1}}))
    with catalogue.writing(workspace) as connection:
        turns: list[int] = []
        assert ingest_inbox(workspace, connection, {"count": Counting}, lambda: turns.append(1)) == len(turns) == 1
    found = repository.rows(workspace, Counting.COUNTS, study_id="s")
    assert found.to_dict("records") == [{"seed_index": 1, "number": 3}]
    with catalogue.writing(workspace) as connection:
        catalogue.delete_study(connection, "s")
    assert len(repository.rows(workspace, Counting.COUNTS, study_id="s")) == 0


def test_what_the_artifact_holds_is_not_filled_from_the_drop(workspace: Workspace):
    table = Table("counts", "How many", (STUDY, given("seed_index", INTEGER), given("label", VARCHAR)))
    key = content_key(kind="count")
    with ArtifactStore(workspace.artifacts).writing(key, "count", {}, []) as writer:
        writer.table("counts", pd.DataFrame({"seed_index": [7]}))
    artifact = ArtifactStore(workspace.artifacts).open(key)
    with catalogue.writing(workspace) as connection:
        connection.execute(table.create())
        context = {"seed_index": 1, "label": "words", "number": 3}
        Drop(connection, FinishedStep("s", key, "count", context), artifact).insert_tables([table])
    assert repository.rows(workspace, table).to_dict("records") == [{"seed_index": 7, "label": "words"}]


def test_a_drop_that_lacks_what_its_rows_need_is_put_aside(workspace: Workspace):
    write_drop(workspace, FinishedStep("s", evaluated(workspace, 20), "evaluate"))
    assert ingest(workspace) == 0
    assert len(list(workspace.inbox.glob("*.refused"))) == 1
    assert len(repository.query(workspace, "SELECT * FROM ingested")) == 0


def good_drop(workspace: Workspace) -> None:
    drop(workspace, evaluated(workspace, 30), 30)


def raw(workspace: Workspace, content: object) -> None:
    """Put a file that this program did not write into the inbox, before all others."""
    text = content if isinstance(content, str) else json.dumps(content)
    (workspace.inbox / "00000000000000000001-abc.json").write_text(text)


STEP = {"kind": "step", "study_id": "s", "key": "ff" * 32, "label": "evaluate"}
POISON: dict[str, tuple[object, str]] = {
    "poison.sh": ({"kind": "step"}, "not complete"),
    "empty": ("", "no JSON object"),
    "truncated": ('{"kind": "step", "study', "no JSON object"),
    "zeros": ("\0" * 300, "no JSON object"),
    "a list": ([1, 2], "no JSON object"),
    "nested too deeply": ("[" * 100_000, "no JSON object"),
    "foreign": ({"some": "thing"}, "no known kind: 'None'"),
    "wrong kind": ({**STEP, "kind": "claim"}, "no known kind: 'claim'"),
    "newer form": ({**STEP, "format": 2, "program": "9.9.9"}, "in form 2, of tda-dashboard 9.9.9; this is"),
    "no artifact": (STEP, "missing"),
    "a path as key": ({**STEP, "key": "../../../etc/passwd"}, "is no key"),
    "a list as key": ({**STEP, "key": [1]}, "is no key"),
    "a study that is no text": ({**STEP, "study_id": {"a": 1}}, ""),
    "context that is no object": ({**STEP, "context": 5}, ""),
    "a job without times": ({"kind": "job", "study_id": "s", "job_id": "j", "status": "done"}, "not complete"),
    "a job with words as times": (
        {"kind": "job", "study_id": "s", "job_id": "j", "status": "done", "started": "x", "finished": "y"},
        "",
    ),
}


@pytest.mark.parametrize("name", POISON)
def test_poison_is_set_aside_with_its_reason_and_the_rest_goes_on(workspace: Workspace, name: str):
    content, reason = POISON[name]
    raw(workspace, content)
    good_drop(workspace)
    assert ingest(workspace) == 1
    assert pending_drops(workspace) == []
    (refused,) = refused_drops(workspace)
    assert refused.reason
    assert reason in refused.reason
    assert len(repository.query(workspace, "SELECT * FROM lds")) == 1
    good_drop(workspace)
    assert ingest(workspace) == 1


@pytest.mark.parametrize(
    "error", [KeyError("regularization"), RecursionError(), duckdb.ConversionException("x"), MemoryError()]
)
def test_a_step_whose_rows_cannot_be_made_is_set_aside(workspace: Workspace, monkeypatch, error: Exception):
    def fail(dropped: object) -> None:
        raise error

    drop(workspace, evaluated(workspace, 20), 20)
    with monkeypatch.context() as patch:
        patch.setattr(KINDS["evaluate"], "ingest", fail)
        assert ingest(workspace) == 0
    (refused,) = refused_drops(workspace)
    assert type(error).__name__ in refused.reason
    assert len(repository.query(workspace, "SELECT * FROM ingested")) == 0
    offer_again(refused)  # as `tda doctor --repair` does
    assert ingest(workspace) == 1
    assert refused_drops(workspace) == []
    assert not list(workspace.inbox.iterdir())


UNFIT: dict[str, tuple[dict, dict, str]] = {
    "a column that no table has": ({"nonsense": [1]}, {}, "nonsense"),
    "words where numbers belong": ({"alpha": ["x"]}, {}, "Could not convert string"),
    "a drop that replaces rows of no table": (
        {"alpha": [0.5]},
        {"missing": {}, "replaces": {"none": {"a": 1}}},
        "none",
    ),
    "a drop that replaces rows by no column": ({"alpha": [0.5]}, {"missing": {}, "replaces": {"lds": {"a": 1}}}, '"a"'),
}


def unfit(workspace: Workspace, name: str) -> FinishedStep:
    """Write a step whose files are whole, but fit no table; return its drop."""
    columns, context, _ = UNFIT[name]
    key = content_key(unfit=name)
    with ArtifactStore(workspace.artifacts).writing(key, "evaluate", {}, []) as writer:
        writer.table("lds", pd.DataFrame(columns))
    return FinishedStep("s", key, "evaluate", {"configuration_id": "c", "num_subsets": 20, **context})


@pytest.mark.parametrize("name", UNFIT)
def test_an_artifact_that_fits_no_table_is_set_aside_and_the_rest_goes_on(workspace: Workspace, name: str):
    write_drop(workspace, unfit(workspace, name))
    good_drop(workspace)
    assert ingest(workspace) == 1
    (refused,) = refused_drops(workspace)
    assert UNFIT[name][2] in refused.reason
    assert len(repository.query(workspace, "SELECT * FROM lds")) == 1


@pytest.mark.parametrize("name", UNFIT)
def test_a_rebuild_leaves_an_artifact_out_that_fits_no_table(workspace: Workspace, name: str):
    good = FinishedStep("s", evaluated(workspace, 30), "good", {"configuration_id": "c", "num_subsets": 30})
    steps = [{**each.json()} for each in (unfit(workspace, name), good)]
    for step in steps:
        step.pop("study_id")
    write_study_record(ArtifactStore(workspace.artifacts), "aa" * 32, "s", {**CONTENT, "steps": steps})
    rebuilt = rebuild(workspace, KINDS)
    assert (rebuilt.steps, rebuilt.skipped) == (1, 1)
    assert repository.query(workspace, "SELECT num_subsets FROM lds")["num_subsets"].tolist() == [30]


def planned(workspace: Workspace, plan: str, num_subsets: int, continues: str | None = None) -> None:
    """Take in the record of a study with one evaluation; the evaluation itself is not dropped."""
    context = {"configuration_id": "c", "num_subsets": num_subsets}
    step = {"key": evaluated(workspace, num_subsets), "label": "evaluate", "context": context}
    content = {**CONTENT, "steps": [step], **({} if continues is None else {"continues": continues})}
    write_study_record(ArtifactStore(workspace.artifacts), plan, "s", content)
    write_drop(workspace, FinishedStep("s", plan, "study"))
    assert ingest(workspace) == 1


@pytest.mark.parametrize(("continues", "kept"), [("aa" * 32, [20]), ("cc" * 32, []), (None, [])])
def test_a_plan_keeps_the_rows_of_the_one_that_it_continues_until_it_has_its_own(
    workspace: Workspace, continues: str | None, kept: list[int]
):
    planned(workspace, "aa" * 32, 20)
    drop(workspace, content_key(num_subsets=20), 20)
    assert ingest(workspace) == 1
    planned(workspace, "bb" * 32, 40, continues)
    assert repository.query(workspace, "SELECT num_subsets FROM lds")["num_subsets"].tolist() == kept
    assert repository.ingested(workspace, "s") == {"bb" * 32}
    assert len(repository.query(workspace, "SELECT * FROM timings")) == 0
    assert len(repository.query(workspace, "SELECT * FROM studies")) == 1
    drop(workspace, content_key(num_subsets=40), 40)
    assert ingest(workspace) == 1
    assert repository.query(workspace, "SELECT num_subsets FROM lds")["num_subsets"].tolist() == [40]
    assert len(repository.query(workspace, "SELECT * FROM timings")) == 1


def test_a_pipe_in_the_inbox_blocks_nobody(workspace: Workspace):
    os.mkfifo(workspace.inbox / "0.json")
    (workspace.inbox / "1.json").mkdir()
    good_drop(workspace)
    assert ingest(workspace) == 1
    assert len(refused_drops(workspace)) == 2


def test_a_step_of_a_newer_version_is_named(workspace: Workspace):
    key = content_key(kind="future")
    with ArtifactStore(workspace.artifacts).writing(key, "future", {}, []):
        pass
    write_drop(workspace, FinishedStep("s", key, "future"))
    assert ingest(workspace) == 0
    (refused,) = refused_drops(workspace)
    assert (
        f"artifact future {key[:12]} is of a kind of step that tda-dashboard {__version__} does not know"
        in refused.reason
    )


def test_a_catalogue_that_fails_keeps_the_drops(workspace: Workspace, monkeypatch):
    def fail(dropped: object) -> None:
        raise duckdb.IOException("IO Error: Could not write file: No space left on device")

    good_drop(workspace)
    with monkeypatch.context() as patch:
        patch.setattr(KINDS["evaluate"], "ingest", fail)
        with pytest.raises(MachineError, match="No space left"):
            ingest(workspace)
    assert len(pending_drops(workspace)) == 1
    assert refused_drops(workspace) == []
    with catalogue.writing(workspace) as connection:
        connection.execute("DROP TABLE lds")
    with pytest.raises(CatalogueError, match="lacks the tables lds"):
        ingest(workspace)
    assert len(pending_drops(workspace)) == 1


def test_a_drop_that_cannot_be_moved_stops_no_other(workspace: Workspace, monkeypatch):
    def stuck(path: Path, error: BaseException) -> None:
        raise PermissionError(13, "Permission denied")

    raw(workspace, {"kind": "step"})
    good_drop(workspace)
    monkeypatch.setattr(ingest_module, "refuse", stuck)
    with pytest.raises(MachineError, match=r"cannot be set aside.*Move it out of"):
        ingest(workspace)
    assert len(repository.query(workspace, "SELECT * FROM lds")) == 1


@pytest.mark.parametrize(
    "drop",
    [
        FinishedStep("s", "k", "a step", {"columns": {"learning_rate": 0.1}, "missing": {"a": "why"}}),
        EndedJob("s", "j", "failed", 1.0, 2.5, 1.5, message="why"),
        EndedJob("s", "j", "done", 1.0, 2.5, 1.5, 3, 4, ""),
    ],
)
def test_what_is_dropped_is_read_again(workspace: Workspace, drop: FinishedStep | EndedJob):
    assert read_drop(write_drop(workspace, drop)) == drop


OLD_STEP = """{"kind": "step", "study_id": "s", "key": "k", "label": "train",
    "context": {"seed_index": 0, "replaces": {"rules": {"alpha": 0.5}}}}"""
OLD_JOB = """{"kind": "job", "study_id": "s", "job_id": "j", "status": "done", "started": 1.0, "finished": 2.0,
    "steps_computed": null, "steps_cached": null, "seconds": 1.0, "message": "all"}"""


def test_drops_written_before_are_read(tmp_path: Path):
    """The form of drops does not change: an inbox outlives an upgrade of the program."""
    step, job = tmp_path / "step.json", tmp_path / "job.json"
    step.write_text(OLD_STEP)
    job.write_text(OLD_JOB)
    read = read_drop(step)
    assert read == FinishedStep("s", "k", "train", {"seed_index": 0, "replaces": {"rules": {"alpha": 0.5}}})
    assert read.json() == json.loads(OLD_STEP)
    assert read_drop(job) == EndedJob("s", "j", "done", 1.0, 2.0, 1.0, None, None, "all")


def test_a_study_that_cannot_be_read_is_left_out(workspace: Workspace):
    store = ArtifactStore(workspace.artifacts)
    content = {"name": "n", "study_id": "s", "config": {}, "info": {}, "task": {}, "counts": {}, "configurations": []}
    steps = [{"key": "k", "label": "train", "context": {"seed_index": 0}}]
    write_study_record(store, "aa" * 32, "s", {**content, "steps": steps})
    write_study_record(store, "bb" * 32, "s", content)
    (record,) = study_records(store)
    assert record.steps == [FinishedStep("s", "k", "train", {"seed_index": 0})]
    assert record.keys == {"aa" * 32, "k", provisional_key("k")}


def test_an_ended_job_is_one_row_however_often_it_is_told(workspace: Workspace):
    for status in ("cancelled", "done"):
        write_drop(workspace, EndedJob("s", "j", status, 86400.0, 86401.5, 1.5, 3, 4, ""))
    assert ingest(workspace) == 2
    (row,) = repository.query(workspace, "SELECT *, epoch(finished - started) AS took FROM jobs").to_dict("records")
    assert (row["status"], row["steps_computed"], row["steps_cached"], row["took"]) == ("done", 3, 4, 1.5)


def test_a_catalogue_without_a_table_says_what_to_do(workspace: Workspace):
    with catalogue.writing(workspace) as connection:
        connection.execute("DROP TABLE races")
        with pytest.raises(CatalogueError, match=r"lacks the tables races.*tda rebuild"):
            check_writable(workspace, connection)
