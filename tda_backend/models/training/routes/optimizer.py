"""From training settings to PyTorch's optimizers, and what a step does besides calling one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tda_backend.errors import TaskError
from tda_backend.types import TrainingSettings


def torch_optimizer(settings: TrainingSettings, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the optimizer of ``settings``; :func:`optimizer_step` does what it does not know of.

    Adam (Kingma & Ba, 2015) with m ← β₁m + (1 − β₁)g, v ← β₂v + (1 − β₂)g², θ ← θ − η·m̂/(√v̂ + ε), m̂ and v̂ divided
    by 1 − βᵗ; AdamW (Loshchilov & Hutter, 2019) with θ ← (1 − ηω)θ before it; RMSProp θ ← θ − η·g/(√v + ε) without
    bias correction. Decoupled decay makes Adam AdamW.

    Raises:
        TaskError: The settings are those of training to the optimum.
    """
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "sgd":
        decay = 0.0 if settings.decouples_decay else decay
        return torch.optim.SGD(parameters, lr=rate, momentum=settings.momentum, weight_decay=decay)
    if settings.optimizer in ("adam", "adamw"):
        kind, (first, second) = torch.optim.AdamW if settings.decouples_decay else torch.optim.Adam, settings.betas
        return kind(parameters, lr=rate, betas=(first, second), eps=settings.eps, weight_decay=decay)
    if settings.optimizer == "rmsprop":
        decay = 0.0 if settings.decouples_decay else decay
        return torch.optim.RMSprop(parameters, lr=rate, alpha=settings.smoothing, eps=settings.eps, weight_decay=decay)
    raise TaskError(
        f"Training by {settings.optimizer} takes no steps of an optimizer.", "Take sgd, adam, adamw or rmsprop."
    )


def optimizer_step(
    settings: TrainingSettings, optimizer: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]
) -> None:
    """Take one step from the gradients in ``.grad``, at the rate that stands in the optimizer.

    In this order: g ← g·min(1, c/(‖g‖ + 1e-6)) for clipping at norm c, as PyTorch's ``clip_grad_norm_``; decoupled
    decay θ ← (1 − ηω)θ, where AdamW does not do it itself; the optimizer's own step, with L2 decay inside.
    """
    if settings.clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
    if settings.decouples_decay and settings.weight_decay and settings.optimizer in ("sgd", "rmsprop"):
        rate = optimizer.param_groups[0]["lr"]
        with torch.no_grad():
            for parameter in parameters:
                if parameter.grad is not None:  # AdamW, too, leaves alone what takes no part in the loss
                    parameter.mul_(1 - rate * settings.weight_decay)
    optimizer.step()
