"""The page Training trajectory: computed, half computed, shipped, empty; its numbers and its address."""

from __future__ import annotations

import io
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import replace

import duckdb
import numpy as np
import pytest
from PIL import Image

import tda_backend as tda
from app.formats import signed
from app.views.trajectory import results as trajectory_data
from app.views.trajectory.charts import log_ticks, rate_text
from app.views.trajectory.results import Results
from app.views.trajectory.sections import SELECTION, UNROLLED
from app.views.trajectory.selection.charts import horizons_figure
from app.views.trajectory.selection.tuned import chosen_setting, costs, judged_strategies
from app.views.trajectory.selection.wrong_labels import wrong_shares
from app.views.trajectory.unrolled.agreement_chart import agreement_figure
from app.views.trajectory.unrolled.data import Effect, Prediction, correlation, effects_of, paths_of
from app.views.trajectory.unrolled.effects_charts import effects_figure, proxy_figure
from app.views.trajectory.unrolled.estimates import ESTIMATES
from app.views.trajectory.unrolled.path_charts import PathRow, paths_figure
from tda_backend.interfaces.papers import shipped as shipped_module
from tda_backend.interfaces.papers.shipped import export_results, shipped_results
from tda_backend.interfaces.papers.shipped_examples import shipped_examples
from tda_backend.interfaces.reading.influence import spearman
from tda_backend.interfaces.reading.records import lookahead, trajectory
from tda_backend.interfaces.reading.records.base import records
from tda_backend.studies.jobs.progress import JobState
from tda_backend.studies.store import repository
from tda_backend.studies.store.tables import lookahead as lookahead_tables
from tda_backend.studies.store.tables import trajectory as trajectory_tables
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import resolve
from tests.app import catalogues
from tests.app.catalogues import copy_of
from tests.app.conftest import opened_once
from tests.app.test_pages import button, texts
from tests.app.trajectory_catalogue import compute_unrolled

TRAJECTORY_TABLES = tuple(table.name for table in (*trajectory_tables.TABLES, *lookahead_tables.TABLES))
SECTIONS = (
    "Does it matter which optimizer is assumed?",
    "Predicted against true",
    "One example over the steps",
    "How wrong is it, and can one know without retraining?",
    "Selecting data while training",
)
NUM_FIGURES = 22
TRAJECTORY_TABLES = tuple(table.name for table in (*trajectory_tables.TABLES, *lookahead_tables.TABLES))
KINDS = [kind for module in (trajectory, lookahead) for kind in vars(module).values() if hasattr(kind, "TABLE")]


@pytest.fixture(scope="session")
def unrolled(tmp_path_factory) -> Iterator[Workspace]:
    yield from opened_once(catalogues.once(tmp_path_factory, "unrolled", compute_unrolled))


@pytest.fixture
def study(unrolled):
    return tda.open_study("unrolled", unrolled.catalogue)


@pytest.fixture
def results(study) -> Results:
    return Results("unrolled", "computed here", study.config, study)


@pytest.fixture(autouse=True)
def nothing_shipped(request, monkeypatch, tmp_path):
    """Hide the results that come with the program, but from the tests of shipped results."""
    if "shipped" not in request.fixturenames and not request.node.get_closest_marker("shipped_data"):
        monkeypatch.setattr(shipped_module, "results_folder", lambda: tmp_path / "no-results")


def changed(workspace: Workspace, *statements: str) -> Workspace:
    """Run SQL on a catalogue that a test owns."""
    connection = duckdb.connect(str(workspace.catalogue))
    for statement in statements:
        connection.execute(statement)
    connection.close()
    workspace.snapshot.unlink(missing_ok=True)
    return workspace


def figures(test) -> list:
    return [element.proto for element in test.get("plotly_chart")]


def drawn(test) -> str:
    assert not test.exception
    assert not test.error
    return texts(test)


# ---------------------------------------------------------------- what is drawn


def test_the_page_draws_every_section_with_tables_and_downloads(page, unrolled):
    test = page("trajectory", unrolled)
    said = drawn(test)
    for title in SECTIONS:
        assert title in [element.value for element in test.subheader]
    assert len(figures(test)) == NUM_FIGURES
    assert len(test.get("download_button")) >= 14
    assert "badge[computed here]" in said
    assert "no bound" in said


