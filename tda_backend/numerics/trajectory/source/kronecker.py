"""SOURCE with Kronecker-factored curvature (EK-FAC), arXiv 2405.12186, §3.4 and appendix D."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tda_backend.errors import UsageError
from tda_backend.models.probe import Probe
from tda_backend.numerics.curvature.kronecker.basis import average, eigenbasis, kronecker_moments
from tda_backend.numerics.curvature.kronecker.fisher import Fisher
from tda_backend.numerics.curvature.kronecker.fit import eigenvalue_correction
from tda_backend.numerics.features.layers import tracked_layers
from tda_backend.numerics.trajectory.source.preconditioned import diagonal_decay
from tda_backend.numerics.trajectory.source.segments import naming
from tda_backend.numerics.trajectory.source.settings import EXACT, SourceSettings
from tda_backend.numerics.trajectory.source.walk import decay_filter, response_filter

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

    def rotate(self, matrices: Tensor) -> Tensor:
        """Return Q_SᵀVQ_A for V ``[m, d_out, d_in]``."""
        return self.output_basis.T @ matrices @ self.input_basis

    def unrotate(self, matrices: Tensor) -> Tensor:
        """Return Q_SVQ_Aᵀ."""
        return self.output_basis @ matrices @ self.input_basis.T

    def carry(self, matrices: Tensor, other: LayerCurvature) -> Tensor:
        """Return in this basis what is given in another: (Q_SᵀQ'_S)V(Q_AᵀQ'_A)ᵀ."""
        return (self.output_basis.T @ other.output_basis) @ matrices @ (other.input_basis.T @ self.input_basis)

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


def segment_curvature(probes: Sequence[tuple[str, Probe]], settings: SourceSettings) -> tuple[LayerCurvature, ...]:
    """Return a segment's stationary curvature (appendix D.2, eq. 54).

    A and S are averaged over the checkpoints and decomposed once; Λ is taken at each checkpoint in that common basis,
    and averaged.

    Args:
        probes: (label, model with D_ℓ, the rows that the segment trained on) of each checkpoint of the segment.
        settings: Basis (``kfac`` has Λ = D_S ⊗ D_A, ``diagonal`` the basis I), Fisher information, seed of the drawn
            labels, and what to do about parameters outside layers with factors.

    Raises:
        NumericalError: A gradient or moment is not finite, or zero; names the checkpoint and the layer.
        TaskError: The task cannot draw labels.
    """
    assert settings.basis != EXACT
    moments, corrections, fishers = [], [], []
    for label, probe in probes:
        with naming(label):
            # Drawn once: drawing anew for Λ would take half the time of the fit.
            fishers.append(Fisher(settings.fisher, settings.seed).drawn(probe))
            moments.append(kronecker_moments(probe, fishers[-1], settings.untracked))
    basis = eigenbasis(average(moments), settings.basis)
    for (label, probe), drawn in zip(probes, fishers, strict=True):
        with naming(label):
            corrections.append(eigenvalue_correction(probe, basis, drawn, settings.untracked))
    first = probes[0][1]
    result = []
    layers = tracked_layers(first.model, settings.untracked)
    for tracked, own, *values in zip(layers, basis.layers, *corrections, strict=True):
        kept = first.model.get_parameter(tracked.weight).dtype
        eigenvalues = torch.stack(values).mean(0).to(first.home)
        output_basis, input_basis = (matrix.to(first.home, kept) for matrix in (own.deltas, own.inputs))
        result.append(LayerCurvature(own.name, output_basis, input_basis, eigenvalues))
    return tuple(result)


@dataclass(frozen=True)
class KroneckerOperator:
    """A segment with Kronecker-factored curvature; its coordinates are Q_Sᵀ∇W Q_A, layer after layer along p.

    Rank-one gradients are rotated at their factors, and queries only from segment to segment, through the overlaps of
    bases: an eighth of the work of going back to parameter space for every product.

    Attributes:
        layers: Curvature of each layer; L2 decay already in Λ.
        duration: c.
    """

    layers: tuple[LayerCurvature, ...]
    duration: float

    def enter(self, query: Tensor, following: KroneckerOperator) -> Tensor:
        """Return the query through the overlaps with the following segment's bases."""
        others = {layer.name: layer for layer in following.layers}
        return _by_layer(self.layers, query, lambda layer, part: layer.carry(part, others[layer.name]))

    def respond(self, query: Tensor) -> Tensor:
        """Return F_r(Λ)∘q, ``[m, p]``."""
        return query * response_filter(self._eigenvalues, self.duration).to(query.dtype)

    def transport(self, query: Tensor) -> Tensor:
        """Return e^{−cΛ}∘q, ``[m, p]``."""
        return query * decay_filter(self._eigenvalues, self.duration).to(query.dtype)

    @property
    def _eigenvalues(self) -> Tensor:
        return torch.cat([layer.eigenvalues.flatten() for layer in self.layers])


@dataclass(frozen=True)
class PreconditionedKroneckerOperator:
    """A segment of a preconditioned optimizer on a large model (appendix D.2); its coordinates are the parameters.

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

    def enter(self, query: Tensor, following: object) -> Tensor:
        """Return the query: parameter space is common to all."""
        return query

    def respond(self, query: Tensor) -> Tensor:
        """Return H̄⁻¹(I − e^{−cH̄P})q, ``[m, p]``."""
        moved = -torch.expm1(-self.duration * self.diagonal * self.preconditioner)

        def solve(layer: LayerCurvature, part: Tensor) -> Tensor:
            return layer.unrotate(layer.rotate(part) / (layer.eigenvalues + _INVERSE_DAMPING).to(part.dtype))

        return _by_layer(self.layers, query * moved.to(query.dtype), solve)

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


def _by_layer(
    layers: Sequence[LayerCurvature], query: Tensor, change: Callable[[LayerCurvature, Tensor], Tensor]
) -> Tensor:
    """Return ``change(layer, its part of the query [m, d_out, d_in])`` for all layers, ``[m, p]``."""
    result, start = torch.empty_like(query), 0
    for layer in layers:
        stop = start + layer.eigenvalues.numel()
        part = query[:, start:stop].unflatten(1, layer.eigenvalues.shape)
        result[:, start:stop] = change(layer, part).flatten(1)
        start = stop
    return result
