"""Tuning by the tuning set alone; paired differences and how often their interval holds the truth."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tda_backend.errors import UsageError
from tda_backend.numerics.trajectory.lookahead.gain import crossed_interval, paired_difference, tune
from tda_backend.numerics.trajectory.lookahead.strategy import Strategy
from tda_backend.seeds import hashed_rng


def made(strategy: Strategy, rate: float, seed: int, tuning: float, losses: np.ndarray) -> SimpleNamespace:
    return SimpleNamespace(
        strategy=strategy,
        learning_rate=rate,
        seed=seed,
        test_losses=losses,
        test_correct=losses < 1,
        courses={"tuning": SimpleNamespace(loss=np.array([9.0, tuning]))},
    )


def test_tuning_takes_the_lowest_mean_tuning_loss_and_never_looks_at_the_test_set():
    runs = [
        made(Strategy(horizon=horizon), rate, seed, tuning + seed, np.array([-tuning, 3.0]))
        for horizon, rate, tuning in ((None, 0.1, 3.0), (1, 0.1, 2.0), (1, 0.2, 1.0), (5, 0.1, 1.5))
        for seed in (1, 0)
    ]
    runs += [made(Strategy("random", fraction=0.5), 0.1, seed, 5.0, np.zeros(2)) for seed in (0, 1)]
    runs += [made(Strategy(horizon=2), 0.1, 0, -9.0, np.zeros(2))]  # one seed only
    tuned = tune(runs)
    assert list(tuned) == ["Look-ahead", "Random"]
    best = tuned["Look-ahead"].chosen
    assert (best.strategy.horizon, best.learning_rate, best.tuning_loss) == (1, 0.2, 1.5)
    assert [run.seed for run in best.runs] == [0, 1]
    assert best.test_loss == pytest.approx(1.0)
    assert [each.strategy.horizon for each in tuned["Look-ahead"].settings] == [1, 1, 5, None]
    assert len(tuned["Look-ahead"].left_out) == 1
    with pytest.raises(UsageError, match="share"):
        tune([*runs, *(made(Strategy("random", fraction=0.4), 0.1, seed, 5.0, np.zeros(2)) for seed in (0, 1))])
    with pytest.raises(UsageError, match="two runs"):
        tune([*runs, runs[0]])
    with pytest.raises(UsageError, match="no run"):
        tune([])


def test_paired_difference_is_positive_where_the_first_is_better():
    rng = hashed_rng("test", 1)
    base = rng.random((3, 50))
    worse = [made(Strategy("random"), 0.1, seed, 0.0, base[seed]) for seed in range(3)]
    better = [made(Strategy(), 0.1, seed, 0.0, base[seed] - 0.2 - 0.01 * rng.random(50)) for seed in (2, 0, 1)]
    found = paired_difference(better, worse)
    assert found.mean == pytest.approx(0.205, abs=0.002)
    assert found.low > 0.2
    assert found.verdict == "better"
    assert paired_difference(worse, better).verdict == "worse"
    assert paired_difference(worse, worse).verdict == "undecided"
    assert paired_difference(worse, worse).low == paired_difference(worse, worse).high == 0
    with pytest.raises(UsageError, match="seeds"):
        paired_difference(better[:2], worse)
    with pytest.raises(UsageError, match="two"):
        paired_difference(better[:1], [worse[2]])


@pytest.mark.parametrize(("seeds", "items", "rest"), [(1.0, 0.0, 3.0), (0.0, 3.0, 3.0), (0.3, 2.0, 3.0)])
def test_interval_covers_other_seeds_and_other_examples(seeds: float, items: float, rest: float):
    """Of 600 made experiments with five seeds and 60 examples, the 95 % interval holds the truth in 93 % or more."""
    rng = hashed_rng("coverage", seeds, items, rest)
    held = 0
    for _ in range(600):
        gap = seeds * rng.normal(size=(5, 1)) + items * rng.normal(size=(1, 60)) + rest * rng.normal(size=(5, 60))
        found = crossed_interval(gap)
        held += found.low <= 0 <= found.high
    assert 0.93 <= held / 600 <= 0.995


def test_interval_with_many_examples_is_the_t_interval_over_seeds():
    rng = hashed_rng("test", 2)
    gap = rng.normal(size=(5, 1)) + np.zeros((1, 1000))
    found = crossed_interval(gap)
    assert found.degrees == pytest.approx(4, rel=1e-6)
    assert found.standard_error == pytest.approx(gap[:, 0].std(ddof=1) / np.sqrt(5), rel=1e-9)
    assert found.high - found.mean == pytest.approx(2.776 * found.standard_error, rel=1e-3)
