"""Eigendecompositions of the mean Gram: primal (k × k) and dual (n × n), once per (checkpoint, method, k).

Both give coordinates in which ``J(F+λI)⁻¹φ' = T·diag(1/(σ+λ))·Q'ᵀ`` for every λ, where ``T = JV``, ``Q' = Φ'V``, and
σ, V are the eigenpairs of ``F = JᵀJ/n``. What lies at σ ≤ n·ε·σ_max is rounding noise: those coordinates are left out
of the basis, which is what the pseudo-inverse does at λ = 0 and changes nothing within rounding at λ > 0, since their
train coordinates are zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from torch import Tensor

from tda_backend.blocks import in_blocks, spans
from tda_backend.errors import NumericalError
from tda_backend.finite import all_finite
from tda_backend.numerics.spectral.filters.base import pseudo_inverse_cutoff
from tda_backend.numerics.spectral.leading import LeftOut, Products, leading_eigenpairs

_ROWS = 1024


@dataclass(frozen=True)
class RotatedRows:
    """Eigenvalues with the coordinates of train and other rows in the eigenbasis.

    Attributes:
        eigenvalues: ``[r]`` float64, descending, > n·ε·σ_max.
        train: ``[n, r]``.
        others: ``[o, r]``, in the order given.
        num_cut: Number of eigenvalues left out as rounding noise.
        left_out: What a truncated spectrum lacks beside them; ``None``: nothing.
    """

    eigenvalues: Tensor
    train: Tensor
    others: Tensor
    num_cut: int
    left_out: LeftOut | None = None


def eigh_in_place(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return all eigenpairs of a symmetric float64 matrix, ascending, on its device, **destroying the matrix**.

    On the CPU by LAPACK's divide and conquer through scipy with overwriting: 14 s at n = 5 000 on two cores, where
    ``torch.linalg.eigh`` takes 19.5 s and one more copy. On another device by the latter.

    Raises:
        numpy.linalg.LinAlgError: It does not converge.
    """
    if matrix.device.type != "cpu":
        try:
            values, vectors = torch.linalg.eigh(matrix)
        except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
            raise np.linalg.LinAlgError(str(error)) from error
        return values, vectors
    # The transpose of a symmetric C-ordered matrix is itself in Fortran order: LAPACK then works in place.
    found = scipy.linalg.eigh(matrix.numpy().T, driver="evd", overwrite_a=True, check_finite=False)
    return torch.from_numpy(found[0]), torch.from_numpy(found[1])


def symmetric_eigenpairs(matrix: Tensor, num_train: int, what: str) -> tuple[Tensor, Tensor, int]:
    """Return the eigenpairs above the cutoff of a positive semi-definite matrix, **destroying the matrix**.

    Args:
        matrix: ``[r, r]`` float64, symmetric, contiguous.
        num_train: n, for the cutoff n·ε·σ_max.
        what: Names the matrix in errors.

    Returns:
        Eigenvalues ``[r']`` descending, eigenvectors as columns ``[r, r']``, and how many were cut.

    Raises:
        NumericalError: The matrix has non-finite entries, is zero, or LAPACK does not converge.
    """
    if not all_finite(matrix):
        raise NumericalError(
            f"The {what} has entries that are not finite.",
            "Look for NaN or overflow in the gradients of this checkpoint; did training diverge?",
        )
    try:
        values, vectors = eigh_in_place(matrix)
    except np.linalg.LinAlgError as error:
        raise NumericalError(
            f"The eigendecomposition of the {what} did not converge ({error}).",
            "Look for extreme values in the gradients, or use a projection.",
        ) from error
    sigma = values.flip(0).clamp_(min=0.0)
    largest = float(sigma[0]) if sigma.numel() else 0.0
    if largest <= 0.0:
        raise NumericalError(
            f"The {what} is zero: every training gradient vanishes.",
            "Use an earlier checkpoint, or check that the loss depends on the parameters.",
        )
    rank = int((sigma > pseudo_inverse_cutoff(sigma, num_train)).sum())
    descending = torch.arange(sigma.numel() - 1, sigma.numel() - 1 - rank, -1, device=vectors.device)
    return sigma[:rank].clone(), vectors.index_select(1, descending), sigma.numel() - rank


