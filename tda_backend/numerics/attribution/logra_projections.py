"""LoGra's projections: one small matrix for the outputs and one for the inputs of each layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.finite import all_finite
from tda_backend.models.probe import Probe
from tda_backend.numerics.features.factors import LayerFactors
from tda_backend.numerics.features.layers import TrackedLayer, UntrackedPolicy, layer_batches, tracked_layers
from tda_backend.seeds import hashed_rng


@dataclass(frozen=True)
class LayerProjection:
    """The two sides of one layer's projection P_o ⊗ P_i.

    Attributes:
        output: P_o, ``[r_o, d_out]``.
        input: P_i, ``[r_i, d_in]``; d_in counts the homogeneous 1 of a bias.
    """

    output: Tensor
    input: Tensor

    @property
    def dim(self) -> int:
        return len(self.output) * len(self.input)

    def apply(self, factors: LayerFactors, scale: Tensor | float = 1.0) -> Tensor:
        """Return ``scale_i·vec(Σ_t (P_o δ_t)(P_i a_t)ᵀ)``, ``[b, r_o·r_i]``."""
        left = factors.deltas @ self.output.T.to(factors.deltas)
        right = factors.inputs @ self.input.T.to(factors.inputs)
        if left.ndim == 2:
            left, right = left[:, None], right[:, None]
        if isinstance(scale, Tensor):
            scale = scale.to(left)[:, None, None]
        return ((left * scale).transpose(1, 2) @ right).flatten(1)


def random_projections(layers: Sequence[TrackedLayer], rank: int, seed: int) -> dict[str, LayerProjection]:
    """Return Gaussian projections with entries N(0, 1/r), hashed per layer and side; the identity where r = width.

    E[(P_o ⊗ P_i)ᵀ(P_o ⊗ P_i)] = I, but inner products vary by 2/r_o + 2/r_i: LoGra rests on the inverse of the
    *projected* curvature, not on preserved products.
    """
    result = {}
    for layer in layers:
        sides = []
        for side, size, dim in zip(("output", "input"), layer.shape, _ranks(layer, rank), strict=True):
            if dim == size:
                sides.append(torch.eye(size, dtype=torch.float64))
            else:
                rng = hashed_rng("logra", seed, layer.name, side, size, dim)
                sides.append(torch.from_numpy(rng.standard_normal((dim, size)) / np.sqrt(dim)))
        result[layer.name] = LayerProjection(*sides)
    return result


def pca_projections(probe: Probe, rank: int, *, untracked: UntrackedPolicy = "refuse") -> dict[str, LayerProjection]:
    """Return the top eigenvectors of each layer's Kronecker moments, rows orthonormal; one pass over the examples.

    ``A = Σ_i Σ_t a aᵀ`` and ``S = Σ_i Σ_t δ δᵀ`` over the train losses with the data's own labels, in float64; the
    identity where r = width, which is the same up to a rotation.

    Raises:
        NumericalError: A moment is not finite, or a value or gradient is not.
    """
    layers = tracked_layers(probe.model, untracked)
    moments = {
        layer.name: [torch.zeros(d, d, dtype=torch.float64, device=probe.home) for d in layer.shape] for layer in layers
    }
    for batch in loss_batches(probe, untracked):
        for name, factors in batch.layers.items():
            d = factors.deltas * batch.scale.reshape(-1, *[1] * (factors.deltas.ndim - 1)).to(factors.deltas)
            for moment, part in zip(moments[name], (d, factors.inputs), strict=True):
                rows = part.reshape(-1, part.shape[-1]).to(moment)
                moment.addmm_(rows.T, rows)
    result = {}
    for layer in layers:
        sides = []
        for side, moment, dim in zip(("output", "input"), moments[layer.name], _ranks(layer, rank), strict=True):
            if not all_finite(moment):
                raise NumericalError(
                    f"The {side} moment of layer {layer.name!r} is not finite.", "Look for overflow in the gradients."
                )
            size = len(moment)
            full = torch.eye(size).to(moment) if dim == size else torch.linalg.eigh(moment).eigenvectors
            sides.append(full if dim == size else full[:, -dim:].flip(1).T.contiguous())
        result[layer.name] = LayerProjection(*sides)
    return result


class LossBatch(NamedTuple):
    """Factors of one batch of train examples, and the scale ``[b]`` that makes each one's gradient −∇ℓ."""

    rows: slice
    layers: Mapping[str, LayerFactors]
    scale: Tensor


def loss_batches(probe: Probe, untracked: UntrackedPolicy) -> Iterator[LossBatch]:
    """Yield the factors of −∇ℓ of the train examples.

    With the margin identity −∇ℓ = (1 − p)·∇goodness: autograd's softmax − onehot would cancel where p is close to 1.
    """
    margins = probe.task.margin_identity
    for batch in layer_batches(probe, "train", "goodness" if margins else "train_loss", untracked=untracked):
        values = batch.values
        yield LossBatch(batch.rows, batch.layers, torch.sigmoid(-values) if margins else torch.full_like(values, -1.0))


def check_projections(projections: Mapping[str, LayerProjection], layers: Sequence[TrackedLayer]) -> None:
    """Raise a UsageError unless there is a projection of the right widths for every layer."""
    for layer in layers:
        if layer.name not in projections:
            raise UsageError(f"There is no projection for layer {layer.name!r}.", "Give one for each tracked layer.")
        given = projections[layer.name]
        widths = (given.output.shape[-1], given.input.shape[-1])
        if widths != layer.shape:
            raise UsageError(
                f"The projection of layer {layer.name!r} takes {widths} outputs and inputs; it has {layer.shape}.",
                "P_o is [r_o, d_out]; P_i is [r_i, d_in] with the homogeneous 1 of a bias.",
            )


def _ranks(layer: TrackedLayer, rank: int) -> tuple[int, int]:
    return min(rank, layer.shape[0]), min(rank, layer.shape[1])


def check_rank(rank: int) -> None:
    """Raise a UsageError unless the rank is a whole number ≥ 1."""
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise UsageError(f"LoGra's rank {rank!r} is not a whole number ≥ 1.", "Give r ≥ 1 per side; 64 is usual.")
