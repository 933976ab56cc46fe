"""Pages on a trained model without ground truth: a relative grid, and rules that nothing judges."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from streamlit.testing.v1 import AppTest

from tda_backend.interfaces.cli.main import main
from tda_backend.interfaces.reading.study import open_study
from tda_backend.studies.store.workspace import Workspace
from tests.runs.test_without_ground_truth import write

Draw = Callable[..., AppTest]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A study of given checkpoints; read only."""
    folder = tmp_path_factory.mktemp("given")
    db = folder / "c.duckdb"
    assert main(["run", str(write(folder, 1e-3)), "--db", str(db)]) == 0
    return Workspace.at(db)


@pytest.mark.parametrize("name", ["explorer", "sensitivity", "selection", "methods"])
def test_pages_draw_on_a_relative_grid_without_ground_truth(page: Draw, given: Workspace, name: str):
    drawn = page(name, given)
    assert not drawn.exception
    assert not drawn.error


def test_the_page_of_selection_shows_what_rules_choose(page: Draw, given: Workspace):
    drawn = page("selection", given)
    tables = [each.value for each in drawn.dataframe]
    (chosen,) = [table for table in tables if "choosing" in table.columns]
    assert "mean regret" not in chosen.columns
    expected = open_study("given", given).tuning()
    progress = expected[expected["rule"] == "progress"]["chosen"].unique().tolist()
    shown = chosen.loc[chosen["rule"].str.contains("90 %"), "chooses"].tolist()
    assert shown == [", ".join(progress)]
    assert any("nothing judges the rules" in caption.value for caption in drawn.caption)


def test_the_slider_goes_over_the_grids_of_the_study(given: Workspace):
    study = open_study("given", given)
    grid = [value for value in study.info["regularizations"] if value > 0]
    curves = [study.indicator_curve(name) for name in study.configurations()["configuration_id"]]
    used = [curve.loc[~curve["is_selected"] & (curve["regularization"] > 0), "regularization"] for curve in curves]
    assert grid[0] == pytest.approx(min(values.min() for values in used))
    assert grid[-1] == pytest.approx(max(values.max() for values in used))
    assert grid[-1] < 1e-3  # the loss is a thousandth: λ follows it
