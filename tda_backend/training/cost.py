"""How long training takes, before it starts: arithmetic and calls, at rates measured on one core."""

from __future__ import annotations

from tda_backend.training.data import validate_data
from tda_backend.training.mlp import mlp_architecture
from tda_backend.training.schedule import steps_per_epoch, training_settings
from tda_backend.types import Task

# One core of a 2 GHz server processor, float32: mnist-mlp, fmnist-mlp and concrete-mlp lie within 30 % of these.
_HAND_WRITTEN_RATE, _HAND_WRITTEN_STEP = 60e9, 8e-5  # operations a second; seconds a step
_AUTOGRAD_RATE, _AUTOGRAD_STEP = 20e9, 8e-4
_OPTIMUM_RATE = 6e9  # float64, limited by memory
_MOST_EVALUATIONS = 400  # logistic regression on MNIST takes 390, linear regression on nine columns 22


def training_seconds(task: Task, num_examples: int) -> float:
    """Return the estimated seconds that one core needs to train one model of ``task`` on ``num_examples``.

    For perceptrons it is right within a factor of about two on other machines; models that share parameters between
    positions (convolutions, attention) take longer than it says.
    """
    settings = training_settings(task)
    model = task.build_model(0)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if settings.optimizer == "lbfgs":
        evaluations = min(_MOST_EVALUATIONS, 20 + parameters)
        return evaluations * (4.0 * parameters * num_examples / _OPTIMUM_RATE + 3e-4)
    architecture = mlp_architecture(task, model, validate_data(task)["train"])
    if architecture is not None:
        each, rate, call = architecture.needed_operations, _HAND_WRITTEN_RATE, _HAND_WRITTEN_STEP
    else:
        each, rate, call = 6 * parameters, _AUTOGRAD_RATE, _AUTOGRAD_STEP
    steps = steps_per_epoch(settings, num_examples)
    return settings.num_epochs * (num_examples * each / rate + steps * call)
