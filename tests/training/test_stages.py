"""Training in stages: each stage is ordinary training of its own examples, by every route."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tda_backend.errors import DataError, TaskError, UsageError
from tda_backend.models.tasks.data import validate_data
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.training.fit import run_trainer, single_trainer, train
from tda_backend.models.training.retraining.plan import Retraining
from tda_backend.models.training.retraining.retraining import retrain_subsets
from tda_backend.models.training.retraining.subsets import retraining_seed, subset_masks
from tda_backend.models.training.routes.loop import LoopTrainer
from tda_backend.models.training.routes.stages import attributed_rows, stage_plan
from tda_backend.models.training.run import TrainingRun
from tda_backend.seeds import hashed_seed
from tda_backend.types import Stage
from tests.training.tiny import NUM_TEST, NUM_TRAIN, SETTINGS, NormTask, TinyTask

STAGE = torch.arange(NUM_TRAIN) % 3 // 2  # two thirds first, one third second
FIRST, SECOND = np.flatnonzero(STAGE == 0), np.flatnonzero(STAGE == 1)


class Staged(TinyTask):
    """The tiny perceptron with dropout in two stages, 2 + 1 epochs, the second at a smaller rate."""

    name = "tiny-staged"
    stages = (Stage("many", 2), Stage("few", 1, 0.03))

    def __init__(self, dtype: torch.dtype = torch.float64, **settings) -> None:
        super().__init__(dtype, **{"weight_decay": 0.01, "schedule": "linear", **settings})

    def datasets(self):
        sets = super().datasets()
        sets["train"]["stage"] = STAGE.clone()
        sets["test"]["stage"] = torch.ones(NUM_TEST, dtype=torch.int64)
        return sets


class StagedNorm(Staged, NormTask):
    """With running statistics, which go from stage to stage too."""

    name = "tiny-staged-norm"

    def modules(self) -> nn.Module:
        return NormTask.modules(self)


def by_hand(task, rows, seed):
    """Two trainings one after the other by the autograd loop: the slow, obviously right reference."""
    data = validate_data(task)["train"]
    model = task.build_model(seed)
    parts = [rows[STAGE.numpy()[rows] == number] for number in (0, 1)]
    options = [replace(task.training, num_epochs=2), replace(task.training, num_epochs=1, learning_rate=0.03)]
    for number, (settings, part) in enumerate(zip(options, parts, strict=True)):
        own = hashed_seed("stage", seed, number) if number else seed
        trainer = LoopTrainer(TrainingRun(task, {"train": data}, part, own), model, settings)
        for epoch in range(1, settings.num_epochs + 1):
            trainer.train_epoch(epoch)
    return model.state_dict()


@pytest.mark.parametrize("route", ["loop", "mlp"])
def test_stages_are_trainings_one_after_the_other(route):
    task, rows = Staged(), np.arange(4, 58)
    found = train(TrainingRun(task, validate_data(task), rows, 7, route=route), [1, 2, 3])
    expected = by_hand(task, rows, 7)
    for name, value in expected.items():
        torch.testing.assert_close(found[-1].state[name], value, rtol=1e-10, atol=1e-12)
    # the linear schedule runs over each stage: the last steps have half (of 2 epochs) and all of it behind them
    steps = [-(-len(np.intersect1d(rows, part)) // 8) for part in (FIRST, SECOND)]
    rates = [SETTINGS.learning_rate * (1 - (e * steps[0] - 1) / (2 * steps[0])) for e in (1, 2)]
    rates.append(0.03 * (1 - (steps[1] - 1) / steps[1]))
    assert [c.learning_rate for c in found] == pytest.approx(rates)
    assert [c.epoch for c in found] == [1, 2, 3]


def test_running_statistics_go_on_from_the_stage_before():
    task, rows = StagedNorm(), np.arange(60)
    found = train(TrainingRun(task, validate_data(task), rows, 7), [3])[-1].state
    for name, value in by_hand(task, rows, 7).items():
        torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-12)


def test_a_stage_sees_only_its_own_examples():
    """Other rows of the first stage change nothing after it if the state is the same; and the stage's rows do."""
    task = Staged()
    data = validate_data(task)["train"]
    first = train(TrainingRun(task, {"train": data}, np.arange(60), 3), [2])[0].state
    spoiled = {key: value.clone() for key, value in data.items()}
    spoiled["x"][SECOND] = 1e3
    other = train(TrainingRun(task, {"train": spoiled}, np.arange(60), 3), [2])[0].state
    for name in first:
        assert torch.equal(first[name], other[name])


