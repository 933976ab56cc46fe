"""How many subsets would be needed? From the spread of bootstrap draws, which shrinks as one over the square root of S.

The half-width of a 95 % interval after S' subsets is predicted as ``z·sd·√(S/S')`` with sd the standard deviation of
the draws now. The spread is itself an estimate from S subsets: its variance has about S − 1 degrees of freedom, and the
range given is the 95 % interval of that (chi-squared). Adding repeats per subset, instead of subsets, lessens the noise
of each target and raises the LDS; that is not what is counted here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy

from tda_backend.errors import UsageError


@dataclass(frozen=True)
class PowerEstimate:
    """How many subsets give an interval of the wanted half-width.

    Attributes:
        num_needed: S' in total, at least 2; those there are count.
        num_needed_low: Lower end of the 95 % range of S', from the uncertainty of the spread.
        num_needed_high: Upper end.
        num_present: S, the subsets there are.
        half_width: Of the interval now.
        wanted: Half-width asked for.
        sentence: The same for a person.
    """

    num_needed: int
    num_needed_low: int
    num_needed_high: int
    num_present: int
    half_width: float
    wanted: float
    sentence: str

    @property
    def num_missing(self) -> int:
        """Subsets still to retrain."""
        return max(0, self.num_needed - self.num_present)


def subsets_needed(
    draws: np.ndarray, num_subsets: int, *, half_width: float = 0.01, confidence: float = 0.95
) -> PowerEstimate:
    """Return how many subsets an LDS needs for an interval of ± ``half_width``.

    Args:
        draws: ``[B]`` bootstrap means of one LDS.
        num_subsets: S behind them.
        half_width: Wanted, in units of LDS.
        confidence: Of the interval.

    Raises:
        UsageError: Fewer than two subsets or finite draws, or a half-width or confidence that is not allowed.
    """
    return _estimate(draws, num_subsets, half_width, confidence, "one LDS")


def subsets_needed_for_difference(
    draws_a: np.ndarray,
    draws_b: np.ndarray,
    num_subsets: int,
    *,
    half_width: float = 0.01,
    confidence: float = 0.95,
) -> PowerEstimate:
    """Return how many subsets a paired difference of two LDS needs for an interval of ± ``half_width``.

    Args:
        draws_a: ``[B]`` bootstrap means of A.
        draws_b: ``[B]`` of B, from the same subsets in every draw.
        num_subsets: S behind them.
        half_width: Wanted, in units of LDS.
        confidence: Of the interval.

    Raises:
        UsageError: As :func:`subsets_needed`, or draws of different numbers.
    """
    first, second = np.asarray(draws_a, dtype=np.float64), np.asarray(draws_b, dtype=np.float64)
    if first.shape != second.shape:
        raise UsageError(
            f"Paired draws have shapes {first.shape} and {second.shape}.", "Give draws of the same subsets for both."
        )
    return _estimate(first - second, num_subsets, half_width, confidence, "the difference of two LDS")


def subsets_for(num_subsets: int, half_width: float, wanted: float) -> float:
    """Return with how many subsets in all an interval has a half-width, if it has another one with S of them."""
    return num_subsets * (half_width / wanted) ** 2


def _estimate(draws: np.ndarray, num_subsets: int, wanted: float, confidence: float, what: str) -> PowerEstimate:
    values = np.asarray(draws, dtype=np.float64)
    values = values[np.isfinite(values)]
    if num_subsets < 2 or values.ndim != 1 or len(values) < 2:
        raise UsageError(
            f"The spread cannot be estimated from {num_subsets} subsets and {values.size} draws.",
            "Retrain at least two subsets and draw at least twice; some tens and a thousand are usual.",
        )
    if not wanted > 0 or not 0 < confidence < 1:
        raise UsageError(
            f"Half-width {wanted} at confidence {confidence} cannot be reached.",
            "The half-width is positive, the confidence between 0 and 1.",
        )
    z = float(scipy.special.ndtri((1 + confidence) / 2))
    now = z * float(values.std(ddof=1))
    needed = subsets_for(num_subsets, now, wanted)
    freedom = num_subsets - 1
    low, high = (
        needed * freedom / float(2 * scipy.special.gammaincinv(freedom / 2, level)) for level in (0.975, 0.025)
    )
    total, low, high = (max(2, math.ceil(value - 1e-9)) for value in (needed, low, high))
    share = f"{100 * confidence:g} %"
    if total <= num_subsets:
        sentence = (
            f"The {num_subsets} subsets there are give {what} a {share} interval of ±{now:.2g}; "
            f"±{wanted:g} needs about {rounded(total)}."
        )
    else:
        sentence = (
            f"A {share} interval of ±{wanted:g} for {what} needs about {rounded(total)} subsets "
            f"(between {rounded(low)} and {rounded(high)}); the {num_subsets} there are give ±{now:.2g}."
        )
    return PowerEstimate(total, low, high, num_subsets, now, wanted, sentence)


def rounded(count: int) -> str:
    """Return a count with two honest digits: 7, 48, 190, 2 300."""
    if count < 100:
        return str(count)
    step = 10 ** (len(str(count)) - 2)
    return f"{round(count / step) * step:,}".replace(",", " ")
