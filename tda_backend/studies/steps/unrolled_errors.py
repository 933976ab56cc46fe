"""What predictions of one run miss: sizes over the steps, and how well estimates of the error follow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tda_backend.numerics.evaluation.agreement import Estimate, error_agreement, error_size, mean_estimate
from tda_backend.numerics.evaluation.bootstrap import multinomial_weights
from tda_backend.studies.steps.unrolled_results import Proxy, Results
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactWriter
from tda_backend.studies.store.tables.trajectory import TRAJECTORY_ERRORS

FULL, FIRST_TERM = "proxy", "cheap"
"""Estimators: the whole second order, and its first term."""
SOUND = "sound"
"""The whole second order where it is small beside the prediction."""
_FEWEST = 3
"""Removed examples that must have been seen before an error has a size."""
_WITH_DRAWS = ("relative", "pearson", "spearman")


@dataclass(frozen=True)
class Draws:
    """How intervals are drawn: of removed examples, which all runs share.

    Attributes:
        number: B.
        seed: Of the draws.
    """

    number: int
    seed: int

    def weights(self, num_removed: int) -> np.ndarray:
        """Return how often each example is drawn, ``[B, R]``."""
        return multinomial_weights(num_removed, self.number, self.seed)


class Place(NamedTuple):
    """Where an error is looked at.

    Attributes:
        estimator: Whose estimate it is compared with.
        step: Steps trained.
    """

    estimator: str
    step: int


@dataclass(frozen=True)
class ErrorEstimate:
    """The error of the prediction over some removed examples, and how an estimate follows it.

    Attributes:
        mean_effect: Mean |true effect|.
        mean_error: Mean |true − predicted|.
        relative: mean_error / mean_effect.
        pearson: Correlation of estimate and error.
        spearman: Correlation of their ranks.
        slope: Of the estimate against the error, through 0.
        num_removed: How many examples.
    """

    mean_effect: float
    mean_error: float
    relative: Estimate
    pearson: Estimate
    spearman: Estimate
    slope: float
    num_removed: int

    @classmethod
    def of(
        cls, truth: np.ndarray, predicted: np.ndarray, estimate: np.ndarray, kept: np.ndarray, draws: Draws
    ) -> ErrorEstimate:
        """Return it over the removed examples that are kept; all arrays ``[R]``."""
        true, linear = truth[kept], predicted[kept]
        size = error_size(linear, true, num_bootstrap=draws.number, seed=draws.seed)
        found = error_agreement(estimate[kept], true - linear, num_bootstrap=draws.number, seed=draws.seed)
        return cls(
            size.mean_effect,
            size.mean_error,
            size.relative,
            found.pearson,
            found.spearman,
            found.slope.value,
            int(kept.sum()),
        )

    @property
    def numbers(self) -> list[float]:
        """What is stored beside the draws, in the order of the fields."""
        estimates = [each.value for each in (self.relative, self.pearson, self.spearman)]
        return [self.mean_effect, self.mean_error, *estimates, self.slope, float(self.num_removed)]

    @classmethod
    def restored(cls, numbers: Sequence[float], estimate: Callable[[str, float], Estimate]) -> ErrorEstimate:
        """Return it from :attr:`numbers` and what gives an estimate for a field and its value."""
        mean_effect, mean_error, *values, slope, num_removed = (float(number) for number in numbers)
        estimates = (estimate(name, value) for name, value in zip(_WITH_DRAWS, values, strict=True))
        return cls(mean_effect, mean_error, *estimates, slope=slope, num_removed=int(num_removed))


Errors = Mapping[Place, ErrorEstimate]


def errors_of(results: Results, proxy: Proxy, draws: Draws) -> Errors:
    """Return error and estimates over the steps, of effects on the mean loss of the queries."""
    truth, predicted = results.truth.over_steps, proxy.predicted_over_steps
    horizons, first_seen = results.truth.horizons, results.truth.first_seen
    found: dict[Place, ErrorEstimate] = {}
    for estimator, estimates in ((FULL, proxy.full_over_steps), (FIRST_TERM, proxy.cheap_over_steps)):
        for number, horizon in enumerate(horizons):
            seen = first_seen <= horizon
            if seen.sum() >= _FEWEST:
                place = Place(estimator, horizon)
                found[place] = ErrorEstimate.of(truth[number], predicted[number], estimates[number], seen, draws)
    sound = proxy.sound()
    if sound.sum() >= _FEWEST:
        last = proxy.full_over_steps[-1]
        found[Place(SOUND, horizons[-1])] = ErrorEstimate.of(truth[-1], predicted[-1], last, sound, draws)
    return found


def write_errors(writer: ArtifactWriter, errors: Errors) -> None:
    """Store errors with what their mean over runs needs."""
    write_error_table(writer, errors)
    writer.facts["errors"] = [list(place) for place in errors]
    for name in _WITH_DRAWS:
        writer.array(f"{name}_draws", np.stack([getattr(each, name).draws for each in errors.values()]))
    writer.array("error_values", np.array([each.numbers for each in errors.values()]))


def write_error_table(writer: ArtifactWriter, errors: Errors) -> None:
    """Store the rows of the catalogue."""
    rows = [
        {
            "step": place.step,
            "estimator": place.estimator,
            "mean_effect": each.mean_effect,
            "mean_error": each.mean_error,
            "relative_error": each.relative.value,
            "error_low": each.relative.low,
            "error_high": each.relative.high,
            "pearson": each.pearson.value,
            "pearson_low": each.pearson.low,
            "pearson_high": each.pearson.high,
            "spearman": each.spearman.value,
            "spearman_low": each.spearman.low,
            "spearman_high": each.spearman.high,
            "slope": each.slope,
            "num_removed": each.num_removed,
        }
        for place, each in errors.items()
    ]
    writer.table("trajectory_errors", TRAJECTORY_ERRORS.rows(rows))


def mean_errors(runs: Sequence[Artifact]) -> Errors:
    """Return the means over runs of what all of them have: early steps may lack examples under some seeds."""
    known = [{Place(name, int(at)): row for row, (name, at) in enumerate(run.fact("errors"))} for run in runs]
    shared = [place for place in known[0] if all(place in rows for rows in known)]
    return {place: _mean(runs, [rows[place] for rows in known]) for place in shared}


def _mean(runs: Sequence[Artifact], rows: Sequence[int]) -> ErrorEstimate:
    """Return the mean over runs of one row of each."""
    places = list(zip(runs, rows, strict=True))

    def estimate(name: str, value: float) -> Estimate:
        draws = [np.asarray(run.array(f"{name}_draws")[row]) for run, row in places]
        return mean_estimate([Estimate(value, np.nan, np.nan, each) for each in draws])

    numbers = np.mean([run.array("error_values")[row] for run, row in places], axis=0)
    return ErrorEstimate.restored(numbers.tolist(), estimate)


@dataclass(frozen=True)
class Growth:
    """The relative error after the first and after the last steps, of the same examples.

    Attributes:
        values: First and last, ``[2]``.
        draws: ``[2, B]``; of all removed examples, so that they stay paired between horizons and between seeds.
    """

    values: np.ndarray
    draws: np.ndarray

    @classmethod
    def of(cls, results: Results, proxy: Proxy, draws: Draws) -> Growth | None:
        """Return it for the examples that the first horizon has seen.

        Returns:
            ``None`` where there is one horizon, or too few examples have been seen by the first.
        """
        horizons = results.truth.horizons
        early = results.truth.first_seen <= horizons[0]
        if len(horizons) < 2 or early.sum() < _FEWEST:
            return None
        truth, predicted = results.truth.over_steps, proxy.predicted_over_steps
        weights = draws.weights(len(early)) * early
        values, drawn = [], []
        for place in (0, -1):
            errors, effects = np.abs(truth[place] - predicted[place]), np.abs(truth[place])
            values.append(errors[early].sum() / effects[early].sum())
            below = weights @ effects
            drawn.append(np.divide(weights @ errors, below, out=np.full(len(weights), np.nan), where=below > 0))
        return cls(np.array(values), np.stack(drawn))

    def write(self, writer: ArtifactWriter) -> None:
        """Store it."""
        writer.array("growth_values", self.values)
        writer.array("growth_draws", self.draws)

    @classmethod
    def mean(cls, runs: Sequence[Artifact]) -> Growth | None:
        """Return the mean over runs; ``None`` where some run has none."""
        if not all(run.has("growth_values.npy") for run in runs):
            return None
        return cls(*(np.mean([run.array(f"growth_{what}") for run in runs], 0) for what in ("values", "draws")))
