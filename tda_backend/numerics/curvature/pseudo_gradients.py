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
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.models.probe import Probe, in_float64
from tda_backend.numerics.curvature.targets import drawn_targets, refuse_non_finite_outputs, refuse_other_loss
from tda_backend.numerics.features.streaming import evaluation_mode, over_batches
from tda_backend.seeds import hashed_seed
from tda_backend.types import Batch, Task, to_device

CurvatureKind: TypeAlias = Literal["hessian", "ggn", "empirical-fisher", "true-fisher"]
CURVATURES: tuple[CurvatureKind, ...] = ("hessian", "ggn", "empirical-fisher", "true-fisher")

MAX_OUTPUTS = 2048
"""Outputs per example above which the Gauss–Newton matrix is not split into pseudo-gradients."""

_DIRECTION = "__output_direction"
_NEGATIVE_TOLERANCE = 1e-10


def check_curvature(kind: str, allowed: Sequence[str] = CURVATURES) -> None:
    """Raise a UsageError unless ``kind`` is one of ``allowed``."""
    if kind not in allowed:
        raise UsageError(f"Curvature {kind!r} cannot be used here.", f"Allowed: {', '.join(allowed)}.")


@dataclass(frozen=True)
class Curvature:
    """A choice of curvature of the mean training loss.

    Attributes:
        kind: ``hessian``, ``ggn``, ``empirical-fisher`` or ``true-fisher``.
        seed: The true Fisher's labels are drawn by hashes of (seed, dataset row, sample).
        num_samples: S ≥ 1, labels drawn per example for the true Fisher.
    """

    kind: CurvatureKind
    seed: int = 0
    num_samples: int = 1

    def __post_init__(self) -> None:
        check_curvature(self.kind)
        if self.num_samples < 1:
            raise UsageError(f"The true Fisher got {self.num_samples} samples an example.", "Give at least 1.")


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


@dataclass(frozen=True, eq=False)
class PseudoGradients:
    """What to differentiate so that the mean outer product of all rows, divided by n, is the curvature.

    Attributes:
        parts: One probe for each c; its task's ``train_loss`` is the scalar, its n train examples are the rows.
    """

    parts: tuple[Probe, ...]

    @property
    def num_train(self) -> int:
        return self.parts[0].count("train")


def pseudo_gradients(probe: Probe, curvature: Curvature) -> PseudoGradients:
    """Return the pseudo-gradients of a positive semi-definite curvature over the train examples.

    Args:
        probe: Its task has ``outputs`` and ``output_loss`` (ggn), and ``sample_targets`` (true-fisher).
        curvature: ``ggn``, ``empirical-fisher`` or ``true-fisher``.

    Raises:
        UsageError: The kind has no pseudo-gradients (the Hessian).
        TaskError: The task lacks what the kind needs, or has too many outputs for ggn.
        NumericalError: Outputs are not finite, or the loss is not convex in them.
    """
    check_curvature(curvature.kind, [name for name in CURVATURES if name != "hessian"])
    task, rows = probe.task, probe.rows("train")
    if len(rows) == 0:
        raise TaskError("There are no train examples.", "Give at least one index.")
    examples = {key: value[rows] for key, value in probe.split("train").items()}

    def part(scalar: Task, extra: Batch) -> Probe:
        return replace(probe, task=scalar, data={"train": {**examples, **extra}}, train=range(len(rows)))

    if curvature.kind == "empirical-fisher":
        return PseudoGradients((part(task, {}),))
    if curvature.kind == "true-fisher":
        targets = sampled_targets(probe, curvature.seed, curvature.num_samples)
        scalar = ScalarTask(task, curvature.num_samples**-0.5)
        return PseudoGradients(tuple(part(scalar, {task.label_key: drawn}) for drawn in targets.unbind(1)))
    refuse_other_loss(probe)
    roots = _output_roots(probe)
    return PseudoGradients(tuple(part(ScalarTask(task), {_DIRECTION: root}) for root in roots.unbind(2)))


def sampled_targets(probe: Probe, seed: int, num_samples: int = 1) -> Tensor:
    """Return targets drawn from the model's own distribution for the train examples, ``[n, S]`` on the CPU.

    Raises:
        TaskError: The task has no ``outputs`` or ``sample_targets``.
        NumericalError: Outputs are not finite.
    """
    drawn = drawn_targets(probe, num_samples, lambda row, sample: hashed_seed("true-fisher", seed, row, sample))
    return drawn.transpose(0, 1)


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


def _output_roots(probe: Probe) -> Tensor:
    """Return s with ``s sᵀ = ∇²ℓ_i`` in the flattened outputs, ``[n, o, rank]``."""
    task, rows = probe.task, probe.rows("train")

    def roots(where: slice, batch: Batch) -> Tensor:
        with torch.no_grad():
            outputs = task.outputs(probe.model, batch)
        refuse_non_finite_outputs(outputs, rows[where], task)
        return _square_roots(_output_hessians(task, outputs, batch), rows[where], task).to(outputs.dtype)

    with evaluation_mode(probe.model):
        whole = torch.cat([found for _, found in over_batches(probe, "train", roots)]).cpu()
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
    wide = in_float64(outputs)
    there = to_device(batch, wide.device)
    targets = {key: value.double() if value.is_floating_point() else value for key, value in there.items()}
    eye = torch.eye(num, dtype=torch.float64, device=wide.device).view(num, 1, *outputs.shape[1:])
    columns = output_curvature_products(task, wide, targets, eye.expand(num, *outputs.shape))
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
