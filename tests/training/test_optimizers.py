"""Every optimizer against PyTorch's, stepped by hand; clipping, decay and warm-up as numbers; what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tda_backend.errors import TaskError, UsageError
from tda_backend.models.checking.check import check_task
from tda_backend.models.tasks.data import take, validate_data
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.fit import single_trainer, train
from tda_backend.models.training.retraining.plan import Retraining
from tda_backend.models.training.retraining.retraining import retrain_subsets
from tda_backend.models.training.routes.loop import LoopTrainer
from tda_backend.models.training.routes.perceptron import mlp_architecture
from tda_backend.models.training.routes.schedule import learning_rate, training_order
from tda_backend.models.training.routes.stacked import why_not_stackable
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.trajectory.hydra import hydra_scores
from tda_backend.numerics.trajectory.source.staged import run_segments
from tda_backend.types import TrainingSettings
from tests.training.tiny import TinyTask

ROWS = np.arange(5, 35)
PLAIN = {"momentum": 0.0, "num_epochs": 2}
ADAM = {**PLAIN, "learning_rate": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}
# name → (settings, PyTorch's class, its arguments, factor of decoupled decay outside it)
OPTIMIZERS = {
    "adam": (
        {**ADAM, "optimizer": "adam", "weight_decay": 0.1},
        torch.optim.Adam,
        {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1},
        0.0,
    ),
    "adamw": (
        {**ADAM, "optimizer": "adamw", "weight_decay": 0.1},
        torch.optim.AdamW,
        {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1},
        0.0,
    ),
    "adam, decoupled": (
        {**ADAM, "optimizer": "adam", "weight_decay": 0.1, "decoupled_decay": True},
        torch.optim.AdamW,
        {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1},
        0.0,
    ),
    "rmsprop": (
        {**PLAIN, "optimizer": "rmsprop", "learning_rate": 0.01, "smoothing": 0.9, "weight_decay": 0.1},
        torch.optim.RMSprop,
        {"alpha": 0.9, "weight_decay": 0.1},
        0.0,
    ),
    "rmsprop, decoupled": (
        {**PLAIN, "optimizer": "rmsprop", "learning_rate": 0.01, "weight_decay": 0.1, "decoupled_decay": True},
        torch.optim.RMSprop,
        {},
        0.1,
    ),
    "sgd, decoupled": (
        {**PLAIN, "momentum": 0.9, "weight_decay": 0.1, "decoupled_decay": True},
        torch.optim.SGD,
        {"momentum": 0.9},
        0.1,
    ),
    "sgd": (
        {**PLAIN, "momentum": 0.9, "weight_decay": 0.1},
        torch.optim.SGD,
        {"momentum": 0.9, "weight_decay": 0.1},
        0.0,
    ),
}


class Smooth(TinyTask):
    """A perceptron without dropout, so that the loop written here needs no masks."""

    def modules(self) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(12, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))


def by_hand(task: TinyTask, seed: int, kind, arguments: dict, outside: float, clip: float | None = None):
    """Train with PyTorch's optimizer in a loop of our own; return the flat parameters, ``[P]``."""
    settings, data = training_settings(task), validate_data(task)["train"]
    model = task.build_model(seed)
    parameters = list(model.parameters())
    optimizer = kind(parameters, lr=1.0, **arguments)
    total, step = settings.num_epochs * -(-len(ROWS) // settings.batch_size), 0
    for epoch in range(1, settings.num_epochs + 1):
        order = ROWS[training_order(seed, epoch, len(ROWS))]
        for start in range(0, len(order), settings.batch_size):
            rows = order[start : start + settings.batch_size]
            rate = learning_rate(settings, step, total)
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
            task.train_loss(model, take(data, rows)).mean().backward()
            if clip is not None:
                norm = torch.cat([p.grad.reshape(-1) for p in parameters]).norm()
                for p in parameters:
                    p.grad *= min(1.0, clip / float(norm + 1e-6))
            with torch.no_grad():
                for p in parameters:
                    p -= rate * outside * p
            optimizer.step()
            step += 1
    return torch.nn.utils.parameters_to_vector(parameters).detach()


def trained(task: TinyTask, seed: int, **arguments) -> torch.Tensor:
    settings = training_settings(task)
    state = train(TrainingRun(task, validate_data(task), ROWS, seed, **arguments), [settings.num_epochs])[-1].state
    return torch.cat([value.reshape(-1) for value in state.values()])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_is_pytorchs_optimizer(name: str, dtype: torch.dtype):
    settings, kind, arguments, outside = OPTIMIZERS[name]
    task = Smooth(dtype, **settings)
    expected = by_hand(task, 3, kind, arguments, outside)
    found = trained(task, 3)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=1e-7)
    start = torch.nn.utils.parameters_to_vector(task.build_model(3).parameters()).detach()
    assert float((found - start).norm()) > 0.01


