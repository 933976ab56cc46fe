"""LoGra: influence functions on Kronecker-projected gradients, one small basis a layer (arXiv 2405.13954, §3).

Per layer ``g̃ = vec(Σ_t (P_o δ_t)(P_i a_t)ᵀ)``, ``C_ℓ = (1/n) Σ_i g̃_i g̃_iᵀ`` over the train losses, and

    score = −Σ_ℓ φ̃'_ℓᵀ (C_ℓ + λ_ℓ I)⁻¹ g̃_ℓ(z_i),

φ̃' the projected gradient of goodness; positive helps (METHODS §3). The projected gradient costs what two thin matrix
products cost: no gradient of a whole layer is formed. λ_ℓ = d·tr(C_ℓ)/dim_ℓ for relative damping d, through the
block's scale: any number of dampings is a filter on one decomposition.

Differences from the published tool: a side whose width does not exceed the rank is not projected (its matrix is the
identity: exact, where a random square matrix would only add its condition number), and a bias counts as a homogeneous 1
of a.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.features.factors import LayerFactors
from tda_backend.features.layers import TrackedLayer, UntrackedPolicy, layer_batches, tracked_layers
from tda_backend.seeds import hashed_rng
from tda_backend.spectral.coordinates import Block, Spectrum
from tda_backend.spectral.decompose import Coordinates, dual_coordinates, primal_coordinates
from tda_backend.types import Batch, Task

Initialization = Literal["random", "pca"]
Damping = Literal["relative", "absolute"]
INITIALIZATIONS: tuple[Initialization, ...] = ("random", "pca")
DAMPINGS: tuple[Damping, ...] = ("relative", "absolute")
DEFAULT_RANK = 64


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


def logra_ranks(model: nn.Module, rank: int, untracked: UntrackedPolicy = "refuse") -> dict[str, tuple[int, int]]:
    """Return (r_o, r_i) of every tracked layer: ``rank``, but no more than the layer's outputs and inputs.

    Raises:
        UsageError: ``rank`` is below 1.
        TaskError: As :func:`~tda_backend.features.layers.tracked_layers`.
    """
    _check_rank(rank)
    return {layer.name: _ranks(layer, rank) for layer in tracked_layers(model, untracked)}


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


def pca_projections(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    rank: int,
    *,
    untracked: UntrackedPolicy = "refuse",
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> dict[str, LayerProjection]:
    """Return the top eigenvectors of each layer's Kronecker moments, rows orthonormal; one pass over the examples.

    ``A = Σ_i Σ_t a aᵀ`` and ``S = Σ_i Σ_t δ δᵀ`` over the train losses with the data's own labels, in float64; the
    identity where r = width, which is the same up to a rotation.

    Raises:
        NumericalError: A moment is not finite, or a value or gradient is not.
    """
    layers = tracked_layers(model, untracked)
    moments = {layer.name: [torch.zeros(d, d, dtype=torch.float64) for d in layer.shape] for layer in layers}
    for batch, scale in _train_batches(task, model, data, indices, untracked, device, batch_size):
        for name, factors in batch.items():
            d = factors.deltas * scale.reshape(-1, *[1] * (factors.deltas.ndim - 1)).to(factors.deltas)
            for moment, part in zip(moments[name], (d, factors.inputs), strict=True):
                rows = part.reshape(-1, part.shape[-1]).to("cpu", torch.float64)
                moment.addmm_(rows.T, rows)
    result = {}
    for layer in layers:
        sides = []
        for side, moment, dim in zip(("output", "input"), moments[layer.name], _ranks(layer, rank), strict=True):
            if not bool(torch.isfinite(moment).all()):
                raise NumericalError(
                    f"The {side} moment of layer {layer.name!r} is not finite.", "Look for overflow in the gradients."
                )
            size = len(moment)
            full = torch.eye(size, dtype=torch.float64) if dim == size else torch.linalg.eigh(moment).eigenvectors
            sides.append(full if dim == size else full[:, -dim:].flip(1).T.contiguous())
        result[layer.name] = LayerProjection(*sides)
    return result


def logra_spectrum(
    task: Task,
    model: nn.Module,
    data: Mapping[str, Batch],
    train_indices: Sequence[int] | Tensor,
    validation_indices: Sequence[int] | Tensor,
    query_indices: Sequence[int] | Tensor,
    *,
    rank: int = DEFAULT_RANK,
    initialization: Initialization = "random",
    damping: Damping = "relative",
    seed: int = 0,
    untracked: UntrackedPolicy = "refuse",
    projections: Mapping[str, LayerProjection] | None = None,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> Spectrum:
    """Return LoGra's coordinates at one checkpoint, one block a layer; every damping is then a filter.

    Args:
        task: Loss, measurement and its sign.
        model: At the checkpoint; used in eval mode.
        data: ``train`` and ``test`` splits.
        train_indices: Rows of the train split, n.
        validation_indices: Rows of the test split for ξ.
        query_indices: Rows of the test split to attribute.
        rank: r per side, clipped to the layer's outputs and inputs (:func:`logra_ranks`).
        initialization: ``random`` or ``pca``.
        damping: ``relative``: the λ given later is d, in units of tr(C_ℓ)/dim_ℓ of each layer (Block.scale has it);
            ``absolute``: it is in units of the projected mean Gram itself.
        seed: Random projections are hashed from it.
        untracked: What to do about parameters outside tracked layers.
        projections: Projections to use instead (by layer name); ``rank``, ``initialization`` and ``seed`` then say
            nothing.
        device: Where the passes run.
        batch_size: Examples per pass; the result does not depend on it beyond rounding.

    Returns:
        Coordinates in the model's dtype, eigenvalues float64; each layer decomposed in float64 whole, primal
        (dim_ℓ × dim_ℓ) where n > dim_ℓ, else dual (n × n).

    Raises:
        UsageError: A setting is not allowed, or ``projections`` do not fit the layers.
        TaskError: The model has parameters that are not tracked, or a group is empty.
        NumericalError: A gradient is not finite, or all train gradients of a layer vanish; names the layer.
    """
    _check_settings(rank, initialization, damping)
    groups = {"train": train_indices, "validation": validation_indices, "query": query_indices}
    counts = {name: len(torch.as_tensor(indices)) for name, indices in groups.items()}
    if min(counts.values()) == 0:
        empty = next(name for name, count in counts.items() if count == 0)
        raise TaskError(f"There are no {empty} examples.", "Give at least one index for each group.")
    layers = tracked_layers(model, untracked)
    if projections is None:
        if initialization == "random":
            projections = random_projections(layers, rank, seed)
        else:
            projections = pca_projections(
                task, model, data["train"], train_indices, rank,
                untracked=untracked, device=device, batch_size=batch_size,
            )  # fmt: skip
    _check_projections(projections, layers)
    dtype = next(parameter.dtype for parameter in model.parameters() if parameter.requires_grad)
    rows = {layer.name: torch.zeros(counts["train"], projections[layer.name].dim, dtype=dtype) for layer in layers}
    start = 0
    for factors, scale in _train_batches(task, model, data["train"], train_indices, untracked, device, batch_size):
        for name, part in factors.items():
            rows[name][start : start + len(scale)] = projections[name].apply(part, scale).cpu()
        start += len(scale)
    num_others = counts["query"] + counts["validation"]
    others = {layer.name: torch.zeros(num_others, projections[layer.name].dim, dtype=dtype) for layer in layers}
    for name, first in (("query", 0), ("validation", counts["query"])):
        for batch in layer_batches(
            task, model, data["test"], groups[name], "goodness",
            batch_size=batch_size, device=device, untracked=untracked,
        ):  # fmt: skip
            for layer, part in batch.layers.items():
                place = slice(first + batch.rows.start, first + batch.rows.stop)
                others[layer][place] = projections[layer].apply(part).cpu()
    return _assemble(rows, others, counts["query"], damping, dtype)


def _train_batches(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    untracked: UntrackedPolicy,
    device: torch.device | str,
    batch_size: int,
) -> Iterator[tuple[dict[str, LayerFactors], Tensor]]:
    """Yield factors with the scale ``[b]`` on each example that makes their gradient −∇ℓ.

    With the margin identity −∇ℓ = (1 − p)·∇goodness: autograd's softmax − onehot would cancel where p is close to 1.
    """
    quantity = "goodness" if task.margin_identity else "train_loss"
    for batch in layer_batches(
        task, model, data, indices, quantity, batch_size=batch_size, device=device, untracked=untracked
    ):
        values = batch.values
        yield batch.layers, torch.sigmoid(-values) if task.margin_identity else torch.full_like(values, -1.0)


def _assemble(
    rows: dict[str, Tensor], others: dict[str, Tensor], num_queries: int, damping: Damping, dtype: torch.dtype
) -> Spectrum:
    """Decompose layer by layer, freeing the projected gradients of each, and put the blocks side by side."""
    blocks, parts, num_cut = [], [], 0
    for name in list(rows):
        basis, scale = _decomposed(name, rows.pop(name), others.pop(name), damping, dtype)
        blocks.append(Block(name, basis.eigenvalues.numel(), scale))
        parts.append(basis)
        num_cut += basis.num_cut
    eigenvalues = torch.cat([part.eigenvalues for part in parts])
    others_rows = torch.cat([part.others for part in parts], dim=1)
    return Spectrum(
        eigenvalues=eigenvalues,
        train=torch.cat([part.train for part in parts], dim=1),
        query=others_rows[:num_queries],
        validation=others_rows[num_queries:],
        train_weights=None,
        num_cut=num_cut,
        blocks=tuple(blocks),
    )


def _decomposed(
    name: str, train: Tensor, others: Tensor, damping: Damping, dtype: torch.dtype
) -> tuple[Coordinates, float]:
    """Return one layer's coordinates, σ/s and rows/√s with s = tr(C)/dim for relative damping, and s."""
    num, dim = train.shape
    what = f"LoGra's layer {name!r}"
    if not bool((train != 0).any()):
        raise NumericalError(
            f"{what} has no gradient: it is zero for all {num} training examples, so its curvature has no inverse.",
            "Freeze the layer (requires_grad = False) where it is not used, or take an earlier checkpoint.",
        )
    if num > dim:
        basis = primal_coordinates(train, others, what=what, dtype=dtype)
    else:
        wide = train.to(torch.float64)
        mean_gram = wide @ wide.T
        mean_gram /= num
        basis = dual_coordinates(mean_gram, others.to(torch.float64) @ wide.T, what=what, dtype=dtype)
    if damping == "absolute":
        return basis, 1.0
    scale = float(train.to(torch.float64).square().sum()) / num / dim
    root = scale**0.5
    return Coordinates(basis.eigenvalues / scale, basis.train / root, basis.others / root, basis.num_cut), scale


def _ranks(layer: TrackedLayer, rank: int) -> tuple[int, int]:
    return min(rank, layer.shape[0]), min(rank, layer.shape[1])


def _check_rank(rank: int) -> None:
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise UsageError(f"LoGra's rank {rank!r} is not a whole number ≥ 1.", "Give r ≥ 1 per side; 64 is usual.")


def _check_settings(rank: int, initialization: str, damping: str) -> None:
    _check_rank(rank)
    for key, value, allowed in (
        ("initialization", initialization, INITIALIZATIONS),
        ("damping", damping, DAMPINGS),
    ):
        if value not in allowed:
            raise UsageError(f"LoGra's {key} cannot be {value!r}.", f"Allowed: {', '.join(allowed)}.")


def _check_projections(projections: Mapping[str, LayerProjection], layers: Sequence[TrackedLayer]) -> None:
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