@pytest.mark.parametrize("catalogue", ["empty", "failed", "tiny"])
def test_a_catalogue_without_such_a_study_says_how_to_run_one(page, request, monkeypatch, catalogue):
    started, place = [], request.getfixturevalue(catalogue)
    monkeypatch.setattr("app.services.jobs.submit", lambda arguments, place, cwd=None: started.append(arguments) or "1")
    test = page("trajectory", place)
    said = drawn(test)
    assert "tda run trajectory-mnist-mlp --quick" in said
    button(test, "Run the quick version").click().run()
    assert started == [["run", "trajectory-mnist-mlp", "--quick"]]


def test_read_only_starts_nothing(page, empty):
    test = page("trajectory", empty, read_only=True)
    drawn(test)
    assert not test.button


def test_another_study_of_the_catalogue_is_offered(page, unrolled, tmp_path):
    place = copy_of(unrolled, tmp_path)
    changed(
        place,
        "INSERT INTO studies SELECT * REPLACE ('0' AS study_id, 'plain' AS name, json_merge_patch(config, "
        '\'{"trajectory": null, "lookahead": null}\') AS config) FROM studies',
    )
    test = page("trajectory", place, study="plain")
    assert "does not unroll a training run" in drawn(test)
    assert not figures(test)
    button(test, "unrolled").click().run()
    assert dict(test.query_params)["study"] == "unrolled"
    assert len(figures(test)) == NUM_FIGURES


@pytest.mark.parametrize(("section", "words"), [("trajectory", "removed = 200"), ("lookahead", "horizons = [1, 5")])
def test_a_study_with_one_section_shows_it_and_the_lines_of_the_other(page, unrolled, tmp_path, section, words):
    place = copy_of(unrolled, tmp_path)
    gone = [name for name in TRAJECTORY_TABLES if name.startswith(section)]
    changed(
        place,
        f"UPDATE studies SET config = json_merge_patch(config, '{{\"{section}\": null}}')",
        *(f"DELETE FROM {table}" for table in gone),
    )
    test = page("trajectory", place)
    assert words in drawn(test)
    assert 5 < len(figures(test)) < NUM_FIGURES


def test_the_lines_on_the_page_are_a_study():
    for shown in (UNROLLED, SELECTION):
        section = tomllib.loads(shown.lines)
        study = resolve({"name": "a", "task": "mnist-mlp-adamw", "training": {"epochs": [1]}, **section}).to_json()
        name = next(iter(section))
        assert name == shown.name
        assert section[name].keys() <= study[name].keys()


PARTIAL = {
    "no means over seeds, one seed of selection": [
        *(f"DELETE FROM trajectory_{name} WHERE seed_index IS NULL" for name in ("agreement", "gains", "errors")),
        "UPDATE lookahead_tuned SET loss_low = NULL, loss_high = NULL, accuracy_low = NULL, accuracy_high = NULL",
        "UPDATE lookahead_gains SET loss_gain = NULL, loss_low = NULL, loss_high = NULL",
    ],
    "one run so far, selection not tuned": [
        *(
            f"DELETE FROM trajectory_{name} WHERE seed_index IS NULL OR seed_index > 0 OR learning_rate < 0.005"
            for name in ("runs", "agreement", "gains", "effects", "errors", "paths")
        ),
        *(f"DELETE FROM lookahead_{name}" for name in ("tuned", "gains", "examples")),
    ],
    "no proxy, no accuracy": [
        "UPDATE trajectory_effects SET proxy = NULL, cheap = NULL",
        "DELETE FROM trajectory_errors",
        "DELETE FROM trajectory_paths",
        "UPDATE lookahead_tuned SET test_accuracy = NULL",
    ],
    "trained by SGD, no cheap proxy, no curves": [
        "UPDATE trajectory_runs SET optimizer = 'SGD, momentum 0.9'",
        "UPDATE trajectory_effects SET cheap = NULL",
        "UPDATE trajectory_paths SET proxy = NULL",
        "DELETE FROM lookahead_curves",
    ],
    "constant effects, no full training": [
        "UPDATE trajectory_effects SET truth = list_transform(truth, lambda x: 0)",
        "UPDATE trajectory_paths SET truth = list_transform(truth, lambda x: 0)",
        "DELETE FROM lookahead_runs WHERE strategy = 'full'",
        "DELETE FROM lookahead_tuned WHERE strategy = 'full'",
    ],
    "no correlation, no examples": [
        "UPDATE trajectory_agreement SET mean = 'nan', ci_low = 'nan', ci_high = 'nan'",
        "UPDATE trajectory_gains SET matched = 'nan', mismatched = 'nan', difference = 'nan'",
        "UPDATE trajectory_errors SET spearman = NULL, spearman_low = NULL, spearman_high = NULL",
        "DELETE FROM examples",
        "DELETE FROM configurations",
    ],
}


