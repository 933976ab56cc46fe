"""The page Papers: nothing run, shipped results only, computed here; filters, figures and links."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from app.formats import plain
from tda_backend.runs.api import open_study
from tda_backend.runs.papers import paper_claims
from tda_backend.runs.shipped import export_results, shipped_results
from tda_backend.store.workspace import Workspace
from tests.app import catalogues
from tests.app.test_pages import button, texts
from tests.runs.conftest import make_study, tda

CLAIMS = """
name = "claims-of-tiny"
task = "tiny_task.py:factory"
seed = 3
[data]
train = 60
validation = 12
queries = 10
[training]
epochs = [1, 4]
seeds = 2
[ground_truth]
subsets = 24
alphas = [0.5, 0.25]
[regularization]
count = 9
[methods.iffim]
epochs = [1, 4]
[methods.trak]
epochs = [4]
projection_dim = [4, 8]
[methods.tracin]
epochs = [4]
normalization = [false, true]
[evaluation]
bootstrap = 50
top = 7
"""
KINDS = {
    "greater": 'left = {method = "iffim", epoch = 4, regularization = "best"}\n'
    'right = [{method = "iffim", epoch = 1, regularization = "zero"}, {method = "trak", projection_dim = 8}]',
    "level": 'left = {method = "tracin", normalization = false}\nbound = -1.0',
    "ratio": 'left = {method = "iffim", seeds = 1}\nright = {method = "tracin", normalization = true}\nbound = 50',
    "wider": 'left = {method = "trak", projection_dim = 8}\nright = {method = "trak", projection_dim = 4}',
    "rule": 'methods = ["iffim", "trak"]\nleft = "selected"\nright = ["zero", "quantile 0.5"]',
    "regret": 'methods = ["iffim"]\nleft = "selected"\nbound = 0.5',
    "rising": 'methods = ["iffim", "trak"]',
    "same-shape": 'methods = ["iffim"]',
}


def claims_file() -> str:
    tables = [
        f'[[claims]]\nid = "a-{kind}-claim"\npaper = "{"source" if kind == "level" else "taming"}"\n'
        f'place = "Figure {number}"\nstatement = "Statement *number* {number}."\ncheck = "{kind}"\n{text}\n'
        for number, (kind, text) in enumerate(KINDS.items())
    ]
    return CLAIMS + "\n".join(tables)


def compute_claims(folder: Path) -> None:
    """Compute a study that makes every kind of comparison; beside it ``data``: its file, and its results exported."""
    make_study(folder)
    studies = folder / "data" / "studies"
    studies.mkdir(parents=True)
    path = studies / "claims-of-tiny.toml"
    path.write_text(claims_file().replace("tiny_task.py", str(folder / "tiny_task.py")))
    result = tda("run", path, db=folder / "workspace" / "catalogue.duckdb")
    assert result.returncode == 0, result.stderr
    other = claims_file().replace("claims-of-tiny", "never-run").replace("tiny_task.py", str(folder / "tiny_task.py"))
    (studies / "never-run.toml").write_text(other.split("[[claims]]")[0] + "[[claims]]" + other.split("[[claims]]")[1])
    export_results(open_study("claims-of-tiny", folder / "workspace" / "catalogue.duckdb"), folder / "exported")


@pytest.fixture(scope="session")
def claims(tmp_path_factory) -> Workspace:
    return catalogues.once(tmp_path_factory, "claims", compute_claims)


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
