"""A workspace that version 0.1.0 wrote before steps, methods and tables became types: it opens, goes on and rebuilds.

``old_workspace.tar.xz`` holds the finished study ``old``, the study ``half`` whose run was killed, what the commands
printed of both then, and ``make.sh`` with the study files, which made all of it (at commit ae08346, on a CPU).
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch

from tda_backend.interfaces.reading.study import open_study
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace
from tests.runs.golden_plans import TORCH

ARCHIVE = Path(__file__).parent / "old_workspace.tar.xz"
NOT_KEPT = {
    ("meta", "value"),
    ("ingested", "ingested"),
    ("jobs", "finished"),
    ("jobs", "steps_computed"),
    ("jobs", "steps_cached"),
    ("jobs", "seconds"),
    ("timings", "remark"),
    ("spectra", "trace_left_out"),
    ("spectra", "largest_left_out"),
}
"""Columns that neither artifacts nor job files hold: when a row came into the catalogue, what a run counted; and those
that the old catalogue did not have."""

Cli = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.shipped_data


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The workspace, unpacked; keys are those of the torch that it was computed with."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.setattr(torch, "__version__", f"{TORCH}.0")
    return Workspace.at(tmp_path / "c.duckdb")


def printed(old: Workspace, cli: Cli, *words: str) -> Any:
    code, out, err = cli(*words, "--json", "--db", old.catalogue)
    assert code == 0, err
    return json.loads(out)


def tables(old: Workspace) -> dict[str, list[tuple]]:
    """Return the rows of every table of the catalogue, sorted, but for what a rebuilt one does not know."""
    with duckdb.connect(str(old.catalogue), read_only=True) as connection:
        sql = "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal ORDER BY column_index"
        known = [pair for pair in connection.execute(sql).fetchall() if pair not in NOT_KEPT]
        by_table = {table: ", ".join(f'"{column}"' for name, column in known if name == table) for table, _ in known}
        return {
            table: connection.execute(f'SELECT {columns} FROM "{table}" ORDER BY ALL').fetchall()
            for table, columns in sorted(by_table.items())
        }


def run(old: Workspace, cli: Cli, name: str) -> str:
    code, out, err = cli("run", old.folder / f"{name}.toml", "--db", old.catalogue)
    assert code == 0, out + err
    return next(line for line in out.splitlines() if " steps computed, " in line)


@pytest.mark.parametrize("words", [["show", "old"], ["select", "old"], ["show", "half"], ["studies"]])
def test_it_is_shown_as_it_was(old: Workspace, cli: Cli, words: list[str]):
    expected = json.loads((old.folder / "expected" / f"{'-'.join(words)}.json").read_text(encoding="utf-8"))
    found = printed(old, cli, *words)
    if words[0] == "show":  # keys that the old program did not print
        assert any("one draw of the projection" in sentence for sentence in found.pop("remarks"))
        assert [row.pop("remark") for row in found["timings"]] == [None] * len(found["timings"])
    assert found == expected


def test_scores_are_read_from_it(old: Workspace):
    study = open_study("old", old)
    for identity in study.configurations()["configuration_id"]:
        assert study.explorer_payload(identity, 1, num=3).products.size
    assert study.scores("iffim", 0.1).shape == (6, 48)
    assert len(study.removals())
    assert len(study.loo())
    assert len(study.trajectory_agreement())
    assert len(study.lookahead_tuned())


def test_a_finished_study_is_never_computed_again(old: Workspace, cli: Cli):
    before = tables(old)
    assert run(old, cli, "old").startswith(f"0 steps computed, {printed(old, cli, 'plan', 'old')['num_steps']} cached")
    assert tables(old) == before


def test_a_killed_study_goes_on_where_it_was(old: Workspace, cli: Cli):
    plan = printed(old, cli, "plan", "half")
    done, waiting = plan["num_cached"], plan["num_steps"] - plan["num_cached"]
    assert min(done, waiting) > 5
    assert run(old, cli, "half").startswith(f"{waiting} steps computed, {done} cached")
    record = next(row for row in printed(old, cli, "studies") if row["name"] == "half")
    assert record["status"] == "complete"
    assert open_study("half", old).configurations()["has_lds"].all()
    assert len(open_study("half", old).verdicts()) == 1
    assert run(old, cli, "half").startswith("0 steps computed")


def test_a_rebuilt_catalogue_holds_the_same_tables(old: Workspace, cli: Cli):
    before = tables(old)
    old.catalogue.unlink()
    code, _, err = cli("rebuild", "--db", old.catalogue)
    assert code == 0, err
    after = tables(old)
    assert {name: len(rows) for name, rows in after.items()} == {name: len(rows) for name, rows in before.items()}
    assert after == before


def test_nothing_of_it_is_damaged(old: Workspace, cli: Cli):
    store = ArtifactStore(old.artifacts)
    assert len(store.all_keys()) > 60
    findings = printed(old, cli, "doctor")
    assert not [each for each in findings if each["state"] == "problem"]
