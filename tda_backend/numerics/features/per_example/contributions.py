"""What one call adds to the per-example gradients of a parameter, in the form that takes least memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

SLAB_NUMBERS = 2**20
"""Numbers in one slab of gradients (4 MiB of float32): a slab is read again while it is in the cache."""


class Sink(Protocol):
    """What takes the gradients of a batch's examples with respect to some entries of a parameter."""

    @property
    def block(self) -> int:
        """Pieces are cut at multiples of so many entries of the parameter; 1 where they may be cut anywhere."""
        ...

    def add(self, first: int, values: Tensor) -> None:
        """Take entries first…first+c−1 of the flattened parameter, ``[b, c]``."""
        ...

    def add_rows(self, first: int, index: Tensor, values: Tensor) -> None:
        """Take rows of a table that starts at entry ``first``: row ``index[b, t]`` gets ``values[b, t, d]``."""
        ...


class Contribution(Protocol):
    """Gradients of b examples with respect to one parameter, or a part of it, as one call of it makes them."""

    def give(self, sink: Sink) -> None:
        """Give the gradients piece by piece."""
        ...

    def weighted_sum(self, weights: Tensor, size: int) -> tuple[Tensor, float]:
        """Return Σ_i w_i g_i over the whole parameter of ``size`` entries, and the size of what cancels in it."""
        ...


@dataclass(frozen=True)
class Outer:
    """``Σ_t δ_it ⊗ a_it``, as Linear layers and convolutions make it.

    Attributes:
        first: Entry of the flattened parameter where these begin.
        inputs: a, ``[b, G, t, d_in]``: channel groups of a convolution, G = 1 elsewhere.
        deltas: δ, ``[b, G, t, d_out]``; entry ((g·d_out) + o)·d_in + i is the product of output o and input i.
    """

    first: int
    inputs: Tensor
    deltas: Tensor

    @property
    def num_entries(self) -> int:
        return self.inputs.shape[1] * self.inputs.shape[3] * self.deltas.shape[3]

    def give(self, sink: Sink) -> None:
        """Give the outer products, some entries at a time."""
        # Where cuts are free they lie between rows; else at multiples of the parameter's entries, wherever the call's
        # own part of it begins.
        unit, shift = (self.inputs.shape[3], 0) if sink.block == 1 else (sink.block, self.first)
        step = max(unit, SLAB_NUMBERS // len(self.inputs) // unit * unit)
        for cut in range(shift // step * step - shift, self.num_entries, step):
            low, high = max(cut, 0), min(cut + step, self.num_entries)
            sink.add(self.first + low, self.slab(low, high))

    def slab(self, low: int, high: int) -> Tensor:
        """Return entries low…high−1 of the call's own, ``[b, high − low]``."""
        width, outputs = self.inputs.shape[3], self.deltas.shape[3]
        start, stop = low // width, -(-high // width)  # rows of the matrix that the range touches
        if self.inputs.shape[1] == 1:
            block = _products(self.deltas[..., start:stop], self.inputs)
            return block.flatten(1)[:, low - start * width : high - start * width]
        start, stop = start // outputs, -(-stop // outputs)  # whole groups
        block = _products(self.deltas[:, start:stop], self.inputs[:, start:stop])
        offset = start * outputs * width
        return block.flatten(1)[:, low - offset : high - offset]

    def weighted_sum(self, weights: Tensor, size: int) -> tuple[Tensor, float]:
        """Return Σ_i w_i Σ_t δ_it ⊗ a_it, and Σ_i w_i Σ_t ‖δ_it‖‖a_it‖."""
        a, d = self.inputs, self.deltas * weights.to(self.deltas).view(-1, 1, 1, 1)
        summed = d.transpose(0, 1).flatten(1, 2).transpose(1, 2) @ a.transpose(0, 1).flatten(1, 2)  # [G, d_out, d_in]
        total = a.new_zeros(size)
        total[self.first : self.first + self.num_entries] = summed.flatten()
        return total, float((d.norm(dim=3) * a.norm(dim=3)).sum())


def _products(deltas: Tensor, inputs: Tensor) -> Tensor:
    """Return ``Σ_t δ_t ⊗ a_t``, ``[b, G, d_out, d_in]``."""
    if inputs.shape[2] == 1:
        return deltas.transpose(2, 3) * inputs
    return deltas.transpose(2, 3) @ inputs


@dataclass(frozen=True)
class Dense:
    """Gradients written out, for parameters that are small or have no better form.

    Attributes:
        first: Entry of the flattened parameter where these begin.
        values: ``[b, c]``.
    """

    first: int
    values: Tensor

    def give(self, sink: Sink) -> None:
        """Give the entries at once."""
        sink.add(self.first, self.values)

    def weighted_sum(self, weights: Tensor, size: int) -> tuple[Tensor, float]:
        """Return Σ_i w_i g_i, and Σ_i w_i ‖g_i‖."""
        values = self.values * weights.to(self.values)[:, None]
        total = values.new_zeros(size)
        total[self.first : self.first + values.shape[1]] = values.sum(0)
        return total, float(values.norm(dim=1).sum())


@dataclass(frozen=True)
class Rows:
    """Gradients of the rows of a table that an example looks up; no other row has any.

    Attributes:
        first: Entry of the flattened parameter where the table begins.
        index: Rows of the table, ``[b, t]`` int64; a row may occur more than once.
        deltas: What is added to each row, ``[b, t, d]``.
    """

    first: int
    index: Tensor
    deltas: Tensor

    def give(self, sink: Sink) -> None:
        """Give the rows as they are."""
        sink.add_rows(self.first, self.index, self.deltas)

    def weighted_sum(self, weights: Tensor, size: int) -> tuple[Tensor, float]:
        """Return Σ_i w_i g_i, and Σ_i w_i Σ_t ‖δ_it‖."""
        width = self.deltas.shape[2]
        deltas = self.deltas * weights.to(self.deltas)[:, None, None]
        total = deltas.new_zeros(size)
        table = total[self.first : self.first + (size - self.first) // width * width].view(-1, width)
        table.index_add_(0, self.index.flatten(), deltas.flatten(0, 1))
        return total, float(deltas.norm(dim=2).sum())


def merged(contributions: Sequence[Contribution]) -> list[Contribution]:
    """Return the same with the outer products of several calls as one: a layer called twice has more positions."""
    alike: dict[tuple[int, ...], list[Outer]] = {}
    others: list[Contribution] = []
    for each in contributions:
        if isinstance(each, Outer):
            key = (each.first, each.inputs.shape[1], each.inputs.shape[3], each.deltas.shape[3])
            alike.setdefault(key, []).append(each)
        else:
            others.append(each)
    products: list[Contribution] = []
    for (first, *_), calls in alike.items():
        if len(calls) == 1:
            products += calls
        else:
            a, d = torch.cat([call.inputs for call in calls], 2), torch.cat([call.deltas for call in calls], 2)
            products.append(Outer(first, a, d))
    return [*products, *others]
