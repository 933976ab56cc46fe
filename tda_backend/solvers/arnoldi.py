"""Arnoldi influence functions: the curvature restricted to a Krylov basis of m steps, of which k Ritz pairs are kept.

Schioppa et al., *Scaling up influence functions* (AAAI 2022), §3; METHODS §3. The curvature is symmetric, so Arnoldi's
upper Hessenberg matrix is tridiagonal up to rounding and the Ritz pairs are real.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tda_backend.errors import UsageError
from tda_backend.seeds import hashed_rng
from tda_backend.solvers.indefinite import IndefinitePolicy, check_policy, signed_spectrum
from tda_backend.solvers.parameters import flat_gradients
from tda_backend.solvers.problem import ambient_problem, squared_norms
from tda_backend.solvers.products import CurvatureProduct, inner_products
from tda_backend.solvers.pseudo_gradients import CurvatureKind
from tda_backend.spectral.coordinates import Spectrum
from tda_backend.types import Batch, Task

_EXTREME_STEPS = 30


def krylov_basis(product: CurvatureProduct, num_iterations: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return an orthonormal Krylov basis and the curvature in it.

    Each new vector is made orthogonal to all before it, twice. Where the Krylov space is exhausted (the curvature has
    fewer distinct eigenvalues than steps) a new random direction goes on, so m = p steps always span everything.

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
    basis = torch.zeros(num_iterations, size, dtype=product.dtype)
    projected = torch.zeros(num_iterations, num_iterations, dtype=torch.float64)
    epsilon = torch.finfo(product.dtype).eps
    basis[0] = _fresh_direction(basis[:0], seed, 0)
    largest = 0.0
    for step in range(num_iterations):
        image = product(basis[step : step + 1])[0].cpu()
        known = basis[: step + 1]
        coefficients = known @ image
        projected[: step + 1, step] = coefficients.to(torch.float64)
        projected[step, : step + 1] = coefficients.to(torch.float64)
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
    vector = torch.from_numpy(hashed_rng("arnoldi", seed, step).standard_normal(size)).to(known.dtype)
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
    task: Task,
    model: nn.Module,
    data: Mapping[str, Batch],
    train_indices: Sequence[int] | Tensor,
    validation_indices: Sequence[int] | Tensor,
    query_indices: Sequence[int] | Tensor,
    *,
    curvature: CurvatureKind = "hessian",
    num_iterations: int = 200,
    num_eigenvalues: int | None = None,
    indefinite: IndefinitePolicy = "refuse",
    seed: int = 0,
    num_samples: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> Spectrum:
    """Return spectral coordinates in the k Ritz vectors of largest |value| among m Arnoldi steps.

    Gradients outside their span are dropped (``query_outside`` says how much), as published. Ritz values keep their
    sign until the policy decides: no square root of one is ever taken.

    Args:
        task: Measurement, its sign, and loss.
        model: At the checkpoint; used in eval mode; any size.
        data: ``train`` and ``test`` splits.
        train_indices: Rows of the train split, n.
        validation_indices: Rows of the test split for ξ.
        query_indices: Rows of the test split to attribute.
        curvature: Any kind.
        num_iterations: m ≤ p.
        num_eigenvalues: k ≤ m; ``None`` for all m.
        indefinite: What to do with negative Ritz values.
        seed: For the start vector and the labels of the true Fisher.
        num_samples: Labels drawn per example for the true Fisher.
        dtype: Storage type of the coordinates.
        device: Where the products run.
        batch_size: Examples per pass; results do not depend on it.

    Raises:
        UsageError: m, k, curvature or policy is out of range.
        NumericalError: A kept Ritz value is negative and the policy is ``refuse``; or a gradient is not finite.
    """
    check_policy(indefinite)
    count = num_iterations if num_eigenvalues is None else num_eigenvalues
    if not 1 <= count <= num_iterations:
        raise UsageError(
            f"Arnoldi is to keep {count} eigenvalues of {num_iterations} iterations.",
            f"Give a number from 1 to {num_iterations}.",
        )
    settings = {"device": device, "batch_size": batch_size}
    problem = ambient_problem(
        task, model, data, train_indices, query_indices,
        curvature=curvature, seed=seed, num_samples=num_samples, device=device, batch_size=batch_size,
    )  # fmt: skip
    basis, projected = krylov_basis(problem.product, num_iterations, seed=seed)
    values, rotation = torch.linalg.eigh(projected)
    chosen = values.abs().argsort(descending=True, stable=True)[:count]
    vectors = rotation[:, chosen].T.to(basis.dtype) @ basis  # [k, p]
    del basis
    validation = flat_gradients(task, model, data["test"], validation_indices, "goodness", **settings)
    # float32 products put noise of ε·σ_max on every Ritz value; it grows with the basis.
    rounding = max(num_iterations, 10) * torch.finfo(problem.product.dtype).eps
    return signed_spectrum(
        values[chosen],
        -inner_products(problem.losses, vectors).T,
        problem.queries @ vectors.T,
        validation @ vectors.T,
        policy=indefinite,
        rounding=rounding,
        query_squares=squared_norms(problem.queries),
        dtype=dtype,
        what=f"Ritz matrix of the {problem.product.name}",
    )
