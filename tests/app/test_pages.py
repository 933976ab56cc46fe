"""Every page on a computed, an empty, a half-computed and a damaged catalogue."""

from __future__ import annotations

import json
import tomllib
from dataclasses import asdict
from pathlib import Path

import duckdb
import numpy as np
import pytest

import tda_backend as tda
from app.views.overview import page as overview
from tda_backend.interfaces.reading.costs import configuration_costs
from tda_backend.studies.jobs.progress import JobState
from tda_backend.studies.methods import METHODS as TABLE
from tda_backend.studies.study.file import resolve
from tests.app.catalogues import copy_of
from tests.app.conftest import ROOT

PAGES = ("overview", "explorer", "selection", "sensitivity", "methods", "trajectory", "guide")


def texts(test) -> str:
    """Return everything a person can read on the page."""
    kinds = (test.title, test.subheader, test.markdown, test.caption, test.info, test.warning, test.error, test.code)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def study_file(test) -> str:
    """Return the text of the form's study file."""
    return next(element.value for element in test.code if element.language == "toml")


def button(test, label: str):
    return next(element for element in test.button if element.label == label)


@pytest.mark.parametrize("name", PAGES)
def test_every_page_draws_on_a_computed_study(page, tiny, name):
    test = page(name, tiny)
    assert not test.exception
    assert not test.error
    assert dict(test.query_params)["study"] == "tiny"
    assert len(test.title) == 1


@pytest.mark.parametrize("name", PAGES)
def test_every_page_draws_on_an_empty_catalogue(page, empty, name):
    test = page(name, empty)
    assert not test.exception
    assert not test.error
    if name not in ("guide", "overview"):
        assert "no study yet" in texts(test).lower()


@pytest.mark.parametrize("name", PAGES)
def test_every_page_draws_on_a_study_whose_job_died(page, failed, name):
    test = page(name, failed)
    assert not test.exception


def test_the_empty_overview_offers_the_first_study(page, empty, monkeypatch):
    started = []
    monkeypatch.setattr("app.services.jobs.submit", lambda arguments, place, cwd=None: started.append(arguments) or "1")
    test = page("overview", empty)
    assert "tda run mnist-mlp" in texts(test)
    button(test, "Run the first study").click().run()
    assert started == [["run", "mnist-mlp"]]


def test_read_only_has_no_button_that_starts_anything(page, empty, failed):
    assert {element.label for element in page("overview", empty, read_only=True).button} == {"Open the papers' claims"}
    assert {element.label for element in page("methods", empty, read_only=True).button} <= {
        "Go to Overview",
        "The papers' grid",
    }
    assert {element.label for element in page("overview", failed, read_only=True).button} <= {"Open the Explorer"}


def test_a_dead_job_shows_message_hint_and_the_way_on(page, failed, monkeypatch):
    started = []
    monkeypatch.setattr("app.services.jobs.submit", lambda arguments, place, cwd=None: started.append(arguments) or "1")
    monkeypatch.setenv("TDA_ALLOW_TASK_FILES", "1")
    test = page("overview", failed)
    assert "ended from outside" in texts(test)
    assert "Run the study again" in texts(test)
    button(test, "Resume").click().run()
    study_id = tda.open_study("tiny", failed.catalogue).study_id
    assert started == [["run", study_id]]


def test_a_damaged_catalogue_gives_a_sentence_and_no_traceback(page, tiny, tmp_path):
    copied = copy_of(tiny, tmp_path)
    for path in (copied.catalogue, copied.snapshot):
        path.write_bytes(b"this is no database" * 100)
    for name in ("overview", "explorer"):
        test = page(name, copied)
        assert not test.exception
        assert test.error
        assert "Traceback" not in texts(test)


def test_a_link_opens_its_view(page, tiny):
    asked = {"study": "tiny", "method": "trak", "epoch": "4", "k": "8", "lam": "0.02", "query": "3"}
    test = page("explorer", tiny, **asked)
    assert dict(test.query_params).items() >= asked.items()
    assert not test.info
    assert test.text_input(key="side-lam").value == "0.02"
    assert test.selectbox(key="side-method").value == "trak"
    assert "**Query 3**" in texts(test)


