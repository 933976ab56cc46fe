"""The backward walk of SOURCE over segments, whatever their curvature is made of.

With S̄_ℓ = exp(−c_ℓH̄_ℓ) and F_r(H̄_ℓ) = (I − e^{−c_ℓH̄_ℓ})H̄_ℓ⁻¹, from q_L = ∇goodness(θ_final) backwards:
v_ℓ = F_r(H̄_ℓ)q_ℓ and q_{ℓ−1} = S̄_ℓᵀq_ℓ. Each segment works in coordinates of its own, in which it also meets its
gradients, and takes the query over from the coordinates of the following one: bases are never forced onto each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.finite import all_finite


def response_filter(eigenvalues: Tensor, duration: float | Tensor) -> Tensor:
    """Return F_r(σ) = (1 − e^{−cσ})/σ with F_r(0) = c, for any sign of σ (SOURCE, eq. 21; no damping).

    As c·(−expm1(−x)/x), x = cσ: the plain form loses all digits where x is small.

    Args:
        eigenvalues: σ, any shape.
        duration: c ≥ 0, one number or of the shape of σ.
    """
    scaled = eigenvalues * duration
    safe = torch.where(scaled == 0, torch.ones_like(scaled), scaled)
    return duration * torch.where(scaled == 0, torch.ones_like(scaled), -torch.expm1(-safe) / safe)


def decay_filter(eigenvalues: Tensor, duration: float | Tensor) -> Tensor:
    """Return e^{−cσ}, the share of a parameter change that survives the segment (SOURCE, eq. 16)."""
    return torch.exp(-eigenvalues * duration)


class SegmentOperator(Protocol):
    """What a segment does to queries ``[m, p]`` in its own coordinates."""

    def enter(self, query: Tensor, following: Any) -> Tensor:
        """Return the query in this segment's coordinates, given in those of the following segment."""
        ...

    def respond(self, query: Tensor) -> Tensor:
        """Return v_ℓ: what a gradient of this segment, in its coordinates, is multiplied with."""
        ...

    def transport(self, query: Tensor) -> Tensor:
        """Return q_{ℓ−1}: the query as seen from the segment's beginning."""
        ...


@dataclass(frozen=True)
class DenseOperator:
    """A segment with an explicit symmetric curvature; its coordinates are the parameters.

    Attributes:
        eigenvalues: σ of H̄, ``[p]``.
        basis: Eigenvectors as columns, ``[p, p]``.
        duration: c.
    """

    eigenvalues: Tensor
    basis: Tensor
    duration: float

    def enter(self, query: Tensor, following: Any) -> Tensor:
        """Return the query: parameter space is common to all."""
        return query

    def respond(self, query: Tensor) -> Tensor:
        """Return F_r(H̄)q."""
        return (query @ self.basis * response_filter(self.eigenvalues, self.duration)) @ self.basis.T

    def transport(self, query: Tensor) -> Tensor:
        """Return exp(−cH̄)q."""
        return (query @ self.basis * decay_filter(self.eigenvalues, self.duration)) @ self.basis.T


def dense_operator(curvature: Tensor, duration: float, weight_decay: float = 0.0) -> DenseOperator:
    """Return the segment of a symmetric ``curvature`` ``[p, p]``; L2 decay shifts σ by ω, which is no damping.

    Raises:
        UsageError: The curvature is no square matrix.
        NumericalError: It is not finite.
    """
    if curvature.ndim != 2 or curvature.shape[0] != curvature.shape[1]:
        raise UsageError(f"The curvature has the shape {tuple(curvature.shape)}.", "Give a square matrix [p, p].")
    if not all_finite(curvature):
        raise NumericalError("The curvature of a segment is not finite.", "Look for a training run that diverged.")
    symmetric = (curvature + curvature.T) / 2
    eigenvalues, basis = torch.linalg.eigh(symmetric)
    return DenseOperator(eigenvalues + weight_decay, basis, duration)


def walk(operators: Sequence[SegmentOperator], query: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield (segment ℓ, v_ℓ ``[m, p]``) from the last segment to the first (SOURCE, eq. 22).

    Args:
        operators: One per segment, in order of time.
        query: q_L, the gradients of goodness at the end of the run, ``[m, p]`` in the last segment's coordinates.

    Yields:
        ℓ counted from 0, and v_ℓ in the segment's coordinates.

    Raises:
        NumericalError: A response is not finite; names the segment.
    """
    for index in range(len(operators) - 1, -1, -1):
        response = operators[index].respond(query)
        if not all_finite(response):
            raise NumericalError(
                f"SOURCE overflows in segment {index + 1} of {len(operators)}: e^(−cσ) is not finite.",
                "Its curvature has large negative eigenvalues; Gauss–Newton and Fisher curvatures have none.",
            )
        yield index, response
        del response  # as large as the query; the caller is done with it
        if index:
            query = operators[index - 1].enter(operators[index].transport(query), operators[index])