def test_adams_update_is_its_formula():
    """θ ← (1 − ηω)θ − η·m̂/(√v̂ + ε) for two steps of known gradients, in plain numbers."""
    task = Smooth(
        optimizer="adamw",
        momentum=0.0,
        weight_decay=0.5,
        learning_rate=0.1,
        betas=(0.8, 0.9),
        eps=0.01,
        num_epochs=1,
        batch_size=15,
    )
    data, gradients = validate_data(task)["train"], []
    model = task.build_model(0)
    trainer = LoopTrainer(TrainingRun(task, {"train": data}, ROWS, 0), model, training_settings(task))
    theta = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    trainer.on_step = lambda state, rows, rate: gradients.append(gradient(task, state, take(data, rows)))
    trainer.train_epoch(1)
    m = v = torch.zeros_like(theta)
    for t, g in enumerate(gradients, start=1):
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        m_hat, v_hat = m / (1 - 0.8**t), v / (1 - 0.9**t)
        theta = (1 - 0.1 * 0.5) * theta - 0.1 * m_hat / (v_hat.sqrt() + 0.01)
    assert len(gradients) == 2
    found = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    torch.testing.assert_close(found, theta, rtol=1e-12, atol=1e-14)
    state = [trainer.optimizer.state[p] for p in model.parameters()]
    torch.testing.assert_close(torch.cat([each["exp_avg"].reshape(-1) for each in state]), m)
    torch.testing.assert_close(torch.cat([each["exp_avg_sq"].reshape(-1) for each in state]), v)


def gradient(task: TinyTask, state, batch) -> torch.Tensor:
    model = task.build_model(0)
    model.load_state_dict(dict(state))
    return torch.cat(
        [g.reshape(-1) for g in torch.autograd.grad(task.train_loss(model, batch).mean(), list(model.parameters()))]
    )


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop, decoupled"])
def test_clipping_scales_the_raw_gradient_of_all_parameters_together(name: str):
    settings, kind, arguments, outside = OPTIMIZERS[name]
    task = Smooth(**settings, clip_norm=0.3)
    expected = by_hand(task, 1, kind, arguments, outside, clip=0.3)
    torch.testing.assert_close(trained(task, 1), expected, rtol=1e-10, atol=1e-12)
    assert float((trained(Smooth(**settings), 1) - expected).norm()) > 1e-4
    loose = trained(Smooth(**settings, clip_norm=1e6), 1)
    torch.testing.assert_close(loose, trained(Smooth(**settings), 1, route="loop"), rtol=0, atol=0)


def test_decoupled_decay_without_momentum_is_l2_decay():
    """(1 − ηω)θ − ηg = θ − η(g + ωθ); momentum tells them apart."""
    options = {**PLAIN, "weight_decay": 0.2, "schedule": "cosine"}
    torch.testing.assert_close(
        trained(Smooth(**options, decoupled_decay=True), 0), trained(Smooth(**options), 0), rtol=1e-12, atol=1e-14
    )
    options["momentum"] = 0.9
    assert not torch.allclose(trained(Smooth(**options, decoupled_decay=True), 0), trained(Smooth(**options), 0))


def test_the_rate_rises_over_the_first_steps_and_then_follows_its_schedule():
    flat = TrainingSettings(1, 1, 0.5, warmup=0.1)
    assert [learning_rate(flat, t, 40) for t in range(5)] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])
    linear = replace(flat, schedule="linear", warmup=0.25)
    expected = [0.5 * (1 - t / 8) * min(1, (t + 1) / 2) for t in range(8)]
    assert [learning_rate(linear, t, 8) for t in range(8)] == pytest.approx(expected)
    part = replace(flat, warmup=0.07)  # 2.8 of 40 steps
    assert [learning_rate(part, t, 40) for t in range(4)] == pytest.approx([0.5 / 2.8, 1.0 / 2.8, 0.5, 0.5])
    assert learning_rate(flat, 0, 4) == 0.5  # less than one step of warm-up


def test_without_warmup_every_rate_is_the_same_number_as_before():
    for schedule in ("constant", "linear", "cosine"):
        settings = TrainingSettings(1, 1, 0.3, schedule=schedule)
        plain = {
            "constant": lambda t: 0.3,
            "linear": lambda t: 0.3 * (1 - t / 7),
            "cosine": lambda t: 0.3 * (1 + np.cos(np.pi * (t / 7))) / 2,
        }[schedule]
        assert [learning_rate(settings, t, 7) for t in range(7)] == [plain(t) for t in range(7)]