def corner(matrix: Tensor, rows: slice) -> Tensor:
    """Return some rows and the same columns of a square matrix, contiguous, **destroying the matrix**.

    They move to the front of its memory: no second matrix is made.

    Args:
        matrix: ``[N, N]``, contiguous.
        rows: n of the N, as start and stop.
    """
    size, flat = rows.stop - rows.start, matrix.view(-1)
    for first in range(0, size, _ROWS):
        last = min(first + _ROWS, size)
        moved = matrix[rows.start + first : rows.start + last, rows].clone()  # never read again behind this place
        flat[first * size : last * size] = moved.flatten()
    return flat[: size * size].view(size, size)


def primal_coordinates(
    train: Tensor, others: Tensor, *, what: str, dtype: torch.dtype = torch.float32, scale: Tensor | None = None
) -> RotatedRows:
    """Decompose ``F = ΦᵀΦ/n`` (k × k) and rotate the rows.

    Products are float64: a float32 rotation would put an error of 1e-7·‖row‖ on coordinates of size √σ, which the
    filter then amplifies. Beside rows and result, memory holds some blocks of rows and four k × k matrices.

    Args:
        train: ``[n, k]`` train features Φ, or what ``scale`` makes Φ of.
        others: ``[o, k]`` further rows (validation, queries).
        what: Names the block in errors.
        dtype: Storage type of the coordinates.
        scale: ``[n]`` factor on each train row; ``None``: 1.

    Raises:
        NumericalError: As :func:`symmetric_eigenpairs`.
    """
    num_train, dim = train.shape
    moment = train.new_zeros(dim, dim, dtype=torch.float64)
    for rows in spans(num_train, _ROWS):
        block = _block(train, rows, scale)
        moment.addmm_(block.T, block)
    moment /= num_train
    sigma, basis, num_cut = symmetric_eigenpairs(moment, num_train, f"{dim} × {dim} mean Gram of {what}")
    return RotatedRows(sigma, _rotated(train, basis, dtype, scale=scale), _rotated(others, basis, dtype), num_cut)


def dual_coordinates(mean_gram: Tensor, cross: Tensor, *, what: str, dtype: torch.dtype = torch.float32) -> RotatedRows:
    """Decompose ``K = JJᵀ/n = UσUᵀ`` (n × n), **destroying** ``mean_gram``.

    With ``V = JᵀU/√(nσ)``: train coordinates ``JV = U√(nσ)`` and others ``Φ'V = (Φ'Jᵀ)U/√(nσ)``.

    Args:
        mean_gram: ``[n, n]`` float64, contiguous, with 1/n.
        cross: ``[o, n]`` inner products of the other rows with the train rows, **without** 1/n.
        what: Names the block in errors.
        dtype: Storage type of the coordinates.

    Raises:
        NumericalError: As :func:`symmetric_eigenpairs`.
    """
    num_train = mean_gram.shape[0]
    sigma, vectors, num_cut = symmetric_eigenpairs(mean_gram, num_train, f"{num_train} × {num_train} Gram of {what}")
    scale = torch.sqrt(num_train * sigma)
    others = _rotated(cross, vectors, dtype, divide_by=scale)
    train = vectors.new_empty(vectors.shape, dtype=dtype)
    for rows in spans(num_train, _ROWS):
        train[rows] = vectors[rows] * scale
    return RotatedRows(sigma, train, others, num_cut)


def row_coordinates(
    train: Tensor,
    others: Tensor,
    *,
    what: str,
    dtype: torch.dtype = torch.float32,
    scale: Tensor | None = None,
    num_eigenvalues: int | None = None,
) -> RotatedRows:
    """Decompose the mean Gram of train rows ``[n, k]``: primal where n > k, else dual (n × n).

    Args:
        train: ``[n, k]`` train features.
        others: ``[o, k]`` further rows.
        what: Names the block in errors.
        dtype: Storage type of the coordinates.
        scale: ``[n]`` factor on each train row, which is not multiplied out; ``None``: 1.
        num_eigenvalues: How many of the largest are kept, without any matrix of k × k or n × n; ``None``: all.

    Raises:
        NumericalError: As :func:`symmetric_eigenpairs`.
    """
    if num_eigenvalues is not None and num_eigenvalues < min(train.shape):
        return _leading_rows(train, others, num_eigenvalues, what, dtype, scale)
    if train.shape[0] > train.shape[1]:
        return primal_coordinates(train, others, what=what, dtype=dtype, scale=scale)
    wide = _scaled(train, scale).to(torch.float64)
    mean_gram = wide @ wide.T
    mean_gram /= len(wide)
    return dual_coordinates(mean_gram, others.to(torch.float64) @ wide.T, what=what, dtype=dtype)


