"""Gradients of one layer in a Kronecker basis, kept as rank-one factors or dense, whichever is smaller.

Row i is the matrix ``G_i = Σ_t δ̃_it ã_itᵀ``, ``[r_out, r_in]``; flattened, output index major, it is a run of
coordinates. Products and sums over rows use the factors without making the coordinates where that is cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from tda_backend.blocks import spans
from tda_backend.numerics.spectral.coordinates import Rows

_NUMBERS = 2**24
"""Numbers in one block of temporary products (64 MiB in float32)."""

_IN_CACHE = 2**18
"""Numbers in one block of temporary products on the CPU, which reads them again at once (measured: twice as fast)."""

_LEAST_ROWS = 256
"""Rows of such a block, whatever the cache: matrix products of fewer are slow."""

_SHORT = 256
"""Rows whose products are added in their own precision: the error is of that of one row (measured: 2e-7)."""


@dataclass(frozen=True)
class FactoredRows:
    """N gradients as factors.

    Attributes:
        inputs: ã, ``[N, r_in]`` or, with several positions, ``[N, t, r_in]``.
        deltas: δ̃, ``[N, r_out]`` or ``[N, t, r_out]``.
    """

    inputs: Tensor
    deltas: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, r_out, r_in)."""
        return self.inputs.shape[0], self.deltas.shape[-1], self.inputs.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        return self.inputs.dtype

    @property
    def num_numbers(self) -> int:
        return self.inputs.numel() + self.deltas.numel()

    def values(self, outputs: slice = slice(None), index: Rows = None, inputs: slice = slice(None)) -> Tensor:
        """Return coordinates of some outputs and inputs for some (or all) rows, ``[b, o·j]``."""
        a, d = self.inputs[..., inputs], self.deltas[..., outputs]
        if index is not None:
            a, d = a[index], d[index]
        if a.ndim == 2:
            return (d[:, :, None] * a[:, None, :]).flatten(1)
        return (d.transpose(1, 2) @ a).flatten(1)

    def products(self, vectors: Tensor, outputs: slice = slice(None), inputs: slice = slice(None)) -> Tensor:
        """Return the inner product of every vector ``[q, o·j]`` with every row, ``[q, N]``."""
        a = self.inputs[..., inputs]
        num_vectors, num, width = vectors.shape[0], self.shape[0], a.shape[-1]
        if a.ndim == 3 or num_vectors >= width:
            return _products(self, vectors, outputs, inputs)
        # Σ_o δ̃_io Σ_j ã_ij v_oj: as many operations as with the coordinates themselves, but nothing of size r is made.
        d = self.deltas[:, outputs].T.contiguous()  # [o, N]
        left = vectors.reshape(-1, width)  # [q·o, j]
        result = vectors.new_empty(num_vectors, num)
        for rows in spans(num, _rows_at_once(left)):
            inner = (left @ a[rows].T).view(num_vectors, d.shape[0], -1)
            torch.sum(inner.mul_(d[:, rows]), dim=1, out=result[:, rows])
        return result

    def sums(self, masks: Tensor, outputs: slice = slice(None)) -> Tensor:
        """Return ``masks · coordinates`` for masks ``[S, N]`` float64, ``[S, o·r_in]`` float64.

        Masks of zeros and ones are summed over the rows that they take, or from the sum over all rows without those
        they leave, whichever are fewer: leaving one row out costs one row. Products of float32 rows are float32 over
        a few hundred rows at a time, and these are added in float64.
        """
        if self.inputs.ndim == 3 or masks.shape[0] >= self.shape[2]:
            return _sums(self, masks, outputs)
        a, d = self.inputs, self.deltas[:, outputs]
        if not bool(((masks == 0) | (masks == 1)).all()):
            a, d = a.to(torch.float64), d.to(torch.float64)
            return torch.stack([(d * mask[:, None]).T @ a for mask in masks]).flatten(1)
        taken = [mask.nonzero()[:, 0] for mask in masks]
        many = [2 * len(rows) > self.shape[0] for rows in taken]
        total = _sum_of_products(d, a) if any(many) else None
        result = masks.new_empty(masks.shape[0], d.shape[1], a.shape[1])
        for index, (mask, rows) in enumerate(zip(masks, taken, strict=True)):
            if total is None or not many[index]:
                result[index] = _sum_of_products(d[rows], a[rows])
            else:
                left = (mask == 0).nonzero()[:, 0]
                torch.sub(total, _sum_of_products(d[left], a[left]), out=result[index])
        return result.flatten(1)

    def select(self, outputs: Tensor, inputs: Tensor) -> FactoredRows:
        """Return the rows with some of their outputs and inputs only."""
        return FactoredRows(self.inputs[..., inputs].contiguous(), self.deltas[..., outputs].contiguous())

    @property
    def device(self) -> torch.device:
        return self.inputs.device

    def to(self, device: torch.device | str) -> FactoredRows:
        """Return the same rows on a device."""
        return FactoredRows(self.inputs.to(device), self.deltas.to(device))

    def scaled(self, factor: float | Tensor) -> FactoredRows:
        """Return every row times one factor, or times its own, ``[N]``."""
        if isinstance(factor, Tensor):
            factor = factor.to(self.dtype).reshape(-1, *[1] * (self.deltas.ndim - 1))
        return FactoredRows(self.inputs, self.deltas * factor)

    def energies(self) -> tuple[Tensor, Tensor]:
        """Return Σ δ̃² by output and Σ ã² by input over rows and positions, ``[r_out]`` and ``[r_in]`` float64."""
        return _squared_columns(self.deltas), _squared_columns(self.inputs)


