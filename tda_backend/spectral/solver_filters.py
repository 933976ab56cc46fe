"""What the iterative solvers of influence functions do to each eigenvalue (METHODS §1, §3).

======================  ===============================================  =====================================
filter                  φ(σ; λ)                                          used by
======================  ===============================================  =====================================
``damped_inverse``      1/(σ+λ); λ = 0 is refused on a singular matrix   explicit influence functions
``lissa_mean``          [1−(1−u)^{T+1}]/(s·u),  u = (σ+λ)/s              LiSSA: mean over random batches
``krylov``              polynomial of degree t, different per query      conjugate gradients, t steps from x₀ = v
======================  ===============================================  =====================================

All are exact: of the stochastic recursion the mean, of conjugate gradients what exact arithmetic would give.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.spectral.filters import check_regularization, damped_inverse

_EPSILON = torch.finfo(torch.float64).eps

_NUMBERS = 2**25
"""Numbers (256 MiB) that the residuals of one chunk of queries may take."""


@dataclass(frozen=True)
class StrictDampedInverse:
    """φ = 1/(σ+λ), refusing λ = 0 where the curvature is singular: an inverse is asked for, not a pseudo-inverse.

    Attributes:
        num_cut: Eigenvalues at or below the cutoff.
        num_eigenvalues: Of how many, p.
    """

    num_cut: int
    num_eigenvalues: int

    name = "damped_inverse"
    depends_on_query = False

    def parameters(self) -> Mapping[str, Any]:
        """Return whether λ = 0 is refused."""
        return {"refuses_zero": self.num_cut > 0}

    def weights(
        self,
        eigenvalues: Tensor,
        regularization: float,
        num_train: int,
        query: Tensor | None = None,
        outside: Tensor | None = None,
    ) -> Tensor:
        """Return 1/(σ+λ), ``[r]``.

        Raises:
            NumericalError: λ = 0 on a singular curvature, or as :func:`damped_inverse`.
        """
        if check_regularization(regularization) == 0 and self.num_cut:
            raise NumericalError(
                f"λ = 0 asks for the inverse of a singular curvature: {self.num_cut} of {self.num_eigenvalues} "
                "eigenvalues are at or below the cutoff n·ε·σ_max.",
                "Give λ > 0, or use iffim, whose λ = 0 is the pseudo-inverse.",
            )
        return damped_inverse(eigenvalues, regularization, num_train)


def check_scaling(scaling: float, depth: int = 0) -> None:
    """Raise a UsageError unless the scaling s is a finite number > 0 and the recursion depth T ≥ 0."""
    if not (math.isfinite(scaling) and scaling > 0):
        raise UsageError(f"The scaling s = {scaling!r} of LiSSA is not a finite number > 0.", "Usual are 5 to 100.")
    if depth < 0:
        raise UsageError(f"The recursion depth {depth} of LiSSA is negative.", "Give T ≥ 0; usual is 1000.")


def check_lissa(smallest: float, largest: float, regularization: float, scaling: float, what: str) -> float:
    """Return d = λ/s after checking 0 ≤ d + σ/s < 2 at both ends of the spectrum.

    At d + σ/s = 0 the recursion grows linearly to (T+1)/s and is allowed; below 0 and from 2 on it diverges.

    Args:
        smallest: Smallest eigenvalue σ.
        largest: Largest eigenvalue σ.
        regularization: λ.
        scaling: s > 0.
        what: Names the curvature.

    Raises:
        UsageError: s is not a finite number > 0.
        NumericalError: The condition does not hold; names σ, s, d and what would work.
    """
    value = check_regularization(regularization)
    check_scaling(scaling)
    damping = value / scaling
    if smallest + value < -_EPSILON * max(abs(largest), abs(smallest)):
        raise NumericalError(
            f"LiSSA diverges on the {what}: d + σ/s = {(smallest + value) / scaling:.3g} < 0 at the smallest "
            f"eigenvalue σ = {smallest:.6g} (s = {scaling:g}, d = λ/s = {damping:.3g}).",
            f"No scaling helps where the curvature is negative: give λ > {-smallest:.6g}, or use ggn.",
        )
    if largest + value >= 2 * scaling:
        raise NumericalError(
            f"LiSSA diverges on the {what}: d + σ/s = {(largest + value) / scaling:.6g} is not < 2 at the largest "
            f"eigenvalue σ = {largest:.6g} (s = {scaling:g}, d = λ/s = {damping:.3g}).",
            f"Give a scaling s > {(largest + value) / 2:.6g}.",
        )
    return damping


@dataclass(frozen=True)
class LissaMean:
    """Mean of LiSSA's recursion over independently drawn batches: φ = [1−(1−d−σ/s)^{T+1}]/(σ+d·s), d = λ/s.

    ``x_{j+1} = v + (1−d)x_j − H_{B_j}x_j/s`` from x₀ = v has the mean ``Σ_{j≤T}(1−d−σ/s)^j v``; the result is x_T/s.
    Taming (arXiv 2505.24261), appendix A.1; METHODS §3.

    Attributes:
        scaling: s > 0.
        depth: T ≥ 0, recursion depth.
    """

    scaling: float
    depth: int

    name = "lissa_mean"
    depends_on_query = False

    def __post_init__(self) -> None:
        check_scaling(self.scaling, self.depth)

    def parameters(self) -> Mapping[str, Any]:
        """Return s and T."""
        return {"scaling": self.scaling, "depth": self.depth}

    def weights(
        self,
        eigenvalues: Tensor,
        regularization: float,
        num_train: int,
        query: Tensor | None = None,
        outside: Tensor | None = None,
    ) -> Tensor:
        """Return φ, ``[r]``; (T+1)/s where σ + λ = 0.

        Raises:
            NumericalError: 0 ≤ d + σ/s < 2 does not hold, or an eigenvalue is not finite.
        """
        sigma = eigenvalues.to(torch.float64)
        value = check_regularization(regularization)
        if sigma.numel() == 0:
            return sigma.clone()
        _refuse_bad(sigma, value)
        check_lissa(float(sigma.min()), float(sigma.max()), value, self.scaling, "curvature")
        step = (sigma + value) / self.scaling  # u
        count = self.depth + 1
        # 1 − (1−u)^{T+1} without cancellation: expm1 and log1p below u = 1, a signed power beyond it.
        low = -torch.expm1(count * torch.log1p(-step.clamp(max=1.0)))
        high = 1.0 - (-1.0) ** count * (step - 1.0).clamp(min=0.0) ** count
        numerator = torch.where(step <= 1.0, low, high)
        positive = step > 0
        safe = torch.where(positive, step, torch.ones_like(step))
        return torch.where(positive, numerator / safe, torch.full_like(step, float(count))) / self.scaling


@dataclass(frozen=True)
class Krylov:
    """Conjugate gradients on (C+λI)x = v: t steps from x₀ = v, no stopping rule, as a polynomial in σ per query.

    The polynomial depends on v through its weights v_r² on the eigenvalues. In a truncated basis what lies outside
    (σ = 0, weight ‖φ'−VVᵀφ'‖) takes part as one more coordinate and is dropped afterwards, for no train gradient
    lies there. Residuals are kept orthogonal to all before them, so rounding does not delay convergence: t ≥ the
    number of distinct eigenvalues gives the damped inverse. Taming (arXiv 2505.24261), appendix A.1; METHODS §1.

    Attributes:
        max_iter: t ≥ 1.
    """

    max_iter: int

    name = "krylov"
    depends_on_query = True

    def __post_init__(self) -> None:
        if self.max_iter < 1:
            raise UsageError(f"Conjugate gradients got max_iter = {self.max_iter}.", "Give at least 1; usual is 10.")

    def parameters(self) -> Mapping[str, Any]:
        """Return t."""
        return {"max_iter": self.max_iter}

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
        if query is None:
            raise UsageError("Conjugate gradients' filter depends on the query.", "Give its coordinates, [m, r].")
        value = check_regularization(regularization)
        sigma = eigenvalues.to(torch.float64)
        _refuse_bad(sigma, value)
        vectors = query.to(torch.float64)
        if outside is not None:
            sigma = torch.cat([sigma, sigma.new_zeros(1)])
            vectors = torch.cat([vectors, outside.to(torch.float64).clamp(min=0.0).sqrt()[:, None]], dim=1)
        vectors, present, safe = _normalised(vectors)
        size = max(1, _NUMBERS // ((self.max_iter + 8) * max(sigma.numel(), 1)))
        solved = torch.cat([_solve(part, sigma, value, self.max_iter) for part in vectors.split(size)])
        return torch.where(present, solved / safe, 0.0)[:, : eigenvalues.numel()]

    def table(
        self,
        eigenvalues: Tensor,
        regularizations: Sequence[float],
        num_train: int,
        query: Tensor | None = None,
        outside: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Yield :meth:`weights` for several λ from one Krylov basis per query.

        All iterates lie in the span of v, Cv, …, C^{t+1}v whatever λ is, so that one Lanczos run serves every λ. The
        relative error is ε·σ_max/λ, where that of :meth:`weights` is ε.
        """
        if query is None:
            raise UsageError("Conjugate gradients' filter depends on the query.", "Give its coordinates, [m, r].")
        values = [check_regularization(value) for value in regularizations]
        sigma = eigenvalues.to(torch.float64)
        _refuse_bad(sigma, values[0] if values else 0.0)
        vectors = query.to(torch.float64)
        if outside is not None:
            sigma = torch.cat([sigma, sigma.new_zeros(1)])
            vectors = torch.cat([vectors, outside.to(torch.float64).clamp(min=0.0).sqrt()[:, None]], dim=1)
        for weights in self._table(vectors, sigma, values):
            yield weights[:, : eigenvalues.numel()]

    def _table(self, vectors: Tensor, sigma: Tensor, values: Sequence[float]) -> Iterator[Tensor]:
        vectors, present, safe = _normalised(vectors)
        steps = min(self.max_iter + 2, sigma.numel())
        size = max(1, _NUMBERS // ((steps + 8) * max(sigma.numel(), 1)))
        parts = [krylov_basis(part, sigma, steps) for part in vectors.split(size)]
        for value in values:
            solved = torch.cat([
                (_solve(start, ritz, value, self.max_iter)[:, None, :] @ basis)[:, 0] for basis, ritz, start in parts
            ])  # fmt: skip
            yield torch.where(present, solved / safe, 0.0)


def _normalised(vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the vectors with norm 1 (or 0), where their components count, and what to divide by there."""
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    vectors = vectors / torch.where(norms > 0, norms, torch.ones_like(norms))
    present = vectors.abs() > _EPSILON
    return vectors, present, torch.where(present, vectors, torch.ones_like(vectors))


def krylov_basis(vectors: Tensor, sigma: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
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
        alive = length > size * _EPSILON * before
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
        active = squares > _EPSILON**2  # beside ‖v‖ = 1 what is left is rounding: the column stays
        if not bool(active.any()):
            break
        length = direction.square().sum(1)
        curvature = (direction.square() * sigma).sum(1)
        quotient = (curvature + regularization * length) / torch.where(active, length, torch.ones_like(length))
        if bool((active & (quotient <= _EPSILON * largest)).any()):
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
        squares = torch.where(active, updated, 0.0)  # a finished column never comes back to life
    return solution


def _refuse_bad(sigma: Tensor, regularization: float) -> None:
    if not bool(torch.isfinite(sigma).all()) or bool((sigma < 0).any()):
        raise NumericalError(
            f"Eigenvalues handed to the filter are negative or not finite (λ = {regularization:g}).",
            "Clip rounding errors below 0 to 0; look for NaN in the gradients of this checkpoint.",
        )
