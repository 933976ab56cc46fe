"""Racing against ranking anew, against the paired bootstrap, and against truths known by construction."""

from __future__ import annotations

import numpy as np
import pytest

from tda_backend.errors import DataError, UsageError
from tda_backend.numerics.evaluation import racing
from tda_backend.numerics.evaluation.bootstrap import double_ranks
from tda_backend.numerics.evaluation.comparison import draws_from_ranks, lds_from_ranks
from tda_backend.numerics.evaluation.racing import Race, run_race

M = 30


def world(seed, noises, num_subsets=40, num_queries=M, common=0.5):
    """Candidates that see the truth through noise of their own size, half of it shared by all (as features share)."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(num_subsets, num_queries))
    target = truth + rng.normal(size=truth.shape)
    shared = rng.normal(size=truth.shape)
    own = rng.normal(size=(len(noises), *truth.shape))
    scale = np.asarray(noises)[:, None, None]
    return truth + scale * (np.sqrt(common) * shared + np.sqrt(1 - common) * own), target


def population_lds(noise: float) -> float:
    """Spearman of a bivariate normal with Pearson ρ: 6/π·asin(ρ/2)."""
    return 6 / np.pi * np.arcsin(0.5 / np.sqrt(2 * (1 + noise**2)))


def feed(race, predicted, target, upto=None):
    for position in range(len(target) if upto is None else upto):
        race.add(predicted[:, position], target[position])
    return race


def test_the_leader_is_the_best_on_the_subsets_so_far():
    predicted, target = world(0, [1.0, 1.1, 1.2, 1.3], num_subsets=20)
    predicted, target = predicted.round(1), target.round(1)  # ties in both
    race = feed(Race(4, 50, minimum=99), predicted, target)
    for look in race.result().history:
        some = slice(0, look.num_retrainings)
        slow = np.nanmean(
            lds_from_ranks(np.stack([double_ranks(own[some]) for own in predicted]), target[some]), axis=1
        )
        assert look.leader == slow.argmax()
        assert look.lds == pytest.approx(slow.max(), abs=2e-6)
        assert look.num_survivors == 4
        assert np.isnan(look.largest_gap)
    assert len(race.result().history) == 19


def test_the_paired_error_is_that_of_the_bootstrap():
    predicted, target = world(1, [0.5, 1.0, 1.5, 3.0], num_subsets=50)
    race = feed(Race(4, 50, minimum=99), predicted, target)
    lds, contributions = race._correlations(50)
    draws = draws_from_ranks(np.stack([double_ranks(own) for own in predicted]), target, 2000)
    assert lds.argmax() == 0
    for other in (1, 2, 3):
        fast = (contributions[other] - contributions[0]).std(ddof=1) / np.sqrt(50)
        assert fast == pytest.approx((draws[:, other] - draws[:, 0]).std(), rel=0.1)
    assert np.abs(contributions.mean(1)).max() < 1e-6  # an influence function has mean 0


def test_a_clear_winner_is_found_early_and_no_target_is_asked_for_afterwards():
    predicted, target = world(2, [0.3, 3.0, 3.0, 3.0])
    asked = []

    def retrain():
        for position, row in enumerate(target):
            asked.append(position)
            yield row

    result = run_race(predicted, retrain())
    assert result.decided
    assert result.winner == 0
    assert result.survivors.tolist() == [0]
    assert result.num_retrainings == len(asked) <= 10
    assert result.history[-1].largest_gap == -np.inf
    assert "within 0.01 LDS of the best" in result.sentence


def test_equal_candidates_are_equivalent_at_once_and_all_survive():
    predicted, target = world(3, [1.0])
    result = run_race(np.repeat(predicted, 5, axis=0), iter(target), minimum=6)
    assert result.decided
    assert result.num_retrainings == 6
    assert sorted(result.survivors) == [0, 1, 2, 3, 4]


def test_near_candidates_are_decided_by_tolerance_only():
    predicted, target = world(4, [1.0, 1.02], common=0.9, num_subsets=60)
    strict = run_race(predicted, iter(target), tolerance=0.0)
    loose = run_race(predicted, iter(target), tolerance=0.1)
    assert not strict.decided
    assert strict.num_retrainings == 60
    assert "do not decide it: 2 candidates remain" in strict.sentence
    assert loose.decided
    assert loose.num_retrainings < 40


def test_the_claim_holds_as_often_as_it_says():
    """60 races among 12 candidates, the best better by little: the winner of a decided race is within the tolerance."""
    noises = np.r_[1.0, np.linspace(1.1, 2.0, 11)]
    truth = np.array([population_lds(noise) for noise in noises])
    wrong = lost = decided = 0
    for seed in range(60):
        predicted, target = world(seed, noises, common=0.8, num_queries=60)
        result = run_race(predicted, iter(target), tolerance=0.04)
        decided += result.decided
        wrong += result.decided and truth[0] - truth[result.winner] > 0.04
        lost += 0 not in result.survivors
    assert decided >= 50
    assert wrong <= 3
    assert lost <= 3


def test_only_the_order_of_predictions_counts_and_blocks_do_not(monkeypatch):
    predicted, target = world(5, np.linspace(0.8, 2, 9))
    plain = run_race(predicted, iter(target))
    ranked = run_race(np.stack([double_ranks(own) for own in predicted]), iter(np.exp(target)))
    monkeypatch.setattr(racing, "_BLOCK", 2)
    small = run_race(predicted, iter(target))
    for other in (ranked, small):
        assert other.winner == plain.winner
        assert other.survivors.tolist() == plain.survivors.tolist()
        assert other.num_retrainings == plain.num_retrainings > 16  # the store has grown
        assert other.lds == pytest.approx(plain.lds, abs=1e-6)


def test_candidates_and_queries_without_a_value_do_not_disturb():
    predicted, target = world(6, [0.3, 2.0, 2.0])
    predicted[1] = 0.0  # scores all zero
    target[:, 3] = 1.0
    result = run_race(predicted, iter(target))
    assert result.winner == 0
    assert result.decided
    keep = np.arange(M) != 3
    assert result.lds == pytest.approx(run_race(predicted[:, :, keep], iter(target[:, keep])).lds, abs=1e-6)


def test_bad_input_is_named():
    predicted, target = world(7, [1.0, 2.0])
    with pytest.raises(UsageError, match="minimum 2 is not possible"):
        Race(3, 50, minimum=2)
    race = Race(2, 2)
    assert race.add(predicted[:, 0], target[0]) is None
    with pytest.raises(UsageError, match="at least two retrainings"):
        race.result()
    with pytest.raises(UsageError, match="do not fit 2 candidates"):
        race.add(predicted[:1, 1], target[1])
    with pytest.raises(DataError, match="not finite"):
        race.add(predicted[:, 1], target[1] * np.nan)
    race.add(predicted[:, 1], target[1])
    assert race.result().sentence == "2 retrainings do not decide it: 2 candidates remain."
    with pytest.raises(UsageError, match="All 2 planned"):
        race.add(predicted[:, 2], target[2])


def test_limits_are_judged_at_growing_sizes_and_at_the_last():
    assert racing.look_sizes(50) == (5, 6, 8, 10, 12, 15, 18, 22, 27, 33, 40, 48, 50)
    assert racing.look_sizes(5) == (5,)
    assert racing.look_sizes(4) == ()
    predicted, target = world(8, [1.0, 1.05], num_subsets=20)
    history = run_race(predicted, iter(target), tolerance=0.0).history
    judged = [look.num_retrainings for look in history if not np.isnan(look.largest_gap)]
    assert judged == [5, 6, 8, 10, 12, 15, 18, 20]
