"""Claims about unrolled runs: they name learning rates instead of configurations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from tda_backend.errors import StudyError
from tda_backend.numerics.evaluation.claims import Comparison, Measured, difference, level, ratio
from tda_backend.studies.claims.sides import as_list
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.config.study import Study
from tda_backend.studies.config.trajectory import Unrolling
from tda_backend.studies.contract.claim import Claim, ClaimKind, Content, FigureKind
from tda_backend.studies.contract.evidence import Evidence
from tda_backend.studies.steps.compare_unrolled import (
    ERROR_AT_END,
    GROWTH_FIRST,
    GROWTH_LAST,
    PEARSON_OF_PROXY,
    RANKS_AS_TRAINED,
    RANKS_SGD,
)
from tda_backend.studies.steps.unrolled_errors import FULL

RATES, ALONG = "learning_rates", "along"
OVER_RATES, OVER_STEPS = "learning rate", "length"
_ALONG = (OVER_RATES, OVER_STEPS)


@dataclass(frozen=True)
class AtRates(Content):
    """At which learning rates.

    Attributes:
        learning_rates: As the claim names them.
    """

    learning_rates: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as the study file has it, checked."""
        return {RATES: list(self.learning_rates)}


R = TypeVar("R", bound=AtRates)


class UnrolledKind(ClaimKind[R]):
    """A kind of claim about unrolled runs."""

    KEYS = (RATES,)
    FIGURE = FigureKind.TRAINING_RUN
    SECTION = Unrolling.NAME

    def check_against(
        self, claim: Claim, study: Study, configurations: Sequence[Configuration], rates: Sequence[float]
    ) -> None:
        """Raise a StudyError where a claim names what its study does not compute."""
        if study.trajectory is None:
            raise StudyError(f"Claim {claim.id} needs the section [{self.SECTION}].", "Add it to the study.")
        content: Any = claim.content
        missing = sorted(set(content.learning_rates) - set(rates))
        if missing:
            raise StudyError(
                f"Claim {claim.id} names the learning rate {missing[0]:g}.",
                f"{self.SECTION}.learning_rates has {', '.join(f'{rate:g}' for rate in rates)}.",
            )
        self.check_section(claim.id, content, study.trajectory)

    def check_section(self, claim: str, content: R, section: Unrolling) -> None:
        """Raise a StudyError where a claim needs what the section leaves out."""


class _AtRatesAlone(UnrolledKind[AtRates]):
    def check(self, key: str, given: Mapping[str, Any]) -> AtRates:
        """Return the learning rates after checking them."""
        return AtRates(_check_rates(key, given[RATES]))

    def parse(self, content: Mapping[str, Any]) -> AtRates:
        """Return the learning rates of a checked claim."""
        return AtRates(tuple(content[RATES]))


class Matched(_AtRatesAlone):
    """Assuming the optimizer that trained predicts better than assuming SGD."""

    NAME = "matched"
    WORDS = (
        "Spearman with the true effects: optimizer as trained / SGD assumed lies above `bound` at each of "
        "`learning_rates`"
    )
    DEFAULT_BOUND = 1.1
    AXIS = "ratio of correlations, 95 % interval"

    def compare(self, content: AtRates, bound: float, evidence: Evidence) -> list[Comparison]:
        """Return the ratio of the correlations at each learning rate."""
        return [
            times_better(
                evidence.unrolled(rate, RANKS_AS_TRAINED, "Spearman as trained"),
                evidence.unrolled(rate, RANKS_SGD, "Spearman assuming SGD"),
                bound,
            )
            for rate in content.learning_rates
        ]


class ProxyFollows(_AtRatesAlone):
    """The error proxy follows the real error."""

    NAME = "proxy"
    WORDS = (
        "Spearman's and Pearson's correlation of the error proxy with the real error lie above `bound` at each "
        "of `learning_rates`"
    )
    DEFAULT_BOUND = 0.5
    AXIS = "rank correlation, 95 % interval"

    def check_section(self, claim: str, content: AtRates, section: Unrolling) -> None:
        """Raise a StudyError where the section has no proxy."""
        _check_proxy(claim, section)

    def compare(self, content: AtRates, bound: float, evidence: Evidence) -> list[Comparison]:
        """Return both correlations at each learning rate."""
        return [
            level(evidence.unrolled(rate, what, f"{name} correlation of proxy and real error"), bound)
            for rate in content.learning_rates
            for what, name in ((FULL, "Spearman"), (PEARSON_OF_PROXY, "Pearson"))
        ]


