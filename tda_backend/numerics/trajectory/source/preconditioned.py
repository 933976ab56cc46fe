"""SOURCE for preconditioned optimizers (AdamW, RMSProp), arXiv 2405.12186, appendices C and D.2.

With P = diag 1/(√v̂ + ε), averaged over the segment: S̄ = exp(−cPH̄), r̄ = (1/N)(I − e^{−cPH̄})H̄⁻¹ḡ, and the backward
walk transposes: q_{ℓ−1} = S̄ᵀq_ℓ, v_ℓ = H̄⁻¹(I − e^{−cH̄P})q_ℓ. Decoupled weight decay adds ωP⁻¹ to H̄, L2 decay ωI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.trajectory.source.segments import TrainingSegment
from tda_backend.numerics.trajectory.source.walk import DenseOperator, decay_filter, dense_operator

Preconditioner = Tensor | Mapping[str, Tensor]
"""P of one segment: ``[p]`` in the order of the trainable parameters, or a tensor per parameter name."""


def adam_preconditioner(second_moments: Sequence[Tensor], steps: Sequence[int], beta: float, epsilon: float) -> Tensor:
    """Return the mean over checkpoints of 1/(√v̂ + ε), v̂ = v/(1 − β₂ᵗ).

    Args:
        second_moments: v of each checkpoint, of one shape.
        steps: t of each, ≥ 1; for RMSProp, which corrects no bias, give β = 0.
        beta: β₂.
        epsilon: ε > 0.
    """
    if not second_moments or len(second_moments) != len(steps) or min(steps) < 1:
        raise UsageError(
            f"A preconditioner got {len(second_moments)} second moments and the steps {list(steps)}.",
            "Give at least one second moment, and its step (≥ 1) for each.",
        )
    parts = [
        1 / ((v.to(torch.float64) / (1 - beta**t)).sqrt() + epsilon) for v, t in zip(second_moments, steps, strict=True)
    ]
    return torch.stack(parts).mean(0)


def flat_preconditioner(model: nn.Module, preconditioner: Preconditioner) -> Tensor:
    """Return P as float64 ``[p]`` in the order of the model's trainable parameters.

    Raises:
        UsageError: A parameter is missing, or shapes differ.
        NumericalError: An entry is not positive and finite; names the parameter.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if isinstance(preconditioner, Tensor):
        total = sum(p.numel() for p in named.values())
        if preconditioner.shape != (total,):
            raise UsageError(
                f"A preconditioner has the shape {tuple(preconditioner.shape)}.",
                f"Give [{total}], or a tensor per parameter name.",
            )
        pieces = preconditioner.split([p.numel() for p in named.values()])
        preconditioner = {name: piece.view_as(p) for (name, p), piece in zip(named.items(), pieces, strict=True)}
    parts = []
    for name, parameter in named.items():
        values = preconditioner.get(name)
        if values is None or values.shape != parameter.shape:
            found = "nothing" if values is None else f"shape {tuple(values.shape)}"
            raise UsageError(f"The preconditioner holds {found} for {name}.", f"Give shape {tuple(parameter.shape)}.")
        if not bool((torch.isfinite(values) & (values > 0)).all()):
            raise NumericalError(f"The preconditioner of {name} is not positive and finite.", "Is ε 0, or v NaN?")
        parts.append(values.flatten().to(torch.float64))
    return torch.cat(parts)


def preconditioned_decay(segment: TrainingSegment, preconditioner: Tensor) -> Tensor:
    """Return what weight decay adds to the diagonal of H̄, ``[p]``: ω (L2) or ω/P (decoupled)."""
    if segment.decay_kind == "decoupled":
        return segment.weight_decay / preconditioner
    return torch.full_like(preconditioner, segment.weight_decay)


@dataclass(frozen=True)
class PreconditionedOperator:
    """Exact, for explicit matrices: with M = P^{1/2}H̄P^{1/2} symmetric,

    S̄ᵀ = P^{−1/2}e^{−cM}P^{1/2} and H̄⁻¹(I − e^{−cH̄P}) = P^{1/2}F_r(M)P^{1/2}, which needs no inverse of H̄.

    Attributes:
        inner: The segment of M.
        root: P^{1/2}, ``[p]``.
    """

    inner: DenseOperator
    root: Tensor

    def enter(self, query: Tensor, following: object) -> Tensor:
        """Return the query: parameter space is common to all."""
        return query

    def respond(self, query: Tensor) -> Tensor:
        """Return H̄⁻¹(I − e^{−cH̄P})q."""
        return self.inner.respond(query * self.root) * self.root

    def transport(self, query: Tensor) -> Tensor:
        """Return exp(−cPH̄)ᵀq."""
        return self.inner.transport(query * self.root) / self.root


def preconditioned_operator(
    curvature: Tensor, preconditioner: Tensor, segment: TrainingSegment, *, weight_decay: bool = True
) -> PreconditionedOperator:
    """Return the exact segment of H̄ ``[p, p]`` and P ``[p]``.

    Args:
        curvature: H̄ of the loss, without decay.
        preconditioner: P, positive.
        segment: Gives c, ω and the kind of decay.
        weight_decay: Whether decay belongs to H̄.
    """
    if weight_decay:
        curvature = curvature + torch.diag(preconditioned_decay(segment, preconditioner).to(curvature.dtype))
    root = preconditioner.to(curvature.dtype).sqrt()
    return PreconditionedOperator(dense_operator(root[:, None] * curvature * root, segment.duration), root)


def diagonal_decay(diagonal: Tensor, preconditioner: Tensor, duration: float) -> Tensor:
    """Return exp(−c·P·h), ``[p]``, for a diagonal curvature h: the exponential of large models (appendix D.2)."""
    return decay_filter(diagonal * preconditioner, duration)
