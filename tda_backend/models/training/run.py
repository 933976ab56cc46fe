"""One training run, or several of equal size side by side: what every route, recorder and replay takes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tda_backend.errors import UsageError
from tda_backend.models.tasks.data import num_rows
from tda_backend.models.tasks.threads import one_thread
from tda_backend.types import Batch, Task

Rows = Sequence[int] | np.ndarray | Tensor
"""Row numbers of a split."""
Route = Literal["auto", "loop", "mlp", "stacked"]
ROUTES: tuple[Route, ...] = get_args(Route)


@dataclass(frozen=True)
class TrainingRun:
    """One training run of a task; the same run gives the same bits on one device.

    Attributes:
        task: Task with training settings.
        data: Splits of the task; ``train`` is trained on.
        rows: Rows of the train split to train on, ``[n]``.
        seed: Training seed: decides initialisation, order and dropout.
        device: Where to train.
        route: ``auto`` takes the hand-written loop for perceptrons, autograd otherwise.
    """

    task: Task
    data: Mapping[str, Batch]
    rows: Rows
    seed: int
    device: torch.device | str = "cpu"
    route: Route = "auto"

    @property
    def train_data(self) -> Batch:
        """The whole train split."""
        return self.data["train"]

    def row_numbers(self) -> np.ndarray:
        """Return the rows as int64 ``[n]``; raises as :func:`row_numbers`."""
        return row_numbers(self.rows, num_rows(self.train_data))


@dataclass(frozen=True)
class RunGroup:
    """M runs on equally many rows of one data set, trained side by side.

    Attributes:
        data: The train split; only rows that a run names are visited.
        rows: Rows each run trains on, ``[M][s]``.
        seeds: Training seed of each run, ``[M]``.
        device: Where to train.
    """

    data: Batch
    rows: Sequence[np.ndarray]
    seeds: Sequence[int]
    device: torch.device | str = "cpu"


def row_numbers(indices: Rows, num_examples: int) -> np.ndarray:
    """Return ``indices`` as int64 ``[n]`` after checking them against the number of examples.

    Raises:
        UsageError: There is none, or one is out of range.
    """
    rows = np.asarray(indices, dtype=np.int64)
    if rows.ndim != 1 or len(rows) == 0:
        raise UsageError("No training example is named.", "Give at least one index.")
    if rows.min() < 0 or rows.max() >= num_examples:
        bad = rows[(rows < 0) | (rows >= num_examples)][0]
        raise UsageError(f"Training index {bad} is out of range.", f"Allowed: 0…{num_examples - 1}.")
    return rows


def check_route(route: str) -> None:
    """Raise :class:`UsageError` unless ``route`` is one of ``ROUTES``."""
    if route not in ROUTES:
        raise UsageError(f'There is no training route "{route}".', f"Routes: {', '.join(ROUTES)}.")


@contextlib.contextmanager
def reproducible(device: torch.device | str = "cpu") -> Iterator[None]:
    """Compute so that the bits are a function of the inputs on one kind of device.

    On the CPU with one thread: the machine's number of cores decides nothing. On CUDA with deterministic convolutions
    and full float32 products.
    """
    precision, on_cuda = torch.get_float32_matmul_precision(), torch.device(device).type == "cuda"
    exact = (
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
        if on_cuda
        else one_thread()
    )
    torch.set_float32_matmul_precision("highest")  # a person's module may have chosen less
    try:
        with exact:
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
