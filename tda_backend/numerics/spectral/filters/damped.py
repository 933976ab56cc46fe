"""The damped inverse 1/(σ+λ): influence functions, TRAK, LoGra and EK-FAC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tda_backend.errors import NumericalError
from tda_backend.finite import all_finite
from tda_backend.numerics.spectral.filters.base import Filter, pseudo_inverse_cutoff


@dataclass(frozen=True)
class DampedInverse(Filter):
    """φ(σ; λ) = 1/(σ+λ); λ = 0: the pseudo-inverse, 1/σ if σ > n·ε·σ_max else 0."""

    NAME: ClassVar[str] = "damped_inverse"
    HAS_TWIN: ClassVar[bool] = True
    FORMULA: ClassVar[str] = "φ(σ) = 1/(σ+λ)"
    REMARK: ClassVar[str] = (
        "Directions right of λ ({strong} of {total}) are weighted by 1/σ, those left of it all by about 1/λ: λ says "
        "where the curvature stops being believed."
    )
    REMARK_AT_ZERO: ClassVar[str] = "λ = 0: every direction is weighted by 1/σ, the weakest most."

    def phi(self, sigma: Tensor, regularization: float, num_train: int) -> Tensor:
        """Return 1/(σ+λ), ``[r]``.

        Raises:
            NumericalError: 1/(σ+λ) overflows.
        """
        return _inverse(sigma, regularization, num_train)


@dataclass(frozen=True)
class StrictDampedInverse(Filter):
    """φ(σ; λ) = 1/(σ+λ), refusing λ = 0 where the curvature is singular: it has an inverse only for λ > 0.

    Attributes:
        num_cut: Eigenvalues at or below the cutoff.
        num_eigenvalues: Of how many, p.
    """

    num_cut: int
    num_eigenvalues: int

    NAME: ClassVar[str] = DampedInverse.NAME
    HAS_TWIN: ClassVar[bool] = True
    FORMULA: ClassVar[str] = DampedInverse.FORMULA
    REMARK: ClassVar[str] = DampedInverse.REMARK
    REMARK_AT_ZERO: ClassVar[str] = DampedInverse.REMARK_AT_ZERO

    def parameters(self) -> Mapping[str, Any]:
        """Return whether λ = 0 is refused."""
        return {"refuses_zero": self.num_cut > 0}

    def phi(self, sigma: Tensor, regularization: float, num_train: int) -> Tensor:
        """Return 1/(σ+λ), ``[r]``.

        Raises:
            NumericalError: λ = 0 on a singular curvature, or 1/(σ+λ) overflows.
        """
        if regularization == 0 and self.num_cut:
            raise NumericalError(
                f"λ = 0 asks for the inverse of a singular curvature: {self.num_cut} of {self.num_eigenvalues} "
                "eigenvalues are at or below the cutoff n·ε·σ_max.",
                "Give λ > 0, or use iffim, whose λ = 0 is the pseudo-inverse.",
            )
        return _inverse(sigma, regularization, num_train)


def damped_inverse(eigenvalues: Tensor, regularization: float, num_train: int) -> Tensor:
    """Return φ(σ; λ) = 1/(σ+λ), ``[r]`` float64: the weights of :class:`DampedInverse`."""
    return DampedInverse().weights(eigenvalues, regularization, num_train)


def _inverse(sigma: Tensor, regularization: float, num_train: int) -> Tensor:
    if regularization > 0:
        result = 1.0 / (sigma + regularization)
    else:
        kept = sigma > pseudo_inverse_cutoff(sigma, num_train)
        result = torch.where(kept, 1.0 / torch.where(kept, sigma, torch.ones_like(sigma)), torch.zeros_like(sigma))
    if not all_finite(result):
        raise NumericalError(
            f"1/(σ+λ) overflows at λ = {regularization:g}.",
            "Use a larger λ, or rescale the measurement: the gradients are extremely small.",
        )
    return result
