"""What the draw of a random projection adds to the uncertainty of an LDS (Efron and Tibshirani 1993, chapter 8).

A projected configuration has another LDS for every draw of its projection. With D draws, judged by the same resampled
subsets, the LDS is the mean over the draws, and resample b of the bootstrap has

    m_b + √(D/(D − 1))·(x_{d,b} − m_b),    m_b = (1/D) Σ_d x_{d,b},    d = d(b) drawn from 1 … D,

where x_{d,b} is the LDS of draw d on resample b. Its variance is

    Var_b(m_b) + E_b[(1/(D − 1)) Σ_d (x_{d,b} − m_b)²]:

that of the subsets, and the unbiased one between draws (with what subsets do to draws differently). So the interval is
that of one projection: where the LDS of another draw lies in 95 % of cases, as scores and pages are those of one draw.
With D = 1 the second part is unknown and the interval leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tda_backend.errors import UsageError
from tda_backend.numerics.evaluation.lds import GroundTruth, LDSCurve, lds_curve
from tda_backend.numerics.spectral.contraction import ScoreMatrix, Source, admissible
from tda_backend.seeds import hashed_rng


def lds_over_draws(
    drawn: Sequence[Source], truth: GroundTruth, values: Sequence[float] | None, num_bootstrap: int, seed: int
) -> LDSCurve:
    """Return the LDS of a configuration over several draws of its projection, with resamples and ranks.

    Args:
        drawn: Its source, and those of the other draws.
        truth: Subsets and retrained goodness.
        values: λ at which the first draw has scores; ``None`` for score matrices. Others are left out where they have
            none.
        num_bootstrap: Resamples.
        seed: Of resamples, and of which draw stands in which.
    """
    first = lds_curve(
        drawn[0], truth, values, num_bootstrap=num_bootstrap, seed=seed, keep_bootstrap=True, keep_ranks=True
    )
    others: list[LDSCurve] = []
    for source in drawn[1:]:
        here = None if values is None or isinstance(source, ScoreMatrix) else admissible(source, values)
        curve = lds_curve(source, truth, here, num_bootstrap=num_bootstrap, seed=seed, keep_bootstrap=True)
        others.append(curve if here is None else _at(curve, here, first.regularizations))
    return over_draws([first, *others], seed)


def _at(curve: LDSCurve, here: Sequence[float], values: np.ndarray) -> LDSCurve:
    """Return a curve at more λ, NaN where it has no value; what the draws are not compared by stays."""
    places = {value: place for place, value in enumerate(here)}
    rows = np.array([places.get(value, -1) for value in values.tolist()])
    lacks, draws = rows < 0, np.asarray(curve.bootstrap_means)[:, rows]
    per_query, mean = curve.per_query[rows], curve.mean[rows]
    per_query[lacks], mean[lacks], draws[:, lacks] = np.nan, np.nan, np.nan
    return replace(curve, regularizations=values, per_query=per_query, mean=mean, bootstrap_means=draws)


def over_draws(curves: Sequence[LDSCurve], seed: int) -> LDSCurve:
    """Return the LDS over several draws of a projection, the variance between them included in its interval.

    Ranks of predictions stay those of the first draw.

    Args:
        curves: One per draw, at the same λ, on the same subsets and resamples, which are kept; NaN where a draw has no
            value.
        seed: Which draw stands in which resample: the same for every configuration, so that they compare in pairs.

    Raises:
        UsageError: There is none, or resamples were not kept.
    """
    if not curves or any(curve.bootstrap_means is None for curve in curves):
        raise UsageError("Draws are compared by their resamples.", "Give at least one curve, with keep_bootstrap=True.")
    first = curves[0]
    if len(curves) == 1:
        return first
    per_query = _mean(np.stack([curve.per_query for curve in curves]))
    draws = with_noise(np.stack([np.asarray(curve.bootstrap_means) for curve in curves]), seed)
    low, high = _percentiles(draws)
    return replace(
        first,
        per_query=per_query,
        mean=_mean(np.stack([curve.mean for curve in curves])),
        ci_low=low,
        ci_high=high,
        num_undefined=np.isnan(per_query).sum(1),
        bootstrap_means=draws,
    )


def with_noise(resampled: np.ndarray, seed: int) -> np.ndarray:
    """Return what stands in for the LDS on each resample, see the module, ``[B, L]``.

    Args:
        resampled: ``[D, B, L]`` LDS of each draw on each resample, D ≥ 2; NaN where a draw has no value.
        seed: Which draw stands in which resample.
    """
    num_draws, num_resamples, _ = resampled.shape
    rng = hashed_rng("projection-draws", seed, num_draws, num_resamples)
    which, again = rng.integers(num_draws, size=num_resamples)[:, None], rng.random(num_resamples)[:, None]
    lacks = np.isnan(resampled)
    there = (~lacks).sum(0)
    # Of the draws that have a value the one in place `which`; where they are fewer, any of them.
    place = np.where(which < there, which, (again * there).astype(which.dtype))
    chosen = np.take_along_axis(
        resampled, np.take_along_axis(np.argsort(lacks, axis=0, kind="stable"), place[None], axis=0), axis=0
    )[0]
    middle = _mean(resampled)
    factor = np.sqrt(there / np.maximum(there - 1, 1))  # one value alone says nothing of other draws: no spread
    return middle + factor * (chosen - middle)


def _mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis, NaN left out; NaN where nothing is left."""
    known = ~np.isnan(values)
    count = known.sum(0)
    return np.divide(np.where(known, values, 0.0).sum(0), count, out=np.full(count.shape, np.nan), where=count > 0)


def _percentiles(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(draws):
        return np.full(draws.shape[1], np.nan), np.full(draws.shape[1], np.nan)
    low, high = np.nanpercentile(draws, [2.5, 97.5], axis=0)
    return low, high
