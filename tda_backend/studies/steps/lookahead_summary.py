"""The step that tunes every strategy of selection, compares them, and counts what they kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tda_backend.numerics.trajectory.lookahead.gain import Tuned, crossed_interval, paired_difference, tune
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.step import Cost, Step, needs
from tda_backend.studies.steps.lookahead import Named, SelectExamples, complete_runs, plan_selections, stored_runs
from tda_backend.studies.store.artifacts import ArtifactWriter
from tda_backend.studies.store.tables.lookahead import LOOKAHEAD_EXAMPLES, LOOKAHEAD_GAINS, LOOKAHEAD_TUNED


@dataclass(frozen=True, kw_only=True)
class SummarizeSelections(Step):
    """Each strategy with its best K and learning rate on the tuning set, judged on the test set.

    Attributes:
        bootstrap: The study's draws.
        seed: The study's.
    """

    NAME: ClassVar[str] = "lookahead-summary"
    VERSION: ClassVar[int] = 2
    TABLES = (LOOKAHEAD_TUNED, LOOKAHEAD_GAINS, LOOKAHEAD_EXAMPLES)

    bootstrap: int
    seed: int
    lookahead: Sequence[SelectExamples] = needs()

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Tune every strategy on the tuning set, compare them in pairs on the test set, count what they kept."""
        stored = [each for artifact in context.open_all(self.lookahead) for each in stored_runs(artifact)]
        whole, left_out = complete_runs(stored)
        names = {each.run.strategy.family: each.name for each in whole}
        tuned = [NamedTuned(names[family], each) for family, each in tune(each.run for each in whole).items()]
        writer.table("lookahead_tuned", LOOKAHEAD_TUNED.rows(each.row() for each in tuned))
        pairs = [(one, other) for one in tuned for other in tuned if one is not other]
        writer.table("lookahead_gains", LOOKAHEAD_GAINS.rows(_gain(one, other) for one, other in pairs))
        kept = [row for each in tuned for row in each.examples()]
        writer.table("lookahead_examples", LOOKAHEAD_EXAMPLES.rows(kept))
        writer.facts["left_out"] = [str(each) for each in left_out]


@dataclass(frozen=True)
class NamedTuned:
    """A tuned strategy under its name in the catalogue."""

    name: str
    tuned: Tuned

    def _identity(self) -> dict[str, Any]:
        chosen = self.tuned.chosen
        horizon = Named(self.name, chosen.strategy).horizon(chosen.runs[0].num_steps)
        return {"strategy": self.name, "horizon": horizon, "learning_rate": chosen.learning_rate}

    def row(self) -> dict[str, Any]:
        """Return its losses on the tuning and the test set."""
        chosen = self.tuned.chosen
        loss = _Interval.of([run.test_losses for run in chosen.runs])
        accuracy = _Interval.of([run.test_correct for run in chosen.runs]).within(0.0, 1.0)
        return {
            **self._identity(),
            "tuning_loss": chosen.tuning_loss,
            "test_loss": loss.mean,
            "loss_low": loss.low,
            "loss_high": loss.high,
            "test_accuracy": accuracy.mean,
            "accuracy_low": accuracy.low,
            "accuracy_high": accuracy.high,
            "num_seeds": len(chosen.runs),
        }

    def examples(self) -> Iterator[dict[str, Any]]:
        """Return how often each candidate was seen and kept, over all seeds."""
        runs = self.tuned.chosen.runs
        seen = np.sum([run.times_seen for run in runs], axis=0)
        kept = np.sum([run.times_kept for run in runs], axis=0)
        scores = np.mean([run.mean_scores for run in runs], axis=0)
        for position, (times, chosen, score) in enumerate(zip(seen, kept, scores, strict=True)):
            yield {
                **self._identity(),
                "position": position,
                "times_seen": int(times),
                "times_kept": int(chosen),
                "mean_score": None if np.isnan(score) else float(score),
            }


@dataclass(frozen=True)
class _Interval:
    """A mean over seeds and test examples with its interval; nothing where there are no values or one seed."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, values: Sequence[np.ndarray]) -> _Interval:
        stacked = np.stack(values)
        if not np.isfinite(stacked).all():
            return cls()
        if len(stacked) < 2:
            return cls(float(stacked.mean()))
        found = crossed_interval(stacked)
        return cls(found.mean, found.low, found.high)

    def within(self, least: float, most: float) -> _Interval:
        """Return it cut to what is possible."""
        ends = (self.mean, self.low, self.high)
        return _Interval(*(None if end is None else min(most, max(least, end)) for end in ends))


def _gain(one: NamedTuned, other: NamedTuned) -> dict[str, Any]:
    row: dict[str, Any] = {"strategy": one.name, "against": other.name}
    first, second = one.tuned.chosen.runs, other.tuned.chosen.runs
    for quantity in ("loss", "accuracy"):
        names = (f"{quantity}_gain", f"{quantity}_low", f"{quantity}_high")
        known = quantity == "loss" or np.isfinite([run.test_correct for run in (*first, *second)]).all()
        if known and len(first) > 1:
            gain = paired_difference(first, second, quantity)
            row |= dict(zip(names, (gain.mean, gain.low, gain.high), strict=True))
        else:
            row |= dict.fromkeys(names)
    return row


def plan_lookahead(planning: Planning) -> list[SelectExamples]:
    """Add the steps of the section on selection, if there is one; return its runs.

    Raises:
        StudyError: The task has no run of an optimizer that could be looked ahead in, or too few test examples.
        TaskError: Its steps are no function of parameters and batch.
    """
    section = planning.study.lookahead
    if section is None:
        return []
    runs = plan_selections(planning, section)
    planning.steps.add(
        SummarizeSelections(
            bootstrap=planning.study.evaluation.bootstrap,
            seed=planning.study.seed,
            lookahead=tuple(runs),
            label="tune K and learning rate",
            cost=Cost(1.0),
        )
    )
    return runs
