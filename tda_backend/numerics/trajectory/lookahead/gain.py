"""Does choosing data help? Tuning every strategy alike, and paired differences on a test set that none of it saw.

Horizon K and learning rate are chosen together by the mean loss on the tuning set over the training seeds, for every
strategy alike; random draws and full data have a learning rate to choose, too. Then test examples are compared.

**The interval.** Let d_si be the difference of two strategies under seed s on test example i, S × m, everything else
equal. Both the seeds and the test examples are a sample, crossed with each other, so that the variance of the mean is
estimated by

    Var = (M_s + M_i − M_si) / (S·m)

with the mean squares M of seeds, examples and their interaction (two-way random effects without replication, e.g.
Searle, Casella & McCulloch, *Variance Components*, 1992, §4.3), and a t-interval takes Satterthwaite's degrees of
freedom. It is about other seeds and other test examples. Why not a bootstrap: of five seeds it draws the same few again
and again and is too narrow (a percentile interval of five normal numbers covers about 84 % instead of 95). Why not a
t-interval over seeds alone: it takes the test set for the whole world. Not in the interval: other candidates, other
selection and tuning sets, and that tuning might have chosen otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy

from tda_backend.errors import UsageError
from tda_backend.numerics.trajectory.lookahead.results import SelectionRun
from tda_backend.numerics.trajectory.lookahead.strategy import Strategy

Quantity = Literal["loss", "accuracy"]
CONFIDENCE = 0.95


@dataclass(frozen=True)
class TunedSetting:
    """One (strategy, learning rate) over several seeds.

    Attributes:
        strategy: With its horizon.
        learning_rate: η₀.
        tuning_loss: Mean over seeds of the final mean loss on the tuning set.
        runs: One per seed, in the order of seeds.
    """

    strategy: Strategy
    learning_rate: float
    tuning_loss: float
    runs: tuple[SelectionRun, ...]

    @property
    def test_loss(self) -> float:
        """Mean test loss over examples and seeds; to report, never to choose by."""
        return float(np.mean([run.test_losses.mean() for run in self.runs]))

    @property
    def test_accuracy(self) -> float:
        """Share of correct test predictions over examples and seeds; NaN where the task has no classes."""
        return float(np.mean([run.test_correct.mean() for run in self.runs]))


@dataclass(frozen=True)
class Tuned:
    """A strategy whose horizon and learning rate were chosen on the tuning set.

    Attributes:
        family: Its name without horizon (:attr:`Strategy.family`).
        chosen: The setting of the lowest tuning loss; of equal ones the shorter horizon, then the smaller rate.
        settings: All that were compared, by horizon and rate (the whole run last).
        left_out: Settings that lack a seed others have, such as diverged ones, for a person.
    """

    family: str
    chosen: TunedSetting
    settings: tuple[TunedSetting, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class PairedDifference:
    """How much better one setting is than another on the test set.

    Attributes:
        quantity: ``loss`` or ``accuracy``.
        mean: Positive = the first is better: lower loss, higher accuracy.
        low: Lower end of the interval; see the module.
        high: Upper end.
        standard_error: Of the mean.
        degrees: Satterthwaite's degrees of freedom.
        by_seed: Mean difference of each seed, ``[S]``.
        num_examples: m.
        confidence: Of the interval.
    """

    quantity: Quantity
    mean: float
    low: float
    high: float
    standard_error: float
    degrees: float
    by_seed: np.ndarray
    num_examples: int
    confidence: float

    @property
    def verdict(self) -> Literal["better", "worse", "undecided"]:
        """What the interval says of the first setting."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "undecided"


def tune(runs: Iterable[SelectionRun]) -> dict[str, Tuned]:
    """Return each strategy's best horizon and learning rate by the mean tuning loss over seeds.

    Only settings with all the seeds that occur anywhere in ``runs`` take part, so that means are over the same seeds.

    Args:
        runs: Of any number of strategies, horizons, learning rates and seeds; shares and other fields that
            :attr:`Strategy.family` does not name must be equal within a family.

    Raises:
        UsageError: No run, a setting run twice under one seed, shares mixed in a family, or a family none of whose
            settings has all seeds.
    """
    groups: dict[str, dict[tuple[Strategy, float], list[SelectionRun]]] = {}
    seeds: set[int] = set()
    for run in runs:
        groups.setdefault(run.strategy.family, {}).setdefault((run.strategy, run.learning_rate), []).append(run)
        seeds.add(run.seed)
    if not groups:
        raise UsageError("There is no run to tune by.", "Give runs of select_while_training.")
    return {family: _tuned(family, settings, seeds) for family, settings in groups.items()}


