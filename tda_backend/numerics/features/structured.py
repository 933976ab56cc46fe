"""Structured random projections: the variance of a dense one (``sparse``) or nearly (``kronecker``), far cheaper.

Both estimate inner products of gradients without bias, nest (the first k of k_max coordinates, rescaled, are the
projection to k) and draw from seeds hashed per layer, so nothing depends on batch sizes or on the order of work. For
x, y with p entries, k of k_max coordinates:

=============  =========================================================  ====================================
kind           variance of ⟨Px, Py⟩                                       operations for N vectors
=============  =========================================================  ====================================
``gaussian``   (‖x‖²‖y‖² + ⟨x,y⟩²) / k                                    N·p·k_max (dense)
``rademacher`` (‖x‖²‖y‖² + ⟨x,y⟩² − 2Σ x_i²y_i²) / k                      N·p·k_max
``sparse``     exactly that of ``rademacher``, for every k                N·(p + k_max·√k_max)
``kronecker``  at most (1 + 3/4) times that of ``gaussian``               4·N·k_max·(d_in + d_out) a layer
=============  =========================================================  ====================================

``sparse`` sends every parameter with a random sign to one of D ≥ k_max buckets (CountSketch, Charikar et al. 2002) and
turns the buckets by a D × D Hadamard matrix H (D the next power of two): ``P_cj = s_j·H[c, h_j]/√k_max``. All entries
are ±1/√k_max; the entries of one column are uncorrelated because E_h[H[c,h]·H[c',h]] = 0 for c ≠ c', and columns are
independent, so the first two moments of every ⟨Px, Py⟩ are those of independent signs. Without H, a slice of the
first k buckets would drop parameters and add (k_max/k − 1)·Σ x_i⁴ to the variance.

``kronecker`` uses the rank-one structure of a Linear layer's gradient, x = Σ_t δ_t ⊗ a_t: a coordinate is the sum over
layers of four rows u ⊗ v with independent signs, ``Σ_t (u·δ_t)(v·a_t)``. One row alone has E[(u·δ)⁴(v·a)⁴] up to 9
where a dense row has 3, hence variance (2 + 6)/k; the mean of c independent rows has at most (2 + 6/c)/k. It never
forms a gradient, which wins over ``sparse`` for layers wider than some thousand units.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tda_backend.blocks import spans
from tda_backend.numerics.features.factors import GradientFactors, LayerFactors
from tda_backend.seeds import hashed_rng

PARAMETER_ROWS = 2048
"""Parameters per hashed block. Part of what a seed means: another size gives other numbers."""

ROWS_PER_COORDINATE = 4
"""Kronecker rows averaged in one coordinate (c above)."""

_COORDINATES = 512
"""Coordinates per hashed block of Kronecker rows. Part of what a seed means."""

_EXAMPLES = 512
"""Examples whose buckets (2·D float32 each) stay in the cache together."""


def signed_buckets(max_dim: int, seed: int, group: str, block: int, num_parameters: int) -> Tensor:
    """Return where each parameter of a block goes: bucket h, plus D where its sign is negative, ``[c]`` int64 < 2·D."""
    rng = hashed_rng("projection", "sparse", seed, max_dim, group, block)
    return torch.from_numpy(rng.integers(0, 2 * num_buckets(max_dim), num_parameters))


def num_buckets(max_dim: int) -> int:
    """Return D, the smallest power of two that is ≥ k_max."""
    return 1 << max(max_dim - 1, 0).bit_length()


class SparseProjection:
    """Accumulates ``sparse`` projections of N vectors from their layers' factors.

    Memory is 2·D·N numbers.

    Args:
        max_dim: k_max.
        seed: Draws are hashed from it.
        num_vectors: N.
        dtype: Of the vectors and the result.
        device: Where they lie.
    """

    def __init__(
        self, max_dim: int, seed: int, num_vectors: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        self._max_dim, self._seed = max_dim, seed
        # Buckets lead, examples are contiguous: adding a parameter is one vector operation over the examples.
        self._sums = [
            torch.zeros(2 * num_buckets(max_dim), min(_EXAMPLES, num_vectors - start), dtype=dtype, device=device)
            for start in range(0, num_vectors, _EXAMPLES)
        ]

    def add_layer(self, layer: LayerFactors) -> None:
        """Add a layer's whole gradients, formed a few outputs at a time."""
        width, outputs = layer.inputs.shape[-1], layer.deltas.shape[-1]
        index = _layer_buckets(self._max_dim, self._seed, layer).to(layer.inputs.device)
        step = max(1, PARAMETER_ROWS // width)
        for number, sums in enumerate(self._sums):
            rows = slice(number * _EXAMPLES, (number + 1) * _EXAMPLES)
            a, d = layer.inputs[rows], layer.deltas[rows]
            if a.ndim == 2:
                a, d = a.T.contiguous(), d.T.contiguous()
            for low in range(0, outputs, step):
                if a.ndim == 2:
                    slab = (d[low : low + step, None] * a).flatten(0, 1)
                else:
                    slab = (d[..., low : low + step].transpose(1, 2) @ a).flatten(1).T.contiguous()
                sums.index_add_(0, index[low * width : (low + step) * width], slab)

    def features(self) -> Tensor:
        """Return P g of all vectors, ``[N, k_max]``."""
        dim = num_buckets(self._max_dim)
        parts = []
        for sums in self._sums:
            parts.append(turned_buckets(sums[:dim] - sums[dim:], self._max_dim))
        return torch.cat(parts)


def turned_buckets(buckets: Tensor, max_dim: int) -> Tensor:
    """Return H·buckets/√k_max: the features ``[b, k_max]`` of b vectors from their bucket sums ``[D, b]``."""
    return _first_hadamard_rows(buckets, max_dim).T.div(max_dim**0.5)


def _layer_buckets(max_dim: int, seed: int, layer: LayerFactors) -> Tensor:
    total = layer.num_parameters
    return torch.cat(
        [
            signed_buckets(max_dim, seed, layer.name, block, min(PARAMETER_ROWS, total - start))
            for block, start in enumerate(range(0, total, PARAMETER_ROWS))
        ]
    )


def hadamard(size: int, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu") -> Tensor:
    """Return Sylvester's Hadamard matrix of a power of two, ``[size, size]`` with entries ±1."""
    matrix = torch.ones(1, 1, dtype=dtype, device=device)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


def _first_hadamard_rows(columns: Tensor, count: int) -> Tensor:
    """Return the first ``count`` rows of H·columns for ``[D, b]``, with H = H_a ⊗ H_b and a·b = D."""
    size, num = columns.shape
    inner = 1 << ((size.bit_length() - 1) // 2)
    outer = size // inner
    turned = torch.matmul(hadamard(inner, columns.dtype, columns.device), columns.view(outer, inner, num))
    needed = hadamard(outer, columns.dtype, columns.device)[: -(-count // inner)]
    return (needed @ turned.view(outer, inner * num)).view(-1, num)[:count]


def sparse_features(factors: GradientFactors, max_dim: int, seed: int) -> Tensor:
    """Return the ``sparse`` projections of N gradients given as factors, ``[N, k_max]``."""
    parts = []
    for start in range(0, factors.num_vectors, _EXAMPLES):
        chunk = factors.select(slice(start, start + _EXAMPLES))
        projection = SparseProjection(max_dim, seed, chunk.num_vectors, chunk.layers[0].inputs.dtype, factors.device)
        for layer in chunk.layers:
            projection.add_layer(layer)
        parts.append(projection.features())
    return torch.cat(parts)


def kronecker_features(factors: GradientFactors, max_dim: int, seed: int) -> Tensor:
    """Return the ``kronecker`` projections of N gradients given as factors, ``[N, k_max]``."""
    dtype = factors.layers[0].inputs.dtype
    result = torch.zeros(factors.num_vectors, max_dim, dtype=dtype, device=factors.device)
    for layer in factors.layers:
        a, d = layer.inputs, layer.deltas
        positions = a.shape[1] if a.ndim == 3 else 1
        step = max(1, 2 * _EXAMPLES // positions)
        for columns, *signs in kronecker_rows(max_dim, seed, layer, dtype):
            left, right = (side.to(factors.device) for side in signs)
            count = columns.stop - columns.start
            for rows in spans(len(a), step):
                product = (d[rows].reshape(-1, d.shape[-1]) @ left).mul_(a[rows].reshape(-1, a.shape[-1]) @ right)
                result[rows, columns] += product.view(-1, positions * ROWS_PER_COORDINATE, count).sum(1)
    return result.div_((max_dim * ROWS_PER_COORDINATE) ** 0.5)


def kronecker_rows(
    max_dim: int, seed: int, layer: LayerFactors, dtype: torch.dtype
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield (coordinates, signs on the outputs ``[d_out, 4·c]``, signs on the inputs ``[d_in, 4·c]``) block by block.

    Column i·c + j holds row i of coordinate j of the block.
    """
    for block, start in enumerate(range(0, max_dim, _COORDINATES)):
        stop = min(start + _COORDINATES, max_dim)
        sides = []
        for side, size in (("output", layer.deltas.shape[-1]), ("input", layer.inputs.shape[-1])):
            rng = hashed_rng("projection", "kronecker", seed, max_dim, layer.name, side, block)
            sides.append(random_signs(rng, size, (stop - start) * ROWS_PER_COORDINATE).to(dtype))
        yield slice(start, stop), sides[0], sides[1]


_SIGNS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) * 2 - 1
"""The eight signs of each byte, ``[256, 8]``."""


def random_signs(rng: np.random.Generator, num_rows: int, num_columns: int) -> Tensor:
    """Return independent signs ±1, ``[num_rows, num_columns]`` float32."""
    drawn = rng.integers(0, 256, size=(num_rows, -(-num_columns // 8)), dtype=np.uint8)
    signs = _SIGNS.take(drawn.ravel(), axis=0).reshape(num_rows, -1)  # a fifth of the time that single bits take
    return torch.from_numpy(signs[:, :num_columns])