def test_warmup_leaves_the_hand_written_route_exact():
    task = TinyTask(warmup=0.4, schedule="linear")
    torch.testing.assert_close(trained(task, 2), trained(task, 2, route="loop"), rtol=1e-10, atol=1e-12)
    assert not torch.allclose(trained(task, 2), trained(TinyTask(schedule="linear"), 2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": "adagrad"}, "training.optimizer"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum.* optimizer adam"),
        ({"optimizer": "adamw", "momentum": 0.9}, "momentum.* optimizer adamw"),
        ({"optimizer": "rmsprop", "momentum": 0.9}, "momentum.* optimizer rmsprop"),
        ({"optimizer": "adamw", "momentum": 0.0, "decoupled_decay": False}, "decoupled_decay = False"),
        ({"betas": (0.9, 1.0)}, "training.betas"),
        ({"betas": 0.9}, "training.betas"),
        ({"betas": (0.9,)}, "training.betas"),
        ({"eps": -1e-8}, "training.eps"),
        ({"smoothing": 1.0}, "training.smoothing"),
        ({"decoupled_decay": 1}, "training.decoupled_decay"),
        ({"clip_norm": 0.0}, "training.clip_norm"),
        ({"clip_norm": float("inf")}, "training.clip_norm"),
        ({"warmup": 1.0}, "training.warmup"),
        ({"warmup": -0.1}, "training.warmup"),
    ],
)
def test_settings_without_meaning_are_refused(options, words):
    with pytest.raises(TaskError, match=words):
        training_settings(TinyTask(**options))


def test_only_plain_sgd_takes_the_hand_written_routes():
    data = validate_data(TinyTask())
    for options in (
        {"optimizer": "adamw", "momentum": 0.0},
        {"clip_norm": 1.0},
        {"decoupled_decay": True},
        {"optimizer": "rmsprop", "momentum": 0.0},
    ):
        task = TinyTask(**options)
        settings = training_settings(task)
        assert not settings.is_plain_sgd
        assert mlp_architecture(task, task.build_model(0), data["train"]) is None
        assert "plain SGD" in str(why_not_stackable(task, settings, data["train"], np.arange(20)))
        assert isinstance(single_trainer(TrainingRun(task, data, ROWS, 0, "cpu", "auto")), LoopTrainer)
        for route in ("mlp", "stacked"):
            with pytest.raises(UsageError, match="plain SGD"):
                retrain_subsets(
                    Retraining(task, data, ROWS, np.ones((1, 30), bool), [0], repeats=1, seed=0, route=route)
                )
    assert TinyTask(warmup=0.2).training.is_plain_sgd


class AdamTask(TinyTask):
    """Can be loaded in another process."""

    def __init__(self) -> None:
        super().__init__(optimizer="adamw", momentum=0.0, learning_rate=0.01, clip_norm=0.5, warmup=0.2)


def test_processes_retrain_with_the_same_optimizer_bit_for_bit():
    task = load_task("tests.training.test_optimizers:AdamTask")
    data, masks = validate_data(task), np.random.default_rng(0).random((3, 60)) < 0.5
    calls = [
        retrain_subsets(Retraining(task, data, range(60), masks, range(3), repeats=1, seed=1), num_processes=count)
        for count in (1, 2)
    ]
    np.testing.assert_array_equal(*calls)


def test_methods_that_assume_sgd_say_so():
    task = AdamTask()
    data = validate_data(task)
    with pytest.raises(UsageError, match=r"SOURCE assumes SGD.*AdamW"):
        run_segments(task, data["train"], ROWS, None, 1, 2)
    with pytest.raises(UsageError, match=r"HyDRA assumes SGD.*AdamW.*clipped to norm 0.5"):
        hydra_scores(TrainingRun(task, data, ROWS, 0), [0])


def test_check_says_which_optimizer_trains():
    checks = {check.name: check for check in check_task(AdamTask())}
    assert all(check.passed for check in checks.values()), checks
    assert "AdamW, β 0.9, 0.999, gradients clipped to norm 0.5" in checks["training route"].detail


def test_the_text_of_settings_that_are_not_set_stays_what_it_was():
    """A task's identity hashes it: results that were computed before keep their names."""
    assert repr(TrainingSettings(50, 64, 0.01, momentum=0.9)) == (
        "TrainingSettings(num_epochs=50, batch_size=64, learning_rate=0.01, momentum=0.9, weight_decay=0.0, "
        "schedule='constant', optimizer='sgd')"
    )
    assert repr(TrainingSettings(1, 2, 0.1, optimizer="adamw", betas=(0.9, 0.95), warmup=0.1)) == (
        "TrainingSettings(num_epochs=1, batch_size=2, learning_rate=0.1, momentum=0.0, weight_decay=0.0, "
        "schedule='constant', optimizer='adamw', betas=(0.9, 0.95), warmup=0.1)"
    )
