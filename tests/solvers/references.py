"""Dense float64 curvature by plain autograd, one example at a time: the slow truth of products and solvers."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tda_backend.seeds import hashed_seed
from tda_backend.types import Task
from tests.helpers_numerics import QUERIES, TASKS, dense_gradients


def parameters_of(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def flat_gradient(value: Tensor, parameters: list[Tensor], *, graph: bool = False) -> Tensor:
    parts = torch.autograd.grad(
        value, parameters, create_graph=graph, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return torch.cat([part.flatten() for part in parts])


def example(task: Task, index: int) -> dict[str, Tensor]:
    return {key: value[index : index + 1] for key, value in task.datasets()["train"].items()}


def dense_curvature(task: Task, model: nn.Module, indices, kind: str, *, seed: int = 0, num_samples: int = 1) -> Tensor:
    """Return the mean curvature ``[p, p]``."""
    model.eval()
    parameters = parameters_of(model)
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    total = total[:, None] * total
    with sdpa_kernel(SDPBackend.MATH):
        if kind == "hessian":  # of the whole sum, or p backward passes an example would take minutes
            chosen = torch.as_tensor(indices)
            batch = {key: value[chosen] for key, value in task.datasets()["train"].items()}
            gradient = flat_gradient(task.train_loss(model, batch).sum(), parameters, graph=True)
            zero = sum((p * 0).sum() for p in parameters)
            return torch.stack([flat_gradient(entry + zero, parameters) for entry in gradient]) / len(chosen)
        for index in indices:
            batch = example(task, int(index))
            if kind == "empirical-fisher":
                gradient = flat_gradient(task.train_loss(model, batch).sum(), parameters)
                total += torch.outer(gradient, gradient)
            elif kind == "true-fisher":
                outputs = task.outputs(model, batch)
                for sample in range(num_samples):
                    generator = torch.Generator().manual_seed(hashed_seed("true-fisher", seed, int(index), sample))
                    drawn = task.sample_targets(outputs.detach(), generator)
                    loss = task.output_loss(outputs, {**batch, task.label_key: drawn})
                    gradient = flat_gradient(loss.sum(), parameters)
                    total += torch.outer(gradient, gradient) / num_samples
            else:
                outputs = task.outputs(model, batch)
                jacobian = torch.stack([flat_gradient(entry, parameters) for entry in outputs.flatten()])
                curvature = torch.autograd.functional.hessian(
                    lambda values, batch=batch: task.output_loss(values, batch).sum(), outputs.detach()
                )
                total += jacobian.T @ curvature.reshape(len(jacobian), len(jacobian)) @ jacobian
    return total / len(indices)


def dense_problem(task: Task, model: nn.Module, indices) -> tuple[Tensor, Tensor]:
    """Return query gradients of goodness ``[m, p]`` and loss gradients ``[n, p]``."""
    data = task.datasets()
    return (
        dense_gradients(task, model, data["test"], QUERIES, "goodness"),
        dense_gradients(task, model, data["train"], indices, "train_loss"),
    )


@functools.cache
def reference(name: str, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return query gradients ``[m, p]``, loss gradients ``[n, p]`` and the curvature ``[p, p]`` of a small task."""
    task = TASKS[name]
    model = task.build_model(0)
    everyone = range(len(task.datasets()["train"]["y"]))
    return *dense_problem(task, model, everyone), dense_curvature(task, model, everyone, kind)


def damped(matrix: Tensor, regularization: float) -> Tensor:
    """Return C + λI."""
    return matrix + regularization * torch.eye(len(matrix), dtype=matrix.dtype)