@pytest.mark.parametrize("case", list(PARTIAL))
def test_partial_results_draw(page, unrolled, tmp_path, case):
    test = page("trajectory", changed(copy_of(unrolled, tmp_path), *PARTIAL[case]))
    said = drawn(test)
    assert figures(test)
    assert ("so far" in said) == (case.startswith(("no means", "one run")))
    assert ("rescales" in said) == ("SGD" not in case)


def test_a_study_that_only_asks_says_how_to_go_on(page, unrolled, tmp_path):
    test = page(
        "trajectory", changed(copy_of(unrolled, tmp_path), *(f"DELETE FROM {table}" for table in TRAJECTORY_TABLES))
    )
    said = drawn(test)
    assert said.count("first results are not there yet") == 2
    assert "tda run unrolled" in said
    assert not figures(test)


def a_job(study_id: str, status: str) -> JobState:
    return JobState(
        job_id="j",
        study="unrolled",
        study_id=study_id,
        status=status,
        step="unroll",
        step_done=0,
        step_total=0,
        done=3,
        total=31,
        fraction=0.4,
    )


def test_a_running_study_shows_how_far_it_is(page, unrolled, study, monkeypatch):
    job = a_job(study.study_id, "running")
    monkeypatch.setattr("app.services.running_jobs", lambda: [job])
    test = page("trajectory", unrolled)
    assert "step 3 of 31" in drawn(test)
    assert len(figures(test)) == NUM_FIGURES
    monkeypatch.setattr("app.services.running_jobs", lambda: [replace(job, status="failed", message="It broke.")])
    drawn(page("trajectory", unrolled))


def test_a_failed_study_shows_its_message(page, unrolled, study, tmp_path, monkeypatch):
    job = replace(a_job(study.study_id, "failed"), message="It broke.", hint="Mend it.")
    monkeypatch.setattr("app.services.running_jobs", lambda: [job])
    place = changed(copy_of(unrolled, tmp_path), *(f"DELETE FROM {table}" for table in TRAJECTORY_TABLES))
    test = page("trajectory", place)
    assert not test.exception
    assert "It broke" in texts(test)
    assert "Mend it" in texts(test)


def test_pictures_are_shown_as_pictures(page, unrolled, study, tmp_path, monkeypatch):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(buffer, "PNG")
    png = buffer.getvalue().hex()
    place = changed(
        copy_of(unrolled, tmp_path), f"UPDATE examples SET kind = 'image', \"text\" = NULL, image = from_hex('{png}')"
    )
    position = int(study.trajectory_paths(0.01, 0)["position"].iloc[0])
    shown = []
    monkeypatch.setattr("streamlit.image", lambda payload, **settings: shown.append(payload))
    drawn(page("trajectory", place, train=str(position), kept="1"))
    assert shown == [buffer.getvalue()] * 2


# ---------------------------------------------------------------- shipped results


@pytest.fixture
def shipped(unrolled, study, tmp_path, monkeypatch):
    """Two shipped studies, one with all tables and one without selection, and nothing else."""
    folder = tmp_path / "data"
    export_results(study, folder / "results")
    place = folder / "results" / "unrolled"
    for table in TRAJECTORY_TABLES:
        frame = repository.query(unrolled, f"SELECT * EXCLUDE (study_id) FROM {table}")
        frame.to_parquet(place / f"{table}.parquet")
    other = folder / "results" / "other"
    shutil.copytree(place, other)
    for table in TRAJECTORY_TABLES:
        if table.startswith("lookahead"):
            (other / f"{table}.parquet").unlink()
    monkeypatch.setenv("TDA_DATA", str(folder))
    shipped_results.cache_clear()
    yield folder
    shipped_results.cache_clear()


def test_shipped_results_are_shown_and_marked(page, empty, shipped):
    test = page("trajectory", empty, results="unrolled", rate="0.001")
    said = drawn(test)
    assert said.count("badge[shipped result]") == 2
    assert "computed here]" not in said
    assert len(figures(test)) == NUM_FIGURES
    assert test.segmented_control(key="trajectory-rate").value == 0.001
    assert "tda run trajectory-mnist-mlp --quick" in said
    choice = test.segmented_control(key="trajectory-results")
    assert choice.options == ["other", "unrolled"]
    choice.set_value("other").run()
    assert dict(test.query_params)["results"] == "other"
    assert "Removed example" in test.selectbox(key="trajectory-position").label  # a person's task: no pictures here
    assert drawn(test).count("**other**") == drawn(test).count("**unrolled**") == 1


