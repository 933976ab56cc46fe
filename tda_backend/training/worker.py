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
from tda_backend.training.contract import one_line
from tda_backend.training.fit import check_finite, run_trainer
from tda_backend.training.mlp import MLPArchitecture, MLPTrainer
from tda_backend.training.registry import load_task
from tda_backend.training.schedule import Trainer
from tda_backend.training.stages import StagedTrainer, StagePlan
from tda_backend.types import TrainingSettings

_SECONDS_BETWEEN_REPORTS = 0.2


class _Workload:
    """What all jobs of one retraining share: data, settings, and the architecture or the task."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.token: int = setup["token"]
        self.settings: TrainingSettings = setup["settings"]
        self.architecture: MLPArchitecture | None = setup["architecture"]
        self.keys: tuple[str, str] = setup["keys"]
        # Mapped, not read: the processes share the pages of one file, which the parent unlinks once all have it.
        self.data = safetensors.torch.load_file(Path(setup["data"]))
        self.stages: StagePlan | None = setup["stages"]
        self.task = None if self.architecture is not None else load_task(setup["spec"], setup["folder"])

    def trainer(self, seed: int, indices: np.ndarray, state: bytes | None) -> Trainer:
        if self.architecture is None or state is None:
            if self.task is None:
                raise TaskError("A training process has neither an architecture nor a task.")
            return run_trainer(self.task, self.data, indices, seed, "cpu", "loop")
        architecture, initial = self.architecture, [safetensors.torch.load(state)]

        def build(
            settings: TrainingSettings,
            rows: Sequence[np.ndarray],
            seeds: Sequence[int],
            states: Sequence[Mapping[str, torch.Tensor]] | None,
        ) -> Trainer:
            return MLPTrainer(
                architecture, settings, self.data, self.keys, states or initial, rows, seeds, stacked=False
            )  # fmt: skip

        if self.stages is not None:
            return StagedTrainer(self.stages, self.data, [indices], [seed], build)
        return build(self.settings, [indices], [seed], None)


def serve(inbox: Any, outbox: Connection) -> None:
    """Answer messages from ``inbox`` (a queue filled by the watching thread) until the parent goes away."""
    torch.set_num_threads(1)
    with contextlib.suppress(RuntimeError):  # only the first call in a process may set it
        torch.set_num_interop_threads(1)
    workload: _Workload | None = None
    while True:
        kind, token, *rest = inbox.get()
        try:
            if kind == "ping":
                outbox.send(("ready", token, None, None))
            elif kind == "setup":
                workload = _Workload(rest[0])
                outbox.send(("ready", token, None, None))
            elif workload is not None and token == workload.token:
                _train(workload, outbox, *rest)
        except Exception as error:  # carried to the parent, which raises it there
            job = rest[0] if kind == "job" else None
            outbox.send(("error", token, job, _portable(error)))


def _train(
    workload: _Workload, outbox: Connection, job: int, seed: int, indices: np.ndarray, state: bytes | None
) -> None:
    trainer = workload.trainer(seed, indices, state)
    last = time.monotonic()
    for epoch in range(1, workload.settings.num_epochs + 1):
        trainer.train_epoch(epoch)
        if time.monotonic() - last > _SECONDS_BETWEEN_REPORTS:
            last = time.monotonic()
            outbox.send(("progress", workload.token, job, epoch))
    states = trainer.states()
    check_finite(states, workload.settings.num_epochs)
    outbox.send(("done", workload.token, job, safetensors.torch.save(_untied(states[0]))))


def _untied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.clone().contiguous() for name, value in state.items()}


def _portable(error: Exception) -> TDAError:
    """Return the error as a TDAError, which crosses the process boundary whole; a person's code may raise anything."""
    if isinstance(error, TDAError):
        return error
    return TaskError(
        f"Training fails in another process: {one_line(error)}", "Ask for one process to see the whole traceback."
    )
