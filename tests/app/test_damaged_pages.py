"""A page whose artifact is damaged under it: the error that names it, never what was remembered or what lies there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from tda_backend.interfaces.reading.study import catalogue_version, open_study
from tda_backend.studies.store import artifact as artifact_module
from tda_backend.studies.store import repository
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace
from tests.app import catalogues
from tests.runs.test_damage import zero_half
from tests.runs.test_jobs import wait_for


@pytest.fixture
def served(tiny: Workspace, tmp_path: Path) -> Workspace:
    return catalogues.copy_of(tiny, tmp_path / "served")


def test_the_explorer_says_that_its_artifact_is_damaged(served: Workspace, page: Callable[..., AppTest], monkeypatch):
    monkeypatch.setattr(artifact_module, "SMALL", 64)  # mapped, as large arrays are
    drawn = page("explorer", served, study="tiny", method="iffim", k="none", epoch="4")
    assert not drawn.error
    assert not drawn.exception
    study = open_study("tiny", served)
    rows = repository.sources(served, study.study_id, study.configuration_id("iffim"))
    folder = ArtifactStore(served.artifacts).path(str(rows["artifact"].iloc[0]))
    before = catalogue_version(served)
    zero_half(folder / "train.npy")
    wait_for(lambda: catalogue_version(served) != before, 10)
    drawn.run()
    assert not drawn.exception
    said = drawn.error[0].value.replace("\\", "")
    assert f"train.npy of artifact spectrum {folder.name[:12]} does not match its checksum" in said
    assert "Run the study again" in said
    assert not folder.exists()
    drawn.run()
    assert f"Artifact {folder.name[:12]} is missing" in drawn.error[0].value
