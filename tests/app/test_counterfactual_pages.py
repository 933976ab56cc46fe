"""The pages Counterfactuals and Data health: filled, empty, half computed, and what a click does."""

from __future__ import annotations

import numpy as np
import pytest

import tda_backend as tda
from app.counterfactual_charts import RANDOM_LABEL, curve_styles, effects_figure, removal_figure
from app.health_charts import class_figure, usage_figure
from tda_backend.runs.influence_data import class_influence, scores_of_example, spearman, subset_points, usage
from tda_backend.store.workspace import Workspace
from tests.app import catalogues
from tests.app.counterfactual_catalogue import compute_counter
from tests.app.test_pages import texts

PAGES = ("counterfactuals", "data_health")


@pytest.fixture(scope="session")
def counter(tmp_path_factory) -> Workspace:
    return catalogues.once(tmp_path_factory, "counter", compute_counter)


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
    test = page("data_health", tiny)
    assert any("flip_labels" in element.value for element in test.code)


def test_the_lines_on_the_page_are_a_study(tiny):
    import tomllib

    from app.views.counterfactuals import LOO, REMOVAL
    from app.views.data_health import FLIPS
    from tda_backend.runs.study import resolve

    for text in (REMOVAL, LOO, FLIPS):
        section = tomllib.loads(text)
        study = resolve({"name": "a", "task": "mnist-mlp", "training": {"epochs": [1]}, **section})
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
    test = page("data_health", counter, train=str(position))
    assert not test.exception
    assert f"was {wrong['original_label'].iloc[0]}" in texts(test)
    assert dict(test.query_params)["train"] == str(position)
    test = page("data_health", counter, train="6000")
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
        found = spearman(points["predicted"].to_numpy(), points["actual"].to_numpy())
        assert found == pytest.approx(stored, abs=1e-5)


def test_class_influence_and_use_are_those_of_the_score_matrix(counter):
    study = tda.open_study("counter", counter.catalogue)
    rows = study.configurations()
    row = rows[(rows["method"] == "iffim") & (rows["training_epoch"] == 4)].iloc[0]
    scores = study.scores("iffim", 0.01, None, 4)
    train, query = study.examples("train")["label"], study.examples("queries")["label"]
    names, columns, means = class_influence(study, row["configuration_id"], 0.01)
    assert columns == ["ant", "bee", "cat"]
    for i, name in enumerate(names):
        for j, column in enumerate(columns):
            by_hand = scores[np.ix_((query == name).to_numpy(), (train == column).to_numpy())].mean()
            assert means[i, j] == pytest.approx(by_hand, rel=1e-4)
    found = usage(study, row["configuration_id"], 0.01, top=5)
    top = np.argsort(-np.abs(scores), axis=1)[:, :5]
    np.testing.assert_array_equal(found.num_top, np.bincount(top.ravel(), minlength=60))
    assert found.share.mean() == pytest.approx(1.0)
    np.testing.assert_allclose(
        scores_of_example(study, row["configuration_id"], 7, 0.01), scores[:, 7], rtol=1e-4, atol=1e-5
    )


def test_a_curve_in_progress_shows_only_finished_sizes(counter):
    from tda_backend.runs.counterfactual_data import curve_of

    study = tda.open_study("counter", counter.catalogue)
    rows = study.removals()
    rows = rows[rows["label"] == RANDOM_LABEL]
    whole = curve_of(rows, study.removal_sizes, 50, 0)
    part = curve_of(rows[rows["size"] <= 3], study.removal_sizes, 50, 0)
    assert whole is not None
    assert part is not None
    assert part.sizes.tolist() == [0, 3]
    assert part.fraction.tolist() == whole.fraction[:2].tolist()
    assert len(part.queries) == len(whole.queries)
    assert curve_of(rows[rows["size"] == 0], study.removal_sizes, 50, 0) is None


# ---------------------------------------------------------------- figures


def test_the_random_baseline_looks_like_nothing_else():
    styles = curve_styles([f"method {number}" for number in range(9)] + [RANDOM_LABEL])
    assert len(set(styles.values())) == 10
    assert styles[RANDOM_LABEL][1] == "dot"


def test_the_removal_figure_has_band_and_line_for_each_curve(counter):
    curves = tda.open_study("counter", counter.catalogue).removal_curves()
    figure = removal_figure(curves)
    lines = [trace for trace in figure.data if trace.name]
    assert [trace.name for trace in lines] == list(dict.fromkeys(curves["label"]))
    assert len(figure.data) == 2 * len(lines)


def test_class_colours_go_with_the_sign():
    figure = class_figure(["a", "b"], ["a", "b"], np.array([[4.0, -1.0], [0.0, 0.25]]))
    np.testing.assert_allclose(figure.data[0].z, [[2.0, -1.0], [0.0, 0.5]])
    assert figure.data[0].zmin == -figure.data[0].zmax


@pytest.mark.parametrize("largest", [0, 1, 4, 60, 700])
def test_the_use_histogram_counts_everybody_once(largest):
    counts = np.array([0, 0, largest, min(1, largest)])
    figure = usage_figure(counts, 20, 1000)
    assert sum(figure.data[0].y) == len(counts)
    assert figure.data[0].y[0] == (counts == 0).sum()


def test_effects_without_a_standard_error_have_no_bars():
    import pandas as pd

    frame = pd.DataFrame({"position": [1, 2], "label": "a", "score": [0.1, 0.2], "effect": [0.0, 1.0],
                          "standard_error": [np.nan, np.nan]})  # fmt: skip
    assert effects_figure(frame, "#2f7fd1").data[0].error_y.array is None
    assert effects_figure(frame.assign(standard_error=0.1), "#2f7fd1").data[0].error_y.array is not None