@pytest.mark.parametrize(
    ("route", "count"),
    [("loop", 1), ("mlp", 1), ("mlp", 2), ("stacked", None)],
    ids=["loop", "mlp", "processes", "stacked"],
)
@pytest.mark.parametrize("alpha", [0.25, 0.75])
def test_every_route_retrains_through_the_stages(route, count, alpha):
    task = Staged()
    data, rows = validate_data(task), np.arange(2, 56)
    drawn = attributed_rows(task, data["train"], rows)
    masks = subset_masks(len(rows), alpha, 3, 0, drawn)
    retraining = Retraining(task, data, rows, masks, [4, 5, 6], repeats=1, seed=9, route=route)
    found = retrain_subsets(retraining, num_processes=count)
    for number in range(3):
        state = by_hand(task, rows[masks[number]], retraining_seed(9, 4 + number, 0))
        model = task.build_model(0).eval()
        model.load_state_dict(state)
        expected = task.measurement(model, data["test"]).detach().float().numpy()
        np.testing.assert_allclose(found[number, 0], expected, rtol=1e-5, atol=1e-6)


def test_a_registered_task_trains_in_processes_by_the_loop():
    """Without an architecture the process loads the task: ``rotated-mnist`` on few rows, against this process."""
    task = load_task("rotated-mnist")
    data = validate_data(task)
    rows = np.concatenate([np.flatnonzero(data["train"]["stage"] == stage)[:32] for stage in (0, 1)])
    few = {"train": data["train"], "test": {key: value[:9] for key, value in data["test"].items()}}
    masks = subset_masks(64, 0.5, 2, 0, attributed_rows(task, data["train"], rows))
    one, two = (
        retrain_subsets(
            Retraining(task, few, rows, masks, [0, 1], repeats=1, seed=1, route="loop"), num_processes=count
        )
        for count in (1, 2)
    )
    np.testing.assert_array_equal(one, two)


def test_subsets_leave_out_examples_of_the_first_stage_only():
    task = Staged()
    data, rows = validate_data(task)["train"], np.arange(60)
    drawn = attributed_rows(task, data, rows)
    np.testing.assert_array_equal(drawn, STAGE.numpy() == 0)
    masks = subset_masks(60, 0.25, 5, 3, drawn)
    assert masks[:, SECOND].all()
    assert (masks[:, FIRST].sum(axis=1) == 10).all()
    larger = subset_masks(60, 0.75, 5, 3, drawn)
    assert not (masks & ~larger).any()
    assert attributed_rows(TinyTask(), data, rows).all()
    np.testing.assert_array_equal(subset_masks(60, 0.5, 4, 3), subset_masks(60, 0.5, 4, 3, np.ones(60, dtype=bool)))


def test_a_stage_without_examples_is_refused():
    task = Staged()
    with pytest.raises(UsageError, match='Stage "few"'):
        train(TrainingRun(task, validate_data(task), FIRST, 0), [3])


def test_steps_of_a_staged_run_cannot_be_replayed():
    task = Staged()
    data = validate_data(task)["train"]
    with pytest.raises(TaskError, match="in stages"):
        single_trainer(TrainingRun(task, {"train": data}, np.arange(60), 0, "cpu", "auto"))
    with pytest.raises(UsageError, match="No epoch"):
        run_trainer(TrainingRun(task, {"train": data}, np.arange(60), 0, "cpu", "auto")).states()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda sets: [sets[split].pop("stage") for split in sets], 'has no "stage"'),
        (lambda sets: sets["train"].update(stage=STAGE + 1), r"in 1…2"),
        (lambda sets: sets["train"].update(stage=STAGE.float()), "float32"),
    ],
    ids=["missing", "range", "kind"],
)
def test_stage_numbers_are_checked(spoil, words):
    class Spoiled(Staged):
        def datasets(self):
            sets = super().datasets()
            spoil(sets)
            return sets

    with pytest.raises(DataError, match=words):
        validate_data(Spoiled())


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        ((Stage("a", 2), Stage("b", 2)), "have 4 epochs"),
        ((Stage("a", 3), Stage("b", 0)), "A stage of task"),
        ((Stage("a", 2), Stage("b", 1, -1.0)), "A stage of task"),
        (("a", "b"), "A stage of task"),
    ],
)
def test_stages_are_checked(stages, words):
    task = Staged()
    task.stages = stages
    with pytest.raises(TaskError, match=words):
        stage_plan(task)


def test_stages_and_optimizer_are_part_of_the_tasks_identity():
    task, other = Staged(), Staged()
    assert task.source() == other.source()
    other.stages = (Stage("many", 2), Stage("few", 1, 0.02))
    assert task.source() != other.source()
    third = Staged()
    third.stage_key = "phase"
    assert task.source() != third.source()
    plain, optimum = TinyTask(), TinyTask(optimizer="lbfgs")
    assert plain.source() != optimum.source()
