"""SOURCE with Kronecker-factored curvature (EK-FAC), arXiv 2405.12186, §3.4 and appendix D."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tda_backend.errors import UsageError
from tda_backend.features.kronecker import Fisher, Kind, average, eigenbasis, eigenvalue_correction, kronecker_moments
from tda_backend.trajectory.gradients import LayerLayout, naming
from tda_backend.trajectory.preconditioned import diagonal_decay
from tda_backend.trajectory.walk import decay_filter, response_filter
from tda_backend.types import Batch

_INVERSE_DAMPING = 1e-8
"""λ of H̄⁻¹ in the preconditioned form, as EK-FAC influence functions have it; plain SOURCE needs none."""


@dataclass(frozen=True)
class LayerCurvature:
    """One layer's curvature Q_S[Λ ∘ (Q_Sᵀ · Q_A)]Q_Aᵀ.

    Attributes:
        name: Layer name.
        output_basis: Q_S, ``[d_out, d_out]``, eigenvectors as columns.
        input_basis: Q_A, ``[d_in, d_in]``.
        eigenvalues: Λ, ``[d_out, d_in]`` float64.
    """

    name: str
    output_basis: Tensor
    input_basis: Tensor
    eigenvalues: Tensor

    def apply(self, matrices: Tensor, weights: Tensor) -> Tensor:
        """Return Q_S[weights ∘ (Q_SᵀVQ_A)]Q_Aᵀ for V ``[m, d_out, d_in]``."""
        rotated = self.output_basis.T @ matrices @ self.input_basis
        rotated *= weights.to(rotated.dtype)
        return self.output_basis @ rotated @ self.input_basis.T

    def diagonal(self, values: Tensor) -> Tensor:
        """Return the diagonal of the matrix with eigenvalues ``values`` in parameter space, ``[d_out, d_in]``.

        h = (Q_S∘Q_S)·Λ·(Q_A∘Q_A)ᵀ (appendix D.2).
        """
        return self.output_basis.to(values.dtype).square() @ values @ self.input_basis.to(values.dtype).square().T

    def project_diagonal(self, diagonal: Tensor) -> Tensor:
        """Return the closest eigenvalues in this basis to a diagonal matrix, ``[d_out, d_in]``.

        (Q_S∘Q_S)ᵀ·h·(Q_A∘Q_A): the diagonal of Qᵀdiag(h)Q, as eigenvalue correction takes it (George et al. 2018).
        """
        values = diagonal
        return self.output_basis.to(values.dtype).square().T @ values @ self.input_basis.to(values.dtype).square()


def segment_curvature(
    layout: LayerLayout,
    checkpoints: Sequence[tuple[str, nn.Module]],
    data: Batch,
    rows: Tensor,
    *,
    kind: Kind = "ekfac",
    fisher: Fisher = "true",
    seed: int = 0,
) -> tuple[LayerCurvature, ...]:
    """Return a segment's stationary curvature (appendix D.2, eq. 54).

    A and S are averaged over the checkpoints and decomposed once; Λ is taken at each checkpoint in that common basis,
    and averaged.

    Args:
        layout: Layers, batch size and device.
        checkpoints: (label, model) of each checkpoint of the segment.
        data: The train split.
        rows: D_ℓ, the rows that the segment trained on.
        kind: ``ekfac``; ``kfac`` has Λ = D_S ⊗ D_A, ``diagonal`` the basis I.
        fisher: ``true`` or ``empirical``.
        seed: Of the drawn labels.

    Raises:
        NumericalError: A gradient or moment is not finite, or zero; names the checkpoint and the layer.
        TaskError: The task cannot draw labels.
    """
    moments = []
    for label, model in checkpoints:
        with naming(label):
            moments.append(
                kronecker_moments(
                    layout.task,
                    model,
                    data,
                    rows,
                    fisher=fisher,
                    seed=seed,
                    batch_size=layout.batch_size,
                    device=layout.device,
                    untracked=layout.untracked,
                )
            )
    basis = eigenbasis(average(moments), kind)
    corrections = []
    for label, model in checkpoints:
        with naming(label):
            corrections.append(
                eigenvalue_correction(
                    layout.task,
                    model,
                    data,
                    rows,
                    basis,
                    fisher=fisher,
                    seed=seed,
                    batch_size=layout.batch_size,
                    device=layout.device,
                    untracked=layout.untracked,
                )
            )
    parameters = dict(checkpoints[0][1].named_parameters())
    result = []
    for tracked, own, *values in zip(layout.layers, basis.layers, *corrections, strict=True):
        kept = parameters[tracked.weight].dtype
        result.append(
            LayerCurvature(
                tracked.name,
                own.deltas.to(layout.device, kept),
                own.inputs.to(layout.device, kept),
                torch.stack(values).mean(0).to(layout.device),
            )
        )
    return tuple(result)


@dataclass(frozen=True)
class KroneckerOperator:
    """A segment with Kronecker-factored curvature; layers lie one after the other along p.

    Attributes:
        layers: Curvature of each layer; L2 decay already in Λ.
        duration: c.
    """

    layers: tuple[LayerCurvature, ...]
    duration: float

    def respond(self, query: Tensor) -> Tensor:
        """Return F_r(H̄)q, ``[m, p]``."""
        return _by_layer(self.layers, query, lambda layer: response_filter(layer.eigenvalues, self.duration))

    def transport(self, query: Tensor) -> Tensor:
        """Return exp(−cH̄)q, ``[m, p]``."""
        return _by_layer(self.layers, query, lambda layer: decay_filter(layer.eigenvalues, self.duration))


@dataclass(frozen=True)
class PreconditionedKroneckerOperator:
    """A segment of a preconditioned optimizer on a large model (appendix D.2).

    The exponentials take the diagonal h of H̄, the inverse EK-FAC: v = (H̄ + λ)⁻¹(1 − e^{−c·h∘P})∘q. Both already hold
    weight decay.

    Attributes:
        layers: Curvature of each layer.
        diagonal: h, ``[p]``.
        preconditioner: P, ``[p]``.
        duration: c.
    """

    layers: tuple[LayerCurvature, ...]
    diagonal: Tensor
    preconditioner: Tensor
    duration: float

    def respond(self, query: Tensor) -> Tensor:
        """Return H̄⁻¹(I − e^{−cH̄P})q, ``[m, p]``."""
        moved = -torch.expm1(-self.duration * self.diagonal * self.preconditioner)
        return _by_layer(
            self.layers, query * moved.to(query.dtype), lambda layer: 1 / (layer.eigenvalues + _INVERSE_DAMPING)
        )

    def transport(self, query: Tensor) -> Tensor:
        """Return exp(−cPH̄)ᵀq, ``[m, p]``."""
        return query * diagonal_decay(self.diagonal, self.preconditioner, self.duration).to(query.dtype)


def kronecker_operator(
    layers: Sequence[LayerCurvature], duration: float, weight_decay: float = 0.0
) -> KroneckerOperator:
    """Return the segment of these layers; L2 decay shifts Λ by ω, which is no damping."""
    shifted = (LayerCurvature(x.name, x.output_basis, x.input_basis, x.eigenvalues + weight_decay) for x in layers)
    return KroneckerOperator(tuple(shifted), duration)


def preconditioned_kronecker_operator(
    layers: Sequence[LayerCurvature], preconditioner: Tensor, decay: Tensor, duration: float
) -> PreconditionedKroneckerOperator:
    """Return the segment of a preconditioned optimizer.

    Args:
        layers: Curvature of the loss.
        preconditioner: P, ``[p]`` float64.
        decay: What weight decay adds to the diagonal of H̄, ``[p]``. It is exact in h; to Λ it is added as the diagonal
            of QᵀωP⁻¹Q.
        duration: c.
    """
    diagonal, shifted, start = [], [], 0
    for layer in layers:
        stop = start + layer.eigenvalues.numel()
        own = decay[start:stop].view(layer.eigenvalues.shape)
        diagonal.append((layer.diagonal(layer.eigenvalues) + own).flatten())
        values = layer.eigenvalues + layer.project_diagonal(own)
        shifted.append(LayerCurvature(layer.name, layer.output_basis, layer.input_basis, values))
        start = stop
    if start != len(preconditioner):
        raise UsageError(
            f"A preconditioner has {len(preconditioner)} entries for {start} parameters.", "Give one each."
        )
    return PreconditionedKroneckerOperator(tuple(shifted), torch.cat(diagonal), preconditioner, duration)


def _by_layer(layers: Sequence[LayerCurvature], query: Tensor, weights: Callable[[LayerCurvature], Tensor]) -> Tensor:
    result, start = torch.empty_like(query), 0
    for layer in layers:
        stop = start + layer.eigenvalues.numel()
        matrices = query[:, start:stop].unflatten(1, layer.eigenvalues.shape)
        result[:, start:stop] = layer.apply(matrices, weights(layer)).flatten(1)
        start = stop
    return result