def test_shipped_results_stand_in_for_a_section_that_the_study_lacks(page, unrolled, shipped, tmp_path):
    place = changed(
        copy_of(unrolled, tmp_path / "copy"),
        "UPDATE studies SET config = json_merge_patch(config, '{\"lookahead\": null}')",
    )
    test = page("trajectory", place)
    said = drawn(test)
    assert said.count("badge[shipped result]") == said.count("badge[computed here]") == 1
    assert len(figures(test)) == NUM_FIGURES
    assert button(test, "Run lookahead-mnist-noisy, quick")


def test_shipped_and_computed_numbers_are_the_same(study, results, shipped):
    other = trajectory_data.of_shipped("unrolled")
    assert {kind.TABLE for kind in KINDS} == set(TRAJECTORY_TABLES)
    for kind in KINDS:
        if kind in (trajectory.RunEffects, trajectory.RunPath):
            left, right = results.read_run(kind, 0.01, 1), other.read_run(kind, 0.01, 1)
        else:
            left, right = results.read(kind), other.read(kind)
        assert len(left) == len(right) > 0
        assert sorted(map(repr, left)) == sorted(map(repr, right))
    assert trajectory_data.shipped_names(UNROLLED) == ["other", "unrolled"]
    assert trajectory_data.shipped_names(SELECTION) == ["unrolled"]


def test_computed_results_go_before_shipped_ones(page, unrolled, shipped):
    said = drawn(page("trajectory", unrolled))
    assert "badge[computed here]" in said
    assert "badge[shipped" not in said


# ---------------------------------------------------------------- the address


def test_the_address_holds_run_query_truth_example_and_strategy(page, unrolled, study):
    position = int(study.trajectory_paths(0.001, 1)["position"].iloc[-1])
    asked = {
        "rate": "0.001",
        "run": "1",
        "effect": "2",
        "truth": "smaller",
        "train": str(position),
        "strategy": "alignment",
        "kept": "5",
    }
    test = page("trajectory", unrolled, **asked)
    said = drawn(test)
    assert dict(test.query_params).items() >= asked.items()
    assert not test.info
    assert test.segmented_control(key="trajectory-rate").value == 0.001
    assert test.segmented_control(key="trajectory-seed").value == 1
    assert test.segmented_control(key="trajectory-truth").value == "smaller"
    assert test.segmented_control(key="lookahead-strategy").value == "alignment"
    assert "loss of query 2" in said
    assert f"**{study.examples('train')['index'][5]}**" in said
    assert f"Training example **{position}**" in said or f"**{study.examples('train')['index'][position]}**" in said


def test_what_the_address_asks_for_in_vain_is_said(page, unrolled):
    test = page("trajectory", unrolled, rate="0.5", run="7", effect="99", train="59", strategy="magic")
    assert not test.exception
    said = texts(test)
    for words in ("No run has η = 0.5", "no seed 7", "Query 99"):
        assert words in said


def test_switches_write_the_address(page, unrolled):
    test = page("trajectory", unrolled)
    test.segmented_control(key="trajectory-rate").set_value(0.001).run()
    test.segmented_control(key="trajectory-truth").set_value("smaller").run()
    test.selectbox(key="trajectory-query").set_value(3).run()
    test.segmented_control(key="lookahead-strategy").set_value("random").run()
    assert (
        dict(test.query_params).items()
        >= {"rate": "0.001", "truth": "smaller", "effect": "3", "strategy": "random"}.items()
    )
    test.selectbox(key="trajectory-query").set_value(-1).run()
    assert "effect" not in dict(test.query_params)


def test_overview_and_guide_lead_here(page, unrolled):
    test = page("overview", unrolled)
    button(test, "Open Training trajectory").click()
    test.run()
    assert test.session_state["view_params"]["study"] == "unrolled"
    said = drawn(page("guide", unrolled))
    for word in ("AdamW-influence", "SGD assumption", "TSLOO", "Error proxy", "K-step look-ahead"):
        assert word in said


# ---------------------------------------------------------------- the numbers


