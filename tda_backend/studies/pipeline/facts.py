"""What a plan needs to know of a task."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from tda_backend.models.measuring.machine import Machine
from tda_backend.models.measuring.pace import UNMEASURED, Pace, measured
from tda_backend.models.tasks.contract import built
from tda_backend.models.tasks.data import num_rows, validate_data
from tda_backend.models.tasks.identity.identity import task_identity
from tda_backend.models.tasks.registry import task_spec
from tda_backend.models.training.retraining.cost import autograd_operations
from tda_backend.models.training.routes.layout import training_layout
from tda_backend.models.training.routes.perceptron import mlp_architecture
from tda_backend.numerics.features.factors import num_factor_numbers, untracked_parameters
from tda_backend.numerics.features.layers import tracked_layers, untracked
from tda_backend.types import Task


@dataclass(frozen=True)
class TaskFacts:
    """What the plan needs to know of a task.

    Attributes:
        task: The task.
        spec: How to load it again.
        fingerprint: SHA-256 of what it computes: its code, its data and, of a person's own task, its values.
        num_train: Rows of its train set.
        num_test: Rows of its test set.
        num_epochs: Epochs of a full training run, or the number of given checkpoints.
        trains: False for an already trained model.
        num_parameters: p, trainable.
        without_factors: Trainable parameters outside plain Linear layers: no rank-one factors.
        untracked: (name, size) of trainable parameters that no Kronecker factors describe.
        displays: SHA-256 of how it shows examples; ``None``: it is a task of the program.
        data_bytes: What both splits take.
        factor_numbers: Numbers of one gradient's rank-one factors; 0: the model has other layers.
        number_bytes: Of one number of its gradients.
        layers: (outputs, inputs) of each layer that Kronecker factors describe.
        is_perceptron: Whether it is trained by the hand-written loop, without PyTorch's optimizers.
        layout: Memory format in which its models are trained on the CPU; ``None``: as they are built.
        pace: What passes over its model take on the device of a plan, which measures it.
        elsewhere: The machine that times are estimated for; ``None``: the one that plans.
    """

    task: Task
    spec: str
    fingerprint: str
    num_train: int
    num_test: int
    num_epochs: int
    trains: bool
    num_parameters: int
    without_factors: tuple[str, ...]
    untracked: tuple[tuple[str, int], ...]
    displays: str | None = None
    data_bytes: int = 0
    factor_numbers: int = 0
    number_bytes: int = 4
    layers: tuple[tuple[int, int], ...] = ()
    is_perceptron: bool = False
    layout: str | None = None
    pace: Pace = UNMEASURED
    elsewhere: Machine | None = None


def task_facts(task: Task, spec: str) -> TaskFacts:
    """Check a task's data and return its facts.

    Raises:
        TaskError: A checkpoint file is missing, or the task breaks its contract.
        DataError: The data are not usable.
    """
    data = validate_data(task)
    spec = task_spec(task) or spec
    model = built(task, 0)
    identity = task_identity(task, spec, model, data)
    trains = task.training is not None
    outside = untracked(model)
    num_parameters = _trainable(model)
    is_tracked = sum(size for _, size in outside) < num_parameters
    num_epochs = task.training.num_epochs if task.training is not None else len(task.checkpoint_files)
    return TaskFacts(
        task,
        spec,
        identity.fingerprint,
        num_rows(data["train"]),
        num_rows(data["test"]),
        num_epochs,
        trains,
        num_parameters,
        tuple(untracked_parameters(model)),
        tuple(outside),
        identity.displays,
        sum(tensor.nbytes for split in data.values() for tensor in split.values()),
        0 if untracked_parameters(model) else num_factor_numbers(model, data["train"]),
        max((parameter.element_size() for parameter in model.parameters()), default=4),
        tuple(layer.shape for layer in tracked_layers(model, "leave-out")) if is_tracked else (),
        trains and mlp_architecture(task, model, data["train"]) is not None,
        training_layout(task, model, data["train"], "cpu") if trains else None,
    )


def at_pace(facts: TaskFacts, device: str) -> TaskFacts:
    """Return a task's facts with what passes over its model take on a device, which is measured once a process."""
    pace = measured(facts.task, facts.fingerprint, torch.device(device).type)
    if facts.elsewhere is not None:
        task = facts.task
        pace = pace.on(facts.elsewhere, autograd_operations(task, built(task, 0), validate_data(task)["train"]))
    seen = pace.linear_numbers if facts.factor_numbers else 0
    return replace(facts, pace=pace, factor_numbers=seen or facts.factor_numbers)


def num_parameters(task: Task) -> int:
    """Return how many trainable parameters a task's model has."""
    return _trainable(built(task, 0))


def _trainable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def device_type(device: str) -> str:
    """Return the device to use for ``auto``, ``cpu``, ``cuda`` or ``mps``."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device
