"""The checkpoints and examples on which peers and we are compared, read from the files that hold the golden values.

Small on purpose: real MNIST rows that ship with the project, ``n = 200`` and ``m = 20``, a perceptron of 109 386
parameters and a logistic regression of 7 850. Checkpoints were trained by this project from hashed seeds and are kept
as float16 in the golden files: what is compared is the network with exactly these rounded weights, in float64, so that
differences are those of methods and not of rounding.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.models.tasks import ClassificationTask
from tda_backend.models.tasks.registry import load_task
from tda_backend.types import Batch, Task

GOLDENS = Path(__file__).parent / "goldens"
VERSIONS = {"kronfluence": "1.0.1", "dattri": "0.3.0", "traker": "0.3.2", "dattri-llm": "0.1.0"}
TRAIN, QUERIES = range(200), range(20)
EPOCHS = {"mnist-mlp": (20,), "mnist-lr": (1, 2, 5, 10)}
DAMPINGS: dict[str, float | None] = {"1e-8": 1e-8, "1e-3": 1e-3, "mean": None}


def load_golden(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of one golden file."""
    with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@dataclass(frozen=True)
class Case:
    """One task with its checkpoints, in float64.

    Attributes:
        task: Built-in task; only its loss, measurement and architecture are used.
        states: State dicts by epoch, oldest first.
        data: ``train`` ``[200]`` and ``test`` ``[20]`` rows.
        learning_rates: Learning rate at each checkpoint.
    """

    task: Task
    states: Mapping[int, Mapping[str, Tensor]]
    data: Mapping[str, Batch]
    learning_rates: tuple[float, ...] = field(default=())

    def model(self, epoch: int | None = None, dtype: torch.dtype = torch.float64) -> nn.Module:
        """Return the model at a checkpoint (default: the last) in eval mode."""
        model = self.task.build_model(0).to(dtype)
        model.load_state_dict({name: value.to(dtype) for name, value in self.states[epoch or max(self.states)].items()})
        return model.eval()

    def rows(self, split: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
        """Return inputs and labels of one split."""
        return self.data[split]["x"].to(dtype), self.data[split]["y"]


def case_data(task: Task, dtype: torch.dtype = torch.float64) -> dict[str, dict[str, Tensor]]:
    """Return the compared rows of both splits."""
    both = {"train": TRAIN, "test": QUERIES}
    full = task.datasets()
    return {
        split: {"x": full[split]["x"][list(rows)].to(dtype), "y": full[split]["y"][list(rows)]}
        for split, rows in both.items()
    }


def data_checksum(data: Mapping[str, Batch]) -> int:
    """Return a number that changes when the shipped rows do."""
    digest = 0
    for split in ("train", "test"):
        digest = zlib.crc32((data[split]["x"].float().numpy() * 1000).round().astype(np.int32).tobytes(), digest)
        digest = zlib.crc32(data[split]["y"].numpy().astype(np.int64).tobytes(), digest)
    return digest


def load_case(name: str) -> Case:
    """Return the case of a built-in task, with the checkpoints of ``goldens/<name>.npz``."""
    arrays = load_golden(name)
    task = load_task(name)
    data = case_data(task)
    assert data_checksum(data) == int(arrays["data_checksum"]), "the shipped rows differ from those of the goldens"
    states = {
        epoch: {
            key.split("/", 2)[2]: torch.from_numpy(value.astype(np.float64))
            for key, value in arrays.items()
            if key.startswith(f"state/{epoch}/")
        }
        for epoch in (int(e) for e in arrays["epochs"])
    }
    return Case(task, states, data, tuple(float(rate) for rate in arrays["learning_rates"]))


class PooledRegression(ClassificationTask):
    """Logistic regression on the means of 4 × 4 pixels: 500 parameters, whose Hessian is quickly made."""

    name = "mnist-pooled-lr"
    num_classes = 10

    def datasets(self) -> dict[str, dict[str, Tensor]]:
        """Return the compared rows, pooled to ``[N, 49]``."""
        rows = case_data(load_task("mnist-lr"))
        return {split: {"x": pooled(part["x"]) / 16, "y": part["y"]} for split, part in rows.items()}

    def build_model(self, seed: int) -> nn.Module:
        """Return one Linear layer."""
        return nn.Sequential(nn.Linear(49, 10))


def pooled(pixels: Tensor) -> Tensor:
    """Return sums over 4 × 4 pixels, ``[…, 784]`` → ``[…, 49]``."""
    return pixels.reshape(*pixels.shape[:-1], 7, 4, 7, 4).sum((-3, -1)).flatten(-2)


def pooled_case() -> Case:
    """Return the small regression at the weights of ``mnist-lr``, summed likewise."""
    task, state = PooledRegression(), load_case("mnist-lr").states[max(EPOCHS["mnist-lr"])]
    return Case(task, {1: {"0.weight": pooled(state["0.weight"]), "0.bias": state["0.bias"]}}, task.datasets())


def train_case(name: str) -> dict[str, np.ndarray]:
    """Return the checkpoints of a case as arrays: trained on the 200 rows from a hashed seed, rounded to float16."""
    from tda_backend.models.training.fit import train
    from tda_backend.models.training.run import TrainingRun
    from tda_backend.seeds import hashed_seed

    task = load_task(name)
    seed = hashed_seed("peer goldens", name)
    checkpoints = train(TrainingRun(task, task.datasets(), TRAIN, seed), EPOCHS[name])
    arrays: dict[str, np.ndarray] = {
        "data_checksum": np.array(data_checksum(case_data(task))),
        "seed": np.array(seed),
        "epochs": np.array([c.epoch for c in checkpoints]),
        "learning_rates": np.array([c.learning_rate for c in checkpoints]),
    }
    for checkpoint in checkpoints:
        for key, value in checkpoint.state.items():
            arrays[f"state/{checkpoint.epoch}/{key}"] = value.numpy().astype(np.float16)
    return arrays