@dataclass(frozen=True)
class Growing(AtRates):
    """Along what the error grows.

    Attributes:
        along: The learning rate, or the length of the run.
    """

    along: str = OVER_RATES

    def to_json(self) -> dict[str, Any]:
        """Return it as the study file has it, checked."""
        return {ALONG: self.along, **super().to_json()}


class ErrorGrows(UnrolledKind[Growing]):
    """The error of the prediction grows with the learning rate, or with the length of the run."""

    NAME = "error-grows"
    WORDS = (
        "relative error of the prediction rises by more than `bound` from each learning rate to the next "
        "larger one, or from the first steps to the last"
    )
    KEYS = (ALONG, RATES)
    AXIS = "difference of relative errors, 95 % interval"

    def check(self, key: str, given: Mapping[str, Any]) -> Growing:
        """Return along what, and the learning rates, after checking them."""
        along = given[ALONG]
        if along not in _ALONG:
            raise StudyError(f"{key}.along = {along!r} is not allowed.", f"Allowed: {', '.join(_ALONG)}.")
        rates = _check_rates(key, given[RATES])
        if along == OVER_RATES and len(rates) < 2:
            named = as_list(given[RATES])
            raise StudyError(f"{key} compares learning rates, but names {named}.", "Give at least two learning_rates.")
        return Growing(rates, along)

    def parse(self, content: Mapping[str, Any]) -> Growing:
        """Return what a checked claim says."""
        return Growing(tuple(content[RATES]), content[ALONG])

    def check_section(self, claim: str, content: Growing, section: Unrolling) -> None:
        """Raise a StudyError where the section has no proxy, or looks at one step alone."""
        _check_proxy(claim, section)
        if content.along == OVER_STEPS and section.horizons < 2:
            raise StudyError(f"Claim {claim} compares horizons.", "Set trajectory.horizons to at least 2.")

    def compare(self, content: Growing, bound: float, evidence: Evidence) -> list[Comparison]:
        """Return the difference from each learning rate to the next, or of each from the first steps to the last."""
        rates = sorted(content.learning_rates)
        if content.along == OVER_STEPS:
            words = "relative error of the examples seen first, after the {} steps"
            lasts = [evidence.unrolled(rate, GROWTH_LAST, words.format("last")) for rate in rates]
            firsts = [evidence.unrolled(rate, GROWTH_FIRST, words.format("first")) for rate in rates]
            return [difference(last, first, bound) for last, first in zip(lasts, firsts, strict=True)]
        errors = [evidence.unrolled(rate, ERROR_AT_END, "relative error at the end") for rate in rates]
        return [difference(large, small, bound) for large, small in zip(errors[1:], errors[:-1], strict=True)]


def _check_rates(key: str, value: Any) -> tuple[float, ...]:
    rates = as_list(value)
    if not rates or not all(isinstance(rate, float | int) and rate > 0 for rate in rates):
        raise StudyError(f"{key}.learning_rates = {rates!r} is not allowed.", "Give learning rates above 0.")
    return tuple(float(rate) for rate in rates)


def _check_proxy(claim: str, section: Unrolling) -> None:
    if not section.proxy:
        raise StudyError(f"Claim {claim} needs what comes with the error proxy.", "Set trajectory.proxy = true.")


def times_better(left: Measured, right: Measured, bound: float) -> Comparison:
    """Compare left / right with a lower bound, where the right side may be near 0.

    A draw with right ≤ 0 < left is better by any factor: it takes the place of the largest factor that has a value,
    which leaves the lower end of the interval exact.
    """
    found = ratio(left, right, bound)
    above, unbounded = right.draws > 0, (right.draws <= 0) & (left.draws > 0)
    if not above.any() or not unbounded.any() or not (above | unbounded).all():
        return found
    ratios = np.divide(left.draws, right.draws, out=np.zeros(len(above)), where=above)
    ratios[unbounded] = ratios.max()
    low, high = np.percentile(ratios, (2.5, 97.5))
    return replace(found, low=float(low), high=float(high))
