"""One λ per layer, chosen by ξ: Algorithm 1 of *Taming* (arXiv 2505.24261, §4.3) applied to each block of a spectrum.

Where the curvature is block-diagonal (LoGra) the scores are a sum over layers, −Σ_ℓ φ̃'_ℓᵀ(C_ℓ+λ_ℓI)⁻¹g̃_ℓ, and nothing
asks the λ_ℓ to be equal or proportional to tr(C_ℓ). Dividing a block's eigenvalues by λ_ℓ and its coordinates by √λ_ℓ
turns this into one spectrum whose λ is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeGuard

import torch

from tda_backend.errors import UsageError
from tda_backend.numerics.evaluation.selection import select_regularization
from tda_backend.numerics.spectral.contraction import ScoreMatrix, Source
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.numerics.spectral.filters.damped import DampedInverse


def has_layers(source: Source) -> TypeGuard[Sequence[Spectrum]]:
    """Return whether a source is a damped inverse over several dense blocks."""
    return not isinstance(source, ScoreMatrix) and all(
        isinstance(each, Spectrum) and len(each.blocks) > 1 and isinstance(each.filter, DampedInverse)
        for each in source
    )


def select_by_layer(spectra: Sequence[Spectrum], threshold: float = 0.5) -> tuple[list[Spectrum], dict[str, float]]:
    """Return the spectra rescaled so that λ = 1 means every layer's own λ_ℓ, and these λ_ℓ (absolute) by layer.

    Args:
        spectra: One per training seed, with the same blocks.
        threshold: Of ξ, as in :func:`~tda_backend.numerics.evaluation.selection.select_regularization`.

    Raises:
        UsageError: The spectra have no blocks, or different ones.
        NumericalError: ξ is undefined in some layer.
    """
    names = [tuple(block.name for block in spectrum.blocks) for spectrum in spectra]
    if not names or len(names[0]) < 2 or any(each != names[0] for each in names):
        raise UsageError("One λ per layer needs spectra with the same layers.", "LoGra has them.")
    chosen: list[float] = []
    for number in range(len(names[0])):
        chosen.append(select_regularization([_block(s, number) for s in spectra], threshold).regularization)
    rescaled = [_rescaled(spectrum, chosen) for spectrum in spectra]
    # Under relative damping a block is stored in units of its own scale; seeds share λ_ℓ in these units.
    scales = [sum(s.blocks[number].scale for s in spectra) / len(spectra) for number in range(len(chosen))]
    return rescaled, {name: value * scale for name, value, scale in zip(names[0], chosen, scales, strict=True)}


def _block(spectrum: Spectrum, number: int) -> Spectrum:
    """Return one block of a spectrum as a spectrum of its own."""
    start = sum(block.size for block in spectrum.blocks[:number])
    columns = slice(start, start + spectrum.blocks[number].size)
    return replace(
        spectrum,
        eigenvalues=spectrum.eigenvalues[columns],
        train=spectrum.train[:, columns],
        query=spectrum.query[:, columns],
        validation=spectrum.validation[:, columns],
        blocks=(),
        query_outside=None,
    )


def _rescaled(spectrum: Spectrum, regularizations: Sequence[float]) -> Spectrum:
    sizes = torch.tensor([block.size for block in spectrum.blocks], device=spectrum.device)
    factors = torch.repeat_interleave(spectrum.eigenvalues.new_tensor(regularizations), sizes)
    root = factors.sqrt().to(spectrum.dtype)
    blocks = tuple(
        replace(block, scale=block.scale * value) for block, value in zip(spectrum.blocks, regularizations, strict=True)
    )
    return replace(
        spectrum,
        eigenvalues=spectrum.eigenvalues / factors,
        train=spectrum.train / root,
        query=spectrum.query / root,
        validation=spectrum.validation / root,
        blocks=blocks,
    )
