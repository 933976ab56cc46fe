"""SOURCE with Kronecker-factored curvature (EK-FAC), arXiv 2405.12186, §3.4 and appendix D."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tda_backend.errors import UsageError
from tda_backend.models.probe import Probe
from tda_backend.numerics.curvature.kronecker.basis import (
    KroneckerBasis,
    KroneckerMoments,
    average,
    eigenbasis,
    kronecker_moments,
)
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
        input_basis: Q_A, ``[d_in, d_in]``, or some of its columns.
        eigenvalues: Λ, ``[d_out, d_in]`` float64.
        null_inputs: Columns of Q_A along which no input of the segment's examples lies, bool ``[d_in]``.
    """

    name: str
    output_basis: Tensor
    input_basis: Tensor
    eigenvalues: Tensor
    null_inputs: Tensor

    def rotate(self, matrices: Tensor) -> Tensor:
        """Return Q_SᵀVQ_A for V ``[m, d_out, d_in]``."""
        return self.output_basis.T @ matrices @ self.input_basis

    def unrotate(self, matrices: Tensor) -> Tensor:
        """Return Q_SVQ_Aᵀ."""
        return self.output_basis @ matrices @ self.input_basis.T

    def carry(self, matrices: Tensor, other: LayerCurvature) -> Tensor:
        """Return in this basis what is given in another: (Q_SᵀQ'_S)V(Q_AᵀQ'_A)ᵀ."""
        turned = (self.output_basis.T @ other.output_basis) @ matrices
        if other.input_basis is self.input_basis:  # orthonormal
            return turned
        return turned @ (other.input_basis.T @ self.input_basis)

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


Decomposed = tuple[KroneckerMoments, KroneckerBasis]
"""A segment's averaged moments and their eigenvectors."""


def segment_curvature(
    probes: Sequence[tuple[str, Probe]], settings: SourceSettings, known: Decomposed | None = None
) -> tuple[tuple[LayerCurvature, ...], Decomposed]:
    """Return a segment's stationary curvature (appendix D.2, eq. 54).

    A and S are averaged over the checkpoints and decomposed once; Λ is taken at each checkpoint in that common basis,
    and averaged.

    Args:
        probes: (label, model with D_ℓ, the rows that the segment trained on) of each checkpoint of the segment.
        settings: Basis (``kfac`` has Λ = D_S ⊗ D_A, ``diagonal`` the basis I), Fisher information, seed of the drawn
            labels, and what to do about parameters outside layers with factors.
        known: What was decomposed for the segment before, as this function returns it.

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
    mean = average(moments)
    basis = eigenbasis(mean, settings.basis, known)
    for (label, probe), drawn in zip(probes, fishers, strict=True):
        with naming(label):
            corrections.append(eigenvalue_correction(probe, basis, drawn, settings.untracked, verify=False))
    first = probes[0][1]
    result = []
    layers = tracked_layers(first.model, settings.untracked)
    for tracked, own, *values in zip(layers, basis.layers, *corrections, strict=True):
        kept = first.model.get_parameter(tracked.weight).dtype
        eigenvalues = torch.stack(values).mean(0).to(first.home)
        output_basis, input_basis = (matrix.to(first.home, kept) for matrix in (own.deltas, own.inputs))
        null = own.null_inputs.to(first.home)
        result.append(LayerCurvature(own.name, output_basis, input_basis, eigenvalues, null))
    return tuple(result), (mean, basis)


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
    return KroneckerOperator(tuple(replace(x, eigenvalues=x.eigenvalues + weight_decay) for x in layers), duration)


def without_null_inputs(operators: Sequence[KroneckerOperator]) -> tuple[KroneckerOperator, ...]:
    """Return the same chain with fewer coordinates, in layers whose basis of inputs is one in all segments.

    Along a direction in which no segment's examples have inputs no gradient meets a query, and with one basis it never
    turns into another direction. So it is in a first layer with more inputs than there are examples.
    """
    columns = []
    for same in zip(*(operator.layers for operator in operators), strict=True):
        basis = same[0].input_basis
        if any(not torch.equal(layer.input_basis, basis) for layer in same[1:]):
            columns.append(same)
            continue
        used = ~torch.stack([layer.null_inputs for layer in same]).all(0)
        basis = basis[:, used].contiguous()  # one tensor for all, by which segments know that they share it
        columns.append(
            [
                replace(
                    layer,
                    input_basis=basis,
                    eigenvalues=layer.eigenvalues[:, used].contiguous(),
                    null_inputs=layer.null_inputs[used],
                )
                for layer in same
            ]
        )
    layers = zip(*columns, strict=True)
    return tuple(replace(operator, layers=own) for operator, own in zip(operators, layers, strict=True))


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
        shifted.append(replace(layer, eigenvalues=values))
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
