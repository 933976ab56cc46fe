"""One query's scores at many λ: in a tile of a layer, eigenvalues are neighbours, and the λ axis compresses.

Both sides of a Kronecker basis are sorted, so a tile of some outputs and some inputs has eigenvalues of few orders of
magnitude, and its table ``φ_λ(σ)`` a numerical rank K far below the L values of λ: K products instead of L. Nothing is
gathered: a tile's products use the factors as they lie. The tolerance is that of ``scores.py``, for the one query.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tda_backend.blocks import spans
from tda_backend.numerics.spectral.kronecker.scores import TOLERANCE, smallest_kept
from tda_backend.numerics.spectral.kronecker.spectrum import KroneckerBlock, KroneckerSpectrum

TILE = (32, 128)
"""Outputs and inputs of a tile. Larger ones need a higher rank, smaller ones more passes over the result (measured)."""


def kronecker_curves(
    spectrum: KroneckerSpectrum, query: int, regularizations: Sequence[float], tolerance: float = TOLERANCE
) -> Tensor:
    """Return one query's scores on all training examples at L values of λ, ``[L, n]`` in the coordinates' dtype.

    Args:
        spectrum: Coordinates, with a filter that does not depend on the query.
        query: Query position.
        regularizations: L values of λ (of d, with relative damping).
        tolerance: Relative error allowed to the compression of λ (see ``scores.py``); 0 for none.

    Raises:
        NumericalError: λ is not allowed.
    """
    tables = [_weighted(spectrum, layer, query, regularizations) for layer in spectrum.layers]
    norms = torch.stack([(table * size).square().sum((1, 2)) for table, _, size in tables]).sum(0).sqrt()
    norms = norms.where(norms > 0, 1.0)[:, None]
    tiles = [
        (index, outputs, inputs)
        for index, layer in enumerate(spectrum.layers)
        for outputs in spans(layer.eigenvalues.shape[0], TILE[0])
        for inputs in spans(layer.eigenvalues.shape[1], TILE[1])
    ]
    bases = []
    for index, outputs, inputs in tiles:
        table, _, size = (each[..., outputs, inputs] for each in tables[index])
        weighted = (table * size).flatten(1) / norms
        squares, basis = torch.linalg.eigh(weighted @ weighted.T)  # as good as the tolerance: √ε of float64 is 1.5e-8
        bases.append((squares.clamp(min=0).sqrt(), basis))
    smallest = smallest_kept([singular for singular, _ in bases], tolerance)
    result = torch.zeros(len(regularizations), spectrum.num_train, dtype=spectrum.dtype, device=spectrum.device)
    for (index, outputs, inputs), (singular, basis) in zip(tiles, bases, strict=True):
        kept = basis[:, singular > smallest]
        if kept.shape[1]:
            table, row, _ = (each[..., outputs, inputs] for each in tables[index])
            vectors = (kept / norms).T @ (table * row).flatten(1)
            products = spectrum.layers[index].train.products(vectors.to(spectrum.dtype), outputs, inputs)
            result.addmm_((kept * norms).to(spectrum.dtype), products)
    return result


def _weighted(
    spectrum: KroneckerSpectrum, layer: KroneckerBlock, query: int, regularizations: Sequence[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return φ ``[L, r_out, r_in]``, the query's coordinates, and what an error in a coordinate counts."""
    shape = layer.eigenvalues.shape
    flat = layer.eigenvalues.flatten()
    table = torch.stack([spectrum.filter.weights(flat, value, spectrum.num_train) for value in regularizations])
    row = layer.query.values(index=[query]).to(torch.float64).view(shape)
    return table.view(-1, *shape), row, row.abs() * layer.train_sizes
