"""The step of selection while training: one run of every strategy at one learning rate and seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from tda_backend.errors import NumericalError, StudyError
from tda_backend.models.tasks.data import take
from tda_backend.numerics.trajectory.lookahead.results import SPLITS, Course, SelectionData, SelectionRun
from tda_backend.numerics.trajectory.lookahead.results import Cost as RunCost
from tda_backend.numerics.trajectory.lookahead.runs import SelectionTask, select_while_training
from tda_backend.numerics.trajectory.lookahead.strategy import Strategy
from tda_backend.studies.config.strategies import strategy
from tda_backend.studies.config.trajectory import ALL_STEPS, LookAhead
from tda_backend.studies.contract.evidence import NamedRun
from tda_backend.studies.contract.unrollable import check_unrollable
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.step import Cost, Step, about, needs
from tda_backend.studies.steps.unroll import num_steps, run_seed, run_words, usual_rate
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactWriter
from tda_backend.studies.store.tables.lookahead import LOOKAHEAD_CURVES, LOOKAHEAD_RUNS

NUM_EVALUATIONS = 12
_FEWEST_TEST_EXAMPLES = 2
"""An interval over test examples needs as many."""
_ARRAYS = ("test_losses", "test_correct", "rows", "steps", "scores", "kept")


@dataclass(frozen=True)
class Named:
    """A strategy under its name in the catalogue, which does not hold its horizon."""

    name: str
    strategy: Strategy

    def horizon(self, total_steps: int) -> int | None:
        """Return K in a run of ``total_steps``; ``None`` where the strategy has none."""
        return self.strategy.window(total_steps) if strategy(self.name).looks_ahead else None


@dataclass(frozen=True)
class Diverged:
    """Settings of which a run diverged.

    Attributes:
        strategy: With its horizon.
        learning_rate: η₀.
        finished: Seeds that finished.
        seeds: All.
    """

    strategy: Strategy
    learning_rate: float
    finished: int
    seeds: int

    def __str__(self) -> str:
        return f"{self.strategy.name} at learning rate {self.learning_rate:g}: {self.finished} of {self.seeds} seeds"


@dataclass(frozen=True, kw_only=True)
class SelectExamples(Step):
    """Runs of every strategy at one learning rate and seed.

    Attributes:
        learning_rate: η₀.
        seed: Of the runs.
        fraction: Of every batch that is kept.
        strategies: What selects.
        horizons: K, or the word for the whole run.
        seed_index: Which of the section's runs at this learning rate.
    """

    NAME: ClassVar[str] = "lookahead"
    VERSION: ClassVar[int] = 1
    TABLES = (LOOKAHEAD_RUNS, LOOKAHEAD_CURVES)

    learning_rate: float
    seed: int
    fraction: float
    strategies: Sequence[str]
    horizons: Sequence[int | str]
    examples: Step = needs()
    seed_index: int = about(0, ingested=True)

    def context(self) -> dict[str, Any]:
        """Return learning rate and seed, which rows of the catalogue carry."""
        return {**super().context(), "learning_rate": self.learning_rate}

    @classmethod
    def results(cls, artifact: Artifact) -> dict[str, np.ndarray]:
        """Return all but the seconds that a run took."""
        found = super().results(artifact)
        return {name: values for name, values in found.items() if name != f"{LOOKAHEAD_RUNS.name}.parquet: seconds"}

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Train with every strategy; a run that diverges is left out and named."""
        what = SelectionTask(context.task, self._data(context), context.device)
        rows: list[dict[str, Any]] = []
        curves: list[dict[str, Any]] = []
        stored: list[dict[str, Any]] = []
        diverged: list[str] = []
        chosen = strategies_of(self.strategies, self.horizons, self.fraction)
        for number, named in enumerate(chosen):
            try:
                run = select_while_training(
                    what, named.strategy, self.seed, rate=self.learning_rate, num_evaluations=NUM_EVALUATIONS
                )
            except NumericalError as error:
                diverged.append(f"{named.strategy.name}: {error.message}")
            else:
                each = NamedRun(named.name, run)
                rows += _rows(each)
                curves.append(_curve(each))
                stored.append(_store(writer, len(stored), each))
            context.on_progress(number + 1, len(chosen))
        writer.facts |= {"runs": stored, "diverged": diverged}
        writer.table("lookahead_runs", LOOKAHEAD_RUNS.rows(rows))
        writer.table("lookahead_curves", LOOKAHEAD_CURVES.rows(curves))

    def _data(self, context: RunContext) -> SelectionData:
        """Return the parts: validation selects, queries tune, all other test examples judge."""
        positions, test = context.positions(self.examples), context.test_split
        taken = np.concatenate([positions.validation, positions.queries])
        apart = np.setdiff1d(np.arange(len(test[context.task.label_key])), taken)
        return SelectionData(
            take(context.train_split, torch.from_numpy(positions.train)),
            *(take(test, torch.from_numpy(rows)) for rows in (positions.validation, positions.queries, apart)),
        )


def strategies_of(names: Sequence[str], horizons: Sequence[int | str], fraction: float) -> list[Named]:
    """Return every strategy of a study, each horizon by itself.

    Args:
        names: Of the strategies.
        horizons: K of those that look ahead.
        fraction: Of every batch that is kept.
    """
    steps = [None if horizon == ALL_STEPS else int(horizon) for horizon in horizons]
    found: list[Named] = []
    for name in names:
        chosen = strategy(name)
        found += [Named(name, chosen.at(each, fraction)) for each in (steps if chosen.looks_ahead else [1])]
    return found


