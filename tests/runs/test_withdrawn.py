"""Verdicts on claims that a study does not test as the paper states them are withdrawn, with the reason, everywhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from tda_backend.errors import DataError
from tda_backend.interfaces.cli.verdicts import figure, papers_markdown, print_verdicts
from tda_backend.interfaces.papers.shipped import results_folder, shipped_names, shipped_results
from tda_backend.interfaces.papers.verdicts import claims_of_papers, paper_studies
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.verdicts import Verdict
from tda_backend.interfaces.reading.withdrawn import Withdrawn, withdrawn
from tda_backend.studies.contract.claim import NOT_TESTED

pytestmark = pytest.mark.shipped_data
STATED = {f"{study}/{claim['id']}" for study, content in paper_studies().items() for claim in content["claims"]}


@pytest.fixture(scope="module")
def claims(tmp_path_factory):
    return claims_of_papers(tmp_path_factory.mktemp("empty") / "catalogue.duckdb")


def test_what_is_withdrawn_exists_and_has_a_reason():
    found = withdrawn()
    assert set(found.reasons) | set(found.dropped) <= STATED
    assert all(reason.endswith(".") for reason in (*found.reasons.values(), *found.dropped.values()))


@pytest.mark.parametrize(
    "claim",
    [
        "taming-cg/threefold",
        "taming-lissa/scaling-matters",
        "trajectory-mnist-mlp/error-grows-with-length",
        "taming-selection-mnist-mlp/trak-near-best",
    ],
)
def test_another_setting_than_the_paper_s_is_no_verdict(claims, claim):
    found = next(each for each in claims if each.key == claim)
    assert found.verdict == NOT_TESTED
    assert found.note == withdrawn().reasons[claim]
    assert figure(found) == "–"
    assert found.numbers  # what was measured stays to be seen


def test_withdrawn_claims_are_counted_apart_with_their_reasons(claims):
    text = papers_markdown(claims)
    assert text.count("**not tested as stated**") == len(withdrawn().reasons)
    for reason in withdrawn().reasons.values():
        assert reason in text
    run = [each for each in claims if each.key in withdrawn().reasons]
    assert len(run) == len(withdrawn().reasons)
    assert {each.verdict for each in run} == {NOT_TESTED}


def test_a_check_of_something_with_itself_is_listed_nowhere(claims):
    dropped = withdrawn().dropped
    assert "taming-lissa/mean-filter-is-right" in dropped
    assert not [each for each in claims if each.key in dropped]
    assert len(claims) == len(STATED) - len(dropped)
    assert "mean-filter-is-right" not in set(shipped_results("taming-lissa").tables["verdicts"]["claim_id"])


@pytest.mark.parametrize("name", [name for name in shipped_names() if name in paper_studies()])
def test_shipped_files_say_it_themselves(name: str):
    stored = pd.read_parquet(results_folder() / name / "verdicts.parquet")
    stored["numbers"] = [list(each) for each in stored["numbers"]]
    pd.testing.assert_frame_equal(withdrawn().applied(name, stored), stored)
    assert not [text for numbers in stored["numbers"] for text in numbers if re.search(r"\bnan\b", text)]


def test_no_claim_speaks_of_values_that_scalings_do_not_have(claims):
    """The study's file keeps the note, for it is part of its identity; nothing shows it."""
    assert not [each for each in claims if "have no value" in (each.note or "")]


def test_the_quick_version_and_other_studies():
    frame = shipped_results("taming-cg").tables["verdicts"].assign(verdict="reproduced", note="")
    quick = withdrawn().applied("taming-cg-quick", frame)
    assert set(quick["verdict"]) == {NOT_TESTED}
    mine = withdrawn().applied("my-cg", frame)
    assert set(mine["verdict"]) == {"reproduced"}
    assert set(mine["note"]) == {""}


def test_show_prints_the_reason(capsys):
    print_verdicts(Console(width=200), records(shipped_results("taming-cg").tables["verdicts"], Verdict))
    printed = capsys.readouterr().out
    assert "NOT TESTED AS STATED: Increasing regularization" in printed
    assert withdrawn().reasons["taming-cg/threefold"] in printed


def test_a_missing_file_withdraws_nothing_and_a_damaged_one_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TDA_DATA", str(tmp_path))
    assert withdrawn() == Withdrawn({}, {})
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "withdrawn.toml").write_text("[[withdrawn]]\nclaims = 3")
    with pytest.raises(DataError, match="is damaged"):
        withdrawn()


def test_json_has_the_fourth_verdict(tmp_path: Path, cli):
    code, out, _ = cli("papers", "--db", tmp_path / "c.duckdb", "--json")
    rows = {f"{row['study']}/{row['claim_id']}": row for row in json.loads(out)}
    assert code == 0
    assert rows["taming-cg/threefold"]["verdict"] == NOT_TESTED
    assert rows["taming-cg/threefold"]["note"] == withdrawn().reasons["taming-cg/threefold"]
