"""Many models of one architecture as one batched model (``torch.func``): what a GPU needs, where one small model idles.

Perceptrons have their own stacked route (``mlp.py``); this one serves any model whose forward pass ``vmap`` can batch.
Models with running statistics, data-dependent control flow or random numbers of their own cannot be stacked:
:func:`why_not_stackable` finds out by trying, and compares gradients with those of one model at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from tda_backend.errors import TDAError, ran_out_of_memory
from tda_backend.models.tasks.contract import built
from tda_backend.models.tasks.data import take
from tda_backend.models.training.routes.dropout import EpochMasks, HashedDropout, hash_dropout
from tda_backend.models.training.routes.schedule import (
    foreach_add,
    foreach_multiply,
    learning_rate,
    steps_per_epoch,
    training_order,
)
from tda_backend.models.training.run import RunGroup
from tda_backend.types import Batch, Task, TrainingSettings, to_device

_PROBE_ROWS = 4
_PROBE_TOLERANCE = 1e-3  # float32 gradients of two routes; a model that mixes its neighbours is wrong by far more


class _MeanLoss(nn.Module):
    """A task's mean training loss as the forward pass of a module, so that ``functional_call`` can swap parameters."""

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._loss = task.train_loss

    def forward(self, batch: Batch) -> Tensor:
        return self._loss(self.model, batch).mean()


class _Calls:
    """Records which dropout layers a forward pass calls, then hands out the masks drawn for those calls, in order."""

    def __init__(self, layers: Sequence[HashedDropout]) -> None:
        self._layers = layers
        self.shapes: list[tuple[int, tuple[int, ...]]] = []
        self._queue: list[Tensor] = []

    def record(self, run: Callable[[], Any]) -> None:
        """Run once and remember (layer, shape) of every call."""
        self.shapes = []

        def source(module: HashedDropout, input: Tensor) -> Tensor:
            self.shapes.append((module.layer, tuple(input.shape)))
            return torch.ones_like(input, dtype=torch.bool)

        self._set(source)
        run()
        self._set(None)

    def supply(self, masks: Sequence[Tensor]) -> None:
        """Hand out ``masks`` to the calls of the next forward pass."""
        self._queue = list(masks)
        self._set(lambda module, input: self._queue.pop(0))

    def draw(self, sources: Sequence[EpochMasks], rows: int, device: torch.device) -> list[Tensor]:
        """Draw the masks of one step for every model, ``[M, rows, …]`` per call."""
        return [
            torch.stack([source.draw(layer, (rows, *shape[1:])) for source in sources]).to(device)
            for layer, shape in self.shapes
        ]

    def _set(self, source: Any) -> None:
        for layer in self._layers:
            layer.source = source


