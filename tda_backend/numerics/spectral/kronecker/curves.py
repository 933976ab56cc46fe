"""One query's scores at many λ: in a tile of a layer, eigenvalues are neighbours, and the λ axis compresses.

Both sides of a Kronecker basis are sorted, so a tile of some outputs and some inputs has eigenvalues of few orders of
magnitude, and its table ``φ_λ(σ)`` a numerical rank K far below the L values of λ: K products instead of L. Nothing is
gathered: a tile's products use the factors as they lie. The tolerance is that of ``scores.py``, for the one query.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tda_backend.blocks import spans
from tda_backend.errors import UsageError
from tda_backend.numerics.spectral.kronecker.scores import TOLERANCE, smallest_kept
from tda_backend.numerics.spectral.kronecker.spectrum import KroneckerBlock, KroneckerSpectrum

TILE = (32, 128)
"""Outputs and inputs of a tile. Larger ones need a higher rank, smaller ones more passes over the result (measured)."""

_KEPT_NUMBERS = 2**24
"""Numbers of tables that are kept, 128 MiB in float64."""


def kronecker_curves(
    spectrum: KroneckerSpectrum, query: int, regularizations: Sequence[float], tolerance: float = TOLERANCE
) -> Tensor:
    """Return one query's scores on all training examples at L values of λ, ``[L, n]`` in the coordinates' dtype.

    Args:
        spectrum: Coordinates.
        query: Query position.
        regularizations: L values of λ (of d, with relative damping).
        tolerance: Relative error allowed to the compression of λ (see ``scores.py``); below some 1e-7 it is lost in
            float64, for the compression rests on squares.

    Raises:
        UsageError: A filter that depends on the query.
        NumericalError: λ is not allowed.
    """
    if spectrum.filter.depends_on_query:
        raise UsageError(f"The filter {spectrum.filter.name} depends on the query.", "Use one_query.score_curves.")
    strips = list(_strips(spectrum, query))
    # All tables together are L times the coordinates: only where these are few they are kept for the second pass.
    keeps = len(regularizations) * sum(strip.row.numel() for strip in strips) <= _KEPT_NUMBERS
    tables: dict[int, Tensor] = {}
    products = []  # of the tables' rows, [L, L] a tile
    for number, strip in enumerate(strips):
        table = strip.table(spectrum, regularizations)
        tables |= {number: table} if keeps else {}
        products += [part @ part.T for part in _tiles(table * strip.size)]
    norms = torch.stack([each.diagonal() for each in products]).sum(0).sqrt()
    norms = norms.where(norms > 0, 1.0)[:, None]
    bases = [torch.linalg.eigh(each / norms / norms.T) for each in products]
    singular = [squares.clamp(min=0).sqrt() for squares, _ in bases]
    smallest = smallest_kept(singular, tolerance)
    kept = iter([basis[:, values > smallest] for values, (_, basis) in zip(singular, bases, strict=True)])
    result = torch.zeros(len(regularizations), spectrum.num_train, dtype=spectrum.dtype, device=spectrum.device)
    for number, strip in enumerate(strips):
        table = (tables[number] if keeps else strip.table(spectrum, regularizations)) * strip.row
        for inputs, part, basis in zip(spans(table.shape[2], TILE[1]), _tiles(table), kept, strict=False):
            if basis.shape[1]:
                vectors = ((basis / norms).T @ part).to(spectrum.dtype)
                found = strip.layer.train.products(vectors, strip.outputs, inputs)
                result.addmm_((basis * norms).to(spectrum.dtype), found)
    return result


@dataclass(frozen=True)
class _Strip:
    """Some outputs of a layer with all of its inputs: a row of tiles.

    Attributes:
        layer: Which.
        outputs: Of it.
        row: The query's coordinates there, ``[o, r_in]`` float64.
        size: What an error in a coordinate counts: the query's magnitude times the norm over training examples.
    """

    layer: KroneckerBlock
    outputs: slice
    row: Tensor
    size: Tensor

    def table(self, spectrum: KroneckerSpectrum, regularizations: Sequence[float]) -> Tensor:
        """Return φ ``[L, o, r_in]`` float64."""
        sigma = self.layer.eigenvalues[self.outputs].flatten()
        table = [spectrum.filter.weights(sigma, value, spectrum.num_train) for value in regularizations]
        return torch.stack(table).view(-1, *self.row.shape)


def _strips(spectrum: KroneckerSpectrum, query: int) -> Iterator[_Strip]:
    for layer in spectrum.layers:
        shape = layer.eigenvalues.shape
        row = layer.query.values(index=[query]).to(torch.float64).view(shape)
        for outputs in spans(shape[0], TILE[0]):
            own = row[outputs]
            yield _Strip(layer, outputs, own, own.abs() * layer.train_sizes[outputs])


def _tiles(table: Tensor) -> Iterator[Tensor]:
    """Yield ``[L, c]`` of each tile of a strip, of ``[L, o, r_in]``."""
    for inputs in spans(table.shape[2], TILE[1]):
        yield table[:, :, inputs].flatten(1)