def test_a_wrong_link_is_answered_with_sentences(page, tiny):
    test = page("explorer", tiny, study="gone", method="magic", epoch="soon", query="99", lam="-1")
    assert not test.exception
    said = "\n".join(element.value for element in test.info)
    for word in ("gone", "magic", "soon", "99", "-1"):
        assert word in said
    assert dict(test.query_params)["study"] == "tiny"


def test_switches_change_the_url_and_say_when_they_cannot(page, tiny):
    test = page("explorer", tiny, study="tiny", method="iffim", epoch="1", k="8")
    test.selectbox(key="side-k").set_value("none").run()
    assert dict(test.query_params)["k"] == "none"
    test.selectbox(key="side-epoch").set_value(4).run()
    assert dict(test.query_params)["epoch"] == "4"
    test.text_input(key="side-lam").set_value("1e-3").run()
    assert dict(test.query_params)["lam"] == "0.001"
    test.text_input(key="side-lam").set_value("much").run()
    assert "'much'" in texts(test)
    assert dict(test.query_params)["lam"] == "0.001"
    test.number_input(key="side-query").set_value(5).run()
    assert dict(test.query_params)["query"] == "5"
    # TRAK has its unprojected answer at epoch 4 alone: from epoch 1 the nearest is taken and named.
    test = page("explorer", tiny, study="tiny", method="iffim", epoch="1", k="none")
    test.selectbox(key="side-method").set_value("trak").run()
    assert dict(test.query_params)["method"] == "trak"
    assert "the nearest is shown" in texts(test)


def test_tracin_has_no_regularization(page, tiny):
    test = page("explorer", tiny, method="tracin")
    assert not test.exception
    assert test.text_input(key="side-lam").disabled
    test = page("selection", tiny, method="tracin")
    assert not test.exception


def test_selection_shows_both_methods_with_regret(page, tiny):
    test = page("selection", tiny)
    assert len(test.get("plotly_chart")) == 6
    table = next(frame.value for frame in test.dataframe if "rule" in frame.value)
    assert set(table["method"]) == {"Influence function (FIM)", "TRAK"}
    assert (table["regret"].dropna() >= 0).all()
    test.slider(key="threshold").set_value(0.6).run()
    assert dict(test.query_params)["xi"] == "0.6"
    table = next(frame.value for frame in test.dataframe if "rule" in frame.value)
    assert "λ* where ξ̄ = 0.6" in set(table["rule"])


def test_alpha_can_be_chosen_where_there_are_several(page, tiny):
    test = page("selection", tiny, alpha="0.25")
    assert not test.exception
    assert dict(test.query_params)["alpha"] == "0.25"
    assert "1 min" not in texts(test)


def test_charts_have_titles_and_cells_carry_their_setting(page, tiny):
    test = page("sensitivity", tiny, method="iffim")
    charts = test.get("plotly_chart")
    assert len(charts) == 3  # a heatmap of either method, and the line
    for number, chart in enumerate(charts):
        spec = json.loads(chart.proto.spec)
        assert spec["layout"]["xaxis"]["title"]["text"]
        assert spec["layout"]["yaxis"]["title"]["text"]
        if number == 2:
            assert all("error_y" in trace for trace in spec["data"])
            continue
        squares = next(trace for trace in spec["data"] if trace.get("customdata"))
        assert all(isinstance(entry, list) and len(entry) == 2 for entry in squares["customdata"])


def test_the_table_equals_the_engine(page, tiny):
    test = page("explorer", tiny, method="trak", epoch="4", k="8", lam="0.05", query="2")
    table = test.dataframe[0].value
    study = tda.open_study("tiny", tiny.catalogue)
    scores = study.scores("trak", regularization=0.05, projection_dim=8, training_epoch=4, query=2)
    helpful = table[table["side"] == "helpful"]
    order = np.argsort(-scores, kind="stable")[: len(helpful)]
    assert helpful["position"].tolist() == order.tolist()
    np.testing.assert_allclose(helpful["score"], scores[order], rtol=2e-4, atol=1e-5 * np.abs(scores).max())


