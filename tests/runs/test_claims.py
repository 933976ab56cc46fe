"""Claims of a study file: checked before anything runs, compared with the study's figures, shown, exported, shipped."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tda_backend.errors import DataError, StudyError
from tda_backend.interfaces.papers import shipped
from tda_backend.interfaces.papers import verdicts as papers
from tda_backend.interfaces.papers.evidence import claim_evidence
from tda_backend.interfaces.papers.figures import claim_points
from tda_backend.interfaces.reading.study import open_study
from tda_backend.numerics.evaluation.bootstrap import bootstrap_seed, multinomial_weights
from tda_backend.numerics.evaluation.lds import GroundTruth, lds_curve
from tda_backend.studies.claims import check_claims
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import embedded_studies, read_study_file, resolve
from tda_backend.studies.study.quick import quick
from tests.runs.conftest import STUDY, TASK

CLAIM = {
    "id": "a",
    "paper": "taming",
    "place": "Figure 1",
    "statement": "A beats B.",
    "check": "greater",
    "left": {"method": "iffim", "regularization": "best"},
    "right": {"method": "iffim", "regularization": "zero"},
}
CLAIMS = """
[[claims]]
id = "best-beats-zero"
paper = "taming"
place = "Figure 2"
statement = "The best λ is better than λ = 0."
check = "greater"
left = {method = "iffim", projection_dim = "none", regularization = "best"}
right = [
    {method = "iffim", projection_dim = "none", regularization = "zero"}, {method = "tracin", normalization = true},
]

[[claims]]
id = "regret"
paper = "taming"
place = "Figure 2"
statement = "λ* is near the best."
check = "regret"
methods = ["iffim"]
left = "selected"
bound = 1.0

[[claims]]
id = "quantiles"
paper = "taming"
place = "Figure 2"
statement = "No quantile is good."
check = "rule"
methods = ["iffim", "trak"]
left = "selected"
right = ["quantile 0.5", "zero"]

[[claims]]
id = "rises"
paper = "taming"
place = "Figure 5"
statement = "ξ rises."
check = "rising"
methods = ["iffim", "trak"]

[[claims]]
id = "shape"
paper = "taming"
place = "Figure 6"
statement = "α does not matter."
check = "same-shape"
methods = ["iffim"]

[[claims]]
id = "one-seed"
paper = "source"
place = "Figure 5"
statement = "One model is as good."
check = "greater"
left = {method = "iffim", seeds = 1, regularization = "selected"}
right = {method = "iffim", alpha = 0.25, regularization = "selected"}
note = "a test"

[[claims]]
id = "wide"
paper = "taming"
place = "Figure 1"
statement = "Sensitive."
check = "wider"
left = {method = "iffim", projection_dim = 8}
right = {method = "iffim", projection_dim = "none"}

