"""LoGra: influence functions on Kronecker-projected gradients, one small basis per layer (arXiv 2405.13954, §3).

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

from collections.abc import Mapping
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.models.probe import Group, Probe
from tda_backend.numerics.attribution.logra_projections import (
    LayerProjection,
    check_projections,
    check_rank,
    loss_batches,
    pca_projections,
    random_projections,
)
from tda_backend.numerics.features.layers import UntrackedPolicy, layer_batches, tracked_layers
from tda_backend.numerics.spectral.coordinates import Block, Spectrum
from tda_backend.numerics.spectral.decompose import RotatedRows, row_coordinates
from tda_backend.numerics.spectral.kronecker.spectrum import Damping

Initialization: TypeAlias = Literal["random", "pca"]
INITIALIZATIONS: tuple[Initialization, ...] = ("random", "pca")
DAMPINGS: tuple[Damping, ...] = ("relative", "absolute")
DEFAULT_RANK = 64


def logra_spectrum(
    probe: Probe,
    *,
    rank: int = DEFAULT_RANK,
    initialization: Initialization = "random",
    damping: Damping = "relative",
    seed: int = 0,
    untracked: UntrackedPolicy = "refuse",
    projections: Mapping[str, LayerProjection] | None = None,
) -> Spectrum:
    """Return LoGra's coordinates at one checkpoint, one block per layer; every damping is then a filter.

    Args:
        probe: Task, model, and the rows of all groups.
        rank: r per side, clipped to the layer's outputs and inputs.
        initialization: ``random`` or ``pca``.
        damping: ``relative``: the λ given later is d, in units of tr(C_ℓ)/dim_ℓ of each layer (Block.scale has it);
            ``absolute``: it is in units of the projected mean Gram itself.
        seed: Random projections are hashed from it.
        untracked: What to do about parameters outside tracked layers.
        projections: Projections to use instead (by layer name); ``rank``, ``initialization`` and ``seed`` are
            then ignored.

    Returns:
        RotatedRows in the model's dtype, eigenvalues float64; each layer decomposed in float64 whole, primal
        (dim_ℓ × dim_ℓ) where n > dim_ℓ, else dual (n × n).

    Raises:
        UsageError: A setting is not allowed, or ``projections`` do not fit the layers.
        TaskError: The model has parameters that are not tracked, or a group is empty.
        NumericalError: A gradient is not finite, or all train gradients of a layer vanish; names the layer.
    """
    _check_settings(rank, initialization, damping)
    probe.refuse_empty()
    layers = tracked_layers(probe.model, untracked)
    if projections is None:
        if initialization == "random":
            projections = random_projections(layers, rank, seed)
        else:
            projections = pca_projections(probe, rank, untracked=untracked)
    check_projections(projections, layers)
    chosen = {layer.name: projections[layer.name] for layer in layers}
    rows = _empty_rows(chosen, probe, "train")
    for batch in loss_batches(probe, untracked):
        for name, part in batch.layers.items():
            rows[name][batch.rows] = chosen[name].apply(part, batch.scale)
    others = [_projected(probe, group, chosen, untracked) for group in ("query", "validation")]
    joined = {name: torch.cat([part[name] for part in others]) for name in chosen}
    return _assemble(rows, joined, probe.count("query"), damping, probe.dtype)


def _empty_rows(projections: Mapping[str, LayerProjection], probe: Probe, group: Group) -> dict[str, Tensor]:
    # A layer that takes no part in a value has the gradient 0.
    num, dtype, device = probe.count(group), probe.dtype, probe.home
    return {name: torch.zeros(num, each.dim, dtype=dtype, device=device) for name, each in projections.items()}


def _projected(
    probe: Probe, group: Group, projections: Mapping[str, LayerProjection], untracked: UntrackedPolicy
) -> dict[str, Tensor]:
    """Return the projected gradients of goodness by layer, ``[N, dim]`` at the probe's home."""
    rows = _empty_rows(projections, probe, group)
    for batch in layer_batches(probe, group, "goodness", untracked=untracked):
        for name, part in batch.layers.items():
            rows[name][batch.rows] = projections[name].apply(part)
    return rows


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
) -> tuple[RotatedRows, float]:
    """Return one layer's coordinates, σ/s and rows/√s with s = tr(C)/dim for relative damping, and s."""
    num, dim = train.shape
    what = f"LoGra's layer {name!r}"
    if not bool((train != 0).any()):
        raise NumericalError(
            f"{what} has no gradient: it is zero for all {num} training examples, so its curvature has no inverse.",
            "Freeze the layer (requires_grad = False) where it is not used, or take an earlier checkpoint.",
        )
    basis = row_coordinates(train, others, what=what, dtype=dtype)
    if damping == "absolute":
        return basis, 1.0
    scale = float(train.to(torch.float64).square().sum()) / num / dim
    root = scale**0.5
    return RotatedRows(basis.eigenvalues / scale, basis.train / root, basis.others / root, basis.num_cut), scale


def _check_settings(rank: int, initialization: str, damping: str) -> None:
    check_rank(rank)
    for key, value, allowed in (
        ("initialization", initialization, INITIALIZATIONS),
        ("damping", damping, DAMPINGS),
    ):
        if value not in allowed:
            raise UsageError(f"LoGra's {key} cannot be {value!r}.", f"Allowed: {', '.join(allowed)}.")
