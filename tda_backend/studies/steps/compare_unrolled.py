"""The steps that hold predictions against the truth: of one run, and as the mean over the seeds of a learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tda_backend.numerics.evaluation.agreement import Estimate
from tda_backend.numerics.evaluation.bootstrap import bootstrap_seed
from tda_backend.numerics.evaluation.claims import Measured
from tda_backend.numerics.trajectory.unrolled.removal import VARIANTS
from tda_backend.studies.contract.unrollable import check_unrollable
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.step import Cost, Step, about, needs
from tda_backend.studies.steps.unroll import (
    EstimateError,
    PredictEffects,
    TrueEffects,
    plan_run,
    usual_rate,
    variants_of,
)
from tda_backend.studies.steps.unrolled_agreement import (
    AS_TRAINED,
    SGD,
    Pair,
    Size,
    agreements_of,
    mean_agreements,
    write_agreements,
)
from tda_backend.studies.steps.unrolled_errors import (
    FIRST_TERM,
    FULL,
    Draws,
    Growth,
    Place,
    errors_of,
    mean_errors,
    write_error_table,
    write_errors,
)
from tda_backend.studies.steps.unrolled_results import Proxy, Results, Truth
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactWriter
from tda_backend.studies.store.tables.trajectory import (
    TRAJECTORY_AGREEMENT,
    TRAJECTORY_EFFECTS,
    TRAJECTORY_ERRORS,
    TRAJECTORY_GAINS,
    TRAJECTORY_PATHS,
    TRAJECTORY_RUNS,
)

RANKS_AS_TRAINED, RANKS_SGD = "matched", "mismatched"
ERROR_AT_END, PEARSON_OF_PROXY = "error last", "proxy pearson"
GROWTH_FIRST, GROWTH_LAST = "growth first", "growth last"
"""Numbers of a summary that claims compare, beside Spearman's correlation of each estimator with the error."""


@dataclass(frozen=True, kw_only=True)
class CompareRun(Step):
    """How predictions of one run agree with the truth, and what they miss.

    Attributes:
        bootstrap: Draws of intervals.
        seed: The study's.
        learning_rate: η₀ of the run.
        seed_index: Which run at this learning rate.
    """

    NAME: ClassVar[str] = "trajectory-comparison"
    VERSION: ClassVar[int] = 3
    TABLES = (
        TRAJECTORY_RUNS,
        TRAJECTORY_AGREEMENT,
        TRAJECTORY_GAINS,
        TRAJECTORY_EFFECTS,
        TRAJECTORY_ERRORS,
        TRAJECTORY_PATHS,
    )

    bootstrap: int
    seed: int
    examples: Step = needs()
    influence: PredictEffects = needs()
    truth: TrueEffects = needs()
    proxy: EstimateError | None = needs(default=None)
    learning_rate: float = about(0.0, ingested=True)
    seed_index: int = about(0, ingested=True)

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Store agreement, effects, and errors where there is a proxy."""
        proxy = None if self.proxy is None else Proxy(context.open(self.proxy))
        variants = variants_of(self.influence.curvatures)
        results = Results(context.open(self.influence), variants, Truth(context.open(self.truth)), proxy)
        draws = Draws(self.bootstrap, bootstrap_seed(self.seed))
        agreements = agreements_of(results, draws)
        size = Size(len(results.truth.positions), results.predicted().shape[1])
        writer.facts |= {"agreements": [list(pair) for pair in agreements], **vars(size)}
        writer.array("agreement_draws", np.stack([each.draws for each in agreements.values()]))
        writer.array("agreement_points", np.stack([each.per_point for each in agreements.values()]))
        write_agreements(writer, agreements, size)
        writer.table("trajectory_runs", results.truth.run_table())
        writer.table("trajectory_effects", results.effect_table())
        if proxy is not None:
            write_errors(writer, errors_of(results, proxy, draws))
            writer.table("trajectory_paths", results.path_table(proxy))
            growth = Growth.of(results, proxy, draws)
            if growth is not None:
                growth.write(writer)


@dataclass(frozen=True, kw_only=True)
class SummarizeRuns(Step):
    """The means over the seeds of one learning rate, and the numbers that claims compare.

    Attributes:
        learning_rate: η₀ of the runs.
    """

    NAME: ClassVar[str] = "trajectory-summary"
    VERSION: ClassVar[int] = 3
    TABLES = (TRAJECTORY_AGREEMENT, TRAJECTORY_GAINS, TRAJECTORY_ERRORS)

    learning_rate: float
    comparisons: Sequence[CompareRun] = needs()

    def context(self) -> dict[str, Any]:
        """Return the learning rate, which rows of the catalogue carry."""
        return {**super().context(), "learning_rate": self.learning_rate}

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Store the means and the numbers."""
        runs = context.open_all(self.comparisons)
        pairs = [Pair(*each) for each in runs[0].fact("agreements")]
        agreements = mean_agreements(runs, pairs)
        size = Size(runs[0].fact("num_removed"), runs[0].fact("num_queries"))
        write_agreements(writer, agreements, size)
        first = pairs[0].curvature
        measured = {
            RANKS_AS_TRAINED: agreements[Pair(AS_TRAINED, first, VARIANTS[0])].mean,
            RANKS_SGD: agreements[Pair(SGD, first, VARIANTS[0])].mean,
        }
        if runs[0].fact("errors") is not None:
            measured |= _summarized_errors(runs, writer)
        writer.facts |= {"measured": list(measured), "learning_rate": self.learning_rate}
        writer.array("values", np.array([each.value for each in measured.values()]))
        writer.array("draws", np.stack([each.draws for each in measured.values()], axis=1))


