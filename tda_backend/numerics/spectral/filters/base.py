"""Spectral filters: a method's hyper-parameters are a function φ(σ; λ, …) of the eigenvalues, nothing more.

Each family has a file of its own; its class says the formula. A new filter is a frozen dataclass of one file::

    @dataclass(frozen=True)
    class SpectralCutoff(Filter):
        '''φ(σ; λ) = 1/σ if σ ≥ λ else 0.'''

        NAME: ClassVar[str] = "spectral_cutoff"

        def phi(self, sigma: Tensor, regularization: float, num_train: int) -> Tensor:
            return torch.where(sigma >= max(regularization, 1e-300), 1 / sigma.clamp(min=1e-300), 0.0)

λ is in units of the mean Gram (TRAK's XᵀX form is λ_TRAK = n·λ). Fields of the dataclass are hyper-parameters beside λ.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from tda_backend.errors import NumericalError
from tda_backend.finite import all_finite

EPSILON = torch.finfo(torch.float64).eps


def pseudo_inverse_cutoff(eigenvalues: Tensor, num_train: int) -> float:
    """Return n·ε·σ_max, at or below which an eigenvalue counts as zero.

    Args:
        eigenvalues: ``[r]`` eigenvalues of the mean Gram.
        num_train: n.
    """
    if eigenvalues.numel() == 0:
        return 0.0
    return num_train * EPSILON * float(eigenvalues.max())


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


def check_eigenvalues(sigma: Tensor, regularization: float) -> None:
    """Raise a NumericalError unless all eigenvalues are finite and ≥ 0; λ names the place.

    Args:
        sigma: ``[r]`` float64.
        regularization: λ.
    """
    if not all_finite(sigma) or bool((sigma < 0).any()):
        raise NumericalError(
            f"Eigenvalues handed to the filter are negative or not finite (λ = {regularization:g}).",
            "Clip rounding errors below 0 to 0; look for NaN in the gradients of this checkpoint.",
        )


@dataclass(frozen=True)
class Filter(ABC):
    """φ: what a method does to spectral coordinates. A family defines ``NAME`` and :meth:`phi`.

    One whose weights differ from query to query sets ``DEPENDS_ON_QUERY`` and defines :meth:`weights` instead.

    Attributes:
        NAME: Key under which a browser's payload names the filter.
        DEPENDS_ON_QUERY: Whether the weights differ from query to query.
        HAS_TWIN: Whether the browser's JavaScript computes it too; it draws others from a table.
        FORMULA: What a figure writes beside the filter; empty for the first line of the class's docstring.
        REMARK: What it does to the eigenvalues at λ > 0, for a figure; ``{strong}`` and ``{total}`` count those above λ
            and all of them.
        REMARK_AT_ZERO: The same at λ = 0; empty: as for λ > 0.
    """

    NAME: ClassVar[str]
    DEPENDS_ON_QUERY: ClassVar[bool] = False
    HAS_TWIN: ClassVar[bool] = False
    FORMULA: ClassVar[str] = ""
    REMARK: ClassVar[str] = ""
    REMARK_AT_ZERO: ClassVar[str] = ""

    @property
    def name(self) -> str:
        """``NAME``."""
        return self.NAME

    @property
    def depends_on_query(self) -> bool:
        """``DEPENDS_ON_QUERY``."""
        return self.DEPENDS_ON_QUERY

    @property
    def has_twin(self) -> bool:
        """``HAS_TWIN``."""
        return self.HAS_TWIN

    @property
    def formula(self) -> str:
        """φ as text for a figure."""
        return self.FORMULA or (self.__doc__ or "").strip().split("\n")[0]

    def remark(self, regularization: float, **counts: int) -> str:
        """Return what the filter does to the eigenvalues at one λ, for a figure."""
        return (self.REMARK if regularization > 0 else self.REMARK_AT_ZERO or self.REMARK).format(**counts)

    def parameters(self) -> Mapping[str, Any]:
        """Return the hyper-parameters beside λ."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @abstractmethod
    def phi(self, sigma: Tensor, regularization: float, num_train: int) -> Tensor:
        """Return φ(σ; λ), ``[r]`` float64; the arguments have been checked.

        Args:
            sigma: ``[r]`` float64 ≥ 0.
            regularization: λ ≥ 0.
            num_train: n, for the cutoff of a pseudo-inverse at λ = 0.
        """

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
            eigenvalues: ``[r]`` σ ≥ 0.
            regularization: λ ≥ 0.
            num_train: n.
            query: ``[m, r]`` float64 query coordinates, for filters that depend on them.
            outside: ``[m]`` squared norm of each query gradient outside the basis, or ``None`` for 0.

        Raises:
            NumericalError: λ is negative or not finite, an eigenvalue is, or φ has no finite value at this λ.
        """
        value = check_regularization(regularization)
        sigma = eigenvalues.to(torch.float64)
        check_eigenvalues(sigma, value)
        result = self.phi(sigma, value, num_train)
        if not all_finite(result):
            raise NumericalError(f"The filter {self.name} is not finite at λ = {value:g}.", "Use a larger λ.")
        return result

    def table(
        self,
        eigenvalues: Tensor,
        regularizations: Iterable[float],
        num_train: int,
        query: Tensor | None = None,
        outside: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Yield :meth:`weights` for several λ; families that can share work between them define it anew."""
        for value in regularizations:
            yield self.weights(eigenvalues, value, num_train, query, outside)