@dataclass(frozen=True)
class DenseRows:
    """N gradients as matrices, ``[N, r_out, r_in]``."""

    matrices: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, r_out, r_in)."""
        num, outputs, inputs = self.matrices.shape
        return num, outputs, inputs

    @property
    def dtype(self) -> torch.dtype:
        return self.matrices.dtype

    @property
    def num_numbers(self) -> int:
        return self.matrices.numel()

    def values(self, outputs: slice = slice(None), index: Rows = None, inputs: slice = slice(None)) -> Tensor:
        """Return coordinates of some outputs and inputs for some (or all) rows, ``[b, o·j]``."""
        part = self.matrices[:, outputs, inputs] if index is None else self.matrices[index][:, outputs, inputs]
        return part.flatten(1)

    def products(self, vectors: Tensor, outputs: slice = slice(None), inputs: slice = slice(None)) -> Tensor:
        """Return the inner product of every vector ``[q, o·j]`` with every row, ``[q, N]``."""
        return _products(self, vectors, outputs, inputs)

    def sums(self, masks: Tensor, outputs: slice = slice(None)) -> Tensor:
        """Return ``masks · coordinates`` for masks ``[S, N]`` float64, ``[S, o·r_in]`` float64."""
        return _sums(self, masks, outputs)

    def select(self, outputs: Tensor, inputs: Tensor) -> DenseRows:
        """Return the rows with some of their outputs and inputs only."""
        return DenseRows(self.matrices[:, outputs][:, :, inputs].contiguous())

    @property
    def device(self) -> torch.device:
        return self.matrices.device

    def to(self, device: torch.device | str) -> DenseRows:
        """Return the same rows on a device."""
        return DenseRows(self.matrices.to(device))

    def scaled(self, factor: float | Tensor) -> DenseRows:
        """Return every row times one factor, or times its own, ``[N]``."""
        if isinstance(factor, Tensor):
            factor = factor.to(self.dtype)[:, None, None]
        return DenseRows(self.matrices * factor)

    def energies(self) -> tuple[Tensor, Tensor]:
        """Return Σ G² by output and by input over rows, ``[r_out]`` and ``[r_in]`` float64."""
        squares = self.matrices.new_zeros(self.shape[1:], dtype=torch.float64)
        for start in range(0, self.shape[0], 256):
            part = self.matrices[start : start + 256].to(torch.float64)
            squares += (part * part).sum(0)
        return squares.sum(1), squares.sum(0)


LayerRows: TypeAlias = FactoredRows | DenseRows


def smaller_rows(inputs: Tensor, deltas: Tensor) -> LayerRows:
    """Return factored rows, or dense ones where several positions make the factors the larger of the two."""
    factored = FactoredRows(inputs, deltas)
    num, num_outputs, num_inputs = factored.shape
    if inputs.ndim == 3 and factored.num_numbers > num * num_outputs * num_inputs:
        return DenseRows(deltas.transpose(1, 2) @ inputs)
    return factored


def join_rows(parts: Sequence[LayerRows]) -> LayerRows:
    """Return the rows of several batches one after the other; all parts have the same form."""
    dense = [part.matrices for part in parts if isinstance(part, DenseRows)]
    if dense:
        return DenseRows(torch.cat(dense))
    factored = [part for part in parts if isinstance(part, FactoredRows)]
    return FactoredRows(torch.cat([p.inputs for p in factored]), torch.cat([p.deltas for p in factored]))


def _rows_at_once(left: Tensor) -> int:
    """Return over how many rows the inner products with ``left``, ``[c, j]``, are taken together."""
    most = max(1, _NUMBERS // left.shape[0])
    return min(most, max(_LEAST_ROWS, _IN_CACHE // left.shape[0])) if left.device.type == "cpu" else most


def _products(rows: LayerRows, vectors: Tensor, outputs: slice, inputs: slice) -> Tensor:
    result = vectors.new_empty(vectors.shape[0], rows.shape[0])
    step = max(1, _NUMBERS // vectors.shape[1])
    for index in spans(rows.shape[0], step):
        result[:, index] = vectors @ rows.values(outputs, index, inputs).T
    return result


def squared_sizes(rows: LayerRows, index: Tensor | None = None) -> Tensor:
    """Return Σ_i G_i^{∘2} over some (or all) rows, ``[r_out, r_in]`` float64."""
    num, num_outputs, num_inputs = rows.shape
    if isinstance(rows, FactoredRows) and rows.inputs.ndim == 2:
        a, d = (x if index is None else x[index] for x in (rows.inputs, rows.deltas))
        a, d = a.to(torch.float64), d.to(torch.float64)
        return (d * d).T @ (a * a)
    chosen = torch.arange(num, device=rows.device) if index is None else index
    total = torch.zeros(num_outputs * num_inputs, dtype=torch.float64, device=rows.device)
    for part in spans(len(chosen), max(1, _NUMBERS // total.numel())):
        total += rows.values(index=chosen[part]).to(torch.float64).square_().sum(0)
    return total.view(num_outputs, num_inputs)


def _sum_of_products(deltas: Tensor, inputs: Tensor) -> Tensor:
    """Return ``Σ_i δ_i a_iᵀ``, ``[r_out, r_in]`` float64."""
    result = deltas.new_zeros(deltas.shape[1], inputs.shape[1], dtype=torch.float64)
    for start in range(0, len(deltas), _SHORT):
        part = slice(start, start + _SHORT)
        result += deltas[part].T @ inputs[part]
    return result


def _sums(rows: LayerRows, masks: Tensor, outputs: slice) -> Tensor:
    num, num_outputs, num_inputs = rows.shape
    width = len(range(num_outputs)[outputs]) * num_inputs
    result = masks.new_zeros(masks.shape[0], width, dtype=torch.float64)
    step = max(1, _NUMBERS // (2 * width))
    for index in spans(num, step):
        result.addmm_(masks[:, index], rows.values(outputs, index).to(torch.float64))
    return result


def _squared_columns(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1, tensor.shape[-1])
    total = flat.new_zeros(flat.shape[1], dtype=torch.float64)
    for start in range(0, flat.shape[0], 4096):
        part = flat[start : start + 4096].to(torch.float64)
        total += (part * part).sum(0)
    return total