class StackedTrainer:
    """Trains M models at once by ``vmap(grad)``.

    Args:
        task: Gives the training loss.
        models: Freshly initialised, ``[M]``, of one architecture.
        settings: Training settings.
        group: Data, rows and seeds of the M runs.
    """

    def __init__(self, task: Task, models: Sequence[nn.Module], settings: TrainingSettings, group: RunGroup) -> None:
        self._settings, self._indices, self._seeds = settings, np.stack(group.rows), list(group.seeds)
        self._device = torch.device(group.device)
        self._data = to_device(group.data, group.device)
        dropout = [hash_dropout(model) for model in models]
        modules = [_MeanLoss(task, model.to(group.device)).train() for model in models]
        self._trainable = {name for name, value in modules[0].named_parameters() if value.requires_grad}
        parameters, self._buffers = stack_module_state(modules)
        parameters = {name: value.detach() for name, value in parameters.items()}
        self._frozen = {name: value for name, value in parameters.items() if name not in self._trainable}
        self._parameters = {name: value for name, value in parameters.items() if name in self._trainable}
        self._velocities = {name: torch.zeros_like(value) for name, value in self._parameters.items()}
        self._module, self._layers = modules[0], dropout[0]
        self._calls = _Calls(dropout[0])
        sample = take(self._data, self._indices[0][: settings.batch_size])
        with torch.no_grad():
            self._calls.record(lambda: self._module(sample))
        self._gradients = vmap(grad(self._one_loss), in_dims=(0, 0, 0, 0, 0))

    def _one_loss(
        self,
        parameters: dict[str, Tensor],
        frozen: dict[str, Tensor],
        buffers: dict[str, Tensor],
        batch: dict[str, Tensor],
        masks: list[Tensor],
    ) -> Tensor:
        self._calls.supply(masks)
        return functional_call(self._module, (parameters, frozen, buffers), (batch,))

    def gradients(self, rows: Tensor, masks: list[Tensor]) -> dict[str, Tensor]:
        """Return the mean-loss gradient of every model on its own rows ``[M, b]``, by name, each ``[M, …]``."""
        batch = take(self._data, rows)
        return self._gradients(self._parameters, self._frozen, self._buffers, batch, masks)

    def train_epoch(self, epoch: int) -> None:
        """Run one epoch (1-based) of every model."""
        settings, size = self._settings, self._indices.shape[1]
        pairs = zip(self._indices, self._seeds, strict=True)
        order = np.stack([rows[training_order(seed, epoch, size)] for rows, seed in pairs])
        orders = torch.from_numpy(order).to(self._device).split(settings.batch_size, dim=1)
        sources = [EpochMasks(self._layers, seed, epoch) for seed in self._seeds]
        steps = steps_per_epoch(settings, size)
        for step, rows in enumerate(orders, start=(epoch - 1) * steps):
            masks = self._calls.draw(sources, rows.shape[1], self._device)
            gradients = self.gradients(rows, masks)
            self._update(gradients, learning_rate(settings, step, steps * settings.num_epochs))

    @torch.no_grad()
    def _update(self, gradients: dict[str, Tensor], rate: float) -> None:
        parameters = list(self._parameters.values())
        velocities = list(self._velocities.values())
        steps = [gradients[name] for name in self._parameters]
        if self._settings.weight_decay:
            foreach_add(steps, parameters, alpha=self._settings.weight_decay)
        foreach_multiply(velocities, self._settings.momentum)
        foreach_add(velocities, steps)
        foreach_add(parameters, velocities, alpha=-rate)

    def states(self) -> list[dict[str, Tensor]]:
        """Return a copy of each model's state dict, on the CPU."""
        whole = {**self._parameters, **self._frozen, **self._buffers}
        order = [f"model.{name}" for name in self._module.model.state_dict()]
        missing = [name for name in order if name not in whole]  # tied parameters appear once among the parameters
        host = {name: whole[name].cpu() for name in order if name in whole}
        if missing:
            raise TDAError(f"The stacked state lacks {', '.join(missing)}.", "Train this model one at a time.")
        return [
            {name.removeprefix("model."): host[name][model].clone() for name in order}
            for model in range(len(self._seeds))
        ]


def why_not_stackable(task: Task, settings: TrainingSettings, data: Batch, indices: np.ndarray) -> str | None:
    """Return why models of ``task`` cannot be stacked, or ``None`` if they can.

    Two models take one stacked gradient on a few rows; it must agree with the gradients taken one by one, and no
    buffer may change in training mode.
    """
    if not settings.is_plain_sgd:
        return f"the stacked step is that of plain SGD, not {settings.optimizer_text}"
    models = [built(task, seed) for seed in (1, 2)]
    for model in models:
        hash_dropout(model)
    probe = np.stack([indices[:_PROBE_ROWS], indices[::-1][:_PROBE_ROWS]])
    before = [{name: value.clone() for name, value in model.named_buffers()} for model in models]
    singles = []
    for model, rows in zip(models, probe, strict=True):
        layers = hash_dropout(model)
        calls = _Calls(layers)
        loss: list[Tensor] = []
        batch = take(data, rows)
        model.train()
        calls.record(lambda model=model, batch=batch, loss=loss: loss.append(task.train_loss(model, batch).mean()))
        parameters = {f"model.{name}": value for name, value in model.named_parameters() if value.requires_grad}
        found = torch.autograd.grad(loss[0], list(parameters.values()), allow_unused=True)
        singles.append(dict(zip(parameters, found, strict=True)))
    for model, buffers in zip(models, before, strict=True):
        changed = [name for name, value in model.named_buffers() if not torch.equal(value, buffers[name])]
        if changed:
            return f"training changes its buffers ({', '.join(changed[:3])})"
    try:
        trainer = StackedTrainer(task, models, settings, RunGroup(data, list(probe), [1, 2]))
        trainer.states()
        rows = torch.from_numpy(probe)
        ones = [torch.ones(2, len(rows[0]), *shape[1:], dtype=torch.bool) for _, shape in trainer._calls.shapes]
        stacked = trainer.gradients(rows, ones)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, TDAError) as error:
        if ran_out_of_memory(error):
            raise
        return (str(error).splitlines() or [type(error).__name__])[0]
    for model, single in enumerate(singles):
        for name, expected in single.items():
            if expected is None:
                return f"{name.removeprefix('model.')} takes no part in the loss"
            error = (stacked[name][model] - expected).norm()
            if not error <= _PROBE_TOLERANCE * (expected.norm() + 1e-6):
                return f"its stacked gradient of {name.removeprefix('model.')} differs from that of one model"
    return None
