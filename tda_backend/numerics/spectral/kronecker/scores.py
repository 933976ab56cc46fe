"""All scores at several dampings at once: sorted by eigenvalue, the λ axis of a Kronecker spectrum compresses.

Inside a narrow window of eigenvalues the table ``φ_λ(σ)``, ``[L, window]``, has a numerical rank K far below L: where
λ ≪ σ all dampings agree, where λ ≫ σ they differ by a factor, and between the two φ is smooth in ln σ. Its truncated
singular value decomposition turns L products into K: ``Σ_c q_c φ_λ(σ_c) t_c ≈ Σ_k A_λk Σ_c (q_c g_k(c)) t_c``.

**Tolerance.** Coordinate c adds a rank-one matrix of Frobenius norm ``w_c = ‖q_c‖‖t_c‖`` times its error ε_λ(c). The
windows are truncated so that ``Σ_c (ε_λ(c) w_c)² ≤ tolerance²·Σ_c (φ_λ(σ_c) w_c)²`` over all of them, for every λ: the
error in the norm that both sides have where coordinates are uncorrelated over examples, as they nearly are in this
basis. The rounding of float32 products comes on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tda_backend.blocks import EXAMPLES, in_blocks, spans
from tda_backend.errors import NumericalError, UsageError
from tda_backend.finite import all_finite
from tda_backend.numerics.spectral.kronecker.rows import FactoredRows, LayerRows, squared_sizes
from tda_backend.numerics.spectral.kronecker.spectrum import KroneckerSpectrum

TOLERANCE = 1e-6

_WINDOW = 1024
"""Coordinates per window. Wider ones need a higher rank, narrower ones more passes over the result (measured)."""

_NUMBERS = 2**25
"""Numbers in one temporary, 128 MiB in float32."""


@dataclass(frozen=True)
class _Window:
    """Coordinates of neighbouring eigenvalues and the compressed filter on them.

    Attributes:
        parts: (layer index, output indices, input indices) of its coordinates, layer after layer.
        functions: g, ``[K, c]`` float64.
        coefficients: A, ``[L, K]`` float64.
    """

    parts: tuple[tuple[int, Tensor, Tensor], ...]
    functions: Tensor
    coefficients: Tensor


def kronecker_scores(
    spectrum: KroneckerSpectrum,
    regularizations: Sequence[float],
    queries: Sequence[int] | None = None,
    tolerance: float = TOLERANCE,
) -> Tensor:
    """Return the scores of all queries on all training examples at several λ, ``[L, m, n]``; positive helps.

    Args:
        spectrum: Coordinates.
        regularizations: L values of λ (of d, with relative damping).
        queries: Query positions; ``None`` for all.
        tolerance: Relative error allowed to the compression of λ (see the module's text); 0 for none.

    Raises:
        UsageError: A filter that depends on the query, no λ, or a negative tolerance.
        NumericalError: λ is not allowed, or a score is not finite (naming λ).
    """
    if spectrum.filter.depends_on_query:
        raise UsageError(f"The filter {spectrum.filter.name} depends on the query.", "Use contraction.scores.")
    if not regularizations or not tolerance >= 0:
        raise UsageError("Scores need at least one λ and a tolerance ≥ 0.", "The default tolerance is 1e-6.")
    device = spectrum.device
    every = range(spectrum.num_queries) if queries is None else queries
    chosen = torch.as_tensor(every, dtype=torch.long, device=device)
    windows = _plan(spectrum, regularizations, chosen, tolerance)
    num_values, num_queries, num_train = len(regularizations), len(chosen), spectrum.num_train
    result = torch.zeros(num_values, num_queries, num_train, dtype=spectrum.dtype, device=device)
    rank = max((window.functions.shape[0] for window in windows), default=1)
    tile = max(1, min(num_train, _NUMBERS // max(1, rank * num_queries)))

    def scored(rows: slice) -> Tensor:
        # Transposed once, so that gathering a coordinate copies a run of memory.
        train = [_transposed(layer.train, rows) for layer in spectrum.layers]
        query = [_transposed(layer.query, chosen) for layer in spectrum.layers]
        part = result.new_zeros(num_values, num_queries * (rows.stop - rows.start))
        for window in windows:
            left, right = _gathered(query, window), _gathered(train, window)  # [c, m], [c, n]
            functions = window.functions.to(spectrum.dtype)
            weighted = (functions[:, None, :] * left.T).flatten(0, 1)  # [K·m, c]
            products = (weighted @ right).view(functions.shape[0], -1)
            part.addmm_(window.coefficients.to(spectrum.dtype), products)
        return part.view(num_values, num_queries, -1)

    for rows, part in in_blocks(num_train, tile, scored, EXAMPLES):
        result[:, :, rows] = part
    for value, scores in zip(regularizations, result, strict=True):
        if not all_finite(scores):
            raise NumericalError(
                f"{int((~torch.isfinite(scores)).sum())} scores are not finite at λ = {value}.",
                "Use a larger λ; small eigenvalues are amplified beyond float32.",
            )
    return result


def _plan(
    spectrum: KroneckerSpectrum, regularizations: Sequence[float], chosen: Tensor, tolerance: float
) -> list[_Window]:
    """Return the windows, ascending in σ, each with the smallest rank that keeps the tolerance."""
    tables, sizes, sigma = [], [], []
    for layer in spectrum.layers:
        values = layer.eigenvalues.flatten()
        tables.append(
            torch.stack([spectrum.filter.weights(values, value, spectrum.num_train) for value in regularizations])
        )
        sizes.append((squared_sizes(layer.query, chosen) * squared_sizes(layer.train)).sqrt().flatten())
        sigma.append(values)
    table, size = torch.cat(tables, dim=1), torch.cat(sizes)  # [L, r], [r]
    norms = (table * size).norm(dim=1)
    order = torch.cat(sigma).argsort()
    order = order[size[order] > 0]  # the others add nothing at any λ
    active = norms > 0  # none at λ = 0 on a spectrum of zeros
    starts = torch.tensor([0, *(layer.size for layer in spectrum.layers)], device=table.device).cumsum(0)
    pieces = []
    for first in range(0, len(order), _WINDOW):
        members = order[first : first + _WINDOW].sort().values
        weighted = table[active][:, members] * size[members] / norms[active, None]
        pieces.append((members, *torch.linalg.svd(weighted, full_matrices=False)))
    smallest = smallest_kept([singular for _, _, singular, _ in pieces], tolerance)
    windows = []
    for members, left, singular, right in pieces:
        rank = int((singular > smallest).sum())
        if rank == 0:
            continue
        coefficients = table.new_zeros(len(norms), rank)
        coefficients[active] = left[:, :rank] * norms[active, None]
        functions = singular[:rank, None] * right[:rank] / size[members]
        layer_of = torch.bucketize(members, starts, right=True) - 1
        parts = []
        for index in layer_of.unique().tolist():
            local = members[layer_of == index] - starts[index]
            width = spectrum.layers[index].eigenvalues.shape[1]
            parts.append((index, local // width, local % width))
        windows.append(_Window(tuple(parts), functions, coefficients))
    return windows


def smallest_kept(singular_values: Sequence[Tensor], tolerance: float) -> float:
    """Return the threshold at or below which singular values are dropped: as many as the tolerance permits.

    Every kept one costs the same product, so the smallest of all windows go first.
    """
    if not singular_values:
        return 0.0
    ascending = torch.cat([*singular_values, singular_values[0].new_zeros(1)]).sort().values
    count = int((ascending.square().cumsum(0) <= tolerance**2).sum())
    return float(ascending[count - 1]) if count else 0.0


def _transposed(rows: LayerRows, index: slice | Tensor) -> tuple[Tensor, ...]:
    """Return ãᵀ ``[r_in, b]`` (or ``[r_in, b, t]``) with δ̃ᵀ, or dense coordinates ``[r_out, r_in, b]``."""
    if isinstance(rows, FactoredRows):
        return tuple(part[index].movedim(-1, 0).contiguous() for part in (rows.inputs, rows.deltas))
    return (rows.matrices[index].movedim(0, -1).contiguous(),)


def _gathered(transposed: Sequence[tuple[Tensor, ...]], window: _Window) -> Tensor:
    """Return the window's coordinates of all rows, ``[c, b]``."""
    sample = transposed[0][0]  # [r_in, b], [r_in, b, t] or [r_out, r_in, b]
    rows = sample.shape[2] if len(transposed[0]) == 1 else sample.shape[1]
    result = sample.new_empty(window.functions.shape[1], rows)
    first = 0
    for layer, outputs, inputs in window.parts:
        columns = result[first : first + len(outputs)]
        first += len(outputs)
        if len(transposed[layer]) == 1:
            columns.copy_(transposed[layer][0][outputs, inputs])
            continue
        a, d = transposed[layer]
        if a.ndim == 2:
            torch.index_select(a, 0, inputs, out=columns).mul_(d[outputs])
            continue
        step = max(1, _NUMBERS // a[0].numel())  # coordinates whose positions fit
        for part in spans(len(outputs), step):
            torch.sum(a[inputs[part]] * d[outputs[part]], dim=2, out=columns[part])
    return result
