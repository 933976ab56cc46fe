"""Which models can be unrolled: those whose training step is a function of θ and its batch alone."""

from __future__ import annotations

from torch import nn

from tda_backend.errors import TaskError
from tda_backend.types import Task


def check_repeatable(task: Task, model: nn.Module) -> None:
    """Raise a TaskError where a training step is no function of θ and its batch."""
    for name, module in model.named_modules():
        kind = type(module).__name__
        inside = getattr(module, "dropout", 0.0)  # of attention and recurrent layers
        dropping = (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0) or (
            isinstance(inside, float | int) and inside > 0
        )
        running = isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
        if dropping or running:
            why = "draws random numbers" if dropping else "changes its running statistics"
            raise TaskError(
                f'Task "{task.name}": layer "{name}" ({kind}) {why} in training, so that a step cannot be unrolled.',
                "Set dropout to 0; replace batch norm by layer or group norm.",
            )
