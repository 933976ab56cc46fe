"""Tuned strategies as the page compares them, what they cost and how their loss falls. No widgets here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from app.shared.intervals import NamedInterval
from app.views.trajectory.charts import Point, rate_text
from app.views.trajectory.results import is_same
from tda_backend.interfaces.reading.records.grouping import grouped
from tda_backend.interfaces.reading.records.lookahead import SelectionCurve, SelectionRun, StrategyGain, TunedStrategy
from tda_backend.studies.config.strategies import NamedStrategy, ordered, strategy


@dataclass(frozen=True)
class Judged:
    """A tuned strategy with its numbers on the test set.

    Attributes:
        strategy: Which.
        row: Its numbers.
        setting: K and learning rate in words.
    """

    strategy: NamedStrategy
    row: TunedStrategy
    setting: str

    def is_of(self, run: SelectionRun | SelectionCurve) -> bool:
        """Return whether a run has its strategy, K and learning rate."""
        row = self.row
        same = run.strategy == row.strategy and run.horizon == row.horizon
        return same and is_same(run.learning_rate, row.learning_rate)


@dataclass(frozen=True)
class Measure:
    """What strategies are judged by on the test set.

    Attributes:
        name: For keys and sentences.
        title: Of its axis.
        digits: Of its numbers.
        of: A tuned strategy → its number with its interval.
        gain: A pair of strategies → the gain with its interval.
    """

    name: str
    title: str
    digits: int
    of: Callable[[TunedStrategy], tuple[float | None, float | None, float | None]]
    gain: Callable[[StrategyGain], tuple[float | None, float | None, float | None]]


LOSS = Measure(
    "loss",
    "test loss (lower is better)",
    4,
    lambda row: (row.test_loss, row.loss_low, row.loss_high),
    lambda row: (row.loss_gain, row.loss_low, row.loss_high),
)
ACCURACY = Measure(
    "accuracy",
    "test accuracy (higher is better)",
    3,
    lambda row: (row.test_accuracy, row.accuracy_low, row.accuracy_high),
    lambda row: (row.accuracy_gain, row.accuracy_low, row.accuracy_high),
)


def measures_of(judged: Sequence[Judged]) -> list[Measure]:
    """Return the measures that a study has: the accuracy only with classes."""
    return [LOSS] if all(each.row.test_accuracy is None for each in judged) else [LOSS, ACCURACY]


def judged_strategies(rows: Sequence[TunedStrategy], num_steps: int | None) -> list[Judged]:
    """Return tuned strategies in the order of the page.

    Args:
        rows: One for each strategy.
        num_steps: Of a run: K at which the whole run is looked ahead.
    """
    by_name = {row.strategy: row for row in rows}
    return [Judged(each, by_name[each.name], setting_text(by_name[each.name], num_steps)) for each in ordered(by_name)]


def horizon_text(horizon: int | None, num_steps: int | None = None) -> str:
    """Return K: ``K = 5``; ``K = 94 (the whole run)``; nothing where the strategy has none."""
    if horizon is None:
        return ""
    whole = num_steps is not None and horizon >= num_steps
    return f"K = {horizon}{' (the whole run)' if whole else ''}"


def setting_text(row: TunedStrategy, num_steps: int | None = None) -> str:
    """Return K and learning rate of a tuned strategy."""
    return ", ".join(filter(None, [horizon_text(row.horizon, num_steps), f"η = {rate_text(row.learning_rate)}"]))


def pairs(gains: Sequence[StrategyGain]) -> list[StrategyGain]:
    """Return each pair of strategies once: the other direction is the same with its sign turned."""
    order = [each.name for each in ordered([name for row in gains for name in (row.strategy, row.against)])]
    ranked = [(order.index(row.strategy), order.index(row.against), row) for row in gains]
    return [row for left, right, row in sorted(ranked, key=lambda each: each[:2]) if left < right]


def pair_name(row: StrategyGain) -> str:
    """Return a pair in words."""
    return f"{strategy(row.strategy).title} over {strategy(row.against).title}"


def gain_intervals(gains: Sequence[StrategyGain], measure: Measure) -> list[NamedInterval]:
    """Return the gains in one measure, of those pairs that have one."""
    found = [(pair_name(row), *measure.gain(row)) for row in gains]
    return [NamedInterval(name, gain, low, high) for name, gain, low, high in found if gain is not None]


@dataclass(frozen=True)
class Setting:
    """A choice of K and learning rate."""

    horizon: int
    learning_rate: float


def chosen_setting(runs: Sequence[SelectionRun]) -> Setting | None:
    """Return the setting with the lowest mean loss over seeds, of those that most seeds finished.

    Args:
        runs: Of one strategy on the tuning set.
    """
    known = [run for run in runs if run.horizon is not None and run.loss is not None]
    groups = grouped(known, lambda run: Setting(run.horizon or 0, run.learning_rate))
    most = max(map(len, groups.values()), default=0)
    means = {setting: mean_loss(mine) for setting, mine in groups.items() if len(mine) == most}
    return min(means, key=means.__getitem__, default=None)


def mean_loss(runs: Sequence[SelectionRun]) -> float:
    """Return the mean loss of runs that have one."""
    return float(np.mean([run.loss for run in runs if run.loss is not None]))


@dataclass(frozen=True)
class Cost:
    """What a tuned strategy computes, mean over seeds.

    Attributes:
        judged: The strategy.
        relative: Work relative to training on all data.
        gradient_evaluations: Examples differentiated, selection included.
        hessian_products: Products with curvatures.
        seconds: Measured.
    """

    judged: Judged
    relative: float
    gradient_evaluations: int
    hessian_products: int
    seconds: float


def costs(runs: Sequence[SelectionRun], judged: Sequence[Judged]) -> list[Cost]:
    """Return the cost of each tuned strategy; none without a run on all data.

    Work is counted in operations; in examples differentiated where some run does not say how many those were.
    """
    once = [run for run in runs if run.split == "test"]
    has_work = all(run.relative_cost is not None for run in once)

    def work(mine: Sequence[SelectionRun]) -> float:
        return _mean([(run.relative_cost or 0.0) if has_work else run.gradient_evaluations for run in mine])

    full = [run for run in once if strategy(run.strategy).keeps_all]
    found = []
    for each in judged if full else []:
        mine = [run for run in once if each.is_of(run)]
        if mine:
            found.append(
                Cost(
                    each,
                    work(mine) / work(full),
                    round(_mean([run.gradient_evaluations for run in mine])),
                    round(_mean([run.hessian_products for run in mine])),
                    round(_mean([run.seconds for run in mine]), 2),
                )
            )
    return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


@dataclass(frozen=True)
class LossCurve:
    """Test loss of a tuned strategy while it trains: mean over seeds, from the lowest to the highest of them."""

    strategy: NamedStrategy
    points: list[Point]
    num_seeds: int


def loss_curves(curves: Sequence[SelectionCurve], judged: Sequence[Judged]) -> list[LossCurve]:
    """Return the curves of tuned strategies, of those that have one."""
    found = []
    for each in judged:
        mine = [curve for curve in curves if each.is_of(curve)]
        if mine:
            values = np.stack([np.asarray(curve.test_losses, dtype=np.float64) for curve in mine])
            rows = zip(mine[0].steps.tolist(), values.mean(0), values.min(0), values.max(0), strict=True)
            points = [Point(step, float(mean), float(low), float(high)) for step, mean, low, high in rows]
            found.append(LossCurve(each.strategy, points, len(mine)))
    return found
