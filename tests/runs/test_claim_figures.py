"""Sentences behind a verdict are read back as they were written; selectors become configurations and λ."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tda_backend.errors import UsageError
from tda_backend.interfaces.papers.evidence import ClaimEvidence, claim_evidence, comparisons_of
from tda_backend.interfaces.papers.figures import FigureKind, claim_points, figure_of, rule_points
from tda_backend.interfaces.papers.provenance import provenance_of
from tda_backend.interfaces.papers.verdicts import COLUMNS, NOT_RUN, claims_of_papers, paper_claims
from tda_backend.interfaces.reading.records.evidence import ComparedConfiguration, ComparedLds, ComparedSelection
from tda_backend.studies.claims import CLAIM_KINDS


def evidence(rule: dict) -> ClaimEvidence:
    configurations = [
        ComparedConfiguration("t", "trak", "TRAK", "TRAK · k=8", 5, 8, "{}", True, 1, 1),
        ComparedConfiguration(
            "c", "tracin", "TracIn", "TracIn · plain", 5, None, '{"normalization": false}', False, 1, 1
        ),
    ]
    grid = [(0.0, 0.1, False), (0.01, 0.2, False), (1.0, 0.4, False), (100.0, 0.3, False), (7.0, 0.35, True)]
    lds = [ComparedLds("t", 0.5, lam, mean, mean - 0.05, mean + 0.05, 24, chosen) for lam, mean, chosen in grid]
    lds.append(ComparedLds("c", 0.5, None, 0.25, 0.2, 0.3, 24, False))
    quantiles = {"0.5": {"lambda": 0.012, "lds": 0.21, "regret": 0.19}}
    selection = ComparedSelection(
        configuration_id="t",
        alpha=0.5,
        lambda_selected=7.0,
        lds_selected=0.35,
        lambda_best=1.0,
        lds_best=0.4,
        lds_at_zero=0.1,
        quantiles=json.dumps(quantiles),
    )
    return ClaimEvidence(rule, (0.5,), configurations, lds, [selection], [], [])


@pytest.mark.parametrize(
    ("word", "lam", "mean"),
    [("best", 1.0, 0.4), ("selected", 7.0, 0.35), ("zero", 0.0, 0.1), (0.011, 0.01, 0.2), ("quantile 0.5", 0.01, 0.2)],
)
def test_a_selector_becomes_a_configuration_and_a_lambda(word, lam, mean):
    rule = {"left": [{"method": "trak", "regularization": word}], "right": [{"method": "tracin"}]}
    left, right = claim_points(evidence(rule))
    assert (left.side, right.side) == ("left", "right")
    assert left.regularization == lam
    assert (left.mean, right.mean) == (mean, 0.25)
    assert right.regularization is None
    assert (left.rule, right.rule) == (str(word), "")


def test_one_model_of_an_ensemble_has_no_stored_lds():
    points = claim_points(evidence({"left": [{"method": "tracin", "seeds": 1}]}))
    assert [point.seeds for point in points] == [1]
    assert [point.mean for point in points] == [None]


def test_what_the_study_lacks_gives_no_point():
    assert not claim_points(evidence({"left": [{"method": "trak", "epoch": 99}]}))


def test_rules_are_compared_with_the_best():
    points = rule_points(evidence({"check": "regret"}))
    assert [point.rule for point in points] == ["λ*", "λ = 0", "quantile 0.5", "best λ"]
    assert [point.regret for point in points] == pytest.approx([0.05, 0.3, 0.19, 0.0])


def test_what_was_not_run_has_sizes_and_no_figures(tmp_path):
    claim = claims_of_papers(tmp_path / "none.duckdb")[0]
    assert claim.origin in (NOT_RUN, "shipped result")
    known = provenance_of(claim.study, NOT_RUN)
    assert known.num_train > 100
    assert known.version is None
    assert not known.is_run
    with pytest.raises(UsageError, match="was not run"):
        claim_evidence(replace(claim, origin=NOT_RUN))


@pytest.mark.shipped_data
def test_the_table_of_claims_says_what_the_records_say(tmp_path):
    claims, frame = claims_of_papers(tmp_path / "none.duckdb"), paper_claims(tmp_path / "none.duckdb")
    assert frame.columns.tolist() == COLUMNS
    assert frame["claim_id"].tolist() == [claim.claim_id for claim in claims]
    assert frame["value"].isna().tolist() == [claim.value is None for claim in claims]
    for claim in claims:
        assert [comparison.sentence for comparison in comparisons_of(claim)] == claim.numbers


def test_every_kind_of_claim_has_a_figure(tmp_path):
    claim = claims_of_papers(tmp_path / "none.duckdb")[0]
    shown = {name: figure_of(replace(claim, check_name=name)) for name in CLAIM_KINDS}
    assert {figure.kind for figure in shown.values()} == set(FigureKind)
    assert {name for name, figure in shown.items() if figure.kind is FigureKind.TRAINING_RUN} == {
        name for name, kind in CLAIM_KINDS.items() if kind.SECTION
    }
    assert figure_of(replace(claim, check_name="of-another-version")).kind is FigureKind.COMPARED
