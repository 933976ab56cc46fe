"""What to do with negative eigenvalues, and a spectrum from signed eigenpairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.spectral.coordinates import Spectrum, squares_outside
from tda_backend.numerics.spectral.filters.damped import StrictDampedInverse

IndefinitePolicy: TypeAlias = Literal["refuse", "absolute", "clip"]
POLICIES: tuple[IndefinitePolicy, ...] = ("refuse", "absolute", "clip")


def check_policy(policy: str) -> None:
    """Raise a UsageError unless the policy for negative eigenvalues is known."""
    if policy not in POLICIES:
        raise UsageError(f"Unknown policy {policy!r} for negative eigenvalues.", f"Allowed: {', '.join(POLICIES)}.")


def non_negative(eigenvalues: Tensor, policy: IndefinitePolicy, rounding: float, what: str) -> Tensor:
    """Return eigenvalues ≥ 0: rounding below 0 is clipped, what is truly negative is treated by the policy.

    Args:
        eigenvalues: ``[r]`` float64, signed.
        policy: ``refuse``, ``absolute`` (|σ|) or ``clip`` (0).
        rounding: Relative to the largest |σ|: a negative value no larger than this is rounding.
        what: Names the matrix.

    Raises:
        NumericalError: The matrix is zero, or indefinite with the policy ``refuse``.
    """
    check_policy(policy)
    largest = float(eigenvalues.abs().max()) if eigenvalues.numel() else 0.0
    if largest <= 0.0:
        raise NumericalError(
            f"The {what} is zero.", "Use an earlier checkpoint, or check that the loss depends on the parameters."
        )
    smallest = float(eigenvalues.min())
    negative = eigenvalues < -rounding * largest
    if policy == "refuse" and bool(negative.any()):
        raise NumericalError(
            f"The {what} is indefinite: {int(negative.sum())} of {eigenvalues.numel()} eigenvalues are negative, the "
            f"smallest {smallest:.6g}, {smallest / largest:.3g} times the largest in size ({largest:.6g}).",
            "Name a policy: indefinite='absolute' takes |σ|, indefinite='clip' takes 0; or use ggn or a Fisher, "
            "which are never negative.",
        )
    if policy == "absolute":
        return torch.where(negative, -eigenvalues, eigenvalues.clamp(min=0.0))
    return eigenvalues.clamp(min=0.0)


@dataclass(frozen=True, eq=False)
class SignedEigenpairs:
    """Eigenvalues of any sign, and the coordinates of gradients in their eigenvectors.

    Attributes:
        eigenvalues: ``[r]`` float64, signed, any order.
        train: ``[n, r]`` coordinates of −∇ℓ.
        query: ``[m, r]`` coordinates of ∇goodness.
        validation: ``[v, r]`` coordinates of ∇goodness.
        query_squares: ``[m]`` ‖φ'‖².
        rounding: Relative size below which an eigenvalue is rounding; also the cutoff of singularity.
        what: Names the matrix in errors.
    """

    eigenvalues: Tensor
    train: Tensor
    query: Tensor
    validation: Tensor
    query_squares: Tensor
    rounding: float
    what: str


def signed_spectrum(pairs: SignedEigenpairs, policy: IndefinitePolicy, dtype: torch.dtype) -> Spectrum:
    """Return a spectrum from eigenpairs of any sign.

    Coordinates at or below the cutoff in which no train gradient lies change no score and are left out; they count
    as outside. Those in which one does lie (they exist for the Hessian, the Gauss–Newton matrix and the true Fisher)
    stay, with σ at rounding level, because they take part in 1/(σ+λ).

    Args:
        pairs: Eigenvalues and coordinates.
        policy: For negative eigenvalues.
        dtype: Storage type of the coordinates.

    Raises:
        NumericalError: As :func:`non_negative`.
    """
    values = non_negative(pairs.eigenvalues, policy, pairs.rounding, pairs.what)
    largest = float(values.max())
    singular = values <= pairs.rounding * largest
    energy = pairs.train.to(torch.float64).square().sum(0)
    kept = ~singular | (energy > pairs.rounding * energy.max())
    values = values.clamp(min=torch.finfo(torch.float64).eps * largest)
    order = torch.argsort(torch.where(kept, values, -1.0), descending=True, stable=True)[: int(kept.sum())]
    query = pairs.query[:, order]
    num_cut = int(singular.sum())
    return Spectrum(
        eigenvalues=values[order],
        train=pairs.train[:, order].to(dtype),
        query=query.to(dtype),
        validation=pairs.validation[:, order].to(dtype),
        train_weights=None,
        num_cut=num_cut,
        filter=StrictDampedInverse(num_cut, pairs.eigenvalues.numel()),
        query_outside=squares_outside(pairs.query_squares, query),
    )