def test_the_sentences_say_the_stored_gains(page, unrolled, study):
    said = drawn(page("trajectory", unrolled))
    gains = study.trajectory_gains()
    row = gains[gains["seed_index"].isna() & (gains["variant"] == "fixed") & (gains["learning_rate"] == 0.01)].iloc[0]
    text = f"from {signed(row['mismatched'], 2)} to **{signed(row['matched'], 2)}**: a difference of " + (
        f"{signed(row['difference'], 3)} ({signed(row['difference_low'], 3)} to {signed(row['difference_high'], 3)})"
    )
    assert text in said
    certain = row["difference_low"] > 0 or row["difference_high"] < 0
    assert ("this is undecided" not in said.split("η = 0.001")[0]) == certain


def test_effects_of_single_queries_give_the_stored_agreement(study):
    """The mean over queries of the page's correlations is the engine's agreement of that run."""
    effects = records(study.trajectory_effects(0.01, 0), trajectory.RunEffects)
    rows = study.trajectory_agreement()
    for truth in ("fixed", "smaller"):
        for column, assumed in (("predicted", "as trained"), ("predicted_sgd", "sgd")):
            values = [effects_of(effects, query, truth) for query in range(study.num_queries)]
            found = [
                correlation(tuple(getattr(row, column) for row in each), tuple(row.true for row in each))
                for each in values
            ]
            mean = np.nanmean([each.value for each in found])
            stored = rows[
                (rows["learning_rate"] == 0.01)
                & (rows["seed_index"] == 0)
                & (rows["variant"] == truth)
                & (rows["assumed"] == assumed)
                & (rows["curvature"] == "hessian")
            ]
            assert mean == pytest.approx(stored["mean"].iloc[0], abs=1e-5)


def test_the_agreement_is_spearman_inside_its_interval():
    rng = np.random.default_rng(0)
    left = rng.standard_normal(60)
    right = left + rng.standard_normal(60)
    found = correlation(tuple(left), tuple(right))
    assert found.value == pytest.approx(spearman(left, right))
    assert found.low < found.value < found.high
    assert found.high - found.low < 0.5
    constant = correlation((1.0, 1.0, 1.0), (1.0, 2.0, 3.0))
    assert np.isnan([constant.value, constant.low, constant.high]).all()


def test_paths_end_in_the_effects(study):
    paths = paths_of(records(study.trajectory_paths(0.01, 0), trajectory.RunPath))
    assert paths is not None
    sizes = np.abs(paths.truth[:, -1])
    assert (np.diff(sizes) <= 0).all()
    effects = records(study.trajectory_effects(0.01, 0), trajectory.RunEffects)
    mean = {effect.position: effect.true for effect in effects_of(effects, None, "fixed")}
    np.testing.assert_allclose(paths.truth[:, -1], [mean[position] for position in paths.positions], rtol=1e-4)
    first = [min(steps) for steps in paths.seen]
    for number, step in enumerate(first):
        assert (paths.truth[number, paths.steps < step] == 0).all()


def test_the_ring_is_where_the_study_tuned(results):
    runs = results.read(lookahead.SelectionRun)
    tuned = {row.strategy: row for row in results.read(lookahead.TunedStrategy)}
    for strategy in ("look-ahead", "look-ahead (sgd)"):
        mine = [run for run in runs if run.strategy == strategy and run.split == "tuning"]
        chosen = chosen_setting(mine)
        assert chosen is not None
        assert chosen.horizon == tuned[strategy].horizon
        assert chosen.learning_rate == pytest.approx(tuned[strategy].learning_rate)
        ring = horizons_figure(mine, chosen, 16).data[-1]
        losses: dict[int | None, list] = {}
        for run in mine:
            if run.learning_rate == chosen.learning_rate:
                losses.setdefault(run.horizon, []).append(run.loss)
        assert ring.name == "chosen: lowest mean"
        assert ring.y[0] == pytest.approx(min(np.mean(values) for values in losses.values()))


def test_cost_is_one_for_all_data_and_half_for_random(results):
    judged = judged_strategies(results.read(lookahead.TunedStrategy), None)
    runs = results.read(lookahead.SelectionRun)
    found = {cost.judged.strategy.name: cost.relative for cost in costs(runs, judged)}
    assert found["full"] == pytest.approx(1.0)
    assert found["random"] == pytest.approx(0.5, rel=0.1)
    assert found["look-ahead"] > 1.0


