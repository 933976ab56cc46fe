"""The page Papers: nothing run, shipped results only, computed here; filters, figures and links."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest

from app.formats import plain
from tda_backend.interfaces.papers.shipped import shipped_results
from tda_backend.interfaces.papers.verdicts import paper_claims
from tda_backend.interfaces.reading.study import open_study
from tda_backend.studies.store.workspace import Workspace
from tests.app import catalogues
from tests.app.claims_catalogue import KINDS, compute_claims
from tests.app.conftest import opened_once
from tests.app.test_pages import button, texts


@pytest.fixture(scope="session")
def claims(tmp_path_factory) -> Iterator[Workspace]:
    yield from opened_once(catalogues.once(tmp_path_factory, "claims", compute_claims))


@pytest.fixture
def data(claims: Workspace, tmp_path, monkeypatch) -> Callable[[bool], None]:
    """Choose the data folder: two studies with claims, results of one of them shipped or not."""

    def choose(with_results: bool) -> None:
        folder = tmp_path / "data"
        shutil.copytree(claims.folder.parent / "data", folder)
        if with_results:
            shutil.copytree(claims.folder.parent / "exported", folder / "results")
        monkeypatch.setenv("TDA_DATA", str(folder))
        shipped_results.cache_clear()

    yield choose
    shipped_results.cache_clear()


def open_all() -> str:
    return ",".join(f"claims-of-tiny/a-{kind}-claim" for kind in KINDS)


def figures(test) -> int:
    return len(test.get("plotly_chart"))


def test_the_claims_of_this_installation_are_listed(page, empty):
    test = page("papers", empty)
    assert not test.exception
    assert not test.error
    expected = paper_claims(empty)
    assert len(test.expander) == len(expected) + 1  # and the table of all
    said = texts(test)
    for verdict, count in expected["verdict"].value_counts().items():
        assert f"{count} {verdict}]" in said
    assert figures(test) == 0  # only what is open computes its figure


def test_nothing_run_and_nothing_shipped(page, empty, data):
    data(False)
    test = page("papers", empty, claim=open_all())
    assert not test.exception
    said = texts(test)
    assert f"{len(KINDS) + 1} not run]" in said
    assert "No figure yet" in said
    assert "tda run claims-of-tiny" in said
    assert "planned: task" in said
    assert figures(test) == 0


def test_without_studies_there_is_a_sentence(page, empty, data, tmp_path):
    data(False)
    shutil.rmtree(tmp_path / "data" / "studies")
    test = page("papers", empty)
    assert not test.exception
    assert "tests a claim" in texts(test)


@pytest.mark.parametrize("origin", ["shipped result", "computed here"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_claim_has_its_figure_and_numbers(page, empty, claims, data, origin, kind):
    data(origin == "shipped result")
    place = empty if origin == "shipped result" else claims
    test = page("papers", place, claim=f"claims-of-tiny/a-{kind}-claim")
    assert not test.exception
    assert not test.error
    said = texts(test)
    assert f"badge[{origin}]" in said
    assert "60 training examples" in said
    assert "24 retrained subsets" in said
    row = paper_claims(place).set_index(["study", "claim_id"]).loc[("claims-of-tiny", f"a-{kind}-claim")]
    assert f"({row['verdict']})" in said
    assert figures(test) == 2
    for sentence in row["numbers"]:
        assert plain(sentence) in said
    if origin == "shipped result":
        assert "code " in said
        assert not [each for each in test.button if each.label in ("Explorer", "Sensitivity")]
        assert "tda run claims-of-tiny" in said
    else:
        assert button(test, "Explorer")


def test_filters_are_in_the_address(page, empty, data):
    data(True)
    test = page("papers", empty, paper="taming", verdict="not run")
    labels = [row.label for row in test.expander]
    assert sum("not run]" in label for label in labels) == len(labels) - 1 == 1
    test = page("papers", empty, paper="source")
    assert len(test.expander) == 2
    test = page("papers", empty, paper="nobody", verdict="maybe")
    assert not test.exception
    assert len(test.expander) == len(KINDS) + 2


def test_changing_a_filter_writes_the_address(page, empty, data):
    data(True)
    test = page("papers", empty)
    test.segmented_control(key="papers-paper").set_value("source").run()
    assert dict(test.query_params)["paper"] == "source"
    assert len(test.expander) == 2


def test_statements_are_shown_as_they_are(page, empty, data):
    data(True)
    test = page("papers", empty)
    assert any(r"Statement \*number\* 0\." in row.label for row in test.expander)


def test_a_claim_leads_to_its_configuration(page, claims, data):
    data(False)
    test = page("papers", claims, claim="claims-of-tiny/a-greater-claim")
    select = test.selectbox(key="look-claims-of-tiny/a-greater-claim")
    assert len(select.options) == 3
    button(test, "Explorer").click()
    params = session_params(test)
    assert params["study"] == "claims-of-tiny"
    assert params["method"] == "iffim"
    assert params["epoch"] == "4"
    assert float(params["lam"]) > 0


def session_params(test) -> dict[str, str]:
    """Return the view after a button that leaves the page: AppTest knows one page only and cannot follow."""
    test.run()
    return test.session_state["view_params"]


def test_read_only_offers_no_run(page, empty, data):
    data(False)
    assert [each.label for each in page("papers", empty).button] == [
        "Run it here"
    ] * 3  # one study has claims of two papers
    assert not page("papers", empty, read_only=True).button


def test_lambda_selection_judges_every_rule(page, claims, data):
    data(False)
    test = page("selection", claims, study="claims-of-tiny", method="iffim", epoch="4")
    assert not test.exception
    table = next(each.value for each in test.dataframe if "mean regret" in each.value.columns)
    frame = open_study("claims-of-tiny", claims.catalogue).rules()
    assert len(table) == frame["rule"].nunique()
    by_rule = frame.groupby("rule", sort=False)["regret"].mean()
    assert table["mean regret"].tolist() == pytest.approx(by_rule.tolist(), abs=5e-5)
    assert table.set_index("rule").loc["λ = 0 (pseudo-inverse)", "retrainings"] == 0
    assert table.set_index("rule").loc["best λ, after all retrainings", "retrainings"] == 24
    assert "raced against each other" in texts(test)


def test_the_empty_overview_points_to_shipped_results(page, empty, data):
    data(True)
    test = page("overview", empty)
    assert f"Results of {len(KINDS)} claims" in texts(test)
    assert button(test, "Open the papers' claims")


def test_the_empty_overview_has_the_claims_without_shipped_results(page, empty, data):
    data(False)
    said = texts(page("overview", empty))
    assert "with the study that tests it" in said
    assert "travel with this installation" not in said


def test_methods_compares_two_configurations(page, claims, data):
    data(False)
    opened = open_study("claims-of-tiny", claims.catalogue)
    other = opened.configuration_id("tracin", normalization=True)
    test = page("methods", claims, study="claims-of-tiny", method="iffim", epoch="4", vs=other)
    assert not test.exception
    assert not test.error
    shown = {each.label: each.value for each in test.metric}
    assert {"LDS of A", "LDS of B", "A − B", "Probability that A is better"} <= set(shown)
    stored = opened.curve(other)["mean"].iloc[0]
    assert float(shown["LDS of B"].replace("−", "-")) == pytest.approx(stored, abs=5e-4)
    said = texts(test)
    assert "±0.01" in said.replace("\\", "")
    assert "By class of the query" in said
    assert "Rank correlation of the two lists" in said
    single = page("methods", claims, study="claims-of-tiny", method="iffim", epoch="4", vs="single")
    assert not single.exception
    assert "first of 2 models" in texts(single).replace("\\", "")
    wrong = page("methods", claims, study="claims-of-tiny", vs="nothing", at="nowhere")
    assert not wrong.exception


def test_a_claim_about_a_training_run_leads_to_its_page(page, empty):
    test = page("papers", empty, paper="trajectory", claim="trajectory-mnist-mlp/matched-1e-3")
    assert not test.exception
    assert not test.error
    said = texts(test)
    assert "Spearman as trained" in said
    assert "No figure yet" not in said
    button(test, "See it on Training trajectory")