[[claims]]
id = "level"
paper = "source"
place = "Figure 11"
statement = "Above −1."
check = "level"
left = {method = "tracin"}
bound = -1.0
"""


@pytest.fixture(scope="module")
def claimed(tmp_path_factory) -> Workspace:
    from tda_backend.interfaces.cli.main import main

    folder = tmp_path_factory.mktemp("claims")
    (folder / "tiny_task.py").write_text(TASK)
    (folder / "claimed.toml").write_text(STUDY.replace('name = "tiny"', 'name = "claimed"') + CLAIMS)
    db = folder / "w" / "catalogue.duckdb"
    assert main(["run", str(folder / "claimed.toml"), "--db", str(db)]) == 0
    return Workspace.at(db)


def test_every_claim_has_a_verdict_with_its_numbers(claimed: Workspace):
    frame = open_study("claimed", claimed).verdicts()
    assert list(frame["claim_id"]) == [
        "best-beats-zero",
        "regret",
        "quantiles",
        "rises",
        "shape",
        "one-seed",
        "wide",
        "level",
    ]
    assert set(frame["verdict"]) <= {"reproduced", "not reproduced", "inconclusive"}
    by_id = frame.set_index("claim_id")
    assert by_id.loc["level", "verdict"] == "reproduced"
    assert by_id.loc["regret", "verdict"] == "reproduced"
    assert len(by_id.loc["best-beats-zero", "numbers"]) == 2
    assert len(by_id.loc["quantiles", "numbers"]) == 2
    assert by_id.loc["one-seed", "note"] == "a test"
    for row in frame.to_dict("records"):
        entries = json.loads(row["comparisons"])
        assert len(entries) == len(row["numbers"])
        assert row["value"] in [entry["value"] for entry in entries]
        assert row["configuration_ids"]


def test_a_verdict_is_the_paired_bootstrap_of_two_lds(claimed: Workspace):
    study = open_study("claimed", claimed)
    row = study.verdicts().set_index("claim_id").loc["best-beats-zero"]
    iffim = study.configuration_id("iffim", None)
    tracin = study.configuration_id("tracin", normalization=True)
    curve = study.curve(iffim)
    best = curve.loc[curve["mean"].idxmax(), "regularization"]
    masks, outputs = study.subset_masks(), study.subset_outputs()
    seed, draws = bootstrap_seed(study.config["seed"]), []
    for name, values in ((iffim, [float(best)]), (tracin, None)):
        found = lds_curve(
            study.source(name), GroundTruth(masks, outputs), values, num_bootstrap=50, seed=seed, keep_bootstrap=True
        )
        draws.append((float(found.mean[0]), np.asarray(found.bootstrap_means)[:, 0]))
    entry = json.loads(row["comparisons"])[1]
    assert entry["value"] == pytest.approx(draws[0][0] - draws[1][0], abs=1e-6)
    low, high = np.percentile(draws[0][1] - draws[1][1], [2.5, 97.5])
    assert entry["low"] == pytest.approx(low, abs=1e-5)
    assert entry["high"] == pytest.approx(high, abs=1e-5)
    assert multinomial_weights(24, 50, seed).shape == (50, 24)


def test_rules_are_judged_against_the_best(claimed: Workspace):
    study = open_study("claimed", claimed)
    for alpha in study.alphas:
        rules = study.rules(alpha)
        assert {"zero", "default", "q0.5", "xi0.3", "xi0.5", "racing", "oracle"} <= set(rules["rule"])
        assert (rules["regret"] >= 0).all()
        oracle = rules.loc[rules["rule"] == "oracle"]
        assert (oracle["regret"] == 0).all()
        assert (oracle["num_retrainings"] == 24).all()
        assert (rules.loc[rules["rule"].str.startswith(("xi", "q")), "num_retrainings"] == 0).all()
        selections = study.selections(alpha).set_index("configuration_id")
        for row in rules.loc[rules["rule"] == "xi0.5"].to_dict("records"):
            selected = selections.loc[row["configuration_id"]]
            assert row["regularization"] == pytest.approx(selected["lambda_selected"])
            assert row["lds"] == pytest.approx(selected["lds_selected"], abs=1e-9)
        race = study.race(alpha)
        assert race["num_candidates"] == 14 // 2 * 8 + 2  # 7 configurations: six λ, zero and λ*; TracIn twice
        assert 2 <= race["num_retrainings"] <= 24
        assert race["regret"] >= 0
        assert str(race["num_retrainings"]) in race["sentence"]


def test_rules_without_retraining_choose_epoch_and_dimension(claimed: Workspace):
    study = open_study("claimed", claimed)
    tuned = study.tuning()
    by_epoch, by_dim = (tuned.loc[tuned["what"] == what] for what in ("training_epoch", "projection_dim"))
    assert set(by_epoch["rule"]) == {"last", "lowest-loss", "progress"}
    assert set(by_dim["rule"]) == {"widest"}  # 512 is not among 8 and unprojected
    assert (by_epoch.loc[by_epoch["rule"] == "last", "chosen"] == "4").all()
    assert (by_dim["chosen"] == "none").all()
    selected = study.selections(study.alphas[0]).set_index("configuration_id")["lds_selected"]
    for row in tuned.to_dict("records"):
        assert row["lds"] == pytest.approx(selected[row["configuration_id"]], abs=1e-9)
    for _, group in tuned.groupby(["what", "among"]):
        assert (group["regret"] >= 0).all()


def test_run_again_computes_nothing_and_show_prints_verdicts(claimed: Workspace, cli):
    code, out, _ = cli("show", "claimed", "--db", claimed.catalogue)
    assert code == 0
    assert "REPRODUCED: Above −1. (source, Figure 11)" in out
    code, out, _ = cli("show", "claimed", "--db", claimed.catalogue, "--json")
    assert {row["claim_id"] for row in json.loads(out)["verdicts"]} >= {"level", "regret"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paper": "nature"}, "paper = 'nature'"),
        ({"check": "vibes"}, "check = 'vibes'"),
        ({"right": None}, "names no configuration"),
        ({"bound": "high"}, "bound = 'high'"),
        ({"colour": 1}, "Unknown key"),
        ({"left": {"method": "iffim", "rank": 3}}, "lacks"),
        ({"left": {"method": "tracin", "regularization": 1.0}}, "has none"),
        ({"left": {"method": "iffim", "regularization": "lucky"}}, "is not allowed"),
        ({"statement": " "}, "statement is missing"),
    ],
)
def test_a_wrong_claim_is_named(change: dict, message: str):
    with pytest.raises(StudyError, match=message):
        check_claims("claims", [{**CLAIM, **change}])


def test_ids_are_unique_and_claims_are_tables():
    with pytest.raises(StudyError, match="twice"):
        check_claims("claims", [CLAIM, CLAIM])
    with pytest.raises(StudyError, match="not a list of tables"):
        check_claims("claims", "taming")


def test_a_claim_about_what_the_study_lacks_stops_before_anything_runs(tmp_path: Path, cli):
    (tmp_path / "tiny_task.py").write_text(TASK)
    text = CLAIMS.replace('left = {method = "tracin"}', 'left = {method = "ekfac"}')
    (tmp_path / "s.toml").write_text(STUDY + text)
    code, _, err = cli("run", tmp_path / "s.toml", "--db", tmp_path / "c.duckdb")
    assert code == 1 or code == 2
    assert "Claim level: The study has no configuration" in err
    assert not list((tmp_path / "artifacts").glob("*"))


def test_shipped_results_are_shown_where_nothing_was_computed(claimed: Workspace, tmp_path: Path, monkeypatch, cli):
    data = tmp_path / "data"
    (data / "studies").mkdir(parents=True)
    content = (Path(claimed.folder).parent / "claimed.toml").read_text()
    (data / "studies" / "claimed.toml").write_text(content)
    code, out, _ = cli("export", "claimed", "--db", claimed.catalogue, "--out", data / "results")
    assert code == 0
    assert "files" in out
    monkeypatch.setenv("TDA_DATA", str(data))
    empty = tmp_path / "empty.duckdb"
    frame = papers.paper_claims(empty)
    assert set(frame["origin"]) == {"shipped result"}
    assert len(frame) == 8
    here = papers.paper_claims(claimed)
    assert set(here["origin"]) == {"computed here"}
    shown, computed = (claim_points(claim_evidence(papers.claims_of_papers(db)[0], db)) for db in (empty, claimed))
    assert shown[0].label.startswith("Influence function")
    assert shown == computed
    code, out, _ = cli("show", "claimed", "--db", empty)
    assert code == 0
    assert "shipped result" in out
    code, out, _ = cli("show", "claimed", "--db", empty, "--json")
    record = json.loads(out)
    assert record["shipped"] is True
    assert {row["claim_id"] for row in record["verdicts"]} == set(frame["claim_id"])
    assert record["version"].startswith("0.")
    code, out, _ = cli("papers", "--db", empty, "--json")
    assert {row["origin"] for row in json.loads(out)} == {"shipped result"}
    text = (data / "studies" / "claimed.toml").read_text()
    (data / "studies" / "claimed.toml").write_text(text.replace("bound = -1.0", "bound = 0.9"))
    changed = papers.paper_claims(empty).set_index("claim_id")
    assert changed.loc["level", "verdict"] == "not run"  # the old verdict says nothing about the new claim
    assert changed.loc["regret", "origin"] == "shipped result"
    shutil.rmtree(data / "results")
    shipped.shipped_results.cache_clear()
    assert set(papers.paper_claims(empty)["verdict"]) == {"not run"}
    with pytest.raises(DataError, match="no shipped results"):
        shipped.shipped_results("claimed")


@pytest.mark.parametrize(
    "name", [name for name, path in embedded_studies().items() if "[[claims]]" in path.read_text()]
)
def test_embedded_claims_resolve_whole_and_quick(name: str):
    content = read_study_file(embedded_studies()[name])
    for study in (resolve(content), resolve(quick(content)), resolve(quick(content, 10**6))):
        assert study.claims
