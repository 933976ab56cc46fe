"""The pages Counterfactuals and Data health: filled, empty, half computed, and what a click does."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

import tda_backend as tda
from app.views.counterfactuals.charts import RANDOM_LABEL, curve_styles, effects_figure, removal_figure
from app.views.counterfactuals.data import LeftOut
from app.views.counterfactuals.leave_one_out import LOO
from app.views.counterfactuals.removal import REMOVAL
from app.views.health.charts import class_figure, usage_figure
from app.views.health.detection import FLIPS
from tda_backend.interfaces.reading.counterfactuals import curve_of
from tda_backend.interfaces.reading.influence import (
    ClassInfluence,
    Usage,
    class_influence,
    scores_of_example,
    spearman,
    subset_points,
    usage,
)
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.removals import QueryBrittleness, Removal, RemovalPoint
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import resolve
from tests.app import catalogues
from tests.app.conftest import opened_once
from tests.app.counterfactual_catalogue import compute_counter
from tests.app.test_pages import texts

PAGES = ("counterfactuals", "health")


@pytest.fixture(scope="session")
def counter(tmp_path_factory) -> Iterator[Workspace]:
    yield from opened_once(catalogues.once(tmp_path_factory, "counter", compute_counter))


def figures(test) -> list:
    return [element.proto.spec for element in test.get("plotly_chart")]


@pytest.mark.parametrize("name", PAGES)
def test_the_page_draws_everything_with_tables_and_downloads(page, counter, name):
    test = page(name, counter)
    assert not test.exception
    assert not test.error
    assert len(figures(test)) >= 5
    assert len(test.get("download_button")) >= len(figures(test))
    assert "no study yet" not in texts(test).lower()


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("catalogue", ["empty", "failed", "tiny", "zoo"])
def test_the_page_draws_where_things_are_missing(page, request, name, catalogue):
    test = page(name, request.getfixturevalue(catalogue))
    assert not test.exception
    assert not test.error


def test_an_ordinary_study_is_told_which_lines_to_add(page, tiny):
    test = page("counterfactuals", tiny)
    lines = [element.value for element in test.code if element.language == "toml"]
    assert any("[removal]" in text and "sizes" in text for text in lines)
    assert any("[loo]" in text for text in lines)
    assert "tda plan" in texts(test)
    test = page("health", tiny)
    assert any("flip_labels" in element.value for element in test.code)


def test_the_lines_on_the_page_are_a_study(tiny):
    for text in (REMOVAL, LOO, FLIPS):
        section = tomllib.loads(text)
        study = resolve({"name": "a", "task": "mnist-mlp", "training": {"epochs": [1]}, **section}).to_json()
        name = next(iter(section))
        assert section[name].keys() <= study[name].keys()


@pytest.mark.parametrize("method", ["iffim", "tracin", "repsim"])
@pytest.mark.parametrize("name", PAGES)
def test_every_method_draws(page, counter, name, method):
    test = page(name, counter, study="counter", method=method)
    assert not test.exception
    assert not test.error


def test_the_open_training_example_is_in_the_link(page, counter):
    study = tda.open_study("counter", counter.catalogue)
    wrong = study.noisy_rows()
    position = int(wrong["position"].iloc[0])
    test = page("health", counter, train=str(position))
    assert not test.exception
    assert f"was {wrong['original_label'].iloc[0]}" in texts(test)
    assert dict(test.query_params)["train"] == str(position)
    test = page("health", counter, train="6000")
    assert "There is no training example 6000" in texts(test)


def test_a_query_that_was_not_tested_says_so(page, counter):
    study = tda.open_study("counter", counter.catalogue)
    tested = set(study.brittleness()["query"])
    untested = next(query for query in range(study.num_queries) if query not in tested)
    assert "not among those tested" in texts(page("counterfactuals", counter, query=str(untested)))
    assert "not among those tested" not in texts(page("counterfactuals", counter, query=str(min(tested))))


# ---------------------------------------------------------------- the numbers behind the pages


def test_the_points_give_the_stored_lds_of_the_query(counter):
    study = tda.open_study("counter", counter.catalogue)
    rows = study.configurations()
    row = rows[(rows["method"] == "iffim") & (rows["training_epoch"] == 4)].iloc[0]
    lam = study.selection(row["configuration_id"])["lambda_selected"]
    for query in range(3):
        points = subset_points(study, row["configuration_id"], query, lam, 0.5)
        curve = study.query_curve(row["configuration_id"], query, 0.5)
        stored = curve.loc[(curve["regularization"] - lam).abs().idxmin(), "lds"]
        assert points.lds == pytest.approx(stored, abs=1e-5)
        assert points.lds == pytest.approx(spearman(points.predicted, points.actual))


def test_class_influence_and_use_are_those_of_the_score_matrix(counter):
    study = tda.open_study("counter", counter.catalogue)
    rows = study.configurations()
    row = rows[(rows["method"] == "iffim") & (rows["training_epoch"] == 4)].iloc[0]
    scores = study.scores("iffim", 0.01, None, 4)
    train, query = study.examples("train")["label"], study.examples("queries")["label"]
    by_class = class_influence(study, row["configuration_id"], 0.01)
    assert by_class.train == ["ant", "bee", "cat"]
    for i, name in enumerate(by_class.queries):
        for j, column in enumerate(by_class.train):
            by_hand = scores[np.ix_((query == name).to_numpy(), (train == column).to_numpy())].mean()
            assert by_class.means[i, j] == pytest.approx(by_hand, rel=1e-4)
    assert (
        by_class.means.min()
        == by_class.means[by_class.queries.index(by_class.worst[1]), by_class.train.index(by_class.worst[0])]
    )
    found = usage(study, row["configuration_id"], 0.01, top=5)
    top = np.argsort(-np.abs(scores), axis=1)[:, :5]
    np.testing.assert_array_equal(found.num_top, np.bincount(top.ravel(), minlength=60))
    assert found.share.mean() == pytest.approx(1.0)
    np.testing.assert_allclose(
        scores_of_example(study, row["configuration_id"], 7, 0.01), scores[:, 7], rtol=1e-4, atol=1e-5
    )


def test_a_curve_in_progress_shows_only_finished_sizes(counter):
    study = tda.open_study("counter", counter.catalogue)
    rows = [row for row in records(study.removals(), Removal) if row.label == RANDOM_LABEL]
    whole = curve_of(rows, study.removal_sizes, 50, 0)
    part = curve_of([row for row in rows if row.size <= 3], study.removal_sizes, 50, 0)
    assert whole is not None
    assert part is not None
    assert part.sizes.tolist() == [0, 3]
    assert part.fraction.tolist() == whole.fraction[:2].tolist()
    assert len(part.queries) == len(whole.queries)
    assert curve_of([row for row in rows if not row.size], study.removal_sizes, 50, 0) is None


def test_records_and_frames_say_the_same(counter):
    study = tda.open_study("counter", counter.catalogue)
    for rows, frame, kind in (
        (study.removal_points(), study.removal_curves(), RemovalPoint),
        (study.brittle_queries(), study.brittleness(), QueryBrittleness),
    ):
        assert len(rows) == len(frame) > 0
        assert records(frame, kind) == rows


# ---------------------------------------------------------------- figures


def test_the_random_baseline_looks_like_nothing_else():
    styles = curve_styles([f"method {number}" for number in range(9)] + [RANDOM_LABEL])
    assert len(set(styles.values())) == 10
    assert styles[RANDOM_LABEL][1] == "dot"


def test_the_removal_figure_has_band_and_line_for_each_curve(counter):
    points = tda.open_study("counter", counter.catalogue).removal_points()
    figure = removal_figure(points)
    lines = [trace for trace in figure.data if trace.name]
    assert [trace.name for trace in lines] == list(dict.fromkeys(point.label for point in points))
    assert len(figure.data) == 2 * len(lines)


def test_class_colours_go_with_the_sign():
    figure = class_figure(ClassInfluence(["a", "b"], ["a", "b"], np.array([[4.0, -1.0], [0.0, 0.25]])))
    np.testing.assert_allclose(figure.data[0].z, [[2.0, -1.0], [0.0, 0.5]])
    assert figure.data[0].zmin == -figure.data[0].zmax


@pytest.mark.parametrize("largest", [0, 1, 4, 60, 700])
def test_the_use_histogram_counts_everybody_once(largest):
    counts = np.array([0, 0, largest, min(1, largest)])
    figure = usage_figure(Usage(counts, np.ones(4), 20), 1000)
    assert sum(figure.data[0].y) == len(counts)
    assert figure.data[0].y[0] == (counts == 0).sum()


def test_effects_without_a_standard_error_have_no_bars():
    points = [LeftOut(1, "a", 0.1, 0.0, np.nan), LeftOut(2, "a", 0.2, 1.0, np.nan)]
    assert effects_figure(points, "#2f7fd1").data[0].error_y.array is None
    known = [replace(point, standard_error=0.1) for point in points]
    assert effects_figure(known, "#2f7fd1").data[0].error_y.array is not None