def test_the_filter_keeps_the_exact_ranking_within_it(page, tiny):
    test = page("explorer", tiny, method="iffim", epoch="4", k="none", lam="0.05", query="2", **{"class": "ant"})
    table = test.dataframe[0].value
    assert set(table["label"]) == {"ant"}
    study = tda.open_study("tiny", tiny.catalogue)
    scores = study.scores("iffim", regularization=0.05, training_epoch=4, query=2)
    allowed = (study.examples("train")["label"] == "ant").to_numpy()
    best = int(np.flatnonzero(allowed)[np.argmax(scores[allowed])])
    assert table["position"].iloc[0] == best
    nothing = page("explorer", tiny, **{"class": "dog"})
    assert not nothing.exception


def test_a_running_study_shows_how_far_it_is(page, failed, tmp_path):
    place = copy_of(failed, tmp_path)
    for path in place.jobs.glob("*.json"):
        path.unlink()
    study_id = tda.open_study("tiny", place.catalogue).study_id
    state = JobState(
        job_id="now",
        study="tiny",
        study_id=study_id,
        step="retrain subsets 1 to 12",
        step_done=5,
        step_total=12,
        done=3,
        total=21,
        rate=2.5,
        eta_seconds=75.0,
        fraction=0.25,
    )
    (place.jobs / "now.json").write_text(json.dumps(asdict(state)))
    test = page("overview", place)
    assert not test.exception
    said = texts(test)
    for words in ("step 3 of 21", "5 of 12 in this step", "2.5/s", "about 1 min 15 s left"):
        assert words in said
    assert {"Cancel", "Open the Explorer"} <= {element.label for element in test.button}
    assert not page("explorer", place).exception


def test_a_click_is_not_forgotten_where_the_run_ends_at_that_moment(page, failed, monkeypatch):
    """The page is then to be drawn anew, which would be all that the click did."""
    left: list[str] = []
    monkeypatch.setattr(overview.session, "leave", lambda address, view: left.append(address))
    # Asked where the page begins, and again in the part that ticks; then that it has ended.
    answers = iter([True, True, True, False])
    monkeypatch.setattr(overview, "is_running", lambda: next(answers, False))
    test = page("overview", failed)
    assert not test.exception
    button(test, "Open the Explorer").click().run()
    assert left == ["explorer"]


def test_pages_never_put_data_into_html():
    for path in (ROOT / "app").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert "unsafe_allow_html" not in source, path
        assert "st.html" not in source, path
    for path in (ROOT / "app").rglob("*.js"):
        source = path.read_text(encoding="utf-8")
        assert "innerHTML" not in source, path
        assert "http" not in source.replace("http://www.w3.org/2000/svg", ""), path


# ---------------------------------------------------------------- many methods


METHODS = (
    "iffim",
    "trak",
    "tracin",
    "if-explicit",
    "if-cg",
    "if-cg-run",
    "if-lissa",
    "ekfac",
    "logra",
    "gradient-similarity",
    "random",
)


def test_a_measured_run_says_at_which_regularization(page, zoo):
    test = page("explorer", zoo, method="if-cg-run", epoch="4", set="regularization:0.1")
    assert test.selectbox(key="side-set-if-cg-run-regularization").value == "0.1"
    assert test.selectbox(key="side-set-if-cg-run-regularization").label == "λ of the run"
    assert test.text_input(key="side-lam").disabled


@pytest.mark.parametrize("name", ["explorer", "selection", "sensitivity", "methods"])
@pytest.mark.parametrize("method", METHODS)
def test_every_page_works_for_every_method(page, zoo, name, method):
    test = page(name, zoo, method=method, epoch="4")
    assert not test.exception
    assert not test.error
    assert dict(test.query_params)["method"] == method


def test_each_hyper_parameter_has_a_box_of_its_own(page, zoo):
    test = page("explorer", zoo, method="ekfac", epoch="4", set="damping:relative,fisher:empirical")
    params = dict(test.query_params)
    assert params["set"] == "damping:relative,fisher:empirical"
    box = test.selectbox(key="side-set-ekfac-damping")
    assert (box.value, list(box.options)) == ("relative", ["absolute", "relative"])
    assert "mean eigenvalue" in box.help
    box.set_value("absolute").run()
    assert dict(test.query_params)["set"] == "damping:absolute,fisher:empirical"
    test.selectbox(key="side-method").set_value("if-cg").run()
    assert dict(test.query_params)["method"] == "if-cg"
    assert list(test.selectbox(key="side-set-if-cg-max_iter").options) == ["2", "5"]
    keys = {element.key for element in test.selectbox}
    assert not any("curvature" in str(key) for key in keys)  # one value in this study: not shown


