"""Training to the exact optimum: the case where influence functions must be right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
import scipy
import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError
from tda_backend.models.tasks.contract import persons_code
from tda_backend.models.tasks.data import take
from tda_backend.models.training.run import TrainingRun
from tda_backend.types import TrainingSettings, to_device

GRADIENT_NORM = 1e-8
"""‖∇‖₂ that counts as the optimum: with decay ω the parameters are then within 1e-8/ω of it."""
_MEMORY, _MAX_ITERATIONS, _MAX_NEWTON, _MAX_CG = 20, 5000, 30, 1000
_RANDOM_OR_COUPLED = (
    nn.modules.dropout._DropoutNd,
    nn.modules.batchnorm._NormBase,
)


class OptimumTrainer:
    """Finds θ* = argmin (1/n)Σ ℓ(z_i; θ) + ½·ω·‖θ‖² in float64, to ‖∇‖₂ ≤ 1e-8.

    L-BFGS-B (scipy) goes as far as differences of the loss can be told apart; Newton steps by conjugate gradients,
    which look at gradients alone, go the rest of the way. The parameters come back in the model's own precision.
    SOURCE (arXiv 2405.12186) §E.3 makes its linear ground truth so. For a convex loss the result does not depend on
    the seed, to 1e-8/ω.

    Args:
        run: Task, data, rows and device, which must know float64.
        model: Where to start.
        settings: Gives ω, the weight decay.

    Raises:
        TaskError: The model draws random numbers or couples examples in training, so that it has no such optimum.
    """

    def __init__(self, run: TrainingRun, model: nn.Module, settings: TrainingSettings) -> None:
        random = [type(m).__name__ for m in model.modules() if isinstance(m, _RANDOM_OR_COUPLED) and _acts(m)]
        if random:
            raise TaskError(
                f'The model of task "{run.task.name}" has {random[0]}, so its training loss has no optimum.',
                "Train it by SGD, or leave the layer out.",
            )
        self._task, self._model, self._decay = run.task, model, settings.weight_decay
        self._wide = deepcopy(model).to(run.device).double().eval()
        self._parameters = [p for p in self._wide.parameters() if p.requires_grad]
        rows = to_device(take(run.train_data, run.row_numbers()), run.device)
        self._batch = {key: v.double() if v.is_floating_point() else v for key, v in rows.items()}

    def train_epoch(self, epoch: int) -> None:
        """Go to the optimum.

        Raises:
            NumericalError: It is not reached; names the gradient's norm.
        """
        start = _flat(self._parameters).cpu().numpy()
        found = scipy.optimize.minimize(
            self._value_and_gradient,
            start,
            jac=True,
            method="L-BFGS-B",
            options={
                "maxiter": _MAX_ITERATIONS,
                "maxfun": 2 * _MAX_ITERATIONS,
                "maxcor": _MEMORY,
                "ftol": 0.0,
                "gtol": GRADIENT_NORM / max(1.0, len(start) ** 0.5),
            },
        )
        point, norm = self._newton(found.x)
        if not norm <= GRADIENT_NORM:
            raise NumericalError(
                f'Training "{self._task.name}" to its optimum stops at a gradient of norm {norm:.2g} '
                f"(wanted {GRADIENT_NORM:.0g}).",
                "Raise weight_decay, standardise the inputs, or look whether the loss is smooth and convex.",
            )
        self._set(point)
        own = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, value in self._wide.named_parameters():
                own[name].copy_(value)

    def states(self) -> list[dict[str, Tensor]]:
        """Return a copy of the model's state dict on the CPU, as a list of one."""
        return [{name: value.detach().cpu().clone() for name, value in self._model.state_dict().items()}]

    def _set(self, point: np.ndarray) -> None:
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(
                torch.from_numpy(point).to(self._parameters[0].device), self._parameters
            )

    def _loss(self) -> Tensor:
        with persons_code(self._task, "train_loss"):
            mean = self._task.train_loss(self._wide, self._batch).mean()
        return mean + 0.5 * self._decay * torch.stack([p.square().sum() for p in self._parameters]).sum()

    def _value_and_gradient(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        self._set(point)
        loss = self._loss()
        return loss.item(), _flat(torch.autograd.grad(loss, self._parameters)).cpu().numpy()

    def _newton(self, point: np.ndarray) -> tuple[np.ndarray, float]:
        """Return (point, gradient norm) after Newton steps, each of which must lower the norm."""
        gradient = self._value_and_gradient(point)[1]
        for _ in range(_MAX_NEWTON):
            norm = float(np.linalg.norm(gradient))
            if norm <= GRADIENT_NORM or not np.isfinite(norm):
                break
            self._set(point)
            graph = _flat(torch.autograd.grad(self._loss(), self._parameters, create_graph=True))

            def product(vector: np.ndarray, graph: Tensor = graph) -> np.ndarray:
                along = torch.from_numpy(vector).to(graph.device)
                return _flat(torch.autograd.grad(graph @ along, self._parameters, retain_graph=True)).cpu().numpy()

            candidate = point - _solve(product, gradient)
            after = self._value_and_gradient(candidate)[1]
            if not np.linalg.norm(after) < norm:
                break
            point, gradient = candidate, after
        return point, float(np.linalg.norm(gradient))


def _acts(module: nn.Module) -> bool:
    return getattr(module, "p", 1.0) > 0


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) if not tensor.grad_fn else tensor.reshape(-1) for tensor in tensors])


def _solve(product: Callable[[np.ndarray], np.ndarray], right: np.ndarray) -> np.ndarray:
    """Return an approximate solution of H·x = right by conjugate gradients, to a hundredth of its norm."""
    x, residual = np.zeros_like(right), right.copy()
    direction, size = residual.copy(), float(residual @ residual)
    goal = 1e-4 * size
    for _ in range(_MAX_CG):
        image = product(direction)
        curvature = float(direction @ image)
        if curvature <= 0:  # not convex here: what there is so far is a descent direction
            break
        step = size / curvature
        x += step * direction
        residual -= step * image
        before, size = size, float(residual @ residual)
        if size <= goal:
            break
        direction = residual + (size / before) * direction
    return x
