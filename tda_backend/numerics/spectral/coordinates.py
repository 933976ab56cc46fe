"""Spectral coordinates: what is stored of one (checkpoint, method, projection), from which every λ is a filter.

Contraction works on *parts*: runs of coordinates that belong to one block (layer). A dense :class:`Spectrum` holds
its coordinates as matrices; other classes (Kronecker factors) make them on demand and plug in by the same interface.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self, TypeAlias

import torch
from torch import Tensor

from tda_backend.blocks import spans
from tda_backend.models.probe import Group
from tda_backend.numerics.spectral.filters.base import Filter
from tda_backend.numerics.spectral.filters.damped import DampedInverse
from tda_backend.numerics.spectral.leading import LeftOut

Rows: TypeAlias = slice | Tensor | Sequence[int] | None

_ROWS = 1024


@dataclass(frozen=True)
class Block:
    """A run of coordinates of one layer.

    Attributes:
        name: Layer, or empty where coordinates mix all layers.
        size: Number of coordinates.
        scale: s; the block stores σ/s and coordinates/√s, so that the plain filter with a relative damping d equals
            the absolute λ = d·s (METHODS §0). 1 for absolute damping.
    """

    name: str
    size: int
    scale: float = 1.0


class Part(Protocol):
    """Coordinates of one block, or of a part of it.

    Attributes:
        block: Name of the block.
        eigenvalues: ``[r]`` float64 ≥ 0.
    """

    @property
    def block(self) -> str: ...

    @property
    def eigenvalues(self) -> Tensor: ...

    def rows(self, group: Group, index: Rows = None) -> Tensor:
        """Return the coordinates of some (or all) examples of a group, ``[b, r]``."""
        ...

    def products(self, vectors: Tensor) -> Tensor:
        """Return ``vectors · trainᵀ`` for vectors ``[q, r]`` in the coordinates' dtype, ``[q, n]``."""
        ...

    def sums(self, masks: Tensor) -> Tensor:
        """Return ``masks · train`` for masks ``[S, n]`` float64, ``[S, r]`` float64."""
        ...


class Coordinates(Protocol):
    """What contraction, ξ and pages need of spectral coordinates."""

    @property
    def eigenvalues(self) -> Tensor: ...

    @property
    def train_weights(self) -> Tensor | None: ...

    @property
    def filter(self) -> Filter: ...

    @property
    def blocks(self) -> tuple[Block, ...]: ...

    @property
    def num_cut(self) -> int: ...

    @property
    def num_train(self) -> int: ...

    @property
    def num_queries(self) -> int: ...

    @property
    def num_validation(self) -> int: ...

    @property
    def query_outside(self) -> Tensor | None: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def to(self, device: torch.device | str) -> Self: ...

    def parts(self) -> Sequence[Part]: ...


@dataclass(frozen=True)
class Spectrum:
    """Dense spectral coordinates of one (checkpoint, method, projection): every λ is a filter on them.

    ``scores = query · diag(φ(σ; λ)) · trainᵀ ⊙ train_weights`` with the sign already inside ``train``: for influence
    functions ``train`` holds the coordinates of **−∇ℓ** (the direction in which an example pushes the parameters),
    ``query`` those of the gradient of goodness, so that positive helps. TRAK's ``train`` holds ∇goodness and
    ``train_weights`` Q_i = 1 − p_i.

    Attributes:
        eigenvalues: ``[r]`` float64 ≥ 0, descending within each block, of the mean Gram (with 1/n); none at or below
            its block's cutoff n·ε·σ_max.
        train: ``[n, r]`` float32.
        query: ``[m, r]`` float32.
        validation: ``[v, r]`` float32 (for ξ).
        train_weights: ``[n]`` float32 or ``None`` (ones).
        num_cut: Number of eigenvalues ≤ n·ε·σ_max, which the pseudo-inverse at λ = 0 leaves out.
        filter: φ; the damped inverse unless the method says otherwise.
        query_outside: ``[m]`` float64 squared norm of each φ' outside the basis, or ``None`` where the basis is
            complete or the filter does not ask.
        blocks: The coordinates' blocks in order; empty for one block that mixes all layers.
        left_out: What a truncated spectrum lacks; ``None``: nothing.
    """

    eigenvalues: Tensor
    train: Tensor
    query: Tensor
    validation: Tensor
    train_weights: Tensor | None
    num_cut: int
    filter: Filter = field(default_factory=DampedInverse)
    query_outside: Tensor | None = None
    blocks: tuple[Block, ...] = ()
    left_out: LeftOut | None = None

    @property
    def num_train(self) -> int:
        return self.train.shape[0]

    @property
    def num_queries(self) -> int:
        return self.query.shape[0]

    @property
    def num_validation(self) -> int:
        return self.validation.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.train.dtype

    @property
    def device(self) -> torch.device:
        return self.train.device

    def to(self, device: torch.device | str) -> Spectrum:
        """Return the same coordinates on a device."""
        names = ("eigenvalues", "train", "query", "validation", "train_weights", "query_outside")
        given = {name: getattr(self, name) for name in names}
        return replace(self, **{name: None if each is None else each.to(device) for name, each in given.items()})

    def parts(self) -> Sequence[Part]:
        """Return one part per block."""
        parts, start = [], 0
        for block in self.blocks or (Block("", self.eigenvalues.numel()),):
            columns = slice(start, start + block.size)
            whole = block.size == self.eigenvalues.numel()
            parts.append(
                DenseSegment(
                    block.name,
                    self.eigenvalues[columns].to(torch.float64),
                    *(part if whole else part[:, columns] for part in (self.train, self.query, self.validation)),
                )
            )
            start += block.size
        return parts


def squares_outside(squares: Tensor, coordinates: Tensor) -> Tensor:
    """Return ``‖φ'‖² − ‖φ'V‖²`` of each query, ``[m]`` float64; 0 where it is no more than rounding.

    A complete basis leaves a difference of some ε·‖φ'‖² of either sign. Taken for a component outside, it makes
    λ = 0 singular for conjugate gradients.

    Args:
        squares: ``[m]`` ‖φ'‖².
        coordinates: ``[m, r]`` φ'V in the dtype whose rounding they have.
    """
    outside = squares.to(torch.float64) - coordinates.to(torch.float64).square().sum(1)
    return torch.where(outside > 4 * torch.finfo(coordinates.dtype).eps * squares, outside, 0.0)


@dataclass(frozen=True)
class DenseSegment:
    """Columns of a dense spectrum."""

    block: str
    eigenvalues: Tensor
    train: Tensor
    query: Tensor
    validation: Tensor

    def rows(self, group: Group, index: Rows = None) -> Tensor:
        """Return the coordinates of some (or all) examples of a group, ``[b, r]``."""
        values: Tensor = getattr(self, group)
        return values if index is None else values[index]

    def products(self, vectors: Tensor) -> Tensor:
        """Return ``vectors · trainᵀ``, ``[q, n]``."""
        # One vector: a matrix-vector product over contiguous rows is bound by memory bandwidth alone.
        return torch.mv(self.train, vectors[0])[None] if len(vectors) == 1 else vectors @ self.train.T

    def sums(self, masks: Tensor) -> Tensor:
        """Return ``masks · train`` in float64, ``[S, r]``."""
        result = masks.new_zeros(masks.shape[0], self.train.shape[1], dtype=torch.float64)
        for rows in spans(self.train.shape[0], _ROWS):
            result.addmm_(masks[:, rows], self.train[rows].to(torch.float64))
        return result
