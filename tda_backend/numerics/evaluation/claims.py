"""Whether a paper's statement holds in our figures: *reproduced*, *not reproduced* or *inconclusive*.

A statement becomes one or several comparisons, each a number with its 95 % bootstrap interval over retrained subsets
and a bound that it must pass. It is reproduced when the whole interval of every comparison lies on the right side of
its bound, not reproduced when the whole interval of some comparison lies on the wrong side, and inconclusive otherwise:
too few subsets to tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tda_backend.errors import UsageError

Status = Literal["reproduced", "not reproduced", "inconclusive"]
_INTERVAL = (2.5, 97.5)
_ENOUGH = 0.975


@dataclass(frozen=True)
class Measured:
    """A number and what it would have been with other subsets.

    Attributes:
        name: For people.
        value: The number.
        draws: ``[B]`` bootstrap draws; draws of two numbers are paired when they come from the same subsets.
    """

    name: str
    value: float
    draws: np.ndarray


@dataclass(frozen=True)
class Comparison:
    """One number against the bound that a statement sets it.

    Attributes:
        left: What was measured.
        left_value: Its number.
        operator: ``−`` or ``/``, or empty where the number stands alone.
        right: What it was compared with, or empty.
        right_value: Its number, or NaN.
        value: The number compared with the bound: left operator right.
        low: 2.5 % quantile of its draws.
        high: 97.5 % quantile.
        bound: What it must pass.
        above: Whether it must lie above the bound (else below).
    """

    left: str
    left_value: float
    operator: Literal["−", "/", ""]
    right: str
    right_value: float
    value: float
    low: float
    high: float
    bound: float
    above: bool

    @property
    def sentence(self) -> str:
        """What was compared, with the numbers."""
        digits = {"−": "+.3f", "/": ".2f", "": ".3f"}[self.operator]
        left, right = _written(self.left_value, ".3f"), _written(self.right_value, ".3f")
        value, low, high = (_written(number, digits) for number in (self.value, self.low, self.high))
        number = f" {left} {self.operator} {self.right} {right} = {value}" if self.operator else f" {value}"
        interval = f"[{low}, {high}]" if math.isfinite(self.low) and math.isfinite(self.high) else "(no interval)"
        return f"{self.left}{number} {interval}, {'above' if self.above else 'below'} {self.bound:g} expected"

    @property
    def status(self) -> Status:
        """Which side of the bound the interval lies on; inconclusive where it contains the bound or is undefined."""
        if not np.isfinite([self.value, self.low, self.high]).all():
            return "inconclusive"
        if self.low > self.bound:
            return "reproduced" if self.above else "not reproduced"
        if self.high < self.bound:
            return "not reproduced" if self.above else "reproduced"
        return "inconclusive"


def _written(number: float, digits: str) -> str:
    """Return a number; a dash where there is none."""
    return format(number, digits) if math.isfinite(number) else "–"


def decisive(comparisons: Sequence[Comparison]) -> Comparison:
    """Return the comparison that the verdict hangs on: of those that share its status, the least favourable."""
    status = overall(comparisons)
    return min(
        (each for each in comparisons if each.status == status),
        key=lambda each: (each.value - each.bound) * (1 if each.above else -1),
    )


def overall(comparisons: Sequence[Comparison]) -> Status:
    """Return the verdict on a statement that makes all of these comparisons.

    Raises:
        UsageError: There is none.
    """
    if not comparisons:
        raise UsageError("A statement without any comparison has no verdict.", "Give it something to compare.")
    found = {comparison.status for comparison in comparisons}
    if "not reproduced" in found:
        return "not reproduced"
    return "reproduced" if found == {"reproduced"} else "inconclusive"


def _interval(draws: np.ndarray) -> tuple[float, float]:
    finite = draws[np.isfinite(draws)]
    if len(finite) < _ENOUGH * len(draws):  # the interval would be that of the draws that happen to have a value
        return float("nan"), float("nan")
    low, high = np.percentile(finite, _INTERVAL)
    return float(low), float(high)


def _paired(left: Measured, right: Measured) -> int:
    if left.draws.shape != right.draws.shape:
        raise UsageError(
            f"{left.name} has {len(left.draws)} bootstrap draws, {right.name} {len(right.draws)}.",
            "Compare numbers of one study.",
        )
    return len(left.draws)


def difference(left: Measured, right: Measured, bound: float = 0.0, above: bool = True) -> Comparison:
    """Compare left − right with a bound, draw by draw."""
    _paired(left, right)
    value = left.value - right.value
    low, high = _interval(left.draws - right.draws)
    return Comparison(left.name, left.value, "−", right.name, right.value, value, low, high, bound, above)


def gap(first: Measured, second: Measured, bound: float) -> Comparison:
    """Compare the size of a difference with a bound, whichever side is larger: "it matters".

    The larger one is taken as it was measured, which favours a gap a little; bounds well above 0 make up for it.
    """
    left, right = (first, second) if first.value >= second.value else (second, first)
    return difference(left, right, bound)


def ratio(left: Measured, right: Measured, bound: float) -> Comparison:
    """Compare left / right with a lower bound; draws where the right side is not positive have no ratio."""
    _paired(left, right)
    positive = right.draws > 0
    low, high = _interval(np.divide(left.draws, right.draws, out=np.full(len(positive), np.nan), where=positive))
    value = left.value / right.value if right.value > 0 else float("nan")
    return Comparison(left.name, left.value, "/", right.name, right.value, value, low, high, bound, True)


def level(measured: Measured, bound: float, above: bool = True) -> Comparison:
    """Compare one number with a bound."""
    low, high = _interval(measured.draws)
    nothing = float("nan")
    return Comparison(measured.name, measured.value, "", "", nothing, measured.value, low, high, bound, above)


def spread(name: str, means: np.ndarray, draws: np.ndarray) -> Measured:
    """Return the range max − min of a curve, its two ends fixed where the means have them.

    Fixing them keeps the draws from choosing the most favourable points anew, which would bias the range upwards.

    Args:
        name: For people.
        means: ``[L]``.
        draws: ``[B, L]``.
    """
    top, bottom = int(np.nanargmax(means)), int(np.nanargmin(means))
    return Measured(name, float(means[top] - means[bottom]), draws[:, top] - draws[:, bottom])


def mean_of(name: str, parts: Sequence[Measured]) -> Measured:
    """Return the mean of several numbers, draw by draw.

    Raises:
        UsageError: There is none.
    """
    if not parts:
        raise UsageError(f"{name} is the mean of nothing.", "Name methods that the study has.")
    for part in parts[1:]:
        _paired(parts[0], part)
    return Measured(
        name, float(np.mean([part.value for part in parts])), np.mean([part.draws for part in parts], axis=0)
    )
