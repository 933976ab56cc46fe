"""A model at one checkpoint with the examples that are asked about: what every pass over a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from tda_backend.errors import TaskError
from tda_backend.models.precision import FULL, Precision, refuse_precision
from tda_backend.types import Batch, Task

Group: TypeAlias = Literal["train", "validation", "query"]
Indices: TypeAlias = Sequence[int] | Tensor
GROUPS: tuple[Group, ...] = ("train", "validation", "query")
SPLIT_OF: Mapping[Group, str] = {"train": "train", "validation": "test", "query": "test"}
"""Group of examples → split of the task's data that holds them."""

WITHOUT_FLOAT64 = ("mps",)
"""Types of device that have no float64."""


def home_of(device: torch.device | str) -> torch.device:
    """Return where float64 numbers of a run lie: its device, or the CPU beside a device that has no float64."""
    device = torch.device(device)
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def in_float64(value: Tensor) -> Tensor:
    """Return a tensor's values in float64, without its graph; on the CPU where its device has no float64."""
    return value.detach().to(home_of(value.device)).double()


@dataclass(frozen=True, eq=False)
class Probe:
    """Task, model at a checkpoint, data, rows and device: the one argument of a pass over a model.

    Attributes:
        task: Loss, measurement and its sign.
        model: At the checkpoint; passes use it in eval mode.
        data: ``train`` and ``test`` splits; a split that no pass reads may be missing.
        train: Rows of the train split that are attributed to, ``[n]``.
        validation: Rows of the test split for ξ, ``[v]``.
        query: Rows of the test split that are explained, ``[m]``.
        device: Where passes run; a pass moves the model there.
        batch_size: Examples per pass; results do not depend on it beyond rounding.
        precision: Of passes that are differentiated; what is but evaluated is in the model's own.

    Raises:
        UsageError: Such a model cannot be passed in this precision on this device.
    """

    task: Task
    model: nn.Module
    data: Mapping[str, Batch]
    train: Indices = ()
    validation: Indices = ()
    query: Indices = ()
    device: torch.device | str = "cpu"
    batch_size: int = 512
    precision: Precision = FULL

    def __post_init__(self) -> None:
        if self.precision != FULL:
            largest = max((parameter.element_size() for parameter in self.model.parameters()), default=0)
            refuse_precision(self.precision, self.device, largest)

    @property
    def dtype(self) -> torch.dtype:
        """The precision of what passes give: that of the model's trainable parameters, float32 at least."""
        own = next(parameter.dtype for parameter in self.model.parameters() if parameter.requires_grad)
        return torch.promote_types(own, torch.float32)

    @property
    def home(self) -> torch.device:
        """Where what passes give is kept."""
        return home_of(self.device)

    def split(self, group: Group) -> Batch:
        """Return the split of the data that holds a group's examples."""
        return self.data[SPLIT_OF[group]]

    def rows(self, group: Group) -> Tensor:
        """Return a group's rows within its split, int64."""
        return torch.as_tensor({"train": self.train, "validation": self.validation, "query": self.query}[group]).long()

    def count(self, group: Group) -> int:
        """Return the number of a group's examples."""
        return len(self.rows(group))

    def refuse_empty(self) -> None:
        """Raise a TaskError that names the first group without examples."""
        for group in GROUPS:
            if self.count(group) == 0:
                raise TaskError(f"There are no {group} examples.", "Give at least one index for each group.")

    def at(self, model: nn.Module) -> Probe:
        """Return the same question to another model, e.g. another checkpoint of the run."""
        return replace(self, model=model)

    def only(self, group: Group, rows: Indices) -> Probe:
        """Return the same question with other rows of one group."""
        return replace(self, **{group: rows})

    def in_full(self) -> Probe:
        """Return the same question, its passes in float32 throughout."""
        return replace(self, precision=FULL)

    def in_batches(self, batch_size: int) -> Probe:
        """Return the same question with at most ``batch_size`` examples per pass."""
        return replace(self, batch_size=min(batch_size, self.batch_size))
