"""How long training takes, before it starts: arithmetic and calls, at rates measured on one core."""

from __future__ import annotations

import contextlib

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tda_backend.errors import TaskError
from tda_backend.models.tasks.contract import built, persons_code
from tda_backend.models.tasks.data import take, validate_data
from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.routes.perceptron import mlp_architecture
from tda_backend.models.training.routes.schedule import steps_per_epoch
from tda_backend.types import Batch, Task, to_device

# One core of a 2 GHz server processor, float32: mnist-mlp, fmnist-mlp and concrete-mlp lie within 30 % of these.
_HAND_WRITTEN_RATE, _HAND_WRITTEN_STEP = 60e9, 8e-5  # operations a second; seconds a step
_AUTOGRAD_RATE, _AUTOGRAD_STEP = 20e9, 8e-4
_OPTIMUM_RATE = 6e9  # float64, limited by memory
_MOST_EVALUATIONS = 400  # logistic regression on MNIST takes 390, linear regression on nine columns 22


def autograd_operations(task: Task, model: nn.Module, data: Batch) -> int:
    """Return the floating-point operations of one example's training step: three times those of its forward pass.

    Matrix products and convolutions are counted, 2 per multiply-add, at every position that shares a parameter. At
    least 6 per parameter. A loss that fails on a single row is counted as far as it came: what is wrong with it is said
    where the task is verified.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    row, was_training = to_device(take(data, np.zeros(1, dtype=np.int64)), device), model.training
    counter = FlopCounterMode(display=False)
    # With gradients: without them PyTorch's encoder layers take one fused call, which the counter does not know.
    with contextlib.suppress(TaskError), torch.enable_grad(), counter, persons_code(task, "train_loss"):
        task.train_loss(model.eval(), row)
    model.train(was_training)
    return max(3 * counter.get_total_flops(), 6 * sum(p.numel() for p in model.parameters() if p.requires_grad))


def training_seconds(task: Task, num_examples: int) -> float:
    """Return the estimated seconds that one core needs to train one model of ``task`` on ``num_examples``.

    It is right within a factor of about two: perceptrons, small convolutional networks and transformers were measured.
    """
    settings = training_settings(task)
    model = built(task, 0)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if settings.finds_optimum:
        evaluations = min(_MOST_EVALUATIONS, 20 + parameters)
        return evaluations * (4.0 * parameters * num_examples / _OPTIMUM_RATE + 3e-4)
    data = validate_data(task)["train"]
    architecture = mlp_architecture(task, model, data)
    if architecture is not None:
        each, rate, call = architecture.needed_operations, _HAND_WRITTEN_RATE, _HAND_WRITTEN_STEP
    else:
        each, rate, call = autograd_operations(task, model, data), _AUTOGRAD_RATE, _AUTOGRAD_STEP
    steps = steps_per_epoch(settings, num_examples)
    return settings.num_epochs * (num_examples * each / rate + steps * call)
