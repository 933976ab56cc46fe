"""Inner products of gradients from their factors: ``n·K = Σ_layers (δδᵀ)∘(aaᵀ)`` (METHODS §1.4), in float64.

The factors are float32 but the products float64: a Gram matrix that is exact for the stored vectors is positive
semi-definite to float64 rounding, so its small eigenvalues, and small λ, mean something.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tda_backend.blocks import spans
from tda_backend.numerics.features.factors import GradientFactors, LayerFactors

_DENSE_NUMBERS = 2**24
"""Numbers (128 MiB of float64) in one block of temporary products."""


def gram_matrix(factors: GradientFactors, block_size: int = 1024) -> Tensor:
    """Return all raw inner products g_i·g_j, **without 1/n**, ``[N, N]`` float64.

    Only blocks on and above the diagonal are computed. Beside the result, memory holds a few blocks.

    Args:
        factors: Factors of N vectors.
        block_size: Rows and columns of a block; the result does not depend on it beyond rounding.
    """
    num = factors.num_vectors
    gram = torch.zeros(num, num, dtype=torch.float64, device=factors.device)
    for layer in factors.layers:
        _accumulate(gram, layer, layer, block_size, symmetric=True)
    for start in range(0, num, block_size):
        stop = min(start + block_size, num)
        gram[stop:, start:stop] = gram[start:stop, stop:].T
        corner = gram[start:stop, start:stop]
        corner.copy_(corner.triu() + corner.triu(1).T)  # symmetric to the last bit
    return gram


def inner_products(left: GradientFactors, right: GradientFactors, block_size: int = 1024) -> Tensor:
    """Return the raw inner products of two groups of vectors, ``[N_left, N_right]`` float64."""
    result = torch.zeros(left.num_vectors, right.num_vectors, dtype=torch.float64, device=left.device)
    for a, b in zip(left.layers, right.layers, strict=True):
        _accumulate(result, a, b, block_size, symmetric=False)
    return result


def _accumulate(out: Tensor, left: LayerFactors, right: LayerFactors, block_size: int, *, symmetric: bool) -> None:
    positions = left.inputs.shape[1] * right.inputs.shape[1] if left.inputs.ndim == 3 else 1
    width = left.inputs.shape[-1] + left.deltas.shape[-1]
    # Several positions: either all pairs of positions, t·t'·(d_in+d_out) operations per pair of examples, or the
    # example's whole gradient, d_in·d_out operations. The cheaper one wins.
    dense = left.inputs.ndim == 3 and left.num_parameters < positions * width
    if dense:
        block_size = max(1, min(block_size, _DENSE_NUMBERS // left.num_parameters))
    elif positions > 1:
        block_size = max(1, min(block_size, int((_DENSE_NUMBERS / positions) ** 0.5)))
    for rows in spans(out.shape[0], block_size):
        a, d = _block(left, rows)
        gradient = _gradients(a, d) if dense else None
        for columns in spans(out.shape[1], block_size):
            if symmetric and columns.start < rows.start:
                continue
            b, e = _block(right, columns)
            if gradient is not None:
                out[rows, columns].addmm_(gradient, _gradients(b, e).T)
            elif a.ndim == 2:
                product = d @ e.T
                product *= a @ b.T
                out[rows, columns] += product
            else:
                product = d.flatten(0, 1) @ e.flatten(0, 1).T
                product *= a.flatten(0, 1) @ b.flatten(0, 1).T
                out[rows, columns] += product.view(*d.shape[:2], *e.shape[:2]).sum((1, 3))


def _block(layer: LayerFactors, rows: slice) -> tuple[Tensor, Tensor]:
    return layer.inputs[rows].to(torch.float64), layer.deltas[rows].to(torch.float64)


def _gradients(a: Tensor, d: Tensor) -> Tensor:
    return (d.transpose(1, 2) @ a).flatten(1)


def gram_products(factors: GradientFactors, vectors: Tensor, block_size: int = 1024) -> Tensor:
    """Return all raw inner products times vectors, ``G·vectors``, and never hold G.

    Blocks on and above the diagonal are computed, used on both sides and forgotten.

    Args:
        factors: Factors of N vectors.
        vectors: ``[N, b]`` float64.
        block_size: Rows and columns of a block.

    Returns:
        ``[N, b]`` float64.
    """
    result, blocks = torch.zeros_like(vectors), list(spans(factors.num_vectors, block_size))
    for number, rows in enumerate(blocks):
        left = factors.select(rows)
        for columns in blocks[number:]:
            block = inner_products(left, factors.select(columns), block_size)
            result[rows].addmm_(block, vectors[columns])
            if columns != rows:
                result[columns].addmm_(block.T, vectors[rows])
    return result


def cross_products(left: GradientFactors, right: GradientFactors, vectors: Tensor, block_size: int = 1024) -> Tensor:
    """Return the raw inner products of two groups times vectors ``[N_right, b]``, ``[N_left, b]`` float64."""
    result = vectors.new_zeros(left.num_vectors, vectors.shape[1])
    for rows in spans(left.num_vectors, block_size):
        some = left.select(rows)
        for columns in spans(right.num_vectors, block_size):
            block = inner_products(some, right.select(columns), block_size)
            result[rows].addmm_(block, vectors[columns])
    return result
