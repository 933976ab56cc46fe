"""Evaluation asks a model once a batch, and anew where the answer may have changed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tda_backend.models.tasks.base import ClassificationTask
from tda_backend.models.training.outputs import evaluate, goodness_of
from tda_backend.types import Batch, Display, TrainingSettings

ROWS = 25


class Counting(nn.Module):
    """A linear model that counts its passes and may answer in another form."""

    def __init__(self, answer: Callable[[Tensor], object] = lambda logits: logits) -> None:
        super().__init__()
        self.layer, self.answer, self.passes = nn.Linear(4, 3), answer, 0

    def forward(self, x: object, scale: float = 1.0) -> object:
        self.passes += 1
        given = x["x"] if isinstance(x, dict) else x
        return self.answer(self.layer(given) * scale)


class Task(ClassificationTask):
    name = "counted"
    num_classes = 3
    training = TrainingSettings(num_epochs=1, batch_size=5, learning_rate=0.1)

    def __init__(self, logits: Callable[[nn.Module, Batch], Tensor] = lambda model, batch: model(batch["x"])) -> None:
        self._logits = logits

    def datasets(self):
        generator = torch.Generator().manual_seed(0)
        rows = {"x": torch.randn(ROWS, 4, generator=generator), "y": torch.arange(ROWS) % 3}
        return {"train": rows, "test": rows}

    def build_model(self, seed: int) -> nn.Module:
        return Counting()

    def show(self, split: str, index: int) -> Display:
        return Display("text", text="")

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._logits(model, batch)


def reference(task: Task, model: Counting, batch: Batch) -> list[Tensor]:
    with torch.no_grad():
        return [task.measurement(model, batch), task.train_loss(model, batch), task.predict(model, batch)]


@pytest.mark.parametrize(("size", "batches"), [(1000, 1), (10, 3)])
def test_a_batch_takes_one_pass(size: int, batches: int):
    task, model = Task(), Counting()
    batch = task.datasets()["test"]
    found = evaluate(task, model, batch, batch_size=size)
    assert model.passes == batches
    for got, wanted in zip((found.goodness, found.loss, found.prediction), reference(task, model, batch), strict=True):
        torch.testing.assert_close(got, wanted)
    assert "forward" not in vars(model)
    assert torch.equal(goodness_of(task, model, batch), found.goodness)


def _written_into(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(batch["x"])
    return logits.mul_(2)


def _changed_input(model: nn.Module, batch: Batch) -> Tensor:
    batch["x"].add_(1)
    logits = model(batch["x"])
    batch["x"].sub_(1)
    return logits


@pytest.mark.parametrize(
    ("logits", "answer", "passes"),
    [
        (_written_into, lambda logits: logits, 1),
        (_changed_input, lambda logits: logits, 3),
        (lambda model, batch: model(dict(batch)), lambda logits: logits, 1),
        (lambda model, batch: model(batch["x"])[0], lambda logits: (logits,), 1),
        (lambda model, batch: model(batch["x"].clone()), lambda logits: logits, 1),
    ],
)
def test_what_has_changed_is_computed_anew_and_nothing_is_shared(logits, answer, passes: int):
    task, model = Task(logits), Counting(answer)
    batch = task.datasets()["test"]
    found = evaluate(task, model, batch)
    assert model.passes == passes
    for got, wanted in zip((found.goodness, found.loss, found.prediction), reference(task, model, batch), strict=True):
        torch.testing.assert_close(got, wanted)


def test_another_scale_is_another_question():
    task, model = Task(lambda model, batch: model(batch["x"], scale=1.0) + model(batch["x"], scale=2.0)), Counting()
    batch = task.datasets()["test"]
    found = evaluate(task, model, batch)
    assert model.passes == 4
    torch.testing.assert_close(found.loss, reference(task, model, batch)[1])


def test_a_forward_of_its_own_is_given_back():
    task, model = Task(), Counting()
    own = model.forward = lambda x, scale=1.0: model.layer(x) * 3
    batch = task.datasets()["test"]
    found = evaluate(task, model, batch)
    assert model.forward is own
    torch.testing.assert_close(found.loss, reference(task, model, batch)[1])


def test_torchscript_is_asked_each_time():
    task, batch = Task(), Task().datasets()["test"]
    scripted = torch.jit.trace(nn.Linear(4, 3), batch["x"])
    assert isinstance(scripted, nn.Module)
    assert evaluate(task, scripted, batch).loss.shape == (ROWS,)
