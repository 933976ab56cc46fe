"""Retraining of subsets: the same numbers whatever the route, the processes and the division into calls."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tda_backend.errors import MachineError, NumericalError, TaskError, UsageError
from tda_backend.models.tasks.data import validate_data
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.training.fit import model_from, train
from tda_backend.models.training.outputs import goodness_of
from tda_backend.models.training.retraining import routes
from tda_backend.models.training.retraining.plan import Retraining
from tda_backend.models.training.retraining.processes import close_pool
from tda_backend.models.training.retraining.retraining import retrain_subsets
from tda_backend.models.training.retraining.subsets import retraining_seed, subset_masks
from tda_backend.models.training.run import TrainingRun
from tests.training.tiny import (
    NUM_TEST,
    NUM_TRAIN,
    BranchingTask,
    NormTask,
    OwnRandomnessTask,
    RegressionTask,
    ResidualTask,
    TinyTask,
)


@pytest.fixture(scope="module", autouse=True)
def _no_process_outlives_this_file():
    yield
    close_pool()


def retrained(task, masks=None, ids=None, **options):
    """Retrain with everything defaulted that a test does not vary."""
    masks = subset_masks(NUM_TRAIN, 0.5, 3, seed=0) if masks is None else masks
    ids = range(len(masks)) if ids is None else ids
    own = {name: options.pop(name) for name in ("repeats", "seed", "route") if name in options}
    own = {"repeats": 1, "seed": 0, **own}
    retraining = Retraining(task, validate_data(task), range(masks.shape[1]), masks, ids, **own)
    return retrain_subsets(retraining, **{"num_processes": 1, **options})


def test_masks_have_exact_sizes_and_prefixes():
    masks = subset_masks(101, 0.25, 6, seed=3)
    assert masks.dtype == bool
    assert masks.sum(axis=1).tolist() == [25] * 6
    np.testing.assert_array_equal(masks[:4], subset_masks(101, 0.25, 4, seed=3))
    assert (subset_masks(101, 0.25, 6, seed=4) != masks).any()
    assert len({tuple(mask) for mask in masks}) == 6
    assert not (masks & ~subset_masks(101, 0.75, 6, seed=3)).any()  # an α sweep is nested
    assert subset_masks(5, 0.5, 1, seed=0).sum() == 3  # 2.5 rounds up, not to even


@pytest.mark.parametrize(("alpha", "count"), [(0, 1), (1.1, 1), (-0.5, 1), (0.001, 1), (0.5, 0)])
def test_impossible_subsets_are_refused(alpha, count):
    with pytest.raises(UsageError):
        subset_masks(10, alpha, count, seed=0)


@pytest.mark.parametrize("alpha", [0.25, 0.75, 1.0])
@pytest.mark.parametrize("route", ["mlp", "stacked", "auto"])
def test_routes_agree_over_alpha_and_repeats(route, alpha):
    masks = subset_masks(NUM_TRAIN, alpha, 3, seed=1)
    task = TinyTask(batch_size=7)
    expected = retrained(task, masks, repeats=2, route="loop")
    found = retrained(task, masks, repeats=2, route=route)
    assert found.shape == (3, 2, NUM_TEST)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert (found[:, 0] != found[:, 1]).any(axis=1).all()


@pytest.mark.parametrize(("route", "tolerance"), [("mlp", 0), ("loop", 0), ("stacked", 1e-5)])
def test_a_result_does_not_depend_on_the_company_it_is_computed_in(route, tolerance):
    # Stacked on the CPU, a model's place in the stack decides how its rows are aligned, and with that the last bit.
    task, masks = TinyTask(torch.float32), subset_masks(NUM_TRAIN, 0.5, 5, seed=2)
    whole = retrained(task, masks, route=route)
    np.testing.assert_array_equal(whole, retrained(task, masks, route=route))
    parts = np.concatenate([retrained(task, masks[[i]], [i], route=route) for i in (3, 1)])
    np.testing.assert_allclose(whole[[3, 1]], parts, rtol=tolerance, atol=tolerance)


def test_subsets_of_unequal_sizes_can_be_stacked():
    masks = np.stack([subset_masks(NUM_TRAIN, alpha, 1, seed=1)[0] for alpha in (0.3, 0.6, 0.3)])
    found = retrained(TinyTask(), masks, route="stacked")
    np.testing.assert_allclose(found, retrained(TinyTask(), masks, route="loop"), rtol=1e-6, atol=1e-6)


def test_more_models_than_a_stack_holds(monkeypatch):
    monkeypatch.setattr(routes, "STACK_SIZE", 2)
    found = retrained(TinyTask(), route="stacked")
    np.testing.assert_allclose(found, retrained(TinyTask(), route="loop"), rtol=1e-6, atol=1e-6)


def test_a_subset_of_everything_is_an_ordinary_training_run():
    task = TinyTask(torch.float32)
    data = validate_data(task)
    masks = np.ones((1, 30), dtype=bool)
    rows = np.arange(20, 50)
    found = retrain_subsets(Retraining(task, data, rows, masks, [9], repeats=1, seed=5), num_processes=1)
    final = train(TrainingRun(task, data, rows, retraining_seed(5, 9, 0)), [task.training.num_epochs])[-1]
    np.testing.assert_array_equal(found[0, 0], goodness_of(task, model_from(task, final.state), data["test"]).numpy())


@pytest.mark.parametrize("kind", [NormTask, BranchingTask, OwnRandomnessTask, RegressionTask])
def test_models_that_cannot_be_stacked_fall_back(kind):
    task = kind()
    found = retrained(task)
    np.testing.assert_array_equal(found, retrained(task))
    np.testing.assert_array_equal(found, retrained(task, route="loop"))
    if kind is not RegressionTask:
        with pytest.raises(UsageError, match="cannot be stacked"):
            retrained(task, route="stacked")
        with pytest.raises(UsageError, match="perceptron"):
            retrained(task, route="mlp")


def test_generic_models_can_be_stacked():
    found = retrained(ResidualTask(), route="stacked")
    np.testing.assert_allclose(found, retrained(ResidualTask(), route="loop"), rtol=1e-6, atol=1e-6)


def test_goodness_of_an_error_is_its_negative():
    assert (retrained(RegressionTask()) <= 0).all()


@pytest.mark.parametrize("spec", ["tests.training.tiny:TinyTask", "tests.training.tiny:NormTask"])
def test_processes_give_the_same_bits_as_none(spec):
    task = load_task(spec)
    ticks: list[tuple[int, int]] = []
    alone = retrained(task, on_progress=lambda *tick: ticks.append(tick))
    shared = retrained(task, num_processes=2)
    np.testing.assert_array_equal(shared, alone)
    assert ticks[-1] == (9, 9)
    assert [done for done, _ in ticks] == sorted(done for done, _ in ticks)


def test_progress_from_processes_is_monotonic_and_complete():
    ticks: list[tuple[int, int]] = []
    task = TinyTask(torch.float32, num_epochs=40)
    retrained(task, num_processes=2, repeats=3, on_progress=lambda *tick: ticks.append(tick))
    assert ticks[-1] == (360, 360)
    assert [done for done, _ in ticks] == sorted(done for done, _ in ticks)
    assert len(ticks) > 5


def test_an_error_in_a_process_comes_back_as_it_was():
    task = load_task("tests.training.tiny:DivergingTask")
    with pytest.raises(NumericalError, match="diverged") as caught:
        retrained(task, num_processes=2)
    assert "learning rate" in caught.value.hint
    retrained(TinyTask(torch.float32), num_processes=2)  # the next call starts afresh


def test_errors_in_a_persons_code_name_the_function_here_too():
    class Broken(NormTask):
        def train_loss(self, model, batch):
            raise ValueError("no such column")

    with pytest.raises(TaskError, match=r'train_loss of task "tiny-norm" fails: ValueError: no such column'):
        retrained(Broken())

    class OutOfMemory(NormTask):
        def measurement(self, model, batch):
            raise MemoryError

    with pytest.raises(MachineError, match="Memory ran out in measurement"):
        retrained(OutOfMemory())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"masks": np.ones((2, 3), bool), "ids": [0]}, "do not fit"),
        ({"masks": np.zeros((1, NUM_TRAIN), bool)}, "empty"),
        ({"repeats": 0}, "repeats"),
        ({"route": "magic"}, "no training route"),
        ({"num_processes": 0}, "processes"),
    ],
)
def test_bad_arguments_are_named(options, words):
    with pytest.raises(UsageError, match=words):
        retrained(TinyTask(), **options)


@pytest.mark.shipped_data
def test_mnist_mlp_routes_agree_and_learn():
    task = load_task("mnist-mlp")
    data = validate_data(task)
    rows = np.arange(0, 7000, 7)
    states = {route: train(TrainingRun(task, data, rows, 1, route=route), [3])[0].state for route in ("mlp", "loop")}
    for name, value in states["loop"].items():
        torch.testing.assert_close(states["mlp"][name], value, rtol=1e-3, atol=1e-5)
    model = model_from(task, states["mlp"])
    right = (task.predict(model, data["test"]) == data["test"]["y"]).float().mean()
    assert right > 0.75
