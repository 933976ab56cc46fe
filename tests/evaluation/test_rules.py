"""Rules for λ, epoch and projection: against LDS curves made by hand and a real small spectrum."""

from __future__ import annotations

import numpy as np
import pytest

from tda_backend.errors import DataError, NumericalError, UsageError
from tda_backend.numerics.evaluation.bootstrap import double_ranks
from tda_backend.numerics.evaluation.epoch_rules import epoch_by_progress, epoch_choices, widest_projection
from tda_backend.numerics.evaluation.rules import EvaluatedCurve, RaceInputs, rule_outcomes, rule_regularizations
from tda_backend.numerics.evaluation.selection import select_regularization, spectrum_quantiles
from tests.helpers_numerics import make_spectrum, random_rows

GRID = [0.0, 1e-4, 1e-3, 1e-2, 1e-1]
LDS = [0.1, 0.2, 0.5, 0.4, np.nan]


def spectra():
    rows, query, validation = random_rows(0, (40, 12), (7, 12), (9, 12), decay=1.0)
    return [make_spectrum(rows, query, validation)]


def test_every_rule_gives_its_own_regularization():
    source = spectra()
    found = rule_regularizations(source, 1e-5)
    assert list(found) == [
        "zero",
        "default",
        "q0.1",
        "q0.3",
        "q0.5",
        "q0.7",
        "q0.9",
        "xi0.3",
        "xi0.4",
        "xi0.5",
        "xi0.6",
        "xi0.7",
    ]
    assert found["zero"] == 0
    assert found["default"] == 1e-5
    assert found["xi0.5"] == select_regularization(source).regularization
    assert found["q0.7"] == spectrum_quantiles(source)[0.7]
    steps = [found[f"xi{threshold}"] for threshold in (0.3, 0.4, 0.5, 0.6, 0.7)]
    assert steps == sorted(steps)
    assert "default" not in rule_regularizations(source, None)


def test_regret_is_against_the_best_and_costs_are_retrainings():
    rows = rule_outcomes(EvaluatedCurve("a", GRID, LDS, 50), {"zero": 0.0, "xi0.5": 1e-2, "default": 2e-3})
    by_rule = {row.rule: row for row in rows}
    assert by_rule["zero"].regret == pytest.approx(0.4)
    assert by_rule["xi0.5"].regret == pytest.approx(0.1)
    assert by_rule["xi0.5"].decades == 0
    assert by_rule["default"].lds == 0.5  # 1e-3 stands in
    assert by_rule["default"].regularization == 2e-3
    assert by_rule["default"].decades == pytest.approx(np.log10(2))
    oracle = by_rule["oracle"]
    assert (oracle.regularization, oracle.regret, oracle.num_retrainings) == (1e-3, 0, 50)
    assert {by_rule[name].num_retrainings for name in ("zero", "xi0.5", "default")} == {0}
    assert (
        rule_outcomes(EvaluatedCurve("a", GRID, LDS, 50), {"tiny": 1e-12})[0].lds == 0.2
    )  # the nearest positive one, not 0


def test_racing_finds_the_best_with_few_retrainings():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 50))
    target = truth + 0.3 * rng.normal(size=truth.shape)
    predicted = np.stack([double_ranks(truth + noise * rng.normal(size=truth.shape)) for noise in (4, 2, 0.2, 1, 3)])
    rows = rule_outcomes(EvaluatedCurve("a", GRID, [0.1, 0.3, 0.9, 0.5, 0.2], 40), {}, RaceInputs(predicted, target))
    assert [row.rule for row in rows] == ["racing", "oracle"]
    assert rows[0].regularization == 1e-3
    assert rows[0].regret == 0
    assert rows[0].num_retrainings < 12


def test_epoch_by_progress_takes_the_earliest_that_is_far_enough():
    losses = [1.8, 0.9, 0.45, 0.40, 0.60]
    assert epoch_by_progress([1, 2, 5, 10, 50], losses, 2.4) == 5  # (2.4 − .45)/(2.4 − .4) = .975
    assert epoch_by_progress([1, 2, 5, 10, 50], losses, 2.4, share=0.7) == 2
    assert epoch_by_progress([1, 2, 5, 10, 50], losses, 2.4, share=1) == 10
    assert epoch_by_progress([50, 10, 5, 2, 1], losses[::-1], 2.4) == 5
    assert epoch_choices([1, 2, 5, 10, 50], losses, 2.4) == {"last": 50, "lowest-loss": 10, "progress": 5}
    assert epoch_choices([3], [7.0], 2.4) == {"last": 3, "lowest-loss": 3, "progress": 3}


def test_without_any_progress_the_lowest_loss_is_taken():
    assert epoch_by_progress([1, 2, 3], [3.0, 2.6, 2.8], 2.4) == 2


def test_projection_is_avoided_or_as_wide_as_possible():
    assert widest_projection([128, None, 2048]) is None
    assert widest_projection([128, 2048, 512]) == 2048


def test_bad_input_is_named():
    with pytest.raises(UsageError, match="5 values of λ do not fit 4 LDS"):
        rule_outcomes(EvaluatedCurve("a", GRID, LDS[1:], 50), {})
    with pytest.raises(NumericalError, match="No LDS is defined in a"):
        rule_outcomes(EvaluatedCurve("a", GRID, [np.nan] * 5, 50), {})
    with pytest.raises(UsageError, match="one loss per distinct epoch"):
        epoch_by_progress([1, 1], [0.1, 0.2], 1.0)
    with pytest.raises(DataError, match="not finite"):
        epoch_by_progress([1, 2], [0.1, np.nan], 1.0)
    with pytest.raises(DataError, match="at initialisation"):
        epoch_by_progress([1], [0.1], np.inf)
    with pytest.raises(UsageError, match="outside"):
        epoch_by_progress([1], [0.1], 1.0, share=90)
    with pytest.raises(UsageError, match="no projection dimension"):
        widest_projection([])