def _summarized_errors(runs: Sequence[Artifact], writer: ArtifactWriter) -> dict[str, Estimate]:
    """Store the runs' mean errors; return the numbers that claims compare."""
    errors = mean_errors(runs)
    write_error_table(writer, errors)
    last = [place.step for place in errors if place.estimator == FULL][-1]
    full, cheap = errors[Place(FULL, last)], errors[Place(FIRST_TERM, last)]
    measured = {
        ERROR_AT_END: full.relative,
        FULL: full.spearman,
        FIRST_TERM: cheap.spearman,
        PEARSON_OF_PROXY: full.pearson,
    }
    growth = Growth.mean(runs)
    if growth is not None:
        for end, value, drawn in zip((GROWTH_FIRST, GROWTH_LAST), growth.values, growth.draws, strict=True):
            measured[end] = Estimate(float(value), np.nan, np.nan, drawn)
    return measured


@dataclass(frozen=True)
class Summary:
    """A stored summary of the runs at one learning rate."""

    artifact: Artifact

    @property
    def learning_rate(self) -> float:
        """η₀ of its runs."""
        return float(self.artifact.fact("learning_rate"))

    def measured(self, what: str, words: str) -> Measured:
        """Return a number with its draws over removed examples, which all learning rates share; NaN: it has none.

        Args:
            what: Which number.
            words: What it is called.
        """
        name, there = f"{words} at η={self.learning_rate:g}", self.artifact.fact("measured")
        if what not in there:  # too few examples: nothing to compare
            return Measured(name, float("nan"), np.full(len(self.artifact.array("draws")), np.nan))
        number = there.index(what)
        draws = np.asarray(self.artifact.array("draws"))[:, number]
        return Measured(name, float(self.artifact.array("values")[number]), draws)


def plan_unrolled(planning: Planning) -> list[SummarizeRuns]:
    """Add the steps of the section on unrolling, if there is one; return the summary of every learning rate.

    Raises:
        StudyError: The task has no run of an optimizer that could be unrolled.
        TaskError: Its steps are no function of parameters and batch.
    """
    section = planning.study.trajectory
    if section is None:
        return []
    check_unrollable(planning.facts.task, section.NAME)
    summaries = []
    for rate in section.rates(usual_rate(planning.facts)):
        comparisons = tuple(_plan_comparison(planning, rate, number) for number in range(section.seeds))
        summaries.append(
            planning.steps.add(
                SummarizeRuns(
                    learning_rate=rate,
                    comparisons=comparisons,
                    label=f"mean over seeds at η={rate:g}",
                    cost=Cost(0.5),
                )
            )
        )
    return summaries


def _plan_comparison(planning: Planning, rate: float, number: int) -> CompareRun:
    run = plan_run(planning, rate, number)
    return planning.steps.add(
        CompareRun(
            bootstrap=planning.study.evaluation.bootstrap,
            seed=planning.study.seed,
            examples=planning.examples,
            influence=run.influence,
            truth=run.truth,
            proxy=run.proxy,
            learning_rate=rate,
            seed_index=number,
            label=f"compare prediction and truth at {run.at}",
            cost=Cost(3.0),
        )
    )