def test_an_old_link_to_normalised_tracin_opens_it(page, zoo):
    test = page("explorer", zoo, study="zoo", method="tracin-normalization", epoch="4", k="none")
    assert not test.info
    params = dict(test.query_params)
    assert (params["method"], params["set"]) == ("tracin", "normalization:true")
    test = page("explorer", zoo, study="zoo", method="tracin", epoch="4", k="none")
    assert dict(test.query_params)["set"] == "normalization:false"


def test_a_setting_that_does_not_exist_is_answered_with_a_sentence(page, zoo):
    test = page("explorer", zoo, method="if-cg", epoch="4", set="max_iter:7,magic:1")
    said = "\n".join(element.value for element in test.info)
    assert "magic" in said
    assert "max iter 7" in said
    assert dict(test.query_params)["set"] == "max_iter:5"


def test_where_lissa_diverges_there_are_words_instead_of_numbers(page, zoo):
    test = page("explorer", zoo, method="if-lissa", epoch="4", set="scaling:20,depth:5", lam="41")
    assert not test.exception
    assert "no scores at this λ" in texts(test)
    assert not page("selection", zoo, method="if-lissa", epoch="4", lam="41").exception


def test_scores_by_layer_add_up_on_the_page(page, zoo):
    test = page("explorer", zoo, method="ekfac", epoch="4", set="damping:relative,fisher:true", lam="0.3", query="2")
    test.session_state["layers-open"] = True
    test.run()
    assert not test.exception
    table = next(frame.value for frame in test.dataframe if "self-influence" in frame.value)
    layers = [column for column in table if column.startswith("layer ")]
    assert len(layers) == 2
    np.testing.assert_allclose(
        table[layers].sum(axis=1), table["score"], rtol=2e-3, atol=1e-3 * table["score"].abs().max()
    )
    study = tda.open_study("zoo", zoo.catalogue)
    expected = study.self_influence("ekfac", [0.3], training_epoch=4, fisher="true", damping="relative")[0]
    np.testing.assert_allclose(table["self-influence"], expected[table["position"]], rtol=1e-3)
    damping = next(frame.value for frame in test.dataframe if "absolute λ" in frame.value)
    np.testing.assert_allclose(damping["absolute λ"], 0.3 * damping["mean curvature"])


def test_methods_are_ordered_by_lds_and_say_what_they_cost(page, zoo):
    test = page("methods", zoo, method="iffim", epoch="4", k="8")
    table = next(frame.value for frame in test.dataframe if "seconds" in frame.value)
    assert len(table) == len(METHODS)
    assert table["LDS"].dropna().is_monotonic_decreasing
    assert (table["seconds"] > 0).all()
    assert set(table["curve over λ"]) >= {"exact filter", "mean of a stochastic method", "no λ"}
    study = tda.open_study("zoo", zoo.catalogue)
    row = table[table["method"].str.startswith("Influence function (FIM)")].iloc[0]
    chosen = study.selections()
    best = chosen.loc[chosen["method"] == "iffim", "lds_selected"].max()
    assert row["LDS"] == pytest.approx(best, abs=6e-4)


def test_the_cost_of_a_configuration_is_that_of_its_steps(zoo):
    study = tda.open_study("zoo", zoo.catalogue)
    costs = configuration_costs(study).set_index("configuration_id")["seconds"]
    identity = study.configuration_id("ekfac", fisher="true", damping="relative")
    label = study.configurations().set_index("configuration_id").loc[identity, "label"]
    timings = study.timings()
    mine = timings[timings["label"].str.startswith(f"factors {label} seed")]
    assert len(mine) == 2
    assert costs[identity] == pytest.approx(mine["seconds"].sum())
    projected = study.configuration_id("iffim", projection_dim=8, training_epoch=4)
    features = timings.loc[timings["label"].str.startswith("features epoch 4"), "seconds"].sum()
    assert costs[projected] > features > 0


