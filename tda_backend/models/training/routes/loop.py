"""The reference: one model, autograd, any optimizer. Slow, general, and what every faster route is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tda_backend.models.tasks.contract import persons_code
from tda_backend.models.tasks.data import take
from tda_backend.models.training.routes.dropout import EpochMasks, hash_dropout
from tda_backend.models.training.routes.layout import laid_out, training_layout
from tda_backend.models.training.routes.optimizer import optimizer_step, torch_optimizer
from tda_backend.models.training.routes.schedule import StepHook, learning_rate, steps_per_epoch, training_order
from tda_backend.models.training.run import TrainingRun
from tda_backend.seeds import hashed_seed
from tda_backend.types import TrainingSettings, to_device


class LoopTrainer:
    """Trains one model by autograd over tensors in memory.

    Args:
        run: Task, data, rows, seed (of order and dropout) and device.
        model: Freshly initialised; changed in place.
        settings: Training settings.

    Attributes:
        settings: Training settings.
        on_step: Looks on before every step; it must change nothing.
    """

    def __init__(self, run: TrainingRun, model: nn.Module, settings: TrainingSettings) -> None:
        self._task, self.settings, self._indices, self._seed = run.task, settings, run.row_numbers(), run.seed
        self.on_step: StepHook | None = None
        self._dropout = hash_dropout(model)
        layout = training_layout(run.task, model, run.train_data, run.device)
        self._model = laid_out(model.to(run.device), layout)
        self._data = to_device(run.train_data, run.device)
        self._device = torch.device(run.device)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = torch_optimizer(settings, self._parameters)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """PyTorch's optimizer of this run, for hooks that read its moments; its state is empty before the first step.

        Decoupled decay of sgd and rmsprop, and clipping, happen outside it (:func:`optimizer_step`).
        """
        return self._optimizer

    def train_epoch(self, epoch: int) -> None:
        """Run one epoch (1-based). What a model draws from PyTorch's generator is seeded per epoch."""
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(hashed_seed("generator", self._seed, epoch))
            self._train_epoch(epoch)

    def _train_epoch(self, epoch: int) -> None:
        settings, size = self.settings, len(self._indices)
        order = torch.from_numpy(self._indices[training_order(self._seed, epoch, size)]).to(self._device)
        masks = EpochMasks(self._dropout, self._seed, epoch)
        steps = steps_per_epoch(settings, size)
        self._model.train()
        for layer in self._dropout:
            layer.source = masks
        try:
            for step, rows in enumerate(order.split(settings.batch_size), start=(epoch - 1) * steps):
                for group in self._optimizer.param_groups:
                    group["lr"] = learning_rate(settings, step, steps * settings.num_epochs)
                if self.on_step is not None:
                    self.on_step(self._model.state_dict(), rows, self._optimizer.param_groups[0]["lr"])
                with persons_code(self._task, "train_loss"):
                    loss = self._task.train_loss(self._model, take(self._data, rows)).mean()
                self._optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer_step(settings, self._optimizer, self._parameters)
        finally:
            for layer in self._dropout:
                layer.source = None

    def states(self) -> list[dict[str, Tensor]]:
        """Return a copy of the model's state dict on the CPU, as a list of one."""
        return [{name: value.detach().cpu().clone() for name, value in self._model.state_dict().items()}]
