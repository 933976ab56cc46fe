"""The plan of segments: checkpoints, exact sums of learning rates, stages, averages of parameters."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tda_backend.errors import DataError, NumericalError, UsageError
from tda_backend.models.training.routes.schedule import learning_rate
from tda_backend.numerics.trajectory.source.segments import (
    TrainingSegment,
    TrainingStage,
    average_state,
    multi_stage_segments,
    segment_states,
    source_segments,
)
from tda_backend.types import TrainingSettings

SETTINGS = TrainingSettings(num_epochs=50, batch_size=64, learning_rate=0.01, momentum=0.9, weight_decay=1e-3)


def test_defaults_are_three_segments_of_two_checkpoints():
    segments = source_segments(SETTINGS, 5000)
    assert [segment.epochs for segment in segments] == [(8, 17), (25, 33), (42, 50)]
    assert [segment.num_steps for segment in segments] == [17 * 79, 16 * 79, 17 * 79]  # the partial batch is a step
    assert segments[0].learning_rate_sum == pytest.approx(0.01 * 17 * 79, rel=1e-12)
    assert segments[0].duration == pytest.approx(0.1 * 17 * 79, rel=1e-12)
    assert {(s.momentum, s.weight_decay, s.decay_kind, s.data_indices) for s in segments} == {(0.9, 1e-3, "l2", None)}


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("end", [None, 31])
def test_learning_rates_are_those_of_every_step(schedule, end):
    settings = TrainingSettings(num_epochs=40, batch_size=7, learning_rate=0.3, schedule=schedule)
    segments = source_segments(settings, 50, end)
    total = 8 * (end or 40)
    rates = [learning_rate(settings, step, 8 * 40) for step in range(total)]  # the schedule refers to all 40 epochs
    assert sum(s.num_steps for s in segments) == total
    first = 0
    for segment in segments:
        assert segment.learning_rate_sum == pytest.approx(
            math.fsum(rates[first : first + segment.num_steps]), rel=1e-14
        )
        first += segment.num_steps


@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 60))
def test_checkpoints_are_different_and_end_with_the_run(num_segments: int, each: int, more: int):
    count = num_segments * each
    settings = TrainingSettings(num_epochs=count + more, batch_size=8, learning_rate=0.1)
    segments = source_segments(settings, 20, None, num_segments, count)
    epochs = [epoch for segment in segments for epoch in segment.epochs]
    assert len(segments) == num_segments
    assert len(set(epochs)) == count
    assert epochs == sorted(epochs)
    assert epochs[0] >= 1
    assert epochs[-1] == count + more
    gaps = [b - a for a, b in zip([0, *epochs], epochs, strict=False)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"settings": None}, "learning rates of the run are unknown"),
        ({"num_segments": 4}, "6 checkpoints for 4 segments"),
        ({"num_checkpoints": 2}, "2 checkpoints for 3 segments"),
        ({"num_segments": 0}, "for 0 segments"),
        ({"last_epoch": 5}, "6 checkpoints, but the run ends after 5 epochs"),
        ({"last_epoch": 51}, "last epoch is 51"),
        ({"last_epoch": 0}, "last epoch is 0"),
        ({"num_train": 0}, "0 training examples"),
    ],
)
def test_plans_that_cannot_be_are_refused(arguments, text):
    with pytest.raises(UsageError, match=text):
        source_segments(**{"settings": SETTINGS, "num_train": 100, **arguments})


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": ()},
        {"epochs": (3, 2)},
        {"epochs": (2, 2)},
        {"num_steps": 0},
        {"learning_rate_sum": math.nan},
        {"learning_rate_sum": -1.0},
        {"momentum": 1.0},
        {"weight_decay": math.nan},
        {"data_indices": ()},
        {"data_indices": (1, 1)},
    ],
)
def test_segments_that_cannot_be_are_refused(change):
    with pytest.raises(UsageError):
        TrainingSegment(**{"epochs": (1, 2), "num_steps": 3, "learning_rate_sum": 0.3, **change})


def test_stages_count_epochs_on_and_keep_their_own_data():
    later = TrainingSettings(num_epochs=2, batch_size=4, learning_rate=0.5)
    stages = [TrainingStage(SETTINGS, range(100), 4, 2, 4), TrainingStage(later, [7, 8, 200], None, 1, 2)]
    segments = multi_stage_segments(stages)
    assert [s.epochs for s in segments] == [(1, 2), (3, 4), (5, 6)]
    assert [s.data_indices for s in segments] == [tuple(range(100))] * 2 + [(7, 8, 200)]
    assert [s.num_steps for s in segments] == [4, 4, 2]
    assert [s.momentum for s in segments] == [0.9, 0.9, 0.0]
    assert segments[2].learning_rate_sum == pytest.approx(1.0)
    with pytest.raises(UsageError, match="no stage"):
        multi_stage_segments([])


def made_states(*epochs: int):
    return {e: {"w": torch.full((2,), float(e)), "count": torch.tensor(e)} for e in epochs}


def test_states_are_those_of_the_checkpoints_or_their_average():
    segments = (TrainingSegment((1, 3), 4, 0.1), TrainingSegment((5, 6), 4, 0.1))
    states = made_states(1, 2, 3, 5, 6)
    whole = segment_states(segments, states)
    assert [[label for label, _ in part] for part in whole] == [["epoch 1", "epoch 3"], ["epoch 5", "epoch 6"]]
    fast = segment_states(segments, states, fast=True)
    assert [len(part) for part in fast] == [1, 1]
    assert float(fast[1][0][1]["w"][0]) == 5.5
    assert int(fast[1][0][1]["count"]) == 6  # a counter has no mean
    assert average_state([states[1]])["w"].dtype == torch.float32


def test_missing_and_broken_checkpoints_are_named():
    segments = (TrainingSegment((1, 3), 4, 0.1), TrainingSegment((5, 6), 4, 0.1))
    with pytest.raises(DataError, match=r"not there: epochs 3, 6\. Train with checkpoints at epochs 1, 3, 5, 6"):
        segment_states(segments, made_states(1, 5))
    broken = made_states(1, 3, 5, 6)
    broken[5]["w"][1] = torch.nan
    with pytest.raises(NumericalError, match="epoch 5 holds NaN or infinity in w"):
        segment_states(segments, broken)
    with pytest.raises(UsageError, match="order of time"):
        segment_states(segments[::-1], made_states(1, 3, 5, 6))