def test_the_form_writes_the_study_that_was_asked_for(page, zoo, monkeypatch):
    started = []
    monkeypatch.setattr("app.services.jobs.submit", lambda arguments, place, cwd=None: started.append(arguments) or "1")
    monkeypatch.setenv("TDA_ALLOW_TASK_FILES", "1")
    test = page("methods", zoo)
    test.text_input(key="form-name").set_value("my own").run()
    test.multiselect(key="form-methods").set_value(["if-cg", "tracin"]).run()
    test.button(key="form-grid-if-cg").click().run()
    test.text_input(key="form-if-cg-projection_dim").set_value("none").run()
    test.multiselect(key="form-tracin-normalization").set_value(["false", "true"]).run()
    test.text_input(key="form-train").set_value("50").run()
    test.text_input(key="form-validation").set_value("10").run()
    test.text_input(key="form-queries").set_value("10").run()
    test.text_input(key="form-epochs").set_value("1, 4").run()
    test.text_input(key="form-until").set_value("0.02").run()
    content = tomllib.loads(study_file(test))
    assert content["name"] == "my-own"
    assert content["methods"]["if-cg"]["max_iter"] == [5, 10, 20, 50]
    assert content["methods"]["tracin"]["normalization"] == [False, True]
    assert content["data"] == {"train": 50, "validation": 10, "queries": 10}
    assert content["ground_truth"] == {"subsets": 50, "alphas": [0.5], "until": 0.02}
    assert not test.error
    assert resolve(content).training.epochs == [1, 4]
    assert "10 configurations" in texts(test)  # 2 epochs of 4 max_iter, and TracIn with and without normalization
    assert test.button(key="form-run").disabled
    test.button(key="form-load").click().run()
    assert "at most **" in texts(test)
    test.button(key="form-run").click().run()
    assert len(started) == 1
    assert tomllib.loads(Path(started[0][1]).read_text()) == content


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("form-train", "many", "data.train = 'many'"),
        ("form-epochs", "0", "training.epochs = 0"),
        ("form-alphas", "1.5", "ground_truth.alphas = 1.5"),
        ("form-iffim-projection_dim", "-3", "projection_dim = -3"),
        ("form-train", "10000000", "10000000"),
    ],
)
def test_a_bad_value_gives_the_study_s_own_error(page, zoo, monkeypatch, key, value, words):
    monkeypatch.setenv("TDA_ALLOW_TASK_FILES", "1")
    test = page("methods", zoo)
    test.text_input(key=key).set_value(value).run()
    if not test.error:  # no value of the file is wrong by itself: the task says so
        test.button(key="form-load").click().run()
    said = "\n".join(element.value for element in test.error).replace("\\", "")
    assert words in said
    assert "Allowed" in said or "Give" in said or "has" in said
    assert test.button(key="form-run").disabled


def test_a_method_that_the_task_cannot_have_is_refused_with_a_reason(page, zoo):
    test = page("methods", zoo)
    test.text_input(key="form-name").set_value("").run()
    test.multiselect(key="form-methods").set_value(["ekfac", "random"]).run()
    assert not test.exception
    assert "[methods.random]" in study_file(test)


def test_the_guide_explains_every_method(page, zoo):
    test = page("guide", zoo)
    labels = [element.label for element in test.expander]
    for spec in TABLE.values():
        assert f"{spec.title} · `{spec.name}`" in labels
    said = texts(test)
    for spec in TABLE.values():
        assert spec.formula in said


def test_a_study_of_one_method_without_regularization_works(page, zoo, tmp_path):
    place = copy_of(zoo, tmp_path)
    connection = duckdb.connect(str(place.catalogue))
    connection.execute("DELETE FROM configurations WHERE method <> 'random'")
    connection.close()
    place.snapshot.unlink(missing_ok=True)
    for name in PAGES:
        test = page(name, place)
        assert not test.exception, name
        assert not test.error, name


def test_methods_without_any_lds_show_their_cost(page, zoo, tmp_path):
    place = copy_of(zoo, tmp_path)
    connection = duckdb.connect(str(place.catalogue))
    for table in ("lds", "lds_query", "selections"):
        connection.execute(f"DELETE FROM {table}")
    connection.close()
    place.snapshot.unlink(missing_ok=True)
    test = page("methods", place)
    assert not test.exception
    assert "LDS appears here" in texts(test)
    table = next(frame.value for frame in test.dataframe if "seconds" in frame.value)
    assert table["LDS"].isna().all()
    assert (table["seconds"] > 0).all()
    for name in ("explorer", "selection", "sensitivity", "overview"):
        assert not page(name, place).exception
