"""Kronecker-factored curvature fitted at a checkpoint: eigenvalues Λ in the eigenbasis, gradients rotated into it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tda_backend.blocks import spans
from tda_backend.errors import UsageError
from tda_backend.models.probe import Group, Probe
from tda_backend.numerics.curvature.kronecker.basis import (
    DIAGONAL,
    EKFAC,
    KFAC,
    Kind,
    KroneckerBasis,
    check_kind,
    eigenbasis,
    kronecker_moments,
)
from tda_backend.numerics.curvature.kronecker.fisher import Fisher, fisher_batches, refuse_no_gradients
from tda_backend.numerics.features.layers import LayerBatch, UntrackedPolicy, layer_batches, tracked_layers
from tda_backend.numerics.features.streaming import Quantity
from tda_backend.numerics.spectral.kronecker.rows import LayerRows, join_rows, smaller_rows

_NUMBERS = 2**24
"""Numbers in one block of temporary gradients."""


@dataclass(frozen=True, eq=False)
class KroneckerCurvature:
    """A basis and the eigenvalues Λ of each layer in it, ``[d_out, d_in]`` float64."""

    basis: KroneckerBasis
    eigenvalues: tuple[Tensor, ...]


def kronecker_curvature(
    probe: Probe, kind: Kind = EKFAC, fisher: Fisher | None = None, untracked: UntrackedPolicy = "refuse"
) -> KroneckerCurvature:
    """Fit the curvature at one checkpoint on the train examples: moments, eigenvectors, corrected eigenvalues.

    Args:
        probe: Loss, and for the true Fisher outputs and sample_targets.
        kind: ``ekfac``, ``kfac`` or ``diagonal``.
        fisher: Which Fisher information; ``None`` for the true one. The same draws serve moments and Λ.
        untracked: ``refuse`` or ``leave-out`` parameters outside tracked layers.
    """
    check_kind(kind)
    drawn = (Fisher() if fisher is None else fisher).drawn(probe)
    basis = eigenbasis(kronecker_moments(probe, drawn, untracked), kind)
    return KroneckerCurvature(basis, eigenvalue_correction(probe, basis, drawn, untracked, verify=False))


def eigenvalue_correction(
    probe: Probe,
    basis: KroneckerBasis,
    fisher: Fisher | None = None,
    untracked: UntrackedPolicy = "refuse",
    *,
    verify: bool = True,
) -> tuple[Tensor, ...]:
    """Return Λ of every layer in a basis, ``[d_out, d_in]`` float64: ``mean_i (Q_Sᵀ ∇W_i Q_A)^{∘2}``.

    A basis of kind ``kfac`` needs no gradients: ``Λ = D_S ⊗ D_A`` of that basis. Other arguments are those of
    :func:`kronecker_moments`; the same seed draws the same targets. ``verify``: whether gradients are compared with
    autograd's, which the moments of the same probe and draws have done.
    """
    if basis.kind == KFAC:
        return tuple(torch.outer(layer.delta_eigenvalues, layer.input_eigenvalues) for layer in basis.layers)
    rotation = _Rotation(basis, probe, untracked)
    squares = [b.deltas.new_zeros(b.deltas.shape[1], b.inputs.shape[1], dtype=torch.float64) for b in basis.layers]
    count = 0
    for batch in fisher_batches(probe, Fisher() if fisher is None else fisher, untracked, verify=verify):
        count += len(batch.values)
        for index, (a, d) in enumerate(rotation.apply(batch)):
            squares[index] += _squared_gradients(a.to(probe.home), d.to(probe.home))
    refuse_no_gradients(count)
    return tuple(square / count for square in squares)


def rotated_gradients(
    probe: Probe, group: Group, quantity: Quantity, basis: KroneckerBasis, untracked: UntrackedPolicy = "refuse"
) -> tuple[tuple[LayerRows, ...], Tensor]:
    """Return the per-example gradients ``Q_Sᵀ ∇W_i Q_A`` of every layer, and the values ``[N]``; at the probe's home.

    Kept as factors, or as matrices where several positions make factors larger. In the model's dtype.
    """
    rotation = _Rotation(basis, probe, untracked)
    parts: list[list[LayerRows]] = [[] for _ in basis.layers]
    values = []
    for batch in layer_batches(probe, group, quantity, untracked=untracked):
        values.append(batch.values.to(probe.home))
        for index, (a, d) in enumerate(rotation.apply(batch)):
            parts[index].append(smaller_rows(a.to(probe.home), d.to(probe.home)))
    refuse_no_gradients(len(values))
    return tuple(join_rows(part) for part in parts), torch.cat(values)


class _Rotation:
    """A basis in the model's dtype, where what passes give is kept."""

    def __init__(self, basis: KroneckerBasis, probe: Probe, untracked: UntrackedPolicy) -> None:
        model, home, layers = probe.model, probe.home, tracked_layers(probe.model, untracked)
        shapes = [(b.name, (b.deltas.shape[0], b.inputs.shape[0])) for b in basis.layers]
        if shapes != [(layer.name, layer.shape) for layer in layers]:
            raise UsageError(
                f"The basis belongs to another model: its layers are {shapes}, "
                f"the model's {[(layer.name, layer.shape) for layer in layers]}.",
                "Use a basis of the same architecture and the same policy for untracked parameters.",
            )
        dtypes = {layer.name: model.get_parameter(layer.weight).dtype for layer in layers}
        self._diagonal = basis.kind == DIAGONAL
        self._layers = [
            (b.name, b.inputs.to(home, dtypes[b.name]), b.deltas.to(home, dtypes[b.name])) for b in basis.layers
        ]

    def apply(self, batch: LayerBatch) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (a Q_A, δ Q_S) of every layer; zeros for a layer that takes no part in the value."""
        for name, inputs, deltas in self._layers:
            if name not in batch.layers:
                size = len(batch.values)
                yield inputs.new_zeros(size, inputs.shape[1]), deltas.new_zeros(size, deltas.shape[1])
                continue
            a, d = batch.layers[name].inputs, batch.layers[name].deltas
            yield (a, d) if self._diagonal else (a @ inputs, d @ deltas)


def _squared_gradients(a: Tensor, d: Tensor) -> Tensor:
    """Return Σ_i (Σ_t d_it a_itᵀ)^{∘2}, float64."""
    if a.ndim == 2:
        a, d = a.to(torch.float64), d.to(torch.float64)
        return (d * d).T @ (a * a)
    total = a.new_zeros(d.shape[2], a.shape[2], dtype=torch.float64)
    step = max(1, _NUMBERS // total.numel())
    for rows in spans(a.shape[0], step):
        gradients = d[rows].transpose(1, 2) @ a[rows]
        total += gradients.square_().sum(0, dtype=torch.float64)
    return total
