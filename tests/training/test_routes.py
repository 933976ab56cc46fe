"""All routes compute the same training run; the slow autograd loop is the truth, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.models.tasks.data import validate_data
from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.fit import model_from, train
from tda_backend.models.training.outputs import evaluate
from tda_backend.models.training.retraining.subsets import subset_masks
from tda_backend.models.training.routes.dropout import EpochMasks, HashedDropout, MaskStream, hash_dropout, keep_scale
from tda_backend.models.training.routes.loop import LoopTrainer
from tda_backend.models.training.routes.mlp import MLPTrainer
from tda_backend.models.training.routes.perceptron import mlp_architecture
from tda_backend.models.training.routes.schedule import learning_rate, training_order
from tda_backend.models.training.routes.stacked import StackedTrainer, why_not_stackable
from tda_backend.models.training.run import RunGroup, TrainingRun
from tests.training.tiny import (
    NUM_TRAIN,
    BranchingTask,
    DivergingTask,
    NormTask,
    OwnRandomnessTask,
    ResidualTask,
    TinyTask,
)

SETTINGS = {
    "momentum": {},
    "plain": {"momentum": 0.0},
    "decay": {"weight_decay": 0.05, "schedule": "linear"},
    "plain decay": {"momentum": 0.0, "weight_decay": 0.05, "schedule": "cosine"},
    "odd last batch": {"batch_size": 7},
    "one batch": {"batch_size": 1000},
}


def final_states(task, route, indices, seeds):
    """Return the final state of one model per seed, by ``route``."""
    data, chosen = validate_data(task)["train"], training_settings(task)
    models = [task.build_model(seed) for seed in seeds]
    if route == "functional":
        trainers = [StackedTrainer(task, models, chosen, RunGroup(data, indices, seeds))]
    elif route == "loop":
        trainers = [
            LoopTrainer(TrainingRun(task, {"train": data}, rows, seed), model, chosen)
            for model, rows, seed in zip(models, indices, seeds, strict=True)
        ]
    else:
        architecture = mlp_architecture(task, models[0], data)
        assert architecture is not None
        states = [model.state_dict() for model in models]
        groups = [slice(None)] if route == "stacked" else [slice(i, i + 1) for i in range(len(seeds))]
        trainers = [
            MLPTrainer(
                architecture,
                chosen,
                RunGroup(data, indices[group], seeds[group]),
                states[group],
                stacked=route == "stacked",
            )
            for group in groups
        ]
    for trainer in trainers:
        for epoch in range(1, chosen.num_epochs + 1):
            trainer.train_epoch(epoch)
    return [state for trainer in trainers for state in trainer.states()]


@settings(max_examples=25, deadline=None)
@given(
    widths=st.lists(st.integers(1, 9), max_size=3),
    drops=st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.9]), min_size=3, max_size=3),
    batch_size=st.integers(1, 40),
    size=st.integers(1, 33),
    momentum=st.sampled_from([0.0, 0.5, 0.9]),
    seed=st.integers(0, 2**62),
)
def test_any_perceptron_trains_as_autograd_does(widths, drops, batch_size, size, momentum, seed):
    class Any(TinyTask):
        def modules(self):
            ends = [12, *widths]
            layers = [
                layer
                for fan_in, fan_out, p in zip(ends[:-1], ends[1:], drops, strict=False)
                for layer in (nn.Linear(fan_in, fan_out), nn.ReLU(), nn.Dropout(p))
            ]
            return nn.Sequential(*layers, nn.Linear(ends[-1], 3))

    task = Any(batch_size=batch_size, momentum=momentum, learning_rate=0.02, num_epochs=2)
    indices = [np.arange(size), np.arange(60 - size, 60)]
    expected = final_states(task, "loop", indices, [seed, seed + 1])
    for route in ("mlp", "stacked"):
        for one, other in zip(final_states(task, route, indices, [seed, seed + 1]), expected, strict=True):
            for name in other:
                torch.testing.assert_close(one[name], other[name], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("route", ["mlp", "stacked", "functional"])
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_every_route_equals_the_autograd_loop(route, options):
    task = TinyTask(**options)
    indices = [np.flatnonzero(mask) for mask in subset_masks(NUM_TRAIN, 0.5, 3, seed=4)]
    seeds = [11, 12, 13]
    expected = final_states(task, "loop", indices, seeds)
    found = final_states(task, route, indices, seeds)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name in other:
            torch.testing.assert_close(one[name], other[name], rtol=1e-10, atol=1e-12)
    assert not torch.equal(expected[0]["0.weight"], expected[1]["0.weight"])


def test_functional_route_serves_models_that_are_no_perceptrons():
    task = ResidualTask()
    indices = [np.arange(0, 25), np.arange(30, 55)]
    found = final_states(task, "functional", indices, [1, 2])
    for one, other in zip(found, final_states(task, "loop", indices, [1, 2]), strict=True):
        assert list(one) == list(other)
        for name in other:
            torch.testing.assert_close(one[name], other[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("task", "word"),
    [(NormTask(), "buffers"), (BranchingTask(), ""), (OwnRandomnessTask(), "andom"), (ResidualTask(), None)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_cannot_be_stacked_is_found_out(task, word):
    reason = why_not_stackable(task, task.training, validate_data(task)["train"], np.arange(20))
    assert (reason is None) == (word is None)
    assert reason is None or (reason and word in reason)


class _Doubled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    ("modules", "fits"),
    [
        ([nn.Linear(12, 3)], True),
        ([nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3)], True),
        ([nn.Sequential(nn.Linear(12, 4), nn.ReLU()), nn.Identity(), nn.Linear(4, 3)], True),
        ([nn.Linear(12, 4), nn.Linear(4, 3)], False),
        ([nn.Linear(12, 4), nn.Tanh(), nn.Linear(4, 3)], False),
        ([nn.Linear(12, 4), nn.Dropout(0.1), nn.ReLU(), nn.Linear(4, 3)], False),
        ([nn.Dropout(0.1), nn.Linear(12, 3)], False),
        ([nn.Linear(12, 3), nn.ReLU()], False),
        ([nn.Linear(12, 3, bias=False)], False),
        ([_Doubled(12, 3)], False),
        ([nn.Linear(12, 4), nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 3)], False),
        ([nn.Linear(11, 3)], False),
    ],
)
def test_hand_written_route_takes_only_what_it_computes(modules, fits):
    task = TinyTask(torch.float32)
    data = validate_data(task)["train"]
    assert (mlp_architecture(task, nn.Sequential(*modules), data) is not None) == fits


def test_hand_written_route_declines_hooks_frozen_layers_shared_layers_and_own_losses():
    task = TinyTask(torch.float32)
    data = validate_data(task)["train"]
    hooked, frozen = nn.Sequential(nn.Linear(12, 3)), nn.Sequential(nn.Linear(12, 3))
    hooked[0].register_forward_hook(lambda module, inputs, output: output * 2)
    frozen[0].bias.requires_grad_(False)
    square = nn.Linear(12, 12)
    shared = nn.Sequential(square, nn.ReLU(), square, nn.ReLU(), nn.Linear(12, 3))
    for model in (hooked, frozen, shared):
        assert mlp_architecture(task, model, data) is None

    class OwnLoss(TinyTask):
        def train_loss(self, model, batch):
            return 2 * super().train_loss(model, batch)

    assert mlp_architecture(OwnLoss(torch.float32), nn.Sequential(nn.Linear(12, 3)), data) is None


def test_dropout_that_never_drops_does_not_shift_the_masks_of_others():
    class Mixed(TinyTask):
        def modules(self):
            return nn.Sequential(
                nn.Linear(12, 9),
                nn.ReLU(),
                nn.Dropout(0.0),
                nn.Linear(9, 7),
                nn.ReLU(),
                nn.Dropout(0.5),
                nn.Linear(7, 3),
            )

    indices = [np.arange(30)]
    one, other = (final_states(Mixed(), route, indices, [3])[0] for route in ("mlp", "loop"))
    for name in other:
        torch.testing.assert_close(one[name], other[name], rtol=1e-10, atol=1e-12)


def test_images_are_flattened_by_the_model_or_not_at_all():
    class Images(TinyTask):
        def datasets(self):
            sets = super().datasets()
            return {split: {"x": b["x"].reshape(-1, 3, 4), "y": b["y"]} for split, b in sets.items()}

        def modules(self):
            return nn.Sequential(nn.Flatten(), *super().modules())

    indices = [np.arange(30)]
    one, other = (final_states(Images(), route, indices, [3])[0] for route in ("mlp", "loop"))
    for name in other:
        torch.testing.assert_close(one[name], other[name], rtol=1e-10, atol=1e-12)
    assert mlp_architecture(Images(), TinyTask().build_model(0), validate_data(Images())["train"]) is None


def test_masks_do_not_depend_on_batches_and_keep_their_expectation():
    whole = MaskStream(5, 2, 1, 0.3).draw(1000, 30)
    parts = MaskStream(5, 2, 1, 0.3)
    np.testing.assert_array_equal(whole, np.concatenate([parts.draw(rows, 30) for rows in (1, 333, 666)]))
    assert abs(whole.mean() - 0.7) < 4 * (0.21 / whole.size) ** 0.5
    assert abs(keep_scale(0.1) * 0.9 - 1) < 1e-5
    assert keep_scale(1.0) == 0
    for other in (MaskStream(6, 2, 1, 0.3), MaskStream(5, 3, 1, 0.3), MaskStream(5, 2, 2, 0.3)):
        assert (other.draw(1000, 30) != whole).mean() > 0.3


def test_hashed_dropout_is_dropout_outside_training_and_keeps_parameter_names():
    model = TinyTask().build_model(0)
    names = list(model.state_dict())
    layers = hash_dropout(model)
    assert [layer.layer for layer in layers] == [0, 1]
    assert hash_dropout(model) == layers
    assert list(model.state_dict()) == names
    x = torch.ones(4, 8)
    layer = HashedDropout(0.5, 0)
    assert set(layer(x).unique().tolist()) <= {0.0, 2.0}  # no source: PyTorch's own
    layer.source = EpochMasks([layer], seed=1, epoch=1)
    layer.eval()
    assert torch.equal(layer(x), x)


def test_order_is_a_permutation_that_depends_on_seed_and_epoch():
    orders = [training_order(seed, epoch, 50) for seed, epoch in ((1, 1), (1, 2), (2, 1))]
    for order in orders:
        assert sorted(order) == list(range(50))
    assert len({tuple(order) for order in orders}) == 3


def test_schedules():
    task = TinyTask(schedule="linear")
    assert [learning_rate(task.training, t, 4) for t in range(4)] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    cosine = TinyTask(schedule="cosine").training
    assert learning_rate(cosine, 2, 4) == pytest.approx(0.05)
    assert learning_rate(TinyTask().training, 3, 4) == 0.1


@pytest.mark.parametrize("route", ["auto", "loop"])
def test_train_is_reproducible_and_prefix_stable(route):
    task = TinyTask(torch.float32)
    data = validate_data(task)["train"]
    ticks: list[tuple[int, int]] = []
    first = train(
        TrainingRun(task, {"train": data}, range(40), 7, route=route),
        [1, 3],
        on_progress=lambda *tick: ticks.append(tick),
    )
    again = train(TrainingRun(task, {"train": data}, range(40), 7, route=route), [1])
    assert [c.epoch for c in first] == [1, 3]
    assert ticks == [(1, 3), (2, 3), (3, 3)]
    for name, value in first[0].state.items():
        assert torch.equal(value, again[0].state[name])
        assert not value.requires_grad
    assert first[0].learning_rate == task.training.learning_rate
    model = model_from(task, first[1].state)
    assert not model.training


def test_training_does_not_touch_the_callers_random_state_or_threads():
    task = OwnRandomnessTask(torch.float32)
    torch.manual_seed(0)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    train(TrainingRun(task, validate_data(task), range(20), 1), [1])
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"epochs": [0]}, "1…3"),
        ({"epochs": [4]}, "1…3"),
        ({"epochs": []}, "1…3"),
        ({"rows": [60]}, "out of range"),
        ({"rows": [-1]}, "out of range"),
        ({"rows": []}, "No training example"),
        ({"route": "fast"}, "no training route"),
    ],
)
def test_train_refuses_what_is_out_of_range(arguments, words):
    task = TinyTask()
    wanted = {"rows": [0], "route": "auto", "epochs": [1], **arguments}
    run = TrainingRun(task, validate_data(task), wanted["rows"], 0, route=wanted["route"])
    with pytest.raises(UsageError, match=words):
        train(run, wanted["epochs"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("momentum", 1.0),
        ("schedule", "step"),
        ("num_epochs", "2"),
        ("num_epochs", 2.0),
        ("batch_size", True),
        ("learning_rate", "0.1"),
        ("learning_rate", float("nan")),
        ("momentum", None),
        ("weight_decay", float("inf")),
        ("schedule", []),
    ],
)
def test_settings_out_of_range_are_named(key, value):
    task = TinyTask(**{key: value})
    with pytest.raises(TaskError, match=f"training.{key}"):
        train(TrainingRun(task, validate_data(task), [0], 0), [1])


@pytest.mark.parametrize("route", ["auto", "loop"])
def test_divergence_is_reported_with_its_epoch(route):
    task = DivergingTask()
    with pytest.raises(NumericalError, match=r"diverged: .* after epoch"):
        train(TrainingRun(task, validate_data(task), range(60), 0, route=route), [4])


def test_evaluation_applies_the_sign_once_and_in_eval_mode():
    task = TinyTask(torch.float32)
    data = validate_data(task)["test"]
    model = task.build_model(3)
    task.measurement_sign = -1
    found = evaluate(task, model, data, batch_size=8)
    with torch.no_grad():
        logits = model.eval()(data["x"])
        p = logits.softmax(1).gather(1, data["y"][:, None])[:, 0]
    torch.testing.assert_close(found.goodness, -(p / (1 - p)).log(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.loss, -p.log(), rtol=1e-4, atol=1e-5)
    assert torch.equal(found.prediction, logits.argmax(1))


def test_model_from_names_what_does_not_fit():
    task = TinyTask()
    state = dict(task.build_model(0).state_dict())
    state["extra"] = state.pop("0.bias")
    state["3.weight"] = state["3.weight"][:, :2]
    with pytest.raises(TaskError, match=r"lacks 0\.bias; it has unknown extra; shapes differ: 3\.weight \(7, 2\)"):
        model_from(task, state)


@pytest.mark.parametrize("value", ["one hot", 3, [1, 2]])
def test_a_prediction_must_be_one_value_per_example(value):
    class Odd(TinyTask):
        def predict(self, model, batch):
            return model(batch["x"]) if value == "one hot" else value

    task = Odd()
    with pytest.raises(TaskError, match=r'predict of task "tiny" gives .*; it must be \[b\] = \(21,\)'):
        evaluate(task, task.build_model(0), validate_data(task)["test"])
