"""Conjugate gradients in the space of all parameters, as influence functions use them.

``(C + λI)x = v`` with a fixed number of iterations from x₀ = v and no stopping rule; C is the curvature of the mean
loss over **all** training data. (Inverting batch by batch and summing is another matrix: Σ_b C_b⁻¹v ≠ C⁻¹v, with scores
that change with the batch size.) Taming (arXiv 2505.24261), appendix A.1; its filter on spectral coordinates is
:class:`~tda_backend.numerics.spectral.filters.krylov.Krylov`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.curvature.problem import AmbientProblem, row_products, squared_norms
from tda_backend.numerics.spectral.contraction import ScoreMatrix
from tda_backend.numerics.spectral.filters.base import check_regularization

Product: TypeAlias = Callable[[Tensor], Tensor]
"""Vectors ``[q, p]`` → C·v, ``[q, p]``."""

_EPSILON = torch.finfo(torch.float64).eps


def conjugate_gradient_scores(problem: AmbientProblem, regularization: float, *, max_iter: int = 10) -> ScoreMatrix:
    """Return influence scores −⟨∇ℓ_i, x_t⟩ with x_t from conjugate gradients, ``[m, n]``; positive helps.

    Args:
        problem: From :func:`~tda_backend.numerics.curvature.problem.ambient_problem`.
        regularization: λ ≥ 0, in units of the mean curvature.
        max_iter: t ≥ 1 iterations.

    Raises:
        NumericalError: As :func:`conjugate_gradient`.
    """
    return problem.scores(
        lambda vectors: conjugate_gradient(
            problem.product, vectors, regularization, max_iter=max_iter, what=problem.product.name
        )
    )


def conjugate_gradient(
    product: Product, vectors: Tensor, regularization: float, *, max_iter: int, what: str = "curvature"
) -> Tensor:
    """Return x_t of t iterations from x₀ = v for each vector, ``[q, p]``; the vectors are independent of each other.

    A vector whose residual has vanished is solved: it stays while the others go on.

    Args:
        product: C.
        vectors: ``[q, p]``.
        regularization: λ ≥ 0.
        max_iter: t ≥ 1.
        what: Names the curvature in errors.

    Raises:
        UsageError: t < 1.
        NumericalError: C + λI has negative curvature, or is singular, along a search direction; names the value.
    """
    value = check_regularization(regularization)
    if max_iter < 1:
        raise UsageError(f"Conjugate gradients got max_iter = {max_iter}.", "Give at least 1; usual is 10.")
    rounding = torch.finfo(vectors.dtype).eps
    start = squared_norms(vectors)
    solution = vectors.clone()
    applied = product(vectors)
    residual = vectors - applied - value * vectors
    squares = squared_norms(residual)
    direction = residual.clone()
    largest = torch.zeros_like(squares)
    for iteration in range(max_iter):
        active = squares > (_EPSILON**2 * start)
        if not bool(active.any()):
            break
        curved = product(direction)
        length = torch.where(active, squared_norms(direction), 1.0)
        mean = row_products(direction, curved) / length
        quotient = mean + value
        largest = torch.maximum(largest, quotient.abs())
        degenerate = active & (quotient <= rounding * largest)
        # Rounding may leave a residual that is no more than noise, along which nothing can be said: solved as well.
        active &= ~(degenerate & (squares <= rounding**2 * start))
        _refuse(active & degenerate, quotient, rounding * largest, value, iteration, what)
        alpha = torch.where(active, squares / (quotient * length), 0.0)
        step, keep = alpha.to(vectors)[:, None], active.to(vectors.device)[:, None]
        if iteration == 0:
            # x₁ = α(v + σ̄v − Cv) and r₁ = α(σ̄r₀ − Cr₀), σ̄ the Rayleigh quotient: exact where λ ≫ σ, for v + α·r₀
            # would cancel all but the last λ⁻¹.
            shift = mean.to(vectors)[:, None]
            solution = torch.where(keep, step * (vectors + shift * vectors - applied), solution)
            residual = torch.where(keep, step * (shift * residual - curved), residual)
        else:
            solution = torch.addcmul(solution, step, direction)
            residual = residual - step * (curved + value * direction)
        updated = torch.where(active, squared_norms(residual), 0.0)
        ratio = torch.where(active, updated / torch.where(active, squares, 1.0), 0.0)
        direction = torch.addcmul(residual, ratio.to(vectors)[:, None], direction)
        squares = updated
    return solution


def _refuse(bad: Tensor, quotient: Tensor, tolerance: Tensor, value: float, iteration: int, what: str) -> None:
    if not bool(bad.any()):
        return
    first = int(bad.nonzero()[0])
    found = float(quotient[first])
    negative = found < -float(tolerance[first])
    raise NumericalError(
        f"Conjugate gradients on the {what}: {'negative curvature' if negative else 'a singular direction'} at step "
        f"{iteration + 1}, pᵀ(C+λI)p/pᵀp = {found:.6g} with λ = {value:g} (vector {first}; {int(bad.sum())} in all).",
        f"Give λ > {value - found:.6g}, or use ggn or a Fisher, which are never negative."
        if negative
        else "Give λ > 0: the curvature is singular.",
    )
