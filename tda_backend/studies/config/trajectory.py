"""Sections about training runs that are unrolled, both optional.

::

    [trajectory]            # what leaving one example out changes in this very run, predicted and true
    learning_rates = [1e-3, 1e-4, 1e-5]   # default: the task's own
    seeds = 3               # runs at each learning rate
    removed = 200           # training examples left out, one at a time, drawn at random
    curvatures = ["hessian", "gauss-newton"]   # second derivative of a batch, the first one for the error proxy
    horizons = 12           # steps at which effects and errors are looked at, equally spaced, the last among them
    proxy = true            # the second-order error proxy
    budget_gib = 1.0        # of stored steps; what does not fit is recomputed
    [lookahead]             # selection while training, K steps looked ahead
    learning_rates = [3e-4, 1e-3, 3e-3]   # default: the task's own
    horizons = [1, 5, 20, "all"]          # K; "all": the whole run (offline)
    strategies = ["look-ahead", "look-ahead (sgd)", "alignment", "random", "full"]
    fraction = 0.5          # of every batch that is kept
    seeds = 5

The queries of the study are what effects are predicted for. For the selection, the validation examples give the
gradient that selects, the queries choose K and learning rate, and all other test examples judge.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tda_backend.errors import StudyError
from tda_backend.numerics.trajectory.unrolled.objective import BATCH_CURVATURES
from tda_backend.studies.config.section import Section, setting
from tda_backend.studies.config.strategies import STRATEGIES
from tda_backend.studies.config.values import MOST_EXAMPLES, MOST_SEEDS, many, one_of, real, whole

ALL_STEPS = "all"
EXACT = "hessian"
"""The curvature that the error proxy is of."""


def _horizon(key: str, value: Any) -> Any:
    return ALL_STEPS if value == ALL_STEPS else whole(1)(key, value)


@dataclass(frozen=True, kw_only=True)
class _OfRuns(Section):
    """A section about runs at several learning rates."""

    learning_rates: Sequence[float] | None = setting(many(real(0.0, 10.0), allow_one=True), None)

    @classmethod
    def quick(cls, content: Mapping[str, Any], own: Mapping[str, int]) -> dict[str, Any]:
        """Return the small version of a table; ``own`` are the study's own limits, where it has some."""
        section = {**cls.defaults(), **copy.deepcopy(dict(content))}
        small = {key: min(section[key], limit, own.get(key, limit)) for key, limit in cls.limits().items()}
        return {**section, **small}

    def rates(self, usual: float) -> list[float]:
        """Return the learning rates, or the task's own."""
        return [usual] if self.learning_rates is None else list(self.learning_rates)


@dataclass(frozen=True, kw_only=True)
class Unrolling(_OfRuns):
    """What leaving one example out of a run changes in it, predicted and true.

    Attributes:
        learning_rates: Of the runs; ``None``: the task's own.
        seeds: Runs at each learning rate.
        removed: Training examples that are left out, one at a time.
        curvatures: Second derivatives of a batch; the error proxy takes the first.
        horizons: Steps at which effects and errors are looked at.
        proxy: Whether the error proxy is computed.
        budget_gib: Of stored steps; what does not fit is computed again.
    """

    NAME: ClassVar[str] = "trajectory"

    seeds: int = setting(whole(1, MOST_SEEDS), 3, quick=1)
    removed: int = setting(whole(3, MOST_EXAMPLES), 200, quick=12)
    curvatures: Sequence[str] = setting(many(one_of(*BATCH_CURVATURES), allow_one=True), [EXACT, "gauss-newton"])
    horizons: int = setting(whole(1, 10_000), 12, quick=4)
    proxy: bool = setting(one_of(True, False), True)
    budget_gib: float = setting(real(0.0, 1e6), 1.0)

    def check(self, num_train: int, num_queries: int) -> None:
        """Raise a StudyError where values contradict each other or the study's counts."""
        if self.removed > num_train:
            raise StudyError(f"trajectory.removed = {self.removed} is too many.", f"data.train is {num_train}.")
        if self.proxy and self.curvatures[0] != EXACT:
            raise StudyError(
                f"The error proxy is of the exact Hessian, but trajectory.curvatures begins with "
                f'"{self.curvatures[0]}".',
                'Put "hessian" first, or set trajectory.proxy = false.',
            )


@dataclass(frozen=True, kw_only=True)
class LookAhead(_OfRuns):
    """Selection while training, K steps looked ahead.

    Attributes:
        learning_rates: Of the runs; ``None``: the task's own.
        horizons: K, or ``"all"`` for the whole run.
        strategies: What selects.
        fraction: Of every batch that is kept.
        seeds: Runs of each strategy.
    """

    NAME: ClassVar[str] = "lookahead"

    horizons: Sequence[int | str] = setting(many(_horizon, allow_one=True), [1, 5, 20, ALL_STEPS])
    strategies: Sequence[str] = setting(many(one_of(*STRATEGIES), allow_one=True), list(STRATEGIES))
    fraction: float = setting(real(0.0, 1.0), 0.5)
    seeds: int = setting(whole(1, MOST_SEEDS), 5, quick=2)
