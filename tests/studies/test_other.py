"""Every other shipped study (the demo, methods, seeds) runs in its quick size, within its time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tda_backend.studies.study.file import embedded_studies
from tests.studies.quick_run import check, run_quick

STUDIES = {name: path for name, path in embedded_studies().items() if not name.startswith(("source", "taming"))}


@pytest.fixture(scope="module")
def db(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("other") / "catalogue.duckdb"


@pytest.mark.parametrize("name", STUDIES)
def test_the_quick_study_is_whole(name: str, db: Path):
    check(run_quick(STUDIES[name], db))
