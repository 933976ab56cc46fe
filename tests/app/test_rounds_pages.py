"""What pages say of a study whose retraining stopped before it had as many subsets as were allowed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tda_backend.interfaces.reading.study import open_study
from tda_backend.studies.jobs.progress import JobState
from tda_backend.studies.store.workspace import Workspace, write_json
from tests.app import catalogues
from tests.app.conftest import opened_once
from tests.app.test_pages import texts as marked
from tests.runs.conftest import tda
from tests.runs.test_rounds import ENOUGH, UNTIL, asking, write


def compute_rounds(folder: Path) -> None:
    """Compute the study that stops with 50 of 70 subsets."""
    result = tda("run", write(folder), *asking(UNTIL), db=folder / "workspace" / "catalogue.duckdb")
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="session")
def rounds(tmp_path_factory) -> Iterator[Workspace]:
    """A study that stopped in its third round; read only."""
    yield from opened_once(catalogues.once(tmp_path_factory, "rounds", compute_rounds))


def texts(test) -> str:
    """Return what a person reads, without what protects it from being taken for Markdown."""
    return marked(test).replace("\\", "")


@pytest.mark.parametrize("name", ["overview", "explorer", "selection", "methods", "sensitivity", "counterfactuals"])
def test_every_page_says_how_many_subsets_there_are(page, rounds, name: str):
    test = page(name, rounds)
    assert not test.exception
    assert not test.error
    said = texts(test)
    assert f"of {ENOUGH} subsets" not in said
    assert "of 70 subsets" not in said
    assert "70 retrained subsets" not in said
    if name in ("overview", "selection"):
        assert f"{ENOUGH} retrained subsets" in said or f"{ENOUGH} subsets" in said


def test_the_overview_says_why_retraining_stopped(page, rounds):
    said = texts(page("overview", rounds))
    assert "is known to ±0.15, for at most 70 subsets: after 50 the widest interval is ±0.132" in said


def test_a_running_job_says_how_well_the_lds_is_known(page, rounds):
    study = open_study("rounds", rounds)
    sentence = "LDS known to ±0.156 after 40 subsets (aim ±0.15): 10 more."
    job = JobState("20991231-000000-aaaaaa", study="rounds", study_id=study.study_id, message=sentence)
    place = rounds.jobs / f"{job.job_id}.json"
    write_json(place, asdict(job))
    try:
        assert sentence in texts(page("overview", rounds))
    finally:
        place.unlink()
