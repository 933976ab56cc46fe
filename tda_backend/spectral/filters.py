"""Spectral filters: a method's hyper-parameter is a function of the eigenvalues, nothing more.

======================  =============================================  ==========================================
filter                  φ(σ; λ)                                        used by
======================  =============================================  ==========================================
``damped_inverse``      1 / (σ + λ);  λ = 0: 1/σ if σ > cutoff else 0  influence functions, TRAK, LoGra, EK-FAC
``identity``            1                                              methods without curvature
``lissa_mean``          [1−(1−d−σ/s)^{T+1}]/(σ+λ),  d = λ/s            LiSSA (:mod:`..solver_filters`)
``krylov``              conjugate gradients' polynomial, per query     CG (:mod:`..solver_filters`)
======================  =============================================  ==========================================

λ is in units of the mean Gram (TRAK's XᵀX form is λ_TRAK = n·λ). The cutoff of the pseudo-inverse is n·ε·σ_max with
the ε of float64. The explorer's browser-side code applies the same table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tda_backend.errors import NumericalError

_EPSILON = torch.finfo(torch.float64).eps


def pseudo_inverse_cutoff(eigenvalues: Tensor, num_train: int) -> float:
    """Return n·ε·σ_max, at or below which an eigenvalue counts as zero.

    Args:
        eigenvalues: ``[r]`` eigenvalues of the mean Gram.
        num_train: n.
    """
    if eigenvalues.numel() == 0:
        return 0.0
    return num_train * _EPSILON * float(eigenvalues.max())


def check_regularization(regularization: float) -> float:
    """Return λ as a float, refusing what is not a finite number ≥ 0.

    Raises:
        NumericalError: λ is negative, infinite or NaN.
    """
    value = float(regularization)
    if not math.isfinite(value) or value < 0:
        raise NumericalError(
            f"The regularization λ = {value!r} is not a finite number ≥ 0.",
            "Give λ ≥ 0 in units of the mean Gram; λ = 0 means the pseudo-inverse.",
        )
    return value


def damped_inverse(eigenvalues: Tensor, regularization: float, num_train: int) -> Tensor:
    """Return φ(σ; λ) = 1/(σ+λ); for λ = 0 the pseudo-inverse, which leaves out σ ≤ n·ε·σ_max.

    Args:
        eigenvalues: ``[r]`` eigenvalues σ ≥ 0 of the mean Gram.
        regularization: λ ≥ 0, absolute, in units of the mean Gram.
        num_train: n, for the cutoff at λ = 0.

    Returns:
        ``[r]`` float64, finite.

    Raises:
        NumericalError: λ is negative or not finite, an eigenvalue is negative or not finite, or 1/(σ+λ) overflows.
    """
    value = check_regularization(regularization)
    sigma = eigenvalues.to(torch.float64)
    if not bool(torch.isfinite(sigma).all()) or bool((sigma < 0).any()):
        raise NumericalError(
            f"Eigenvalues handed to the filter are negative or not finite (λ = {value:g}).",
            "Clip rounding errors below 0 to 0; look for NaN in the gradients of this checkpoint.",
        )
    if value > 0:
        result = 1.0 / (sigma + value)
    else:
        kept = sigma > pseudo_inverse_cutoff(sigma, num_train)
        result = torch.where(kept, 1.0 / torch.where(kept, sigma, torch.ones_like(sigma)), torch.zeros_like(sigma))
    if not bool(torch.isfinite(result).all()):
        raise NumericalError(
            f"1/(σ+λ) overflows at λ = {value:g}.",
            "Use a larger λ, or rescale the measurement: the gradients are extremely small.",
        )
    return result


def damped_inverse_table(eigenvalues: Tensor, regularizations: Iterable[float], num_train: int) -> Tensor:
    """Return :func:`damped_inverse` for several λ as ``[num_λ, r]`` float64."""
    rows = [damped_inverse(eigenvalues, value, num_train) for value in regularizations]
    return torch.stack(rows) if rows else torch.empty(0, eigenvalues.numel(), dtype=torch.float64)


class SpectralFilter(Protocol):
    """φ: what a method does to spectral coordinates.

    Attributes:
        name: Key of the table above; the explorer's browser-side code knows it too.
        depends_on_query: Whether the weights differ from query to query.
    """

    @property
    def name(self) -> str: ...

    @property
    def depends_on_query(self) -> bool: ...

    def parameters(self) -> Mapping[str, Any]:
        """Return the hyper-parameters beside λ."""
        ...

    def weights(
        self,
        eigenvalues: Tensor,
        regularization: float,
        num_train: int,
        query: Tensor | None = None,
        outside: Tensor | None = None,
    ) -> Tensor:
        """Return φ, ``[r]`` or, where it depends on the query, ``[m, r]``; float64, finite.

        Args:
            eigenvalues: ``[r]`` float64 σ ≥ 0.
            regularization: λ ≥ 0.
            num_train: n.
            query: ``[m, r]`` float64 query coordinates, for filters that depend on them.
            outside: ``[m]`` squared norm of each query gradient outside the basis.
        """
        ...


def filter_table(
    spectral_filter: SpectralFilter,
    eigenvalues: Tensor,
    regularizations: Iterable[float],
    num_train: int,
    query: Tensor | None = None,
    outside: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield the weights of a filter for several λ; filters that share work between them have a ``table``."""
    table = getattr(spectral_filter, "table", None)
    if table is not None:
        yield from table(eigenvalues, list(regularizations), num_train, query, outside)
        return
    for value in regularizations:
        yield spectral_filter.weights(eigenvalues, value, num_train, query, outside)


@dataclass(frozen=True)
class DampedInverse:
    """φ(σ; λ) = 1/(σ+λ); see :func:`damped_inverse`."""

    name = "damped_inverse"
    depends_on_query = False

    def parameters(self) -> Mapping[str, Any]:
        """Return nothing: λ is all."""
        return {}

    def weights(
        self,
        eigenvalues: Tensor,
        regularization: float,
        num_train: int,
        query: Tensor | None = None,
        outside: Tensor | None = None,
    ) -> Tensor:
        """Return 1/(σ+λ), ``[r]``."""
        return damped_inverse(eigenvalues, regularization, num_train)
