"""What a browser needs to score some training examples of one query at any λ by itself, and the same scores in Python.

The browser knows most filters as a function of its own (a twin of the engine's). A filter without one travels as a
table of its weights at some λ, between which both sides interpolate linearly in log λ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tda_backend.errors import NumericalError
from tda_backend.numerics.spectral.contraction import ScoreMatrix, Source, admissible, num_train
from tda_backend.numerics.spectral.filters.base import Filter
from tda_backend.numerics.spectral.filters.identity import Identity
from tda_backend.numerics.spectral.one_query import filtered_products

NO_FILTER = Identity.NAME
NO_CUTOFF = 0
"""Spectra hold no coordinate at or below the pseudo-inverse's cutoff, so at λ = 0 each one counts."""


@dataclass(frozen=True)
class WeightTable:
    """φ of every coordinate at some λ, for a filter that a browser has no formula of.

    Attributes:
        regularizations: ``[L]`` float64, ascending; λ = 0 may be the first.
        weights: ``[L, R]`` float32; rows of NaN where the method has no scores.
    """

    regularizations: np.ndarray
    weights: np.ndarray

    def at(self, regularization: float) -> np.ndarray:
        """Return the weights at one λ, ``[R]`` float32: linear in log λ between the two nearest of the table.

        Raises:
            NumericalError: λ lies outside the table, or the method has no scores at one of the two.
        """
        grid = self.regularizations
        place = int(np.searchsorted(grid, regularization))
        if place < len(grid) and grid[place] == regularization:
            found = self.weights[place]
        elif place in (0, len(grid)) or grid[place - 1] <= 0:
            raise NumericalError(
                f"λ = {regularization:g} lies outside the computed ones.",
                f"Computed are {grid[grid > 0].min():g} to {grid.max():g}.",
            )
        else:
            share = math.log(regularization / grid[place - 1]) / math.log(grid[place] / grid[place - 1])
            found = self.weights[place - 1] + np.float32(share) * (self.weights[place] - self.weights[place - 1])
        if np.isnan(found).any():
            raise NumericalError(
                f"The method has no scores at λ = {regularization:g}.", "Choose a λ farther from where it diverges."
            )
        return found


@dataclass(frozen=True)
class Payload:
    """One query's factors: ``score_i(λ) = Σ_r products[i, r]·φ(eigenvalues[r]; λ)``.

    Attributes:
        query: Position of the query.
        num_train: n.
        positions: c training positions.
        eigenvalues: ``[R]`` float32, training seeds one after the other.
        products: ``[c, R]`` float32, divided by the number of seeds.
        filters: φ of each training seed; none for a score matrix, whose weights are 1.
        parts: How many coordinates each seed has, for filters that depend on the query; else empty.
        coordinates: ``[R]`` float64, those of the query, for the same filters; else empty.
        outside: Squared norm of the query outside each seed's basis, likewise.
        table: Weights of a filter without a twin in the browser; else ``None``.
    """

    query: int
    num_train: int
    positions: list[int]
    eigenvalues: np.ndarray
    products: np.ndarray
    filters: tuple[Filter, ...] = ()
    parts: tuple[int, ...] = ()
    coordinates: np.ndarray | None = None
    outside: tuple[float, ...] = ()
    table: WeightTable | None = None

    @property
    def filter_name(self) -> str:
        """Which twin the browser takes."""
        return self.filters[0].name if self.filters else NO_FILTER

    @property
    def parameters(self) -> dict[str, Any]:
        """The filter's hyper-parameters for the browser's twin; a flag counts where any seed has it."""
        found: dict[str, Any] = {}
        for each in self.filters:
            for name, value in each.parameters().items():
                found[name] = max(found.get(name, value), value)
        return found

    def weights(self, regularization: float) -> np.ndarray:
        """Return φ of every coordinate at one λ, ``[R]`` float32, as the browser computes it.

        Raises:
            NumericalError: The filter has no value at this λ (the method diverges, or the curvature is singular).
        """
        sigma = torch.from_numpy(np.asarray(self.eigenvalues)).double()
        if self.table is not None:
            return self.table.at(regularization)
        if not self.filters:
            return np.ones(len(sigma), dtype=np.float32)
        if self.filters[0].depends_on_query:
            found = torch.cat([phi[0] for phi in self._by_seed(sigma, regularization)])
        else:
            # Seeds differ at most in what they refuse: each is asked, the weights are those of any.
            every = [each.weights(sigma, regularization, NO_CUTOFF) for each in dict.fromkeys(self.filters)]
            found = every[0]
        return found.numpy().astype(np.float32)

    def _by_seed(self, sigma: Tensor, regularization: float) -> list[Tensor]:
        """Return φ of each training seed's coordinates, ``[1, r]`` each."""
        vectors = torch.from_numpy(np.asarray(self.coordinates, dtype=np.float64))
        pieces = zip(self.filters, sigma.split(self.parts), vectors.split(self.parts), self.outside, strict=True)
        return [
            each.weights(values, regularization, NO_CUTOFF, vector[None], torch.tensor([outside], dtype=torch.float64))
            for each, values, vector, outside in pieces
        ]


def payload_of(
    source: Source,
    query: int,
    positions: Sequence[int] | np.ndarray,
    regularizations: Sequence[float] | None = None,
) -> Payload:
    """Return the explorer's payload of one query.

    Args:
        source: Of the configuration.
        query: Position of the query.
        positions: c training positions.
        regularizations: λ of the table that a filter without a twin in the browser needs, ascending.
    """
    values, products = filtered_products(source, query, positions)
    payload = Payload(
        query,
        num_train(source),
        [int(value) for value in positions],
        values.numpy().astype(np.float32),
        np.ascontiguousarray(products.numpy(), dtype=np.float32),
    )
    if isinstance(source, ScoreMatrix):
        return payload
    return _with_filter(payload, source, regularizations)


def _with_filter(payload: Payload, source: Source, regularizations: Sequence[float] | None) -> Payload:
    """Return the payload with the filter and what it needs of the query."""
    assert not isinstance(source, ScoreMatrix)
    filters = tuple(part.filter for part in source)
    parts: tuple[int, ...] = ()
    coordinates: np.ndarray | None = None
    outside: tuple[float, ...] = ()
    if filters[0].depends_on_query:
        rows = [[part.rows("query", [payload.query])[0].double() for part in each.parts()] for each in source]
        parts = tuple(sum(len(row) for row in part) for part in rows)
        coordinates = np.concatenate([row.numpy() for part in rows for row in part])
        outside = tuple(0.0 if p.query_outside is None else float(p.query_outside[payload.query]) for p in source)
    complete = replace(payload, filters=filters, parts=parts, coordinates=coordinates, outside=outside)
    if filters[0].has_twin:
        return complete
    return replace(complete, table=_table(complete, source, regularizations or ()))


def _table(payload: Payload, source: Source, regularizations: Sequence[float]) -> WeightTable:
    """Return φ at every λ of a grid; NaN where the source has no scores of the query."""
    allowed = set(admissible(source, regularizations, [payload.query]))
    rows = [
        payload.weights(value) if value in allowed else np.full(len(payload.eigenvalues), np.nan, dtype=np.float32)
        for value in regularizations
    ]
    return WeightTable(np.asarray(regularizations, dtype=np.float64), np.stack(rows))


def payload_scores(payload: Payload, regularization: float) -> np.ndarray:
    """Return the candidates' scores at one λ ≥ 0, ``[c]`` float32, as a browser computes them; positive helps.

    Raises:
        NumericalError: The method's filter has no value at this λ.
    """
    return payload.products @ payload.weights(regularization)
