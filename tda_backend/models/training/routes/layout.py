"""In which memory format a model is trained: pixel by pixel on a CPU where it pools maxima over planes.

PyTorch's CPU kernel of max-pooling walks planes number by number, and pixels in vectors (benchmark ``training``).
Convolutions without pooling gain nothing, so such models stay as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tda_backend.errors import TaskError
from tda_backend.models.tasks.contract import persons_code
from tda_backend.models.tasks.data import take
from tda_backend.types import Batch, Task

CHANNELS_LAST = "channels-last"


class _Watch(TorchDispatchMode):
    """Notes whether maxima are pooled over planes."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return no: to skip the compiler it would first be loaded, which takes a second and 60 MiB."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.pools = self.pools or func.overloadpacket is torch.ops.aten.max_pool2d_with_indices
        return func(*args, **(kwargs or {}))


def training_layout(task: Task, model: nn.Module, data: Batch, device: torch.device | str) -> str | None:
    """Return :data:`CHANNELS_LAST` where a model is trained so, else ``None``: as it was built.

    Args:
        task: Gives the training loss.
        model: Of the task, on the CPU; left as it is.
        data: Train split, of which one row passes through the model.
        device: Where it is trained.
    """
    if torch.device(device).type != "cpu" or not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        return None
    modes = {module: module.training for module in model.modules()}
    watch, row = _Watch(), take(data, np.zeros(1, dtype=np.int64))
    with torch.random.fork_rng(devices=[]), contextlib.suppress(TaskError), persons_code(task, "train_loss"), watch:
        task.train_loss(model.eval(), row)
    for module, mode in modes.items():
        module.training = mode
    return CHANNELS_LAST if watch.pools else None


def laid_out(model: nn.Module, layout: str | None) -> nn.Module:
    """Return the model, its parameters moved to a memory format."""
    return model if layout is None else model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # its stubs lack it
