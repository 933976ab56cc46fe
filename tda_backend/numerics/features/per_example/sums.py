"""Random projections of a batch's gradients, summed piece by piece; no gradient is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tda_backend.numerics.features.per_example.contributions import Sink
from tda_backend.numerics.features.projection import Projection, random_rows
from tda_backend.numerics.features.structured import PARAMETER_ROWS, num_buckets, signed_buckets, turned_buckets


class Sums(Protocol):
    """The projections of b vectors in the making."""

    def of(self, name: str) -> Sink:
        """Return what takes the gradients with respect to one parameter."""
        ...

    def features(self) -> Tensor:
        """Return P g of all vectors, ``[b, k_max]``."""
        ...


def summing(
    projection: Projection, sizes: dict[str, int], dtype: torch.dtype, device: torch.device | str
) -> Callable[[int], Sums]:
    """Return a function from b to the empty sums of b vectors; what it draws once is kept between calls.

    Args:
        projection: Of kind ``sparse``, ``rademacher`` or ``gaussian-dense``.
        sizes: Parameter → entries.
        dtype: Of the gradients.
        device: Where they lie.
    """
    if projection.kind == "sparse":
        buckets = Buckets(projection, sizes, torch.device(device))
        return lambda size: SparseSums(buckets, size, dtype)
    return lambda size: ProductSums(
        projection, sizes, torch.zeros(size, projection.max_dim, dtype=dtype, device=device)
    )


class Buckets:
    """Where ``sparse`` sends each parameter; drawn once and kept in two or four bytes a parameter.

    Args:
        projection: Of kind ``sparse``.
        sizes: Parameter → entries.
        device: Where the gradients lie.
    """

    def __init__(self, projection: Projection, sizes: dict[str, int], device: torch.device) -> None:
        self.max_dim, self.device = projection.max_dim, device
        self._seed, self._sizes = projection.seed, sizes
        self._kept: dict[str, Tensor] = {}

    def of(self, name: str) -> Tensor:
        """Return the buckets of a parameter's entries, plus D where the sign is negative, ``[numel]``."""
        if name not in self._kept:
            size = self._sizes[name]
            narrow = torch.int16 if 2 * num_buckets(self.max_dim) <= 2**15 else torch.int32
            drawn = torch.empty(size, dtype=narrow)
            for block, start in enumerate(range(0, size, PARAMETER_ROWS)):
                part = drawn[start : start + PARAMETER_ROWS]
                part.copy_(signed_buckets(self.max_dim, self._seed, name, block, len(part)))
            self._kept[name] = drawn.to(self.device)
        return self._kept[name]


class SparseSums:
    """``sparse`` projections: every entry is added to its bucket.

    Args:
        buckets: Where entries go.
        size: b.
        dtype: Of the gradients.
    """

    def __init__(self, buckets: Buckets, size: int, dtype: torch.dtype) -> None:
        self._buckets = buckets
        # One example's buckets are a few KiB, which stay in the first cache while its gradient passes by once.
        self._sums = torch.zeros(size, 2 * num_buckets(buckets.max_dim), dtype=dtype, device=buckets.device)

    def of(self, name: str) -> Sink:
        """Return what takes the gradients with respect to one parameter."""
        return _SparseSink(self._sums, self._buckets.of(name))

    def features(self) -> Tensor:
        """Return P g of all vectors, ``[b, k_max]``."""
        dim = self._sums.shape[1] // 2
        return turned_buckets((self._sums[:, :dim] - self._sums[:, dim:]).T, self._buckets.max_dim)


@dataclass(frozen=True)
class _SparseSink:
    sums: Tensor
    buckets: Tensor
    block: int = 1

    def add(self, first: int, values: Tensor) -> None:
        self.sums.index_add_(1, self.buckets[first : first + values.shape[1]].long(), values)

    def add_rows(self, first: int, index: Tensor, values: Tensor) -> None:
        width = values.shape[2]
        table = self.buckets[first : first + (len(self.buckets) - first) // width * width].view(-1, width)
        self.sums.scatter_add_(1, table[index].flatten(1).long(), values.flatten(1))


class ProductSums:
    """``rademacher`` and ``gaussian-dense`` projections: products with blocks that are drawn again for each batch.

    Args:
        projection: Of a kind with independent entries.
        sizes: Parameter → entries.
        result: Zeros, ``[b, k_max]``.
    """

    def __init__(self, projection: Projection, sizes: dict[str, int], result: Tensor) -> None:
        self._projection, self._sizes, self._result = projection, sizes, result

    def of(self, name: str) -> Sink:
        """Return what takes the gradients with respect to one parameter."""
        return _ProductSink(self._projection, name, self._sizes[name], self._result, PARAMETER_ROWS)

    def features(self) -> Tensor:
        """Return P g of all vectors, ``[b, k_max]``."""
        return self._result.div(self._projection.max_dim**0.5)


@dataclass(frozen=True)
class _ProductSink:
    projection: Projection
    name: str
    size: int
    result: Tensor
    block: int

    def add(self, first: int, values: Tensor) -> None:
        last = first + values.shape[1]
        for index in range(first // self.block, -(-last // self.block)):
            low, high = max(first, index * self.block), min(last, (index + 1) * self.block)
            self._add_block(index, low, values[:, low - first : high - first])

    def _add_block(self, index: int, low: int, values: Tensor) -> None:
        start = index * self.block
        matrix = random_rows(self.projection, self.name, index, min(self.block, self.size - start))
        rows = matrix[low - start : low - start + values.shape[1]]
        self.result.addmm_(values, rows.to(self.result))

    def add_rows(self, first: int, index: Tensor, values: Tensor) -> None:
        num, width = len(values), values.shape[2]
        rows, order = index.flatten().sort()
        examples, values = order // index.shape[1], values.flatten(0, 1)[order]
        begins = first + rows.unique().cpu() * width
        ends = begins + width - 1
        # Blocks that no example's rows touch are not drawn; a row may reach over several.
        longest = int((ends // self.block - begins // self.block).max()) + 1
        touched = torch.cat([(begins // self.block + i).minimum(ends // self.block) for i in range(longest)]).unique()
        for block in touched.tolist():
            low, high = max(block * self.block, first), min((block + 1) * self.block, self.size)
            top, bottom = (low - first) // width, -(-(high - first) // width)
            bounds = torch.searchsorted(rows, torch.tensor([top, bottom], device=rows.device)).tolist()
            used = slice(*bounds)
            slab = values.new_zeros(num, bottom - top, width)
            slab.index_put_((examples[used], rows[used] - top), values[used], accumulate=True)
            offset = low - first - top * width
            self._add_block(block, low, slab.flatten(1)[:, offset : offset + high - low])