def _leading_rows(
    train: Tensor, others: Tensor, num_eigenvalues: int, what: str, dtype: torch.dtype, scale: Tensor | None
) -> RotatedRows:
    """Return :func:`row_coordinates` in the leading eigenvectors of F = ΦᵀΦ/n, found from products with Φ alone."""
    num_train, dim = train.shape

    def moment(vectors: Tensor) -> Tensor:
        found = torch.zeros_like(vectors)
        for rows in spans(num_train, _ROWS):
            block = _block(train, rows, scale)
            found.addmm_(block.T, block @ vectors)
        return found.div_(num_train)

    trace = sum(float(_block(train, rows, scale).square().sum()) for rows in spans(num_train, _ROWS)) / num_train
    found = leading_eigenpairs(
        Products(dim, trace, train.device, moment), num_eigenvalues, f"{dim} × {dim} mean Gram of {what}"
    )
    sigma, basis, num_cut = _above_cutoff(found.values, found.vectors, num_train)
    rotated = _rotated(train, basis, dtype, scale=scale), _rotated(others, basis, dtype)
    return RotatedRows(sigma, *rotated, num_cut, found.left_out)


def leading_dual_coordinates(
    mean_gram: Products,
    cross: Callable[[Tensor], Tensor],
    num_eigenvalues: int,
    *,
    what: str,
    dtype: torch.dtype = torch.float32,
) -> RotatedRows:
    """Return :func:`dual_coordinates` of the largest eigenvalues of ``K = JJᵀ/n``, without a matrix of n × n.

    Args:
        mean_gram: K.
        cross: vectors ``[n, r]`` → Φ'Jᵀ·vectors ``[o, r]``, without 1/n.
        num_eigenvalues: How many are kept, < n.
        what: Names the block in errors.
        dtype: Storage type of the coordinates.

    Raises:
        NumericalError: As :func:`symmetric_eigenpairs`.
    """
    num_train = mean_gram.size
    found = leading_eigenpairs(mean_gram, num_eigenvalues, f"{num_train} × {num_train} Gram of {what}")
    sigma, vectors, num_cut = _above_cutoff(found.values, found.vectors, num_train)
    scale = torch.sqrt(num_train * sigma)
    others = cross(vectors).div_(scale).to(dtype)
    return RotatedRows(sigma, (vectors * scale).to(dtype), others, num_cut, found.left_out)


def _above_cutoff(sigma: Tensor, vectors: Tensor, num_train: int) -> tuple[Tensor, Tensor, int]:
    """Return eigenvalues (descending) that are more than rounding noise, their vectors, and how many are not."""
    rank = int((sigma > pseudo_inverse_cutoff(sigma, num_train)).sum())
    return sigma[:rank], vectors[:, :rank], sigma.numel() - rank


def _scaled(rows: Tensor, scale: Tensor | None) -> Tensor:
    return rows if scale is None else rows * scale[:, None].to(rows.dtype)


def _block(rows: Tensor, part: slice, scale: Tensor | None) -> Tensor:
    return _scaled(rows[part], None if scale is None else scale[part]).to(torch.float64)


def _rotated(
    rows: Tensor,
    basis: Tensor,
    dtype: torch.dtype,
    *,
    divide_by: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    result = rows.new_empty(rows.shape[0], basis.shape[1], dtype=dtype)

    def rotate(part: slice) -> Tensor:
        block = _block(rows, part, scale) @ basis
        return block if divide_by is None else block.div_(divide_by)

    for part, block in in_blocks(rows.shape[0], _ROWS, rotate, "rows"):
        result[part] = block
    return result
