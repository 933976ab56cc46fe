"""Subset sums of scores at many dampings, from a Kronecker spectrum: λ compressed, coordinates made a run at a time.

``Σ_c s_jc φ_λ(σ_c) q_c`` over coordinates c (s: a subset's sum of training coordinates, q: a query's) is one product
of ``[S, r]`` with ``[r, m]`` for every λ. Sorted by eigenvalue, the table ``φ_λ(σ_c)`` of a window of neighbours has a
numerical rank K far below the number of λ (``kronecker.scores``), so K products do, whose
combinations give all λ. Derived here: each window is truncated on its own, relative to what it adds at each λ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tda_backend.blocks import spans
from tda_backend.numerics.spectral.kronecker.spectrum import KroneckerPart, KroneckerSpectrum

TOLERANCE = 1e-10
"""Relative error allowed to the compression: float32 coordinates are known a thousand times less well."""

_WINDOW = 1024
"""Coordinates per window: twice as many need a higher rank, half as many more small products (measured)."""

_NUMBERS = 2**25
"""Numbers of one run: its subset sums and query coordinates, 256 MiB in float64."""

_FEW = 4
"""So many λ are not worth compressing."""


def kronecker_subset_sums(
    spectrum: KroneckerSpectrum, masks: Tensor, regularizations: Sequence[float], tolerance: float = TOLERANCE
) -> Tensor:
    """Return Σ_{i∈A_j} score(z', z_i) for every λ, subset and query, ``[L, S, m]`` float64.

    Args:
        spectrum: Coordinates; their filter does not depend on the query.
        masks: ``[S, n]`` float64, one row per subset.
        regularizations: L values of λ.
        tolerance: Relative error allowed to the compression of λ, in the norm that both sides have where coordinates
            are uncorrelated over subsets and queries; 0 for none.

    Raises:
        NumericalError: λ is not allowed.
    """
    num_values, num_subsets, num_queries = len(regularizations), masks.shape[0], spectrum.num_queries
    result = masks.new_zeros(num_values, num_subsets * num_queries, dtype=torch.float64)
    for run in _runs(spectrum, num_subsets + num_queries):
        # Transposed, so that gathering a coordinate copies a run of memory.
        summed = run.sums(masks).T.contiguous()  # [r, S]
        query = run.rows("query").T.to(torch.float64, memory_format=torch.contiguous_format)  # [r, m]
        eigenvalues, order = run.eigenvalues.sort()
        table = torch.stack(list(spectrum.filter.table(eigenvalues, regularizations, spectrum.num_train)))
        for start in range(0, len(order), _WINDOW):
            window = slice(start, start + _WINDOW)
            s, q = summed[order[window]], query[order[window]]
            functions, coefficients = _compressed(table[:, window], s.norm(dim=1) * q.norm(dim=1), tolerance)
            weighted = (functions.T[:, :, None] * s[:, None, :]).flatten(1)  # [c, K·S]
            result.addmm_(coefficients, (weighted.T @ q).view(len(functions), -1))
    return result.view(num_values, num_subsets, num_queries)


def _runs(spectrum: KroneckerSpectrum, num_rows: int) -> Iterator[KroneckerPart]:
    """Yield the coordinates in runs of outputs of a layer, so large that ``num_rows`` rows of them fit."""
    for layer in spectrum.layers:
        num_outputs, num_inputs = layer.eigenvalues.shape
        step = max(1, _NUMBERS // max(1, num_rows * num_inputs))
        for outputs in spans(num_outputs, step):
            yield KroneckerPart(layer, outputs)


def _compressed(table: Tensor, sizes: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Return functions ``[K, c]`` and coefficients ``[L, K]`` whose product is a window's table ``[L, c]``.

    Coordinate c adds a rank-one matrix of norm ``w_c``, so the table is truncated in that weight, each λ relative to
    its own norm: ``Σ_c (ε_λ(c) w_c)² ≤ tolerance² Σ_c (φ_λ(σ_c) w_c)²``. Functions are taken from the λ that those
    before describe worst, and orthogonalised (a pivoted QR decomposition that stops when the worst is good enough):
    one or two more than the singular value decomposition needs, for a fraction of its time.
    """
    if len(table) <= _FEW or tolerance == 0:
        return table, torch.eye(len(table), dtype=table.dtype, device=table.device)
    used = sizes > 0  # the others add nothing at any λ
    weighted = table[:, used] * sizes[used]
    norms = weighted.norm(dim=1)
    active = norms > 0  # not at λ = 0 where all eigenvalues are 0
    rest = weighted[active] / norms[active, None]
    functions = table.new_zeros(min(rest.shape), table.shape[1])
    coefficients = table.new_zeros(len(table), len(functions))
    for rank in range(len(functions)):
        errors = rest.norm(dim=1)
        worst = int(errors.argmax())
        if errors[worst] <= tolerance:
            return functions[:rank], coefficients[:, :rank]
        function = rest[worst] / errors[worst]
        shares = rest @ function
        rest -= shares[:, None] * function
        functions[rank, used] = function / sizes[used]
        coefficients[active, rank] = shares * norms[active]
    return functions, coefficients