def paired_difference(
    first: Sequence[SelectionRun],
    second: Sequence[SelectionRun],
    quantity: Quantity = "loss",
    confidence: float = CONFIDENCE,
) -> PairedDifference:
    """Return how much better ``first`` is on the test set, with an interval over seeds and examples (see the module).

    Args:
        first: Runs of one setting.
        second: Runs of another, under the same seeds, with the same test set.
        quantity: What is compared at the end of the runs.
        confidence: Of the interval.

    Raises:
        UsageError: Seeds or test sets differ, there are fewer than two seeds or examples, or no accuracies.
    """
    sides = [sorted(side, key=lambda run: run.seed) for side in (first, second)]
    seeds = [[run.seed for run in side] for side in sides]
    if seeds[0] != seeds[1] or len(set(seeds[0])) != len(seeds[0]) or len(seeds[0]) < 2:
        raise UsageError(
            f"Runs under seeds {seeds[0]} are compared with runs under seeds {seeds[1]}.",
            "Give both settings the same seeds, at least two, each once.",
        )
    values = [[run.test_losses if quantity == "loss" else run.test_correct for run in side] for side in sides]
    if len({len(each) for side in values for each in side}) != 1 or len(values[0][0]) < 2:
        raise UsageError("The runs have different test sets.", "Compare runs of one study, with at least two examples.")
    gap = np.array(values[0]) - np.array(values[1])
    if not np.isfinite(gap).all():
        raise UsageError(f"Some runs have no test {quantity}.", "Compare another quantity.")
    return crossed_interval(-gap if quantity == "loss" else gap, quantity, confidence)


def crossed_interval(gap: np.ndarray, quantity: Quantity = "loss", confidence: float = CONFIDENCE) -> PairedDifference:
    """Return the mean of differences ``[S, m]`` with an interval over rows and columns (see the module).

    An estimate of the variance that falls below what seeds, or examples, alone would say is replaced by that.

    Raises:
        UsageError: A confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise UsageError(f"The confidence {confidence} is outside (0, 1).", "The usual value is 0.95.")
    num_seeds, num_examples = gap.shape
    mean, by_seed, by_example = gap.mean(), gap.mean(axis=1), gap.mean(axis=0)
    rest = gap - by_seed[:, None] - by_example + mean
    freedom = np.array([num_seeds - 1, num_examples - 1, (num_seeds - 1) * (num_examples - 1)])
    squares = np.array(
        [
            num_examples * np.square(by_seed - mean).sum(),
            num_seeds * np.square(by_example - mean).sum(),
            np.square(rest).sum(),
        ]
    )
    means = squares / freedom
    parts = np.array([means[0], means[1], -means[2]])
    if parts.sum() < means[:2].max():
        parts = np.where(np.arange(3) == means[:2].argmax(), means, 0.0)
    total = parts.sum()
    degrees = total**2 / (parts**2 / freedom).sum() if total > 0 else float(freedom[0])
    error = math.sqrt(total / gap.size)
    reach = float(scipy.special.stdtrit(degrees, (1 + confidence) / 2)) * error
    return PairedDifference(
        quantity,
        float(mean),
        float(mean - reach),
        float(mean + reach),
        error,
        float(degrees),
        by_seed,
        num_examples,
        confidence,
    )


def _tuned(family: str, groups: dict[tuple[Strategy, float], list[SelectionRun]], seeds: set[int]) -> Tuned:
    shares = {strategy.share for strategy, _ in groups}
    if len(shares) != 1:
        raise UsageError(f'Runs of "{family}" keep {sorted(shares)} of their examples.', "Tune one share at a time.")
    found, left_out = [], []
    for (strategy, rate), runs in groups.items():
        own = [run.seed for run in runs]
        if len(set(own)) != len(own):
            raise UsageError(f"{strategy.name} at learning rate {rate:g} has two runs of one seed.", "Give each once.")
        loss = float(np.mean([run.courses["tuning"].loss[-1] for run in runs]))
        if set(own) != seeds or not math.isfinite(loss):
            left_out.append(f"{strategy.name} at learning rate {rate:g}: {len(own)} of {len(seeds)} seeds")
            continue
        ordered = tuple(sorted(runs, key=lambda run: run.seed))
        found.append(TunedSetting(strategy, rate, loss, ordered))
    if not found:
        raise UsageError(
            f'No setting of "{family}" was run under all {len(seeds)} seeds.', "Run each setting under the same seeds."
        )
    found.sort(key=lambda each: (each.strategy.horizon or math.inf, each.learning_rate))
    best = min(found, key=lambda each: each.tuning_loss)
    return Tuned(family, best, tuple(found), tuple(left_out))
