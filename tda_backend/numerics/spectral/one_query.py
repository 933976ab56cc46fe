"""One query at many λ: score curves, the training examples that can matter, and what a browser needs of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tda_backend.errors import UsageError
from tda_backend.numerics.spectral.condense import MAX_COORDINATES, Condenser
from tda_backend.numerics.spectral.contraction import (
    ScoreMatrix,
    Source,
    check_queries,
    device_of,
    mean_weights,
    needed,
    num_train,
    refuse_non_finite,
    spectra_of,
)
from tda_backend.numerics.spectral.coordinates import Coordinates
from tda_backend.numerics.spectral.kronecker.curves import kronecker_curves
from tda_backend.numerics.spectral.kronecker.spectrum import KroneckerSpectrum


def filtered_products(source: Source, query: int, positions: Sequence[int] | np.ndarray) -> tuple[Tensor, Tensor]:
    """Return what a browser needs to score some training examples at any λ: ``score_i(λ) = Σ_r B_ir·φ(σ_r; λ)``.

    Seeds are concatenated along r and already divided by their number; TRAK's weights are multiplied in. A score
    matrix gives one coordinate σ = 0 whose filter is the identity. Spectra hold no coordinate at or below the
    pseudo-inverse's cutoff, so at λ = 0 the filter is simply 1/σ.

    Returns:
        Eigenvalues ``[R]`` float64 and B ``[c, R]`` float32.

    Raises:
        UsageError: A query or position is out of range.
    """
    check_queries(source, [query])
    chosen = torch.as_tensor(np.asarray(positions, dtype=np.int64))
    if chosen.numel() and (int(chosen.min()) < 0 or int(chosen.max()) >= num_train(source)):
        raise UsageError(f"A training position is outside 0…{num_train(source) - 1}.", "Give positions, not indices.")
    if isinstance(source, ScoreMatrix):
        return source.values.new_zeros(1, dtype=torch.float64), source.values[query, chosen].to(torch.float32)[:, None]
    spectra = spectra_of(source)
    weights = mean_weights(spectra)
    parts = [_products_of(spectrum, query, chosen) for spectrum in spectra]
    products = torch.cat([values for _, values in parts], dim=1) / len(spectra)
    if weights is not None:
        products *= weights[chosen, None]
    return torch.cat([eigenvalues for eigenvalues, _ in parts]), products.to(torch.float32)


def _products_of(spectrum: Coordinates, query: int, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues ``[R]`` and products ``[c, R]`` float64 of one spectrum; condensed where there are many."""
    sigma = spectrum.eigenvalues.to(torch.float64)
    if sigma.numel() <= MAX_COORDINATES or spectrum.filter.depends_on_query:
        products = [s.rows("train", chosen).double() * s.rows("query", [query]).double() for s in spectrum.parts()]
        return torch.cat([part.eigenvalues for part in spectrum.parts()]), torch.cat(products, dim=1)
    condenser = Condenser(float(sigma[sigma > 0].min()), float(sigma.max()), device=sigma.device)
    total = sigma.new_zeros(len(chosen), condenser.eigenvalues.numel())
    null = sigma.new_zeros(len(chosen), 1)  # σ = 0: weight 1/λ, and none at λ = 0
    for part in spectrum.parts():
        kept = part.eigenvalues > 0
        row = part.rows("query", [query])
        largest = row.abs().max().clamp(min=torch.finfo(row.dtype).tiny)
        products = part.rows("train", chosen) * (row / largest)  # in their own precision: no product is below its range
        found = torch.zeros_like(total, dtype=products.dtype)
        condenser.add(found, part.eigenvalues[kept], products[:, kept])
        total += found.double() * largest
        null += products[:, ~kept].double().sum(1, keepdim=True) * largest
    return torch.cat([condenser.eigenvalues, sigma.new_zeros(1)]), torch.cat([total, null], dim=1)


def candidates(
    source: Source,
    query: int,
    regularizations: Sequence[float] | None,
    num: int,
    allowed: np.ndarray | Tensor | None = None,
) -> np.ndarray:
    """Return the training positions that enter the top or the bottom ``num`` at some λ of the grid.

    Args:
        source: One spectrum per training seed, or a score matrix.
        query: Query index.
        regularizations: The λ grid; ignored for a score matrix.
        num: How many at either end.
        allowed: ``[n]`` bool, which training examples may take part (filters of the explorer); ``None`` for all.

    Returns:
        Sorted int64 positions.
    """
    check_queries(source, [query])
    total = num_train(source)
    device = device_of(source)
    pool = torch.arange(total) if allowed is None else torch.as_tensor(allowed).to(torch.bool).nonzero()[:, 0]
    pool = pool.to(device)
    count = min(num, pool.numel())
    if count <= 0:
        return np.empty(0, dtype=np.int64)
    values = score_curves(source, query, regularizations)[:, pool]
    chosen = torch.cat([values.topk(count, largest=side).indices.flatten() for side in (True, False)])
    return pool[chosen.unique()].sort().values.cpu().numpy()


def score_curves(source: Source, query: int, regularizations: Sequence[float] | None) -> Tensor:
    """Return one query's scores at every λ, ``[L, n]`` in the coordinates' dtype; L = 1 for a score matrix.

    Raises:
        UsageError: The query is out of range, or λ is missing.
        NumericalError: λ is not allowed, or a score is not finite (naming λ).
    """
    check_queries(source, [query])
    if isinstance(source, ScoreMatrix):
        values, names = source.values[query][None], [None]
    else:
        values = _score_curves(spectra_of(source), query, needed(regularizations))
        names = list(needed(regularizations))
    refuse_non_finite(values, names)
    return values


def _score_curves(spectra: Sequence[Coordinates], query: int, regularizations: Sequence[float]) -> Tensor:
    """Return one query's scores at every λ, ``[L, n]``."""
    each = [_curves_of(spectrum, query, regularizations) for spectrum in spectra]
    total = sum(each[1:], each[0]) / len(spectra)
    weights = mean_weights(spectra)
    return total if weights is None else total * weights.to(total.dtype)


def _curves_of(spectrum: Coordinates, query: int, regularizations: Sequence[float]) -> Tensor:
    """Return one query's scores on one spectrum at every λ, ``[L, n]``; compressed along λ in a Kronecker basis."""
    if isinstance(spectrum, KroneckerSpectrum) and not spectrum.filter.depends_on_query:
        return kronecker_curves(spectrum, query, regularizations)
    total: Tensor | None = None
    for part in spectrum.parts():
        row = part.rows("query", [query]).to(torch.float64)
        outside = None if spectrum.query_outside is None else spectrum.query_outside[[query]]
        table = spectrum.filter.table(part.eigenvalues, regularizations, spectrum.num_train, row, outside)
        weights = torch.cat([phi.reshape(1, -1) for phi in table])
        added = part.products((row * weights).to(spectrum.dtype))
        total = added if total is None else total.add_(added)
    assert total is not None
    return total
