"""What passes take, measured on a few rows: memory counted exactly, time roughly, and nothing disturbed."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tda_backend.models.measuring import pace as module
from tda_backend.models.measuring.living import LivingBytes, kept_bytes
from tda_backend.models.measuring.machine import SERVER, machine
from tda_backend.models.measuring.pace import UNMEASURED, Line, measured
from tda_backend.models.tasks.data import take
from tda_backend.models.tasks.registry import load_task
from tda_backend.studies.pipeline.facts import at_pace, task_facts
from tda_backend.studies.pipeline.sizes import GIB, Sizes
from tda_backend.studies.study.file import resolve
from tests.benchmarks.bench_plan import STUDIES, measure
from tests.benchmarks.scale_tasks import write_study
from tests.helpers_numerics import TASKS

EPOCH = {"training": {"epochs": [1]}}


def test_living_bytes_are_those_of_what_lives_at_once():
    x = torch.zeros(1000, dtype=torch.float64)
    with LivingBytes() as living:
        y = x + 1
        z = y * 2  # two live
        del y
        z += 1  # in place: nothing more
        w = z.view(10, 100) - 1
    assert living.peak == 2 * 8000
    assert len(w) == 10
    with LivingBytes() as living:
        for _ in range(5):
            x.clone()
    assert living.peak == 8000


def test_scratch_of_convolutions_is_counted():
    x, weight = torch.zeros(2, 3, 8, 8), torch.zeros(5, 3, 3, 3)
    with LivingBytes() as living:
        y = torch.conv2d(x, weight)
    assert living.peak == y.nbytes + (x.nbytes + weight.nbytes + y.nbytes)


def test_kept_bytes_are_what_backward_needs():
    layer, x = nn.Linear(6, 4), torch.randn(10, 6)
    known = [*layer.parameters(), x]
    assert kept_bytes(lambda: layer(x).sum(), known) == 0
    assert kept_bytes(lambda: layer(x).relu().sum(), known) == 10 * 4 * 4  # relu keeps its result
    assert kept_bytes(lambda: layer(x).tanh().relu().sum(), known) == 2 * 10 * 4 * 4


def test_a_line_goes_through_two_points():
    line = Line.through((2, 7.0), (12, 27.0))
    assert (line.call, line.row) == (3.0, 2.0)
    assert line.of(10, calls=2) == 26
    assert Line.through((2, 6.0), (2, 6.0)) == Line(0.0, 3.0)
    assert Line.through((2, 6.0), (4, 5.0)) == Line(6.0, 0.0)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_memory_of_a_pass_grows_as_counted(name: str):
    task = TASKS[name]
    found = measured(task, f"test-{name}", "cpu")
    model, data = task.build_model(0).eval(), task.datasets()["train"]
    batch = take(data, np.arange(6))
    parameters = [each for each in model.parameters() if each.requires_grad]
    with LivingBytes() as living:
        torch.autograd.grad(task.train_loss(model, batch).sum(), parameters, allow_unused=True)
    assert found.backward_bytes.of(6) == pytest.approx(living.peak, rel=0.06)
    with LivingBytes() as living, torch.no_grad():
        task.train_loss(model, batch)
    assert living.peak <= 1.05 * found.forward_bytes.of(6)
    assert 0 < found.forward_seconds.of(6) < 1
    assert 0 < found.backward_seconds.of(6) < 1


def test_a_task_is_measured_once_and_draws_nothing(monkeypatch: pytest.MonkeyPatch):
    state = torch.random.get_rng_state()
    found = measured(TASKS["conv"], "once", "cpu")
    assert torch.equal(torch.random.get_rng_state(), state)
    monkeypatch.setattr(module, "_measured", None)
    assert measured(TASKS["conv"], "once", "cpu") is found
    assert found.machine is machine("cpu")
    rates = found.machine
    assert min(rates.single, rates.double, rates.eigh, rates.copied) > 1e6
    assert rates.calls > 1e4
    assert rates.threads == torch.get_num_threads()


def test_a_task_that_fails_is_measured_as_far_as_the_machine(monkeypatch: pytest.MonkeyPatch):
    task = copy.copy(TASKS["conv"])
    monkeypatch.setattr(task, "train_loss", lambda model, batch: 1 / 0, raising=False)
    assert measured(task, "failing", "cpu") == replace(UNMEASURED, machine=machine("cpu"))
    assert UNMEASURED.machine is SERVER


def test_training_that_fails_stops_no_plan(monkeypatch: pytest.MonkeyPatch):
    def failing(run: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(module, "single_trainer", failing)
    found = measured(load_task("mnist-mlp"), "does not fit", "cpu")
    assert found == replace(UNMEASURED, machine=machine("cpu"))


def test_factors_are_counted_at_every_position(tmp_path: Path):
    write_study(tmp_path, "lora", 100)
    spec = f"{tmp_path / 'scale_task.py'}:lora"
    facts = task_facts(load_task(spec), spec)
    adapters = 2 * ((128 + 4) + (4 + 512) + (512 + 4) + (4 + 128))  # two layers, at 64 symbols
    assert at_pace(facts, "cpu").factor_numbers == 64 * adapters + 128 + 1 + 10


def test_activations_join_the_memory_of_steps(tmp_path: Path):
    write_study(tmp_path, "large_cnn", 1000)
    spec = f"{tmp_path / 'scale_task.py'}:large_cnn"
    facts = at_pace(task_facts(load_task(spec), spec), "cpu")
    study = resolve({"name": "a", "task": spec, "data": {"train": 800, "validation": 50, "queries": 50}} | EPOCH)
    sizes = Sizes.of(study, facts)
    assert sizes.training > 64 * (2 * 26 * 26 * 32 + 2 * 24 * 24 * 64) * 4 / GIB
    assert sizes.verifying > 512 * (2 * 26 * 26 * 32 + 2 * 24 * 24 * 64) * 4 / GIB
    assert Sizes.of(study, replace(facts, pace=UNMEASURED)).verifying == 0


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux forgets a peak")
@pytest.mark.parametrize("name", ["large-cnn", "table"])
def test_a_plan_is_right_about_memory(name: str):
    found = measure(STUDIES[name], quick=True)
    assert [each.words() for each in found["in all"] if each.unit == "GiB" and not each.holds] == []
