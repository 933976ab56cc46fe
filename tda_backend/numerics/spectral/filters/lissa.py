"""LiSSA's recursion, in the mean over its random batches."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.spectral.filters.base import EPSILON, Filter, check_regularization


@dataclass(frozen=True)
class LissaMean(Filter):
    """φ(σ; λ, s, T) = [1−(1−d−σ/s)^{T+1}]/(σ+λ), d = λ/s: LiSSA's mean over independently drawn batches.

    ``x_{j+1} = v + (1−d)x_j − H_{B_j}x_j/s`` from x₀ = v has the mean ``Σ_{j≤T}(1−d−σ/s)^j v``; the result is x_T/s.
    Taming (arXiv 2505.24261), appendix A.1; METHODS §3.

    Attributes:
        scaling: s > 0.
        depth: T ≥ 0, recursion depth.
    """

    scaling: float
    depth: int

    NAME: ClassVar[str] = "lissa_mean"
    HAS_TWIN: ClassVar[bool] = True
    FORMULA: ClassVar[str] = "φ(σ) = [1−(1−(σ+λ)/s)^(T+1)]/(σ+λ)"
    REMARK: ClassVar[str] = "LiSSA stops early: where (σ+λ)·T/s is below 1 the weight is (T+1)/s, whatever σ."

    def __post_init__(self) -> None:
        check_scaling(self.scaling, self.depth)

    def phi(self, sigma: Tensor, regularization: float, num_train: int) -> Tensor:
        """Return φ, ``[r]``; (T+1)/s where σ + λ = 0.

        Raises:
            NumericalError: 0 ≤ d + σ/s < 2 does not hold.
        """
        if sigma.numel() == 0:
            return sigma.clone()
        check_lissa(float(sigma.min()), float(sigma.max()), regularization, self.scaling, "curvature")
        step = (sigma + regularization) / self.scaling  # u
        count = self.depth + 1
        # 1 − (1−u)^{T+1} without cancellation: expm1 and log1p below u = 1, a signed power beyond it.
        low = -torch.expm1(count * torch.log1p(-step.clamp(max=1.0)))
        high = 1.0 - (-1.0) ** count * (step - 1.0).clamp(min=0.0) ** count
        numerator = torch.where(step <= 1.0, low, high)
        positive = step > 0
        safe = torch.where(positive, step, torch.ones_like(step))
        return torch.where(positive, numerator / safe, torch.full_like(step, float(count))) / self.scaling


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
    if smallest + value < -EPSILON * max(abs(largest), abs(smallest)):
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
