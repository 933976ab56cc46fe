"""The claim that what one strategy selects while training trains a better model than what others select."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tda_backend.errors import StudyError
from tda_backend.numerics.evaluation.claims import Comparison
from tda_backend.numerics.trajectory.lookahead.gain import TunedSetting, paired_difference, tune
from tda_backend.numerics.trajectory.lookahead.results import SelectionRun
from tda_backend.studies.claims.sides import LEFT, RIGHT, as_list
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.config.strategies import STRATEGIES, strategy
from tda_backend.studies.config.study import Study
from tda_backend.studies.config.trajectory import ALL_STEPS, LookAhead
from tda_backend.studies.contract.claim import Claim, ClaimKind, Content, FigureKind
from tda_backend.studies.contract.evidence import Evidence


@dataclass(frozen=True)
class StrategyName:
    """A strategy of selection as a claim names it.

    Attributes:
        strategy: Its name.
        horizon: K, or the word for the whole run; ``None``: the best on the tuning set.
    """

    strategy: str
    horizon: int | str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as the study file has it."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def is_run_by(self, section: LookAhead) -> bool:
        """Return whether a study runs it."""
        wanted = section.horizons[0] if self.horizon is None else self.horizon
        return self.strategy in section.strategies and wanted in section.horizons

    def means(self, run: SelectionRun) -> bool:
        """Return whether a run looks that far ahead; a horizon beyond the run's end is the whole run."""
        if self.horizon is None:
            return True
        wanted = run.num_steps if self.horizon == ALL_STEPS else min(int(self.horizon), run.num_steps)
        return run.strategy.window(run.num_steps) == wanted


@dataclass(frozen=True)
class Strategies(Content):
    """What is compared with what.

    Attributes:
        left: One strategy.
        right: Strategies, each of which the left is compared with.
    """

    left: tuple[StrategyName, ...]
    right: tuple[StrategyName, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as the study file has it, checked."""
        return {LEFT: [each.to_json() for each in self.left], RIGHT: [each.to_json() for each in self.right]}


class Selection(ClaimKind[Strategies]):
    """What one strategy selects trains a better model than what others select."""

    NAME = "selection"
    WORDS = (
        "test loss after training on what each `right` selects − what `left` selects lies above `bound`, "
        "each with K and learning rate chosen on the tuning set"
    )
    KEYS = (LEFT, RIGHT)
    AXIS = "difference of test losses, 95 % interval"
    FIGURE = FigureKind.TRAINING_RUN
    SECTION = LookAhead.NAME

    def check(self, key: str, given: Mapping[str, Any]) -> Strategies:
        """Return both sides after checking every strategy."""
        left, right = (_check_strategies(f"{key}.{side}", given[side]) for side in self.KEYS)
        if len(left) != 1:
            raise StudyError(f"{key}.left has {len(left)} entries.", "left has one, right at least one.")
        return Strategies(left, right)

    def parse(self, content: Mapping[str, Any]) -> Strategies:
        """Return both sides of a checked claim."""
        return Strategies(*(tuple(StrategyName(**item) for item in content[side]) for side in self.KEYS))

    def check_against(
        self, claim: Claim, study: Study, configurations: Sequence[Configuration], rates: Sequence[float]
    ) -> None:
        """Raise a StudyError where a claim names a strategy that its study does not run."""
        section = study.lookahead
        if section is None:
            raise StudyError(f"Claim {claim.id} needs the section [{self.SECTION}].", "Add it to the study.")
        content: Any = claim.content
        for each in (*content.left, *content.right):
            if not each.is_run_by(section):
                raise StudyError(
                    f"Claim {claim.id} names {each.to_json()}, which the study does not run.",
                    f"lookahead has strategies {list(section.strategies)} and horizons {list(section.horizons)}.",
                )

    def compare(self, content: Strategies, bound: float, evidence: Evidence) -> list[Comparison]:
        """Return how much lower the test loss is than that of each of the right side."""
        left = _Side.of(content.left[0], evidence)
        return [_comparison(left, _Side.of(each, evidence), bound) for each in content.right]


@dataclass(frozen=True)
class _Side:
    """A strategy, its K and learning rate chosen on the tuning set.

    Attributes:
        name: In words.
        tuned: ``None`` where a run of each setting diverged.
    """

    name: str
    tuned: TunedSetting | None

    @classmethod
    def of(cls, wanted: StrategyName, evidence: Evidence) -> _Side:
        named = [each.run for each in evidence.selections() if each.name == wanted.strategy]
        runs = [run for run in named if wanted.means(run)]
        if not runs:
            return cls(f"test loss of {wanted.strategy} (a run diverged)", None)
        (found,) = tune(runs).values()
        chosen = found.chosen
        reach = "" if not strategy(wanted.strategy).looks_ahead else f", K={chosen.strategy.horizon or 'T'}"
        return cls(f"test loss of {wanted.strategy}{reach}, η={chosen.learning_rate:g}", chosen)

    @property
    def test_loss(self) -> float:
        """Mean over test examples and seeds; NaN where there is none."""
        return math.nan if self.tuned is None else self.tuned.test_loss


def _comparison(left: _Side, right: _Side, bound: float) -> Comparison:
    value, low, high = right.test_loss - left.test_loss, math.nan, math.nan
    if left.tuned is not None and right.tuned is not None and len(left.tuned.runs) > 1:
        gain = paired_difference(left.tuned.runs, right.tuned.runs)
        value, low, high = gain.mean, gain.low, gain.high
    return Comparison(right.name, right.test_loss, "−", left.name, left.test_loss, value, low, high, bound, above=True)


def _check_strategies(key: str, value: Any) -> tuple[StrategyName, ...]:
    return tuple(_check_strategy(key, item) for item in as_list(value))


def _check_strategy(key: str, item: Any) -> StrategyName:
    known = isinstance(item, Mapping) and not set(item) - {"strategy", "horizon"}
    if not known or item.get("strategy") not in STRATEGIES:
        raise StudyError(
            f"{key} has {item!r}.",
            f'Write {{strategy = "…", horizon = K or "all"}}, horizon optional; strategies: {", ".join(STRATEGIES)}.',
        )
    named = StrategyName(**item)
    if named.horizon is None:
        return named
    if not strategy(named.strategy).looks_ahead:
        raise StudyError(f"{key}: {named.strategy} looks nowhere ahead.", "Leave its horizon out.")
    whole = isinstance(named.horizon, int) and not isinstance(named.horizon, bool) and named.horizon >= 1
    if named.horizon != ALL_STEPS and not whole:
        raise StudyError(f"{key}: horizon {named.horizon!r} is not allowed.", 'Give steps K ≥ 1, or "all".')
    return named
