"""Second moments A and S of each layer's factors, and their eigenbasis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.finite import all_finite
from tda_backend.models.probe import Probe
from tda_backend.numerics.curvature.kronecker.fisher import Fisher, fisher_batches, refuse_no_gradients
from tda_backend.numerics.features.layers import UntrackedPolicy, tracked_layers

Kind: TypeAlias = Literal["ekfac", "kfac", "diagonal"]
EKFAC: Final = "ekfac"
KFAC: Final = "kfac"
DIAGONAL: Final = "diagonal"
KINDS: tuple[Kind, ...] = (EKFAC, KFAC, DIAGONAL)


@dataclass(frozen=True)
class LayerMoments:
    """Second moments of one layer's factors.

    Attributes:
        name: Layer.
        inputs: A, ``[d_in, d_in]`` float64.
        deltas: S, ``[d_out, d_out]`` float64.
    """

    name: str
    inputs: Tensor
    deltas: Tensor


@dataclass(frozen=True)
class KroneckerMoments:
    """Second moments of every tracked layer at one checkpoint, or averaged over several."""

    layers: tuple[LayerMoments, ...]
    num_examples: int


@dataclass(frozen=True)
class LayerBasis:
    """Orthonormal bases of one layer's inputs and outputs.

    Attributes:
        name: Layer.
        inputs: Q_A, ``[d_in, d_in]`` float64, eigenvectors as columns.
        deltas: Q_S, ``[d_out, d_out]`` float64.
        input_eigenvalues: D_A, ``[d_in]`` float64, descending, ≥ 0 (the diagonal of A where Q = I).
        delta_eigenvalues: D_S, ``[d_out]`` float64.
    """

    name: str
    inputs: Tensor
    deltas: Tensor
    input_eigenvalues: Tensor
    delta_eigenvalues: Tensor

    @property
    def null_inputs(self) -> Tensor:
        """Directions in which no input of the moments' examples lies, bool ``[d_in]``: D_A ≤ d_in·ε·max D_A."""
        return self.input_eigenvalues <= _cutoff(self.input_eigenvalues)

    @property
    def null_deltas(self) -> Tensor:
        """Directions in which no output gradient lies, bool ``[d_out]``."""
        return self.delta_eigenvalues <= _cutoff(self.delta_eigenvalues)


@dataclass(frozen=True)
class KroneckerBasis:
    """One basis per tracked layer; ``kind`` says how Λ is found in it."""

    layers: tuple[LayerBasis, ...]
    kind: Kind = EKFAC


def kronecker_moments(
    probe: Probe, fisher: Fisher | None = None, untracked: UntrackedPolicy = "refuse"
) -> KroneckerMoments:
    """Return A and S of every tracked layer over the train examples, accumulated in float64.

    Args:
        probe: Whose training loss is differentiated; the true Fisher also needs outputs and sample_targets.
        fisher: Which Fisher information; ``None`` for the true one with one draw.
        untracked: ``refuse`` or ``leave-out`` parameters outside tracked layers.

    Raises:
        TaskError: Untracked parameters are refused, or the task cannot draw targets.
        NumericalError: A gradient is not finite (named layer), or a moment is all zero.
    """
    fisher = Fisher() if fisher is None else fisher
    layers = tracked_layers(probe.model, untracked)
    home = probe.home
    inputs, deltas = (
        [torch.zeros(layer.shape[side], layer.shape[side], dtype=torch.float64, device=home) for layer in layers]
        for side in (1, 0)
    )
    count = 0
    for batch in fisher_batches(probe, fisher, untracked):
        count += len(batch.values)
        for index, layer in enumerate(layers):
            if layer.name in batch.layers:
                a, d = batch.layers[layer.name].inputs, batch.layers[layer.name].deltas
                positions = a.shape[1] if a.ndim == 3 else 1
                inputs[index] += _second_moment(a.to(home))
                deltas[index] += _second_moment(d.to(home)) / positions
    refuse_no_gradients(count)
    result = []
    for layer, a, d in zip(layers, inputs, deltas, strict=True):
        for what, moment in (("inputs", a), ("output gradients", d)):
            if not bool(moment.any()):
                raise NumericalError(
                    f"All {what} of layer {layer.name!r} are 0 on {count} examples, so its curvature is 0.",
                    "The layer has no influence on this loss (dead units?): freeze it with requires_grad_(False).",
                )
        result.append(LayerMoments(layer.name, a / count, d / count))
    return KroneckerMoments(tuple(result), count // fisher.num_samples)


def average(moments: Sequence[KroneckerMoments]) -> KroneckerMoments:
    """Return the mean of the moments of several checkpoints (SOURCE §4: average A and S, then one eigenbasis)."""
    if not moments:
        raise UsageError("There are no moments to average.", "Give at least one checkpoint.")
    layers = []
    for same in zip(*(moment.layers for moment in moments), strict=True):
        inputs = torch.stack([layer.inputs for layer in same]).mean(0)
        layers.append(LayerMoments(same[0].name, inputs, torch.stack([layer.deltas for layer in same]).mean(0)))
    return KroneckerMoments(tuple(layers), moments[0].num_examples)


def eigenbasis(
    moments: KroneckerMoments, kind: Kind = EKFAC, known: tuple[KroneckerMoments, KroneckerBasis] | None = None
) -> KroneckerBasis:
    """Return the eigenvectors of A and S, or the identity for kind ``diagonal``; float64.

    Args:
        moments: What to decompose.
        kind: ``ekfac``, ``kfac`` or ``diagonal``.
        known: Moments of the same model elsewhere, and their basis of the same kind: where a moment is the same (a
            first layer has the same inputs at every checkpoint), its eigenvectors are taken from there.

    Raises:
        NumericalError: A moment is not finite.
        UsageError: Unknown kind.
    """
    check_kind(kind)
    layers = []
    for index, layer in enumerate(moments.layers):
        pairs = []
        for side, moment in (("input", layer.inputs), ("delta", layer.deltas)):
            if known is not None and torch.equal(moment, getattr(known[0].layers[index], f"{side}s")):
                same = known[1].layers[index]
                pairs.append((getattr(same, f"{side}_eigenvalues"), getattr(same, f"{side}s")))
                continue
            if not all_finite(moment):
                raise NumericalError(f"A moment of layer {layer.name!r} is not finite.", "Look for NaN in the data.")
            if kind == DIAGONAL:
                pairs.append(
                    (moment.diagonal().clone(), torch.eye(len(moment), dtype=torch.float64, device=moment.device))
                )
            else:
                values, vectors = torch.linalg.eigh(moment)
                pairs.append((values.flip(0).clamp(min=0), vectors.flip(1).contiguous()))
        (input_values, inputs), (delta_values, deltas) = pairs
        layers.append(LayerBasis(layer.name, inputs, deltas, input_values, delta_values))
    return KroneckerBasis(tuple(layers), kind)


def check_kind(kind: str) -> None:
    """Raise a UsageError unless ``kind`` is one of :data:`KINDS`."""
    if kind not in KINDS:
        raise UsageError(f"Unknown Kronecker curvature {kind!r}.", f"Allowed: {', '.join(KINDS)}.")


def _second_moment(factor: Tensor) -> Tensor:
    flat = factor.reshape(-1, factor.shape[-1]).to(torch.float64)
    return flat.T @ flat


def _cutoff(eigenvalues: Tensor) -> float:
    return len(eigenvalues) * torch.finfo(torch.float64).eps * float(eigenvalues.max())
