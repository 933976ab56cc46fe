"""Every page on a computed, an empty, a half-computed and a damaged catalogue."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

import tda_backend as tda
from tda_backend.runs.progress import JobState
from tests.app.catalogues import copy_of
from tests.app.conftest import ROOT

PAGES = ("overview", "explorer", "selection", "sensitivity", "guide")


def texts(test) -> str:
    """Return everything a person can read on the page."""
    kinds = (test.title, test.subheader, test.markdown, test.caption, test.info, test.warning, test.error, test.code)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


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
    assert not page("overview", empty, read_only=True).button
    assert {element.label for element in page("overview", failed, read_only=True).button} <= {"Open the Explorer"}


def test_a_dead_job_shows_message_hint_and_the_way_on(page, failed, monkeypatch):
    started = []
    monkeypatch.setattr("app.services.jobs.submit", lambda arguments, place, cwd=None: started.append(arguments) or "1")
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
    table = test.dataframe[-1].value
    assert set(table["method"]) == {"Influence function (FIM)", "TRAK"}
    assert (table["regret"].dropna() >= 0).all()
    test.slider(key="threshold").set_value(0.6).run()
    assert dict(test.query_params)["xi"] == "0.6"
    assert "λ* where ξ̄ = 0.6" in set(test.dataframe[-1].value["rule"])


def test_alpha_can_be_chosen_where_there_are_several(page, tiny):
    test = page("selection", tiny, alpha="0.25")
    assert not test.exception
    assert dict(test.query_params)["alpha"] == "0.25"
    assert "1 min" not in texts(test)


def test_charts_have_titles_and_cells_carry_their_setting(page, tiny):
    test = page("sensitivity", tiny)
    charts = test.get("plotly_chart")
    assert len(charts) == 6
    for chart in charts:
        spec = json.loads(chart.proto.spec)
        assert spec["layout"]["xaxis"]["title"]["text"]
        assert spec["layout"]["yaxis"]["title"]["text"]
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
    state = JobState(job_id="now", study="tiny", study_id=study_id, step="retrain subsets 1 to 12", step_done=5,
                     step_total=12, done=3, total=21, rate=2.5, eta_seconds=75.0, fraction=0.25)  # fmt: skip
    (place.jobs / "now.json").write_text(json.dumps(asdict(state)))
    test = page("overview", place)
    assert not test.exception
    said = texts(test)
    for words in ("step 3 of 21", "5 of 12 in this step", "2.5/s", "about 1 min 15 s left"):
        assert words in said
    assert {"Cancel", "Open the Explorer"} <= {element.label for element in test.button}
    assert not page("explorer", place).exception


def test_pages_never_put_data_into_html():
    for path in (ROOT / "app").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert "unsafe_allow_html" not in source, path
        assert "st.html" not in source, path
    for path in (ROOT / "app").rglob("*.js"):
        source = path.read_text(encoding="utf-8")
        assert "innerHTML" not in source, path
        assert "http" not in source.replace("http://www.w3.org/2000/svg", ""), path
