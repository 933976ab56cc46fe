"""Two configurations of a computed study against each other: against the stored tables and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

import tda_backend as tda
from tda_backend.errors import UsageError
from tda_backend.interfaces.reading.comparison import (
    Side,
    agreement,
    compare,
    evaluation,
    predicted_ranks,
    regularization_at,
)
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.configurations import ConfigurationRow
from tests.app import catalogues
from tests.app.claims_catalogue import compute_claims


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    workspace = catalogues.once(tmp_path_factory, "claims", compute_claims)
    return tda.open_study("claims-of-tiny", workspace.catalogue)


def side(study, method: str, word: str = "selected", models: int = 0, **parameters) -> Side:
    identity = study.configuration_id(method, **parameters)
    rows = {row.configuration_id: row for row in records(study.configurations(), ConfigurationRow)}
    return Side(identity, regularization_at(study, rows[identity], word), models)


def test_the_difference_is_that_of_the_stored_lds(study):
    a, b = side(study, "iffim", "best"), side(study, "tracin", normalization=True)
    found = compare(study, a, b)
    curve = study.curve(a.configuration_id).set_index("regularization")["mean"]
    stored_b = study.curve(b.configuration_id)["mean"].iloc[0]
    assert found.comparison.lds_a == pytest.approx(curve.max(), abs=1e-9)
    assert found.comparison.lds_b == pytest.approx(stored_b, abs=1e-9)
    assert found.comparison.difference == pytest.approx(curve.max() - stored_b, abs=1e-9)
    assert found.comparison.ci_low <= found.comparison.difference <= found.comparison.ci_high
    back = compare(study, b, a).comparison
    assert back.difference == pytest.approx(-found.comparison.difference, abs=1e-12)
    assert back.probability == pytest.approx(1 - found.comparison.probability)
    assert found.num_subsets == 24
    assert found.power.num_present == 24


def test_classes_and_queries_average_to_the_whole(study):
    a = side(study, "trak", projection_dim=8)
    found = compare(study, a, a)
    assert found.comparison.difference == 0
    assert found.comparison.probability == 0.5
    sizes, scores = [row.num_queries for row in found.by_class], [row.a for row in found.by_class]
    assert sum(sizes) == study.num_queries
    assert np.average(scores, weights=sizes) == pytest.approx(found.comparison.lds_a, abs=1e-9)
    assert found.balanced[0] == pytest.approx(np.mean(scores), abs=1e-9)
    assert {row.name for row in found.by_class} <= {"ant", "bee", "cat"}


def test_ranks_computed_anew_are_those_that_were_stored(study):
    a = side(study, "iffim", "zero")
    stored = evaluation(study, a.configuration_id)
    assert stored is not None
    grid = stored.array("values_0.5")
    for place in (1, len(grid) - 1):
        known = predicted_ranks(study, Side(a.configuration_id, float(grid[place])), 0.5)
        anew = predicted_ranks(study, Side(a.configuration_id, float(grid[place]) * (1 + 1e-4)), 0.5)
        assert np.mean(known != anew) < 0.02  # a hair's breadth in λ moves hardly any rank
        assert sorted(anew[:, 0]) == sorted(known[:, 0])


def test_one_model_of_an_ensemble_has_an_lds_of_its_own(study):
    whole = side(study, "iffim", "selected")
    single = Side(whole.configuration_id, whole.regularization, 1)
    found = compare(study, whole, single).comparison
    parameters = {"training_epoch": None, "projection_dim": None}
    expected = study.lds("iffim", whole.regularization, seeds=[0], **parameters)["mean"].iloc[0]
    assert found.lds_b == pytest.approx(float(expected), abs=1e-9)


def test_agreement_of_two_lists(study):
    a, b = side(study, "iffim", "selected"), side(study, "tracin", normalization=False)
    found = agreement(study, a, b, query=3, tops=(5, 60, 1000))
    first = study.scores("iffim", a.regularization, query=3)
    second = study.scores("tracin", query=3, normalization=False)
    assert found.correlation == pytest.approx(spearmanr(first, second).statistic, abs=1e-9)
    few, all_of_them = found.overlap
    assert (few.top, all_of_them.top) == (5, 60)
    best = [set(np.argsort(-row, kind="stable")[:5].tolist()) for row in (first, second)]
    assert few.helpful == len(best[0] & best[1]) / 5
    assert all_of_them.helpful == all_of_them.harmful == 1.0
    same = agreement(study, a, a, query=3)
    assert same.correlation == pytest.approx(1.0)
    assert all(row.helpful == row.harmful == 1 for row in same.overlap)


def test_lambda_must_fit_the_method(study):
    tracin = side(study, "tracin", normalization=True)
    with pytest.raises(UsageError, match="does not fit"):
        predicted_ranks(study, Side(tracin.configuration_id, 0.1), 0.5)
    with pytest.raises(UsageError, match="does not fit"):
        predicted_ranks(study, Side(side(study, "iffim").configuration_id), 0.5)
