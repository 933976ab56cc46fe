"""Choosing λ without retraining: Algorithm 1 of *Taming* (arXiv 2505.24261, §4.3) and the spectrum quantiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.evaluation.indicator import Indicator
from tda_backend.numerics.spectral.contraction import admissible
from tda_backend.numerics.spectral.coordinates import Coordinates

QUANTILES: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
_SCAN_POINTS = 113  # eight per decade over fourteen decades
_SCAN_RANGE = (1e-10, 1e4)  # times the largest eigenvalue
_BISECTIONS = 32  # of an eighth of a decade: log λ to 7e-11


@dataclass(frozen=True)
class Selection:
    """What Algorithm 1 chose.

    Attributes:
        regularization: λ*.
        xi: ξ̄(λ*).
        threshold: The ξ̄ aimed at.
        crossings: All upward crossings of the scan, as λ (geometric middle of the cell; the last one is bisected).
        warnings: Sentences for a person; empty when there was exactly one crossing.
        scan_regularizations: ``[G]`` scanned λ.
        scan_xi: ``[G]`` ξ̄ there.
        num_dropped: Validation points without overlap with the training gradients.
    """

    regularization: float
    xi: float
    threshold: float
    crossings: tuple[float, ...]
    warnings: tuple[str, ...]
    scan_regularizations: np.ndarray
    scan_xi: np.ndarray
    num_dropped: int


def select_regularization(
    spectra: Sequence[Coordinates], threshold: float = 0.5, indicator: Indicator | None = None
) -> Selection:
    """Return the λ at which the mean ξ over the validation set reaches the threshold.

    Scans 113 log-spaced λ in σ_max·[1e-10, 1e4], takes the **last upward** crossing and bisects on log λ inside that
    cell. λ* is no arg-max of the LDS: the theorem behind it bounds a sign, see :func:`regret`.

    Args:
        spectra: One spectrum per training seed, with validation coordinates.
        threshold: In (0, 1); 0.4 to 0.6 work alike.
        indicator: ξ of these spectra, where several thresholds are asked for: making it is what costs.

    Raises:
        UsageError: The threshold is outside (0, 1).
        NumericalError: ξ is undefined or stays below the threshold over the whole scan.
    """
    if not 0.0 < threshold < 1.0:
        raise UsageError(f"The threshold {threshold} for ξ is outside (0, 1).", "The usual value is 0.5.")
    indicator = Indicator(spectra) if indicator is None else indicator
    low, high = (indicator.largest_eigenvalue * factor for factor in _SCAN_RANGE)
    grid = np.geomspace(low, high, _SCAN_POINTS)
    xi = indicator.mean(grid)
    below = xi < threshold
    cells = np.flatnonzero(below[:-1] & ~below[1:])
    warnings: list[str] = []
    dropped = int((~indicator.kept).sum())
    if dropped:
        warnings.append(f"{dropped} validation points have no overlap with the training gradients and were left out.")
    crossings = [float(math.sqrt(grid[cell] * grid[cell + 1])) for cell in cells]
    if len(cells) == 0:
        if below[-1]:
            raise NumericalError(
                f"ξ stays below {threshold:g} up to λ = {high:g}.", "Look for NaN or extreme values in the gradients."
            )
        warnings.append(
            f"ξ is at least {threshold:g} at every λ scanned; the low end λ = {low:.3g} was taken. "
            "No damping may be needed, or the validation gradients lie in few directions."
        )
        chosen = float(low)
    else:
        chosen = _bisect(indicator, threshold, float(grid[cells[-1]]), float(grid[cells[-1] + 1]))
        crossings[-1] = chosen
        if len(cells) > 1:
            warnings.append(
                f"ξ crosses {threshold:g} upwards {len(cells)} times (at λ = "
                f"{', '.join(f'{value:.3g}' for value in crossings)}); the last was taken."
            )
    return Selection(
        chosen, float(indicator.mean([chosen])[0]), threshold, tuple(crossings), tuple(warnings), grid, xi, dropped
    )


def _bisect(indicator: Indicator, threshold: float, low: float, high: float) -> float:
    """Return the crossing inside [low, high], where ξ̄(low) < threshold ≤ ξ̄(high), by bisection on log λ."""
    a, b = math.log(low), math.log(high)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (a + b)
        if indicator.mean([math.exp(middle)])[0] < threshold:
            a = middle
        else:
            b = middle
    return math.exp(0.5 * (a + b))


def spectrum_quantiles(spectra: Sequence[Coordinates], quantiles: Sequence[float] = QUANTILES) -> dict[float, float]:
    """Return the baseline λ = quantile of the positive eigenvalues (METHODS §4), pooled over training seeds.

    Raises:
        UsageError: A quantile is outside [0, 1].
    """
    if any(not 0.0 <= quantile <= 1.0 for quantile in quantiles):
        raise UsageError(f"Quantiles {list(quantiles)} are not all in [0, 1].", "The usual ones are .1 .3 .5 .7 .9.")
    pooled = np.concatenate([spectrum.eigenvalues.cpu().numpy() for spectrum in spectra])
    values = np.quantile(pooled[pooled > 0], list(quantiles))
    return {float(quantile): float(value) for quantile, value in zip(quantiles, values, strict=True)}


@dataclass(frozen=True)
class Regret:
    """How far a rule's λ is from the best known.

    Attributes:
        regularization_best: λ with the highest LDS over grid ∪ {chosen}.
        lds_best: Its LDS.
        regret: ``lds_best − lds_chosen`` ≥ 0.
    """

    regularization_best: float
    lds_best: float
    regret: float


def regret(
    regularizations: Sequence[float] | np.ndarray,
    lds: Sequence[float] | np.ndarray,
    chosen: float,
    lds_chosen: float,
) -> Regret:
    """Return the regret of a chosen λ against the best over grid ∪ {chosen}; never negative.

    Args:
        regularizations: ``[L]`` grid (add other rules' λ to compare rules against one best).
        lds: ``[L]`` mean LDS there; NaN is left out.
        chosen: The rule's λ.
        lds_chosen: Its mean LDS.
    """
    grid = np.append(np.asarray(regularizations, dtype=np.float64), chosen)
    means = np.append(np.asarray(lds, dtype=np.float64), lds_chosen)
    if not np.isfinite(means).any():
        raise NumericalError("No LDS is defined, so there is no best λ.", "Retrain subsets and evaluate first.")
    best = int(np.nanargmax(means))
    return Regret(float(grid[best]), float(means[best]), float(means[best] - lds_chosen))


@dataclass(frozen=True)
class WantedGrid:
    """The λ at which a configuration is looked at.

    Attributes:
        values: Ascending.
        is_relative: Whether they are in units of :func:`spectrum_scale`.
    """

    values: Sequence[float]
    is_relative: bool = False

    def of(self, spectra: Sequence[Coordinates]) -> list[float]:
        """Return λ itself, in units of the mean Gram."""
        if not self.is_relative:
            return [float(value) for value in self.values]
        scale = spectrum_scale(spectra)
        # Rounded, so that λ of grids a power of ten apart are the same numbers where they meet.
        return [float(f"{value * scale:.12g}") for value in self.values]


def spectrum_scale(spectra: Sequence[Coordinates]) -> float:
    """Return the power of ten that is nearest, in ratio, to the largest eigenvalue of all training seeds.

    A power of ten, so that grids of configurations with like spectra have the same λ, and can be compared at each. A
    loss 10^d times as large has a scale 10^(2d) times as large, and so everything at the same places of its grid.

    Raises:
        NumericalError: No eigenvalue is positive.
    """
    largest = max(float(spectrum.eigenvalues.max()) for spectrum in spectra)
    if not largest > 0:
        raise NumericalError("The curvature is zero: there is no scale for λ.", "Look at the gradients of the task.")
    return 10.0 ** round(math.log10(largest))


def grid_and_selection(
    source: Sequence[Coordinates], wanted: WantedGrid, threshold: float
) -> tuple[list[float], Selection]:
    """Return those λ of a grid at which the method has a value, and λ* of Algorithm 1 among what is possible."""
    grid = admissible(source, wanted.of(source))
    return grid, _nearest_admissible(select_regularization(source, threshold), source, grid)


def _nearest_admissible(chosen: Selection, source: Sequence[Coordinates], grid: list[float]) -> Selection:
    """Return the selection, moved to the nearest λ of the grid where the method has no value at λ*."""
    if chosen.regularization in admissible(source, [grid[-1], chosen.regularization]):
        return chosen
    positive = [value for value in grid if value > 0] or grid
    nearest = min(positive, key=lambda value: abs(np.log(max(value, 1e-300) / chosen.regularization)))
    note = f"λ* = {chosen.regularization:.3g} is not possible with this method; the nearest of the grid is taken"
    xi = float(Indicator(source).mean([nearest])[0])
    return replace(chosen, regularization=nearest, xi=xi, warnings=(*chosen.warnings, note))
