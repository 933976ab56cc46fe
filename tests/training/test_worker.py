"""What a training process does with each message, in this process: what it trains and what it answers."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from tda_backend.errors import TDAError
from tda_backend.models.tasks.contract import built
from tda_backend.models.tasks.data import validate_data
from tda_backend.models.training.fit import run_trainer
from tda_backend.models.training.retraining import worker
from tda_backend.models.training.retraining.workload import Workload
from tda_backend.models.training.routes.perceptron import mlp_architecture
from tda_backend.models.training.run import TrainingRun
from tests.training.tiny import TinyTask

ROWS = np.arange(0, 60, 2)
TOKEN = 7


class End(BaseException):
    """The parent has gone away."""


class Messages(queue.SimpleQueue):
    """The inbox; after its last message the parent is gone."""

    def get(self, *_: Any) -> Any:
        if self.empty():
            raise End
        return super().get()


class Outbox(list):
    """What was answered."""

    def send(self, message: Any) -> None:
        self.append(message)


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many threads there are belongs to the whole process."""
    monkeypatch.setattr(worker.torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(worker.torch, "set_num_interop_threads", lambda number: None)
    monkeypatch.setattr(worker, "_SECONDS_BETWEEN_REPORTS", -1.0)


def answers(*messages: tuple) -> list[tuple]:
    inbox, outbox = Messages(), Outbox()
    for message in messages:
        inbox.put(message)
    with pytest.raises(End):
        worker.serve(inbox, outbox)  # pyright: ignore[reportArgumentType]
    return outbox


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "train.safetensors"
    safetensors.torch.save_file({name: torch.as_tensor(rows) for name, rows in whole()["train"].items()}, path)
    return path


def whole() -> dict[str, Any]:
    return validate_data(TinyTask(torch.float32))


def workload(by_hand: bool) -> Workload:
    task = TinyTask(torch.float32)
    architecture = mlp_architecture(task, built(task, 3), whole()["train"]) if by_hand else None
    return Workload(task.training, architecture, "tests.training.test_worker:task", None, None)


def task() -> TinyTask:
    return TinyTask(torch.float32)


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_job_is_trained_as_it_would_be_here(data: Path, by_hand: bool):
    state = safetensors.torch.save(dict(built(task(), 3).state_dict())) if by_hand else None
    found = answers(("ping", 0), ("setup", TOKEN, workload(by_hand), str(data)), ("job", TOKEN, 4, 3, ROWS, state))
    epochs = task().training.num_epochs
    assert [each[:3] for each in found[:2]] == [("ready", 0, None), ("ready", TOKEN, None)]
    assert found[2:-1] == [("progress", TOKEN, 4, epoch) for epoch in range(1, epochs + 1)]
    assert found[-1][:3] == ("done", TOKEN, 4)
    trainer = run_trainer(TrainingRun(task(), whole(), ROWS, 3, "cpu"))
    for epoch in range(1, epochs + 1):
        trainer.train_epoch(epoch)
    trained = safetensors.torch.load(found[-1][3])
    for name, expected in trainer.states()[0].items():
        torch.testing.assert_close(trained[name], expected, rtol=1e-5, atol=1e-6)


def test_a_job_of_a_retraining_that_is_over_is_dropped(data: Path):
    shared = workload(by_hand=False)
    found = answers(("job", 1, 0, 3, ROWS, None), ("setup", TOKEN, shared, str(data)), ("job", 1, 0, 3, ROWS, None))
    assert [each[0] for each in found] == ["ready"]


def test_what_goes_wrong_is_carried_to_the_parent(data: Path, tmp_path: Path):
    nothing = Workload(task().training, None, None, None, None)
    found = answers(
        ("setup", 1, nothing, str(tmp_path / "no-file")),
        ("setup", TOKEN, nothing, str(data)),
        ("job", TOKEN, 5, 3, ROWS, None),
    )
    assert [each[:3] for each in found] == [("error", 1, None), ("ready", TOKEN, None), ("error", TOKEN, 5)]
    assert all(isinstance(each[3], TDAError) for each in found if each[0] == "error")
    assert "neither an architecture nor a task" in str(found[2][3])
    assert "Ask for one process" in (found[0][3].hint or "")
