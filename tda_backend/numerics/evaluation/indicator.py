"""The surrogate indicator ξ(λ) of *Taming* (arXiv 2505.24261, §4): needs no retraining.

``r = −Jφ'``, ``t_j = rᵀ(K+λI)^{−j} r``, ``ξ = t₂/√(t₁t₃)`` ∈ [0, 1]. In the eigenbasis, with b the coordinates of φ',
``t_j ∝ Σ_i σ_i b_i²/(σ_i+λ)^j``. TRAK: margin features without the weights 1 − p, mean over models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from tda_backend.errors import NumericalError, UsageError
from tda_backend.finite import all_finite
from tda_backend.numerics.spectral.condense import MAX_COORDINATES, Condenser
from tda_backend.numerics.spectral.coordinates import Coordinates
from tda_backend.numerics.spectral.filters.base import check_regularization, pseudo_inverse_cutoff

INDICATOR_QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
"""Columns of :func:`indicator_frame` → quantile over the validation points."""


@dataclass(frozen=True)
class IndicatorCurve:
    """ξ(λ) over the validation points.

    Attributes:
        regularizations: ``[L]``.
        per_point: ``[L, v]``, mean over models; NaN for dropped points.
        mean: ``[L]`` over the points that are kept.
        num_dropped: Points with t₁ = 0 (no overlap with any training gradient) in some model.
    """

    regularizations: np.ndarray
    per_point: np.ndarray
    mean: np.ndarray
    num_dropped: int


class Indicator:
    """ξ as a function of λ, prepared once for many evaluations.

    Args:
        spectra: One spectrum per training seed.

    Raises:
        UsageError: No spectrum.
        NumericalError: Coordinates are not finite, or every validation point has t₁ = 0.
    """

    def __init__(self, spectra: Sequence[Coordinates]) -> None:
        if not spectra:
            raise UsageError("The indicator needs at least one spectrum.", "Give one spectrum per training seed.")
        self.largest_eigenvalue = max(float(spectrum.eigenvalues.max()) for spectrum in spectra)
        self._models: list[tuple[torch.Tensor, torch.Tensor]] = []
        kept = torch.ones(spectra[0].num_validation, dtype=torch.bool, device=spectra[0].device)
        for spectrum in spectra:
            sigma, power = _power(spectrum)
            if not all_finite(power):
                raise NumericalError(
                    "Validation coordinates are not finite.", "Look for NaN in the gradients of this checkpoint."
                )
            # ξ does not depend on the length of φ': scaling each point to a largest term of 1 prevents underflow.
            largest = power.abs().amax(dim=1, keepdim=True) if power.numel() else power.new_zeros(len(power), 1)
            kept &= largest[:, 0] > 0
            power /= torch.where(largest > 0, largest, torch.ones_like(largest))
            self._models.append((sigma, power))
        self.kept = kept.cpu().numpy()
        if not self.kept.any():
            raise NumericalError(
                "ξ is undefined: no validation gradient overlaps with any training gradient.",
                "Use other validation examples, an earlier checkpoint or a larger projection.",
            )

    def __call__(self, regularizations: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return ξ of every validation point, mean over models, ``[L, v]``; NaN for dropped points."""
        values = np.array([check_regularization(value) for value in regularizations])
        total = np.zeros((len(values), len(self.kept)))
        for sigma, power in self._models:
            damped = sigma[:, None] + sigma.new_tensor(values)  # [r, L]
            shrink = damped.amin(dim=0) / damped  # in (0, 1]: ξ does not change when (σ+λ) is rescaled
            # One product for the three moments: reading `power` from memory is what a single λ costs.
            t1, t2, t3 = (power @ torch.cat([shrink, shrink**2, shrink**3], dim=1)).split(len(values), dim=1)  # [v, L]
            ratio = t2 / (t1.sqrt() * t3.sqrt())  # 0/0 at dropped points
            total += ratio.clamp(max=1.0).T.cpu().numpy()  # Cauchy–Schwarz; rounding may pass 1 by an ulp
        total /= len(self._models)
        total[:, ~self.kept] = np.nan
        if not np.isfinite(total[:, self.kept]).all():
            row = int(np.argwhere(~np.isfinite(total[:, self.kept]))[0, 0])
            raise NumericalError(f"ξ is not finite at λ = {values[row]:g}.", "Use a larger λ.")
        return total

    def mean(self, regularizations: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return ξ̄, the mean over the kept validation points, ``[L]``."""
        return self(regularizations)[:, self.kept].mean(axis=1)


def _power(spectrum: Coordinates) -> tuple[torch.Tensor, torch.Tensor]:
    """Return σ ``[r]`` and ``σ_i b_i²`` of each validation point, ``[v, r]`` float64; condensed where many."""
    eigenvalues, powers = [], []
    condenser, total = None, torch.empty(0)
    if spectrum.eigenvalues.numel() > MAX_COORDINATES:
        positive = spectrum.eigenvalues[spectrum.eigenvalues > 0]
        condenser = Condenser(float(positive.min()), float(positive.max()), device=positive.device)
        total = positive.new_zeros(spectrum.num_validation, condenser.eigenvalues.numel(), dtype=torch.float64)
    for part in spectrum.parts():
        positive = part.eigenvalues > pseudo_inverse_cutoff(part.eigenvalues, spectrum.num_train)
        sigma = part.eigenvalues[positive]
        power = part.rows("validation").to(torch.float64)[:, positive].square_()
        power *= sigma
        if condenser is not None:
            condenser.add(total, sigma, power)
        else:
            eigenvalues.append(sigma)
            powers.append(power)
    if condenser is None:
        return torch.cat(eigenvalues), torch.cat(powers, dim=1)
    return condenser.eigenvalues, total


def indicator_curve(spectra: Sequence[Coordinates], regularizations: Sequence[float]) -> IndicatorCurve:
    """Return ξ per validation point and its mean for every λ.

    Args:
        spectra: One spectrum per training seed.
        regularizations: L values of λ; 0 means the pseudo-inverse.

    Raises:
        NumericalError: As :class:`Indicator`, or λ is not allowed.
    """
    indicator = Indicator(spectra)
    per_point = indicator(regularizations)
    return IndicatorCurve(
        np.asarray(regularizations, dtype=np.float64),
        per_point,
        per_point[:, indicator.kept].mean(axis=1),
        int((~indicator.kept).sum()),
    )


def indicator_frame(spectra: Sequence[Coordinates], regularizations: Sequence[float]) -> pd.DataFrame:
    """Return ξ(λ): regularization, mean, quantiles over the validation points, num_dropped."""
    curve = indicator_curve(spectra, regularizations)
    frame = pd.DataFrame({"regularization": list(regularizations), "mean": curve.mean})
    for name, quantile in INDICATOR_QUANTILES.items():
        frame[name] = np.nanquantile(curve.per_point, quantile, axis=1)
    frame["num_dropped"] = int(curve.num_dropped)
    return frame