def _identity(each: NamedRun) -> dict[str, Any]:
    run = each.run
    return {"strategy": each.name, "horizon": Named(each.name, run.strategy).horizon(run.num_steps)}


def _rows(each: NamedRun) -> Iterator[dict[str, Any]]:
    run = each.run
    for split in SPLITS:
        course = run.courses[split]
        accuracy = float(course.accuracy[-1])
        yield {
            **_identity(each),
            "fraction": run.strategy.share,
            "num_steps": run.num_steps,
            "split": split,
            "loss": float(course.loss[-1]),
            "accuracy": None if np.isnan(accuracy) else accuracy,
            "gradient_evaluations": run.cost.gradients,
            "hessian_products": run.cost.products,
            "relative_cost": run.cost.relative,
            "seconds": run.cost.seconds,
        }


def _curve(each: NamedRun) -> dict[str, Any]:
    tuning, test = (each.run.courses[split] for split in ("tuning", "test"))
    return {**_identity(each), "steps": test.steps, "tuning_losses": tuning.loss, "test_losses": test.loss}


@dataclass(frozen=True)
class _StoredRun:
    """What the manifest says of a run; its arrays lie beside."""

    name: str
    horizon: int | None
    num_steps: int
    num_candidates: int
    tuning_loss: float


def _store(writer: ArtifactWriter, number: int, each: NamedRun) -> dict[str, Any]:
    """Write what tuning needs of a run; return the rest of it."""
    run = each.run
    for array in _ARRAYS:
        writer.array(f"{array}_{number}", getattr(run, array))
    tuning = float(run.courses["tuning"].loss[-1])
    return vars(_StoredRun(each.name, run.strategy.horizon, run.num_steps, run.num_candidates, tuning))


def stored_runs(artifact: Artifact) -> Iterator[NamedRun]:
    """Return the stored runs of one step, without their parameters, courses and costs but the last tuning loss."""
    step = _settings_of(artifact)
    strategies = strategies_of(step.strategies, step.horizons, step.fraction)
    by_name = {(each.name, each.strategy.horizon): each.strategy for each in strategies}
    for number, entry in enumerate(artifact.fact("runs")):
        stored = _StoredRun(**entry)
        end = np.array([stored.num_steps]), np.array([stored.tuning_loss]), np.array([np.nan])
        arrays: dict[str, Any] = {name: artifact.array(f"{name}_{number}") for name in _ARRAYS}
        run = SelectionRun(
            by_name[stored.name, stored.horizon],
            step.learning_rate,
            step.seed,
            stored.num_steps,
            {"tuning": Course(*end)},
            num_candidates=stored.num_candidates,
            theta=torch.empty(0),
            cost=RunCost(0, 0, 0, 0.0, 1, 0.0),
            **arrays,
        )
        yield NamedRun(stored.name, run)


def _settings_of(artifact: Artifact) -> SelectExamples:
    """Return the step that wrote an artifact, as far as its settings say it."""
    nothing: Any = None
    return SelectExamples(**artifact.settings, examples=nothing)


def complete_runs(named: Sequence[NamedRun]) -> tuple[list[NamedRun], list[Diverged]]:
    """Return the runs of settings that every seed finished; and the settings of which a run diverged."""
    seeds = {each.run.seed for each in named}
    groups: dict[tuple[str, Strategy, float], list[NamedRun]] = {}
    for each in named:
        groups.setdefault((each.name, each.run.strategy, each.run.learning_rate), []).append(each)
    whole = [each for runs in groups.values() if len(runs) == len(seeds) for each in runs]
    return whole, [
        Diverged(strategy, rate, len(runs), len(seeds))
        for (_, strategy, rate), runs in groups.items()
        if len(runs) < len(seeds)
    ]


def plan_selections(planning: Planning, section: LookAhead) -> list[SelectExamples]:
    """Add the runs of every learning rate and seed.

    Raises:
        StudyError: The task has no run of an optimizer that could be looked ahead in, or too few test examples.
        TaskError: Its steps are no function of parameters and batch.
    """
    study, facts = planning.study, planning.facts
    check_unrollable(facts.task, section.NAME)
    _check_test_examples(planning)
    steps = num_steps(study, facts)
    # What looks beyond the end of the run looks at the whole run.
    whole = [ALL_STEPS if each == ALL_STEPS or int(each) >= steps else each for each in section.horizons]
    horizons = list(dict.fromkeys(whole))
    runs = len(strategies_of(section.strategies, horizons, section.fraction))
    return [
        planning.steps.add(
            SelectExamples(
                learning_rate=rate,
                seed=run_seed(study, number),
                fraction=section.fraction,
                strategies=section.strategies,
                horizons=horizons,
                examples=planning.examples,
                seed_index=number,
                label=f"select while training at {run_words(rate, number, section.seeds)}",
                cost=Cost(1e-8 * steps * runs * facts.num_parameters * 64),
            )
        )
        for rate in section.rates(usual_rate(facts))
        for number in range(section.seeds)
    ]


def _check_test_examples(planning: Planning) -> None:
    data, num_test = planning.study.data, planning.facts.num_test
    if data.validation + data.queries > num_test - _FEWEST_TEST_EXAMPLES:
        raise StudyError(
            f"[lookahead] needs test examples beside the {data.validation} of validation and the "
            f"{data.queries} queries, but the task has {num_test}.",
            "Lower data.validation or data.queries: what is left judges the selection.",
        )
