"""Sentences behind a verdict are read back as they were written; selectors become configurations and λ."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from tda_backend.errors import UsageError
from tda_backend.runs.claim_figures import (
    ClaimEvidence,
    claim_evidence,
    claim_points,
    rule_points,
    study_facts,
)
from tda_backend.runs.papers import NOT_RUN, paper_claims


def evidence(rule: dict) -> ClaimEvidence:
    configurations = pd.DataFrame([
        {"configuration_id": "t", "method": "trak", "label": "TRAK", "training_epoch": 5, "projection_dim": 8,
         "parameters": "{}", "has_regularization": True},
        {"configuration_id": "c", "method": "tracin", "label": "TracIn", "training_epoch": 5, "projection_dim": None,
         "parameters": '{"normalization": false}', "has_regularization": False},
    ])  # fmt: skip
    grid = [(0.0, 0.1, False), (0.01, 0.2, False), (1.0, 0.4, False), (100.0, 0.3, False), (7.0, 0.35, True)]
    lds = pd.DataFrame(
        [{"configuration_id": "t", "alpha": 0.5, "regularization": lam, "mean": mean, "ci_low": mean - 0.05,
          "ci_high": mean + 0.05, "is_selected": chosen} for lam, mean, chosen in grid]
        + [{"configuration_id": "c", "alpha": 0.5, "regularization": np.nan, "mean": 0.25, "ci_low": 0.2,
            "ci_high": 0.3, "is_selected": False}]
    )  # fmt: skip
    quantiles = {"0.5": {"lambda": 0.012, "lds": 0.21, "regret": 0.19}}
    selections = pd.DataFrame([
        {"configuration_id": "t", "alpha": 0.5, "lambda_selected": 7.0, "lds_selected": 0.35, "lambda_best": 1.0,
         "lds_best": 0.4, "lds_at_zero": 0.1, "quantiles": json.dumps(quantiles)},
    ])  # fmt: skip
    return ClaimEvidence(rule, (0.5,), {"configurations": configurations, "lds": lds, "selections": selections,
                                        "indicator": pd.DataFrame(), "removals": pd.DataFrame()})  # fmt: skip


@pytest.mark.parametrize(
    ("word", "lam", "mean"),
    [("best", 1.0, 0.4), ("selected", 7.0, 0.35), ("zero", 0.0, 0.1), (0.011, 0.01, 0.2), ("quantile 0.5", 0.01, 0.2)],
)
def test_a_selector_becomes_a_configuration_and_a_lambda(word, lam, mean):
    rule = {"left": [{"method": "trak", "regularization": word}], "right": [{"method": "tracin"}]}
    frame = claim_points(evidence(rule))
    assert frame["side"].tolist() == ["left", "right"]
    assert frame["regularization"].iloc[0] == lam
    assert frame["mean"].tolist() == [mean, 0.25]
    assert np.isnan(frame["regularization"].iloc[1])
    assert frame["rule"].tolist() == [str(word), ""]


def test_one_model_of_an_ensemble_has_no_stored_lds():
    frame = claim_points(evidence({"left": [{"method": "tracin", "seeds": 1}]}))
    assert frame["seeds"].tolist() == [1]
    assert frame["mean"].isna().all()


def test_what_the_study_lacks_gives_no_point():
    assert not len(claim_points(evidence({"left": [{"method": "trak", "epoch": 99}]})))


def test_rules_are_compared_with_the_best():
    frame = rule_points(evidence({"check": "regret"})).set_index("rule")
    assert frame.index.tolist() == ["λ*", "λ = 0", "quantile 0.5", "best λ"]
    assert frame["regret"].tolist() == pytest.approx([0.05, 0.3, 0.19, 0.0])


def test_what_was_not_run_has_sizes_and_no_figures(tmp_path):
    claim = paper_claims(tmp_path / "none.duckdb").iloc[0].to_dict()
    assert claim["origin"] in (NOT_RUN, "shipped result")
    facts = study_facts(claim["study"], NOT_RUN)
    assert facts["num_train"] > 100
    assert facts["version"] is None
    with pytest.raises(UsageError, match="was not run"):
        claim_evidence({**claim, "origin": NOT_RUN})
