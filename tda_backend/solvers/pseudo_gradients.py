"""Vectors whose mean outer product is the curvature: ``C = (1/n) Σ_c Σ_i g_ic g_icᵀ``.

======================  ==================================================================  =====================
curvature               g_ic                                                                c runs over
======================  ==================================================================  =====================
``empirical-fisher``    ∇ℓ(z_i)                                                             1
``true-fisher``         ∇ℓ(x_i, y_ic)/√S, y_ic drawn from the model                         S samples
``ggn``                 J_iᵀ s_ic with Σ_c s_ic s_icᵀ = ∇²ℓ_i in the outputs                outputs
======================  ==================================================================  =====================

For cross-entropy the Gauss–Newton matrix is Σ_c p_c g_c g_cᵀ, the expectation of the true Fisher; the square root s
taken here gives the same matrix. A pseudo-gradient is the gradient of a scalar, so every route that takes gradients
of a training loss (rank-one factors, dense blocks, projections) takes these too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.features.dense import Request
from tda_backend.features.streaming import batches, evaluation_mode
from tda_backend.seeds import hashed_seed
from tda_backend.types import Batch, Task

CurvatureKind = Literal["hessian", "ggn", "empirical-fisher", "true-fisher"]
CURVATURES: tuple[CurvatureKind, ...] = ("hessian", "ggn", "empirical-fisher", "true-fisher")

MAX_OUTPUTS = 2048
"""Outputs per example above which the Gauss–Newton matrix is not split into pseudo-gradients."""

_DIRECTION = "__output_direction"
_NEGATIVE_TOLERANCE = 1e-10


def check_curvature(kind: str, allowed: Sequence[str] = CURVATURES) -> None:
    """Raise a UsageError unless ``kind`` is one of ``allowed``."""
    if kind not in allowed:
        raise UsageError(f"Curvature {kind!r} cannot be used here.", f"Allowed: {', '.join(allowed)}.")


class ScalarTask(Task):
    """A task whose training loss is another scalar of the same model: an output direction, or a scaled loss."""

    def __init__(self, task: Task, scale: float = 1.0) -> None:
        self.name = task.name
        self._task = task
        self._scale = scale

    def datasets(self):
        """Return the original task's data."""
        return self._task.datasets()

    def build_model(self, seed: int) -> nn.Module:
        """Return the original task's model."""
        return self._task.build_model(seed)

    def measurement(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the original task's measurement."""
        return self._task.measurement(model, batch)

    def train_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return s_i·outputs_i where the batch holds directions, else the scaled loss of the outputs, ``[b]``."""
        outputs = self._task.outputs(model, batch)
        if _DIRECTION in batch:
            return (outputs.flatten(1) if outputs.ndim > 1 else outputs[:, None]).mul(batch[_DIRECTION]).sum(1)
        return self._scale * self._task.output_loss(outputs, batch)


@dataclass(frozen=True)
class PseudoGradients:
    """What to differentiate so that the mean outer product of all rows, divided by n, is the curvature.

    Attributes:
        task: Its ``train_loss`` is the scalar.
        parts: One batch of n rows for each c.
    """

    task: Task
    parts: tuple[Batch, ...]

    @property
    def num_train(self) -> int:
        return len(next(iter(self.parts[0].values())))

    def requests(self) -> list[Request]:
        """Return the gradients to take, part by part."""
        everyone = range(self.num_train)
        return [(part, everyone, "train_loss") for part in self.parts]


def pseudo_gradients(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    kind: CurvatureKind,
    *,
    seed: int = 0,
    num_samples: int = 1,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> PseudoGradients:
    """Return the pseudo-gradients of a positive semi-definite curvature.

    Args:
        task: With ``outputs`` and ``output_loss`` (ggn), also ``sample_targets`` (true-fisher).
        model: Any model.
        data: The train split.
        indices: Rows of it, n.
        kind: ``ggn``, ``empirical-fisher`` or ``true-fisher``.
        seed: Labels are drawn by hashes of (seed, dataset row, sample): batch size and order never matter.
        num_samples: S ≥ 1, labels drawn per example.
        device: Where the passes run.
        batch_size: Examples per pass.

    Raises:
        UsageError: The kind has no pseudo-gradients (the Hessian), or S < 1.
        TaskError: The task lacks what the kind needs, or has too many outputs for ggn.
        NumericalError: Outputs are not finite, or the loss is not convex in them.
    """
    check_curvature(kind, [name for name in CURVATURES if name != "hessian"])
    rows = torch.as_tensor(indices, dtype=torch.long)
    if len(rows) == 0:
        raise TaskError("There are no train examples.", "Give at least one index.")
    part = {key: value[rows] for key, value in data.items()}
    if kind == "empirical-fisher":
        return PseudoGradients(task, (part,))
    if kind == "true-fisher":
        if num_samples < 1:
            raise UsageError(f"The true Fisher got {num_samples} samples an example.", "Give at least 1.")
        targets = sampled_targets(
            task, model, data, rows, seed=seed, num_samples=num_samples, device=device, batch_size=batch_size
        )
        parts = tuple({**part, task.label_key: targets[:, sample]} for sample in range(num_samples))
        return PseudoGradients(ScalarTask(task, num_samples**-0.5), parts)
    roots = _output_roots(task, model, data, rows, device, batch_size)
    return PseudoGradients(ScalarTask(task), tuple({**part, _DIRECTION: root} for root in roots.unbind(2)))


def sampled_targets(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    *,
    seed: int,
    num_samples: int = 1,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> Tensor:
    """Return targets drawn from the model's own distribution, ``[n, S]`` on the CPU.

    Every example has its own generator, seeded by a hash of (seed, dataset row, sample).

    Raises:
        TaskError: The task has no ``outputs`` or ``sample_targets``.
        NumericalError: Outputs are not finite.
    """
    rows = torch.as_tensor(indices, dtype=torch.long)
    model.to(device)
    drawn: list[Tensor] = []
    generator = torch.Generator()
    with evaluation_mode(model), torch.no_grad():
        for where, batch in batches(data, rows, batch_size, device):
            outputs = task.outputs(model, batch).cpu()
            _refuse_non_finite(outputs, rows[where], task)
            for row, output in zip(rows[where].tolist(), outputs, strict=True):
                samples = []
                for sample in range(num_samples):
                    generator.manual_seed(hashed_seed("true-fisher", seed, row, sample))
                    samples.append(task.sample_targets(output[None], generator)[0])
                drawn.append(torch.stack(samples))
    return torch.stack(drawn)


def output_curvature_products(task: Task, outputs: Tensor, batch: Batch, vectors: Tensor) -> Tensor:
    """Return ∇²ℓ_i·v for output vectors ``[q, b, ...]``, in the outputs' dtype.

    Raises:
        TaskError: ``output_loss`` has another shape, or cannot be differentiated.
    """
    leaf = outputs.detach().requires_grad_(True)
    with torch.enable_grad():
        losses = task.output_loss(leaf, batch)
        if losses.shape != (len(outputs),):
            raise TaskError(
                f"Task {task.name!r} returned output_loss of shape {tuple(losses.shape)} for {len(outputs)} examples.",
                "output_loss returns one number per example, [b], not reduced.",
            )
        (slope,) = torch.autograd.grad(losses.sum(), leaf, create_graph=True)
    if not slope.requires_grad:  # a loss linear in the outputs has no curvature
        return torch.zeros_like(vectors)
    (result,) = torch.autograd.grad(slope, leaf, vectors, is_grads_batched=True)
    return result


def _output_roots(
    task: Task, model: nn.Module, data: Batch, rows: Tensor, device: torch.device | str, batch_size: int
) -> Tensor:
    """Return s with ``s sᵀ = ∇²ℓ_i`` in the flattened outputs, ``[n, o, rank]``."""
    model.to(device)
    roots: list[Tensor] = []
    with evaluation_mode(model):
        for where, batch in batches(data, rows, batch_size, device):
            with torch.no_grad():
                outputs = task.outputs(model, batch)
            _refuse_non_finite(outputs, rows[where], task)
            roots.append(_square_roots(_output_hessians(task, outputs, batch), rows[where], task).to(outputs.dtype))
    whole = torch.cat(roots).cpu()
    used = (whole != 0).flatten(0, 1).any(0)
    return whole[:, :, used] if bool(used.any()) else whole[:, :, :1]


def _output_hessians(task: Task, outputs: Tensor, batch: Batch) -> Tensor:
    """Return ∇²ℓ_i in the flattened outputs, ``[b, o, o]`` float64."""
    num = outputs[0].numel()
    if num > MAX_OUTPUTS:
        raise TaskError(
            f"Task {task.name!r} has {num} outputs per example; the Gauss–Newton matrix is split for ≤ {MAX_OUTPUTS}.",
            "Use true-fisher, whose expectation is the same matrix, or products with it (CG, LiSSA, Arnoldi).",
        )
    # In float64: 1 − p of a well fitted example is lost in float32.
    wide = {key: value.double() if value.is_floating_point() else value for key, value in batch.items()}
    eye = torch.eye(num, dtype=torch.float64, device=outputs.device).view(num, 1, *outputs.shape[1:])
    columns = output_curvature_products(task, outputs.double(), wide, eye.expand(num, *outputs.shape))
    hessians = columns.reshape(num, len(outputs), num).transpose(0, 1)
    return (hessians + hessians.mT) / 2


def _square_roots(hessians: Tensor, rows: Tensor, task: Task) -> Tensor:
    values, vectors = torch.linalg.eigh(hessians)
    scale = values.abs().amax(1, keepdim=True)
    # Probabilities round at ε, also where an example is fitted so well that its whole curvature is smaller than 1e-7.
    floor = _NEGATIVE_TOLERANCE * scale + values.shape[1] * torch.finfo(values.dtype).eps
    bad = (values < -floor).any(1)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise NumericalError(
            f"output_loss of task {task.name!r} is not convex in the outputs: its curvature at train example "
            f"{int(rows[first])} has the eigenvalue {float(values[first].min()):.3g}.",
            "The Gauss–Newton matrix needs a convex loss; use empirical-fisher, true-fisher or the Hessian.",
        )
    # What is rounding beside the largest is exactly zero: the square root would blow it up to 1e-8.
    rounding = values.shape[1] * torch.finfo(values.dtype).eps * scale
    kept = torch.where(values > rounding, values, torch.zeros_like(values))
    return vectors * kept.sqrt()[:, None, :]


def _refuse_non_finite(outputs: Tensor, rows: Tensor, task: Task) -> None:
    bad = ~torch.isfinite(outputs.detach()).flatten(1).all(1) if outputs.ndim > 1 else ~torch.isfinite(outputs)
    if bool(bad.any()):
        raise NumericalError(
            f"The outputs of {int(bad.sum())} train examples of task {task.name!r} are not finite "
            f"(first at index {int(rows[int(bad.nonzero()[0])])}).",
            "Look for NaN in the data, or for a training run that diverged.",
        )
