"""Recorded runs: the bits of training, whatever the budget; walks both ways; what cannot be recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tda_backend.errors import MachineError, NumericalError, TaskError, UsageError
from tda_backend.models.training.fit import train
from tda_backend.models.training.routes.loop import LoopTrainer
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.trajectory.unrolled.recording import record
from tda_backend.numerics.trajectory.unrolled.snapshots import GIB, kept_states, snapshot_interval
from tda_backend.numerics.trajectory.unrolled.trajectory import Trajectory
from tests.training.tiny import CLASSES, WIDTH, NormTask, OwnRandomnessTask, TinyTask
from tests.trajectory.unrolled.weighted import DECAYS, OPTIMIZERS, ROWS, SEED, WeightedTask

LONG = {"num_epochs": 10}
"""Thirty steps."""


def run(task: WeightedTask, states: float | None = None, **options) -> Trajectory:
    """Record in float64, with room for ``states`` states (``None``: for all)."""
    size = (1 + len(_slots(task))) * 67 * options.get("dtype", torch.float64).itemsize
    room = {} if states is None else {"budget_gib": states * size / GIB}
    return record(TrainingRun(task, task.datasets(), ROWS, SEED), **{"dtype": torch.float64, **room, **options})


def _slots(task: WeightedTask) -> tuple[str, ...]:
    from tda_backend.numerics.trajectory.unrolled.optimizers import optimizer_of

    return optimizer_of(task.training).slots


def states_of(steps) -> list[Tensor]:
    return [torch.cat([step.theta[None], step.state]) for step in steps]


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_is_recorded_is_the_training_run(optimizer: str, decay: str):
    task = WeightedTask(**OPTIMIZERS[optimizer], **DECAYS[decay], **LONG, clip_norm=1.0)
    trajectory = run(task)
    stored = train(TrainingRun(task, task.datasets(), ROWS, SEED, route="loop"), [10])[0].state
    assert torch.equal(trajectory.final_theta, trajectory.objective.flat(stored))
    seen: list[tuple] = []
    trainer = LoopTrainer(TrainingRun(task, task.datasets(), ROWS, SEED), task.build_model(SEED), task.training)
    trainer.on_step = lambda state, rows, rate: seen.append((trajectory.objective.flat(state), rows.clone(), rate))
    for epoch in range(1, 11):
        trainer.train_epoch(epoch)
    for step, (theta, rows, rate) in zip(trajectory.forward(), seen, strict=True):
        assert torch.equal(step.theta, theta)
        assert torch.equal(step.rows, rows)
        assert step.rate == rate
    assert [len(step.rows) for step in trajectory.forward(last=3)] == [3, 3, 2]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_thirty_updates_are_those_of_pytorch(optimizer: str):
    """From the start by our own update: rounding only, for θ and for the moments."""
    task = WeightedTask(**OPTIMIZERS[optimizer], **LONG, weight_decay=0.1, clip_norm=1.0, schedule="cosine")
    trajectory = run(task)
    first = next(trajectory.forward())
    theta, state = first.theta, first.state
    assert not state.any()
    for step in trajectory.forward():
        gradient = trajectory.objective.mean_gradient(step.theta, step.rows)
        theta, state = trajectory.optimizer.update(step.theta, step.state, gradient, step.rate, step.step)
        if step.step < trajectory.num_steps:
            after = next(trajectory.forward(step.step + 1))
            torch.testing.assert_close(theta, after.theta, rtol=1e-13, atol=1e-14)
            torch.testing.assert_close(state, after.state, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(theta, trajectory.final_theta, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_no_budget_changes_what_a_walk_sees(optimizer: str, on_disk: bool, tmp_path: Path):
    task = WeightedTask(**OPTIMIZERS[optimizer], **LONG)
    whole = run(task)
    assert whole.interval == 1
    expected = states_of(whole.forward())
    folder = tmp_path / "snapshots" if on_disk else None
    for states, interval in ((18, 2), (14, 3), (12, 5)):
        tight = run(task, states, folder=folder)
        assert tight.interval == interval
        for found, own in zip(states_of(tight.forward()), expected, strict=True):
            torch.testing.assert_close(found, own, rtol=1e-11, atol=1e-13)
        backward = list(tight.backward())
        assert [step.step for step in backward] == list(range(30, 0, -1))
        for found, own in zip(states_of(backward), expected[::-1], strict=True):
            torch.testing.assert_close(found, own, rtol=1e-11, atol=1e-13)
        if folder is not None:
            files = sorted(tight._snapshots.folder.iterdir())
            assert len(files) == -(-30 // interval)
            assert not [path for path in files if path.suffix != ".npy"]
    del tight
    assert folder is None or not list(folder.iterdir())  # snapshots go with their trajectory


@given(first=st.integers(1, 30), length=st.integers(0, 29), states=st.sampled_from([40, 18, 12]))
@settings(max_examples=25, deadline=None)
def test_walks_over_a_part(first: int, length: int, states: int):
    trajectory, last = _tight(states), min(30, first + length)
    assert [step.step for step in trajectory.forward(first, last)] == list(range(first, last + 1))
    assert [step.step for step in trajectory.backward(first, last)] == list(range(last, first - 1, -1))


_RUNS: dict[int, Trajectory] = {}


def _tight(states: int) -> Trajectory:
    if states not in _RUNS:
        _RUNS[states] = run(WeightedTask(**OPTIMIZERS["adam"], **LONG), states)
    return _RUNS[states]


def test_two_walks_at_once_do_not_disturb_each_other():
    trajectory = _tight(12)
    ahead, behind = trajectory.forward(), trajectory.backward()
    both = [(next(ahead), next(behind)) for _ in range(30)]
    for alone, (one, _) in zip(trajectory.forward(), both, strict=True):
        assert torch.equal(alone.theta, one.theta)
    for alone, (_, other) in zip(trajectory.backward(), both, strict=True):
        assert torch.equal(alone.theta, other.theta)


def test_which_steps_saw_an_example():
    trajectory = _tight(40)
    for row in ROWS:
        steps = trajectory.steps_of(int(row))
        assert len(steps) == 10
        assert all(row in trajectory.rows_of(step) for step in steps)
        assert [(step - 1) // 3 for step in steps] == list(range(10))  # once per epoch
    with pytest.raises(UsageError, match="Row 0 was not trained on"):
        trajectory.steps_of(0)


def test_other_settings_and_an_early_end():
    task = WeightedTask(**OPTIMIZERS["adam"], schedule="linear", **LONG)
    other = WeightedTask(**{**OPTIMIZERS["adam"], "learning_rate": 1e-3}, schedule="linear", **LONG)
    short = run(task, settings=other.training, last_epoch=4)
    assert short.num_steps == 12
    assert task.training.learning_rate == 0.02
    assert short.rates == run(other).rates[:12]  # the schedule still refers to ten epochs
    assert torch.equal(short.final_theta, next(run(other).forward(13)).theta)


def test_float32_runs_are_recomputed_too():
    task = WeightedTask(torch.float32, **OPTIMIZERS["adam"], **LONG)
    trajectory = run(task, 12, dtype=torch.float32)
    assert trajectory.interval == 5
    steps = list(trajectory.backward())
    assert steps[0].theta.dtype == torch.float32
    double = run(WeightedTask(torch.float32, **OPTIMIZERS["adam"], **LONG))  # data and model are cast before training
    assert double.final_theta.dtype == torch.float64
    torch.testing.assert_close(double.final_theta.float(), trajectory.final_theta, rtol=1e-2, atol=1e-3)


@given(steps=st.integers(1, 400), room=st.floats(1.0, 500.0))
def test_the_smallest_distance_that_fits_is_taken(steps: int, room: float):
    fitting = [c for c in range(1, steps + 1) if kept_states(steps, c) <= room]
    if fitting:
        assert snapshot_interval(steps, 2**20, room * 2**20 / GIB) == fitting[0]
    else:
        with pytest.raises(MachineError) as caught:
            snapshot_interval(steps, 2**20, room * 2**20 / GIB)
        least = float(caught.value.hint.split()[3])
        assert snapshot_interval(steps, 2**20, least) >= 1  # what the hint names works


class DriftingTask(WeightedTask):
    """A loss that is another function at every call."""

    def train_loss(self, model, batch):
        self.calls = getattr(self, "calls", 0) + 1
        return super().train_loss(model, batch) * (1 + 0.1 * self.calls)


class IdleTask(WeightedTask):
    """A parameter that takes no part in the loss."""

    def modules(self) -> nn.Module:
        modules = nn.Sequential(nn.Linear(WIDTH, CLASSES))
        modules.register_parameter("idle", nn.Parameter(torch.ones(2)))
        return modules


@pytest.mark.parametrize(
    ("task", "options", "kind", "text"),
    [
        (DriftingTask(), {}, NumericalError, "leads elsewhere than training did"),
        (DriftingTask(), {"states": 7}, NumericalError, "leads elsewhere than training did"),
        (OwnRandomnessTask(), {}, NumericalError, "leads elsewhere"),
        (TinyTask(), {}, TaskError, "draws random numbers"),
        (NormTask(), {}, TaskError, "running statistics"),
        (IdleTask(momentum=0.0, optimizer="adam", weight_decay=0.1), {}, TaskError, "idle takes no part in the loss"),
        (WeightedTask(), {"states": 2}, MachineError, "even with most steps recomputed"),
        (WeightedTask(), {"budget_gib": float("nan")}, UsageError, "budget"),
        (WeightedTask(), {"last_epoch": 3}, UsageError, "last epoch is 3"),
        (WeightedTask(), {"dtype": torch.bfloat16}, UsageError, "bfloat16"),
        (WeightedTask(learning_rate=-1.0), {}, TaskError, "learning_rate"),
        (WeightedTask(learning_rate=1e300, weight_decay=1.0), {}, NumericalError, "diverged"),
    ],
)
def test_what_cannot_be_recorded(task, options, kind, text):
    with pytest.raises(kind, match=text):
        for _ in run(task, **options).backward():
            pass


def test_rows_and_steps_out_of_range():
    task = WeightedTask()
    for rows, text in (([1, 1], "named twice"), ([60], "out of range"), ([], "No training example")):
        with pytest.raises(UsageError, match=text):
            record(TrainingRun(task, task.datasets(), np.array(rows), SEED))
    for first, last in ((0, 3), (4, 3), (1, 31)):
        with pytest.raises(UsageError, match="steps 1…30"):
            next(_tight(40).backward(first, last))
    with pytest.raises(UsageError, match="no split"):
        _tight(40).objective_of("validation")


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MachineError, match="cannot be made"):
        run(WeightedTask(), folder=tmp_path / "file")


def test_idle_parameters_without_decay_are_no_trouble():
    trajectory = run(IdleTask(momentum=0.0, optimizer="adam"))
    assert torch.equal(trajectory.final_theta[:2], torch.ones(2, dtype=torch.float64))


def test_progress_counts_steps():
    done: list[tuple[int, int]] = []
    run(WeightedTask(), on_progress=lambda *pair: done.append(pair))
    assert done == [(step, 6) for step in range(1, 7)]
