"""Conjugate gradients as a polynomial in σ, one per query: what exact arithmetic would give."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.spectral.filters.base import EPSILON, Filter, check_eigenvalues, check_regularization

_NUMBERS = 2**25
"""Numbers (256 MiB) that the residuals of one chunk of queries may take."""


@dataclass(frozen=True)
class Krylov(Filter):
    """φ(σ; λ, t): the polynomial of degree t of conjugate gradients on (C+λI)x = v from x₀ = v, without stopping.

    The polynomial depends on v through its weights v_r² on the eigenvalues. In a truncated basis what lies outside
    (σ = 0, weight ‖φ'−VVᵀφ'‖) takes part as one more coordinate and is dropped afterwards, because no train
    gradient lies there. Residuals are kept orthogonal to all before them, so rounding does not delay convergence:
    t ≥ the number of distinct eigenvalues gives the damped inverse. Taming (arXiv 2505.24261), appendix A.1;
    METHODS §1.

    Attributes:
        max_iter: t ≥ 1.
    """

    max_iter: int

    NAME: ClassVar[str] = "krylov"
    DEPENDS_ON_QUERY: ClassVar[bool] = True
    HAS_TWIN: ClassVar[bool] = True
    FORMULA: ClassVar[str] = "φ(σ) = a polynomial of its own for every query"
    REMARK: ClassVar[str] = (
        "Conjugate gradients weight the eigenvalues by a polynomial that differs from query to query."
    )

    def __post_init__(self) -> None:
        if self.max_iter < 1:
            raise UsageError(f"Conjugate gradients got max_iter = {self.max_iter}.", "Give at least 1; usual is 10.")

    def phi(self, sigma: Tensor, regularization: float, num_train: int) -> Tensor:
        """Raise a UsageError: without a query there is no polynomial; :meth:`weights` takes its coordinates."""
        raise UsageError("Conjugate gradients' filter depends on the query.", "Give its coordinates, [m, r].")

    def weights(
        self,
        eigenvalues: Tensor,
        regularization: float,
        num_train: int,
        query: Tensor | None = None,
        outside: Tensor | None = None,
    ) -> Tensor:
        """Return φ(σ_r) for each query, ``[m, r]``; 0 where the query has no component.

        Raises:
            UsageError: The queries' coordinates are missing.
            NumericalError: An eigenvalue is negative or not finite, or λ = 0 on a singular curvature broke down.
        """
        value = check_regularization(regularization)
        sigma, vectors = _extended(eigenvalues, value, query, outside)
        vectors, present, safe = _normalised(vectors)
        size = max(1, _NUMBERS // ((self.max_iter + 8) * max(sigma.numel(), 1)))
        solved = torch.cat([_solve(part, sigma, value, self.max_iter) for part in vectors.split(size)])
        return torch.where(present, solved / safe, 0.0)[:, : eigenvalues.numel()]

    def table(
        self,
        eigenvalues: Tensor,
        regularizations: Iterable[float],
        num_train: int,
        query: Tensor | None = None,
        outside: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Yield :meth:`weights` for several λ from one Krylov basis per query.

        All iterates lie in the span of v, Cv, …, C^{t+1}v whatever λ is, so that one Lanczos run serves every λ. The
        relative error is ε·σ_max/λ, where that of :meth:`weights` is ε.
        """
        values = [check_regularization(value) for value in regularizations]
        sigma, vectors = _extended(eigenvalues, values[0] if values else 0.0, query, outside)
        for weights in self._table(vectors, sigma, values):
            yield weights[:, : eigenvalues.numel()]

    def _table(self, vectors: Tensor, sigma: Tensor, values: Sequence[float]) -> Iterator[Tensor]:
        vectors, present, safe = _normalised(vectors)
        steps = min(self.max_iter + 2, sigma.numel())
        size = max(1, _NUMBERS // ((steps + 8) * max(sigma.numel(), 1)))
        parts = [lanczos_basis(part, sigma, steps) for part in vectors.split(size)]
        for value in values:
            solved = torch.cat(
                [(_solve(start, ritz, value, self.max_iter)[:, None, :] @ basis)[:, 0] for basis, ritz, start in parts]
            )
            yield torch.where(present, solved / safe, 0.0)


def _extended(
    eigenvalues: Tensor, regularization: float, query: Tensor | None, outside: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return σ and the queries' coordinates in float64, with what lies outside the basis as one more of σ = 0."""
    if query is None:
        raise UsageError("Conjugate gradients' filter depends on the query.", "Give its coordinates, [m, r].")
    sigma, vectors = eigenvalues.to(torch.float64), query.to(torch.float64)
    check_eigenvalues(sigma, regularization)
    if outside is not None:
        sigma = torch.cat([sigma, sigma.new_zeros(1)])
        vectors = torch.cat([vectors, outside.to(torch.float64).clamp(min=0.0).sqrt()[:, None]], dim=1)
    return sigma, vectors


def _normalised(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the vectors with norm 1 (or 0), where their components count, and what to divide by there."""
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    vectors = vectors / torch.where(norms > 0, norms, torch.ones_like(norms))
    present = vectors.abs() > EPSILON
    return vectors, present, torch.where(present, vectors, torch.ones_like(vectors))


def lanczos_basis(vectors: Tensor, sigma: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return what Lanczos' method makes of each vector and diag(σ), with residuals kept orthogonal to all before.

    Args:
        vectors: ``[m, r]`` of norm 1 (or 0).
        sigma: ``[r]`` ≥ 0.
        steps: s ≤ r, dimension of the Krylov space.

    Returns:
        Ritz vectors ``[m, s, r]``, Ritz values ``[m, s]`` ≥ 0, and the vectors' coordinates ``[m, s]`` in them. Where
        the space is exhausted earlier, the rest is zero.
    """
    num, size = vectors.shape
    basis = vectors.new_zeros(num, steps, size)
    tridiagonal = vectors.new_zeros(num, steps, steps)
    current = vectors
    for step in range(steps):
        basis[:, step] = current
        image = current * sigma
        tridiagonal[:, step, step] = (current * image).sum(1)
        if step + 1 == steps:
            break
        known = basis[:, : step + 1]
        before = torch.linalg.vector_norm(image, dim=1)
        for _ in range(2):
            image = image - ((known @ image[:, :, None]).mT @ known)[:, 0]
        length = torch.linalg.vector_norm(image, dim=1)
        alive = length > size * EPSILON * before
        length = torch.where(alive, length, torch.zeros_like(length))
        tridiagonal[:, step, step + 1] = tridiagonal[:, step + 1, step] = length
        current = torch.where(alive[:, None], image / torch.where(alive, length, torch.ones_like(length))[:, None], 0.0)
    ritz, rotation = torch.linalg.eigh(tridiagonal)
    return rotation.mT @ basis, ritz.clamp(min=0.0), rotation[:, 0, :] * (vectors != 0).any(1)[:, None]


def _solve(vectors: Tensor, sigma: Tensor, regularization: float, max_iter: int) -> Tensor:
    """Return x_t of conjugate gradients with diagonal matrices σ ``[m, r]``, ``[m, r]``; vectors have norm 1 (or 0)."""
    solution = vectors.clone()
    residual = vectors * (1.0 - regularization - sigma)
    squares = residual.square().sum(1)
    direction = residual.clone()
    previous: list[Tensor] = []
    largest = sigma.max() + regularization if sigma.numel() else sigma.new_zeros(())
    for iteration in range(max_iter):
        active = squares > EPSILON**2  # beside ‖v‖ = 1 what is left is rounding: the column stays
        if not bool(active.any()):
            break
        length = direction.square().sum(1)
        curvature = (direction.square() * sigma).sum(1)
        quotient = (curvature + regularization * length) / torch.where(active, length, torch.ones_like(length))
        if bool((active & (quotient <= EPSILON * largest)).any()):
            raise NumericalError(
                f"Conjugate gradients broke down at step {iteration + 1} with λ = {regularization:g}: the curvature is "
                "singular along the search direction.",
                "Give λ > 0, or fewer steps.",
            )
        alpha = torch.where(active, squares / torch.where(active, quotient * length, torch.ones_like(length)), 0.0)
        previous.append(residual / squares.sqrt().clamp(min=1e-300)[:, None] * active[:, None])
        step = alpha[:, None]
        if iteration == 0:
            # x₁ = α(v + σ̄v − σv) and r₁ = α(σ̄−σ)r₀ with the Rayleigh quotient σ̄: exact where λ ≫ σ, for
            # v + α·r₀ would cancel all but the last λ⁻¹.
            mean = (curvature / torch.where(active, length, torch.ones_like(length)))[:, None]
            keep = active[:, None]
            solution = torch.where(keep, step * vectors * (1.0 + mean - sigma), solution)
            residual = torch.where(keep, step * (mean - sigma) * residual, residual)
        else:
            solution = solution + step * direction
            residual = residual - step * (sigma + regularization) * direction
        basis = torch.stack(previous, dim=1)
        for _ in range(2):
            residual = residual - ((basis @ residual[:, :, None]).mT @ basis)[:, 0] * active[:, None]
        updated = residual.square().sum(1)
        ratio = torch.where(active, updated / torch.where(active, squares, torch.ones_like(squares)), 0.0)
        direction = residual + ratio[:, None] * direction
        squares = torch.where(active, updated, 0.0)  # a finished column stays finished
    return solution
