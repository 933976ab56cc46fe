"""The other end of ``processes.py``: one single-threaded process that trains the models it is sent.

Started as ``python -c <boot>``, never by multiprocessing's spawn: that would import the caller's main module again,
which a notebook does not have and a script without a ``__main__`` guard does not survive.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from tda_backend.errors import TaskError, TDAError
from tda_backend.models.memory import keep_freed_memory
from tda_backend.models.tasks.contract import one_line
from tda_backend.models.tasks.registry import load_task
from tda_backend.models.training.fit import check_finite, run_trainer
from tda_backend.models.training.retraining.workload import Workload
from tda_backend.models.training.routes.mlp import MLPTrainer
from tda_backend.models.training.routes.schedule import Trainer
from tda_backend.models.training.routes.stages import StagedTrainer
from tda_backend.models.training.run import RunGroup, TrainingRun
from tda_backend.types import Task, TrainingSettings

_SECONDS_BETWEEN_REPORTS = 0.2


class _Work:
    """The jobs of one retraining, whose token they carry."""

    def __init__(self, token: int, shared: Workload, data: Path) -> None:
        self.token, self.shared = token, shared
        # Mapped, not read: the processes share the pages of one file, which the parent unlinks once all have it.
        self.data = safetensors.torch.load_file(data)
        self.task: Task | None = None
        if shared.architecture is None and shared.spec is not None:
            self.task = load_task(shared.spec, shared.folder)

    def trainer(self, seed: int, indices: np.ndarray, state: bytes | None) -> Trainer:
        shared = self.shared
        architecture = shared.architecture
        if architecture is None or state is None:
            if self.task is None:
                raise TaskError("A training process has neither an architecture nor a task.")
            return run_trainer(TrainingRun(self.task, {"train": self.data}, indices, seed, "cpu", "loop"))
        initial = [safetensors.torch.load(state)]

        def build(
            settings: TrainingSettings, group: RunGroup, states: Sequence[Mapping[str, torch.Tensor]] | None
        ) -> Trainer:
            return MLPTrainer(architecture, settings, group, states or initial, stacked=False)

        group = RunGroup(self.data, [indices], [seed])
        if shared.stages is not None:
            return StagedTrainer(shared.stages, group, build)
        return build(shared.settings, group, None)


def serve(inbox: Any, outbox: Connection) -> None:
    """Answer messages from ``inbox`` (a queue filled by the watching thread) until the parent goes away."""
    keep_freed_memory()
    torch.set_num_threads(1)
    with contextlib.suppress(RuntimeError):  # only the first call in a process may set it
        torch.set_num_interop_threads(1)
    work: _Work | None = None
    while True:
        kind, token, *rest = inbox.get()
        try:
            if kind == "ping":
                outbox.send(("ready", token, None, None))
            elif kind == "setup":
                work = _Work(token, rest[0], Path(rest[1]))
                outbox.send(("ready", token, None, None))
            elif work is not None and token == work.token:
                _train(work, outbox, *rest)
        except Exception as error:  # carried to the parent, which raises it there
            job = rest[0] if kind == "job" else None
            outbox.send(("error", token, job, _portable(error)))


def _train(work: _Work, outbox: Connection, job: int, seed: int, indices: np.ndarray, state: bytes | None) -> None:
    trainer = work.trainer(seed, indices, state)
    last = time.monotonic()
    for epoch in range(1, work.shared.settings.num_epochs + 1):
        trainer.train_epoch(epoch)
        if time.monotonic() - last > _SECONDS_BETWEEN_REPORTS:
            last = time.monotonic()
            outbox.send(("progress", work.token, job, epoch))
    states = trainer.states()
    check_finite(states, work.shared.settings.num_epochs)
    outbox.send(("done", work.token, job, safetensors.torch.save(_untied(states[0]))))


def _untied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.clone().contiguous() for name, value in state.items()}


def _portable(error: Exception) -> TDAError:
    """Return the error as a TDAError, which crosses the process boundary whole; a person's code may raise anything."""
    if isinstance(error, TDAError):
        return error
    return TaskError(
        f"Training fails in another process: {one_line(error)}", "Ask for one process to see the whole traceback."
    )
