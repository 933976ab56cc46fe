"""Arnoldi influence functions: the curvature restricted to a Krylov basis of m vectors, of which k Ritz pairs are kept.

Schioppa et al., *Scaling up influence functions* (AAAI 2022), §3; METHODS §3. The curvature is symmetric, so Arnoldi's
upper Hessenberg matrix is tridiagonal up to rounding and the Ritz pairs are real.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tda_backend.errors import UsageError
from tda_backend.models.probe import Probe, home_of
from tda_backend.numerics.curvature.indefinite import (
    IndefinitePolicy,
    SignedEigenpairs,
    check_policy,
    signed_spectrum,
)
from tda_backend.numerics.curvature.parameters import flat_gradients
from tda_backend.numerics.curvature.problem import ambient_problem, squared_norms
from tda_backend.numerics.curvature.products.base import CurvatureProduct
from tda_backend.numerics.curvature.products.curvature_product import loss_gradient_products
from tda_backend.numerics.curvature.pseudo_gradients import Curvature
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.seeds import hashed_rng

_EXTREME_STEPS = 30


def krylov_basis(product: CurvatureProduct, num_iterations: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return an orthonormal Krylov basis and the curvature in it.

    Each new vector is made orthogonal to all before it, twice. Where the Krylov space is exhausted (the curvature has
    fewer distinct eigenvalues than iterations) a new random direction goes on, so m = p of them always span everything.

    Args:
        product: The curvature C.
        num_iterations: 1 ≤ m ≤ p.
        seed: Start vectors are hashed from it.

    Returns:
        Q ``[m, p]`` in the product's dtype, and QCQᵀ ``[m, m]`` float64, symmetric.

    Raises:
        UsageError: m is out of range.
    """
    size = product.num_parameters
    if not 1 <= num_iterations <= size:
        raise UsageError(
            f"Arnoldi got {num_iterations} iterations for {size} parameters.", f"Give a number from 1 to {size}."
        )
    basis = torch.zeros(num_iterations, size, dtype=product.dtype, device=product.device)
    projected = torch.zeros(num_iterations, num_iterations, dtype=torch.float64, device=home_of(product.device))
    epsilon = torch.finfo(product.dtype).eps
    basis[0] = _fresh_direction(basis[:0], seed, 0)
    largest = 0.0
    for step in range(num_iterations):
        image = product(basis[step : step + 1])[0]
        known = basis[: step + 1]
        coefficients = known @ image
        projected[: step + 1, step] = coefficients.to(projected)
        projected[step, : step + 1] = coefficients.to(projected)
        if step + 1 == num_iterations:
            break
        largest = max(largest, float(torch.linalg.vector_norm(image)))
        image -= coefficients @ known
        image -= (known @ image) @ known
        length = float(torch.linalg.vector_norm(image))
        if length > 100 * epsilon * largest:
            basis[step + 1] = image / length
        else:
            basis[step + 1] = _fresh_direction(known, seed, step + 1)
    return basis, projected


def _fresh_direction(known: Tensor, seed: int, step: int) -> Tensor:
    """Return a random unit vector orthogonal to the known ones."""
    size = known.shape[1]
    vector = torch.from_numpy(hashed_rng("arnoldi", seed, step).standard_normal(size)).to(known)
    vector /= torch.linalg.vector_norm(vector)
    for _ in range(3):
        vector -= (known @ vector) @ known
        vector /= torch.linalg.vector_norm(vector)
    return vector


def extreme_eigenvalues(
    product: CurvatureProduct, *, seed: int = 0, num_iterations: int = _EXTREME_STEPS
) -> tuple[float, float]:
    """Return estimates of the smallest and the largest eigenvalue, from inside: smallest Ritz ≥ σ_min, largest ≤ σ_max.

    At m = p they are exact.
    """
    _, projected = krylov_basis(product, min(num_iterations, product.num_parameters), seed=seed)
    values = torch.linalg.eigvalsh(projected)
    return float(values[0]), float(values[-1])


def arnoldi_spectrum(
    probe: Probe,
    curvature: Curvature,
    *,
    num_iterations: int = 200,
    num_eigenvalues: int | None = None,
    indefinite: IndefinitePolicy = "refuse",
    dtype: torch.dtype = torch.float32,
) -> Spectrum:
    """Return spectral coordinates in the k Ritz vectors of largest |value| among m Arnoldi iterations.

    Gradients outside their span are dropped (``query_outside`` says how much), as published. Ritz values keep their
    sign until the policy decides: no square root of one is ever taken.

    Args:
        probe: Task, model of any size, and the rows of all groups.
        curvature: Any kind; the start vector is hashed from its seed too.
        num_iterations: m ≤ p.
        num_eigenvalues: k ≤ m; ``None`` for all m.
        indefinite: What to do with negative Ritz values.
        dtype: Storage type of the coordinates.

    Raises:
        UsageError: m, k or policy is out of range.
        NumericalError: A kept Ritz value is negative and the policy is ``refuse``; or a gradient is not finite.
    """
    check_policy(indefinite)
    count = num_iterations if num_eigenvalues is None else num_eigenvalues
    if not 1 <= count <= num_iterations:
        raise UsageError(
            f"Arnoldi is to keep {count} eigenvalues of {num_iterations} iterations.",
            f"Give a number from 1 to {num_iterations}.",
        )
    problem = ambient_problem(probe, curvature)
    basis, projected = krylov_basis(problem.product, num_iterations, seed=curvature.seed)
    values, rotation = torch.linalg.eigh(projected)
    chosen = values.abs().argsort(descending=True, stable=True)[:count]
    vectors = rotation[:, chosen].T.to(basis) @ basis  # [k, p]
    del basis
    validation = flat_gradients(probe, "validation", "goodness")
    pairs = SignedEigenpairs(
        values[chosen],
        train=-loss_gradient_products(problem.losses, vectors).T.to(probe.home),
        query=problem.queries @ vectors.T.to(problem.queries),
        validation=validation @ vectors.T.to(validation),
        query_squares=squared_norms(problem.queries),
        # float32 products put noise of ε·σ_max on every Ritz value; it grows with the basis.
        rounding=max(num_iterations, 10) * torch.finfo(problem.product.dtype).eps,
        what=f"Ritz matrix of the {problem.product.name}",
    )
    return signed_spectrum(pairs, indefinite, dtype)
