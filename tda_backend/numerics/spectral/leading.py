"""The largest eigenpairs of a symmetric matrix that is only multiplied with blocks of vectors: block Lanczos.

A randomised block Krylov basis with full reorthogonalisation, and Ritz pairs in it (Musco and Musco, *Randomized block
Krylov methods for stronger and faster approximate singular value decomposition*, NeurIPS 2015, algorithm 2). How exact
they are is known without the exact answer: for each pair there is an eigenvalue within its residual ‖Av − σv‖ (Parlett,
*The symmetric eigenvalue problem*, §4.5), and the eigenvalues that are left out add up to what the trace lacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tda_backend.errors import NumericalError
from tda_backend.finite import all_finite
from tda_backend.seeds import hashed_rng

BASIS_FACTOR = 4
"""Vectors of the largest basis, for each eigenvalue that is wanted."""
TOLERANCE = 1e-7
"""Residual at which the basis stops to grow, in units of the smallest eigenvalue that is kept."""
LEAST_BLOCK = 16
FORMED_ANEW = 256
"""Vectors of a block where each product forms the matrix anew from factors some hundreds or thousands wide."""
_LOOKED_AT = 3
_LEAST_BLOCKS = 6
_ORTHOGONAL, _MOST_ROUNDS = 1e-13, 6


@dataclass(frozen=True, eq=False)
class Products:
    """A symmetric positive semi-definite matrix A ``[d, d]`` that is only multiplied.

    Attributes:
        size: d.
        trace: Σ of all eigenvalues.
        device: Where vectors lie.
        of: vectors ``[d, b]`` float64 → A·vectors ``[d, b]`` float64.
        least_block: Vectors from which on a product costs more with each: fewer are not worth one.
    """

    size: int
    trace: float
    device: torch.device
    of: Callable[[Tensor], Tensor]
    least_block: int = LEAST_BLOCK


@dataclass(frozen=True)
class LeftOut:
    """What a truncated spectrum leaves out, and how exact the rest is.

    Attributes:
        trace: Share of the sum of all eigenvalues that is left out, 0 … 1.
        largest: Estimate of the largest eigenvalue that is left out, in the units of the eigenvalues.
        residual: The largest ‖Av − σv‖ of a pair that is kept: some eigenvalue lies within it.
    """

    trace: float
    largest: float
    residual: float

    def error(self, eigenvalues: Tensor, query: Tensor, outside: Tensor, regularization: float) -> Tensor:
        """Return our bound on what damped scores of queries lack, as a share of their size over training examples.

        With B the left-out part of a query's gradient, the scores lack ``T⊥(F⊥+λ)⁻¹B``, whose root mean square over
        training examples is at most ``‖B‖·max √σ/(σ+λ)`` over σ up to ``largest``. It is compared with the root mean
        square of the scores that are kept. Exact eigenpairs are taken for granted.

        Args:
            eigenvalues: ``[r]`` of those kept.
            query: ``[m, r]`` coordinates of queries.
            outside: ``[m]`` squared norm of each query's gradient outside the basis.
            regularization: λ > 0.

        Returns:
            ``[m]`` float64, between 0 (nothing is lacking) and 1 (all may be).
        """
        worst = min(self.largest, regularization)
        lacking = outside.to(torch.float64) * worst / (worst + regularization) ** 2
        weights = eigenvalues / (eigenvalues + regularization) ** 2
        kept = query.to(torch.float64).square() @ weights.to(torch.float64)
        return torch.sqrt(lacking / (lacking + kept).clamp_min(torch.finfo(torch.float64).tiny))


@dataclass(frozen=True)
class Leading:
    """The largest eigenpairs.

    Attributes:
        values: ``[r]`` float64, descending.
        vectors: ``[d, r]`` float64, orthonormal.
        left_out: What is lacking.
    """

    values: Tensor
    vectors: Tensor
    left_out: LeftOut


def basis_vectors(size: int, count: int, least_block: int = LEAST_BLOCK) -> int:
    """Return how many vectors the basis has at most from which ``count`` eigenpairs of ``[size, size]`` are taken."""
    block = block_vectors(count, least_block)
    return min(size, max(BASIS_FACTOR * count + 2 * block, _LEAST_BLOCKS * block))


def block_vectors(count: int, least_block: int = LEAST_BLOCK) -> int:
    """Return how many vectors are multiplied at a time."""
    return max(least_block, math.ceil(count / 4))


def leading_eigenpairs(
    matrix: Products, count: int, what: str, *, seed: int = 0, tolerance: float = TOLERANCE
) -> Leading:
    """Return the largest eigenpairs of a symmetric positive semi-definite matrix.

    The basis grows by blocks until the residual of every wanted pair is small, or to four vectors for each. Vectors of
    later blocks are made orthogonal to all before, twice.

    Args:
        matrix: A.
        count: 1 ≤ r < d.
        what: Names the matrix in errors.
        seed: The first block is drawn from it.
        tolerance: Residual at which it stops, in units of the smallest eigenvalue wanted.

    Raises:
        NumericalError: A product is not finite, or the matrix is zero.
    """
    size, block = matrix.size, block_vectors(count, matrix.least_block)
    most = basis_vectors(size, count, matrix.least_block)
    basis = torch.empty(size, most, dtype=torch.float64, device=matrix.device)
    inner = torch.zeros(most, most, dtype=torch.float64, device=matrix.device)
    drawn = torch.from_numpy(hashed_rng("leading", seed).standard_normal((size, min(block, most))))
    new, filled = torch.linalg.qr(drawn.to(matrix.device))[0], 0
    while True:
        columns = slice(filled, filled + new.shape[1])
        basis[:, columns] = new
        filled = columns.stop
        image = matrix.of(new)
        if not all_finite(image):
            raise NumericalError(
                f"The {what} has entries that are not finite.",
                "Look for NaN or overflow in the gradients of this checkpoint; did training diverge?",
            )
        known = basis[:, :filled]
        coefficients = known.T @ image
        inner[:filled, columns] = coefficients
        inner[columns, :filled] = coefficients.T
        image -= known @ coefficients
        image -= known @ (known.T @ image)
        new, triangle = torch.linalg.qr(image)
        # Ritz pairs take as long as some products: they are looked at where they may do, at every second block.
        if filled == most or (filled >= _LOOKED_AT * count + block and (filled // block) % 2 == 0):
            found = _ritz(inner[:filled, :filled], triangle, count)
            if filled == most or float(found[2][:count].max()) <= tolerance * float(found[0][count - 1]):
                break
        new = _outside(new[:, : most - filled], known)
    if float(found[0][0]) <= 0.0:
        raise NumericalError(
            f"The {what} is zero: every training gradient vanishes.",
            "Use an earlier checkpoint, or check that the loss depends on the parameters.",
        )
    return _leading(matrix.trace, basis[:, :filled], found, count)


def _outside(new: Tensor, known: Tensor) -> Tensor:
    """Return new directions orthonormal, and orthogonal to a basis.

    Where A leads nowhere new, they are rounding noise or arbitrary, and lie in the basis in part: what is outside is
    taken, until all of it is.
    """
    for _ in range(_MOST_ROUNDS):
        inside = known.T @ new
        if float(inside.abs().max()) <= _ORTHOGONAL:
            break
        new = torch.linalg.qr(new - known @ inside)[0]
    return new


def _ritz(inner: Tensor, triangle: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``count`` + 1 Ritz values (descending, fewer where there are no more), rotation and residuals."""
    values, vectors = torch.linalg.eigh(inner)
    wanted = min(count + 1, len(values))
    values, vectors = values.flip(0)[:wanted].clamp_min(0.0), vectors.flip(1)[:, :wanted]
    residuals = torch.linalg.vector_norm(triangle @ vectors[-triangle.shape[1] :], dim=0)
    return values, vectors, residuals


def _leading(trace: float, basis: Tensor, found: tuple[Tensor, Tensor, Tensor], count: int) -> Leading:
    values, rotation, residuals = found
    left = max(0.0, trace - float(values[:count].sum()))
    largest = 0.0
    if len(values) > count:
        largest = min(float(values[count] + residuals[count]), float(values[count - 1]), left)
    left_out = LeftOut(left / trace, largest, float(residuals[:count].max()))
    return Leading(values[:count], basis @ rotation[:, :count], left_out)