def test_shares_of_wrong_labels_are_weighted_by_how_often():
    rows = [
        lookahead.SelectedExample("random", None, 0.1, position, 4, kept, None)
        for position, kept in enumerate((4, 3, 1, 0))
    ]
    kept, dropped = wrong_shares(rows, {3, 1})
    assert (kept.name, dropped.name) == ("kept", "dropped")
    assert kept.value == pytest.approx(3 / 8)
    assert dropped.value == pytest.approx(5 / 8)
    assert kept.low <= kept.value <= kept.high
    assert [share.name for share in wrong_shares([replace(row, times_kept=4) for row in rows], {3})] == ["kept"]


def test_selection_tells_how_many_wrong_labels_it_dropped(page, unrolled):
    assert "Labels known to be wrong" in drawn(page("trajectory", unrolled))


# ---------------------------------------------------------------- figures


def test_the_agreement_figure_has_marks_for_seeds_and_bars_for_means(study):
    rows = [row for row in records(study.trajectory_agreement(), trajectory.RunAgreement) if row.variant == "fixed"]
    figure = agreement_figure(rows, "AdamW")
    kinds = {(row.assumed, row.curvature) for row in rows}
    assert len(figure.data) == 2 * len(kinds)
    means = [trace for trace in figure.data if trace.error_y.array is not None]
    assert all("assumed" in trace.name for trace in means)
    assert sum(len(trace.x) for trace in figure.data) == len(rows)
    colors = {trace.name.split()[0]: trace.marker.color for trace in means}
    assert colors["AdamW"] != colors["SGD"]


def test_only_the_matched_prediction_has_a_line_of_equality():
    nan = float("nan")
    points = [Effect(4, "a", 1.0, 1.5, nan, nan, nan), Effect(9, "b", -2.0, -1.0, nan, nan, nan)]
    with_line = effects_figure(points, Prediction("p", lambda effect: effect.predicted, "p", True), 9)
    without = effects_figure(points, Prediction("p", lambda effect: effect.predicted, "p", False), 9)
    assert len(with_line.data) == len(without.data) + 1
    dots = without.data[0]
    assert [entry[0] for entry in dots.customdata] == [4, 9]
    assert dots.marker.line.width == (0, 2.6)
    assert dots.marker.color[0] != dots.marker.color[1]


def test_squares_over_the_cells_carry_the_example():
    rows = [PathRow(7, "a", np.array([1.0, 2.0, 3.0])), PathRow(3, "b", np.array([0.0, 0.0, -1.0]))]
    figure = paths_figure(rows, [5, 9, 16], 3)
    heat, squares = figure.data
    assert heat.zmin == -heat.zmax
    assert len(squares.x) == 6
    assert [squares.customdata[place][0] for place, row in enumerate(squares.y) if row == 1] == [3, 3, 3]
    assert [shape.y0 for shape in figure.layout.shapes] == [0.5]


@pytest.mark.parametrize(
    ("rate", "text"), [(1e-3, "0.001"), (1e-5, "1e−5"), (5e-5, "5e−5"), (0.03, "0.03"), (3e-4, "3e−4")]
)
def test_learning_rates_are_written_as_in_study_files(rate, text):
    assert rate_text(rate) == text


def test_ticks_of_logarithmic_axes_are_plain_and_few():
    ticks = log_ticks([0.4, 3.0])
    assert {"0.5", "1", "2"} <= set(ticks["ticktext"])
    assert len(log_ticks([1e-6, 1.0])["tickvals"]) < 12
    assert log_ticks([]) == {}


def test_an_estimate_that_is_not_sound_does_not_stretch_the_axes():
    errors, proxies = (0.1, -0.2, 0.05), (0.08, -0.1, 900.0)
    effects = [
        Effect(position, "a", error, 0.0, float("nan"), proxy, float("nan"))
        for position, error, proxy in zip((1, 2, 3), errors, proxies, strict=True)
    ]
    dots = proxy_figure(effects, ESTIMATES[0], {1: True, 2: True, 3: False}).data[-1]
    assert max(dots.x) < 1
    assert dots.marker.symbol == ("circle", "circle", "circle-open")
    assert dots.customdata[2][2] == 900.0


@pytest.mark.shipped_data
def test_examples_of_shipped_results_are_those_of_the_study():
    """The pictures drawn again are the ones whose labels the study flipped, and as many."""
    found = shipped_examples("lookahead-mnist-noisy")
    assert found is not None
    rows = shipped_results("lookahead-mnist-noisy").tables["lookahead_examples"]
    assert set(rows["position"]) == {example.position for example in found.train}
    assert len(found.noisy) == round(0.3 * len(found.train))
    assert all(found.train[position].label != label for position, label in found.noisy.items())
