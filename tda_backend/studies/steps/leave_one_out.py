"""The steps of leave-one-out: which examples to take out, retraining without each, and how well scores foretold it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tda_backend.blocks import spans
from tda_backend.numerics.evaluation.bootstrap import bootstrap_seed
from tda_backend.numerics.evaluation.leave_one_out import (
    LeaveOneOutEffects,
    leave_one_out_agreement,
    leave_one_out_effects,
)
from tda_backend.numerics.spectral.contraction import ScoreMatrix, Source, num_queries, scores, subset_sums
from tda_backend.seeds import hashed_rng
from tda_backend.studies.config.configuration import Configuration, Scorer
from tda_backend.studies.config.counterfactual import AT_RANDOM, TOP
from tda_backend.studies.config.selector import Selector
from tda_backend.studies.contract.method import scorer
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.planning import Planned, Planning
from tda_backend.studies.pipeline.step import Cost, Step, about, needs, setting
from tda_backend.studies.steps.base_models import BaseModels, CounterfactualStep, plan_base_models, selected
from tda_backend.studies.steps.choice import Choice, about_regularization, choice_settings
from tda_backend.studies.steps.source import read_configuration
from tda_backend.studies.store.artifacts import ArtifactWriter
from tda_backend.studies.store.tables.counterfactual import LOO_EFFECTS, LOO_SCORES

CHUNK = 10
"""Examples of one step."""
_SCORED_AT_ONCE = 128


@dataclass(frozen=True, kw_only=True)
class ChooseExamples(Choice, Step):
    """Which training examples are left out: random ones, or the most influential of several methods in turn.

    Attributes:
        choice: ``top`` or ``random``.
        examples: How many.
        seed: The study's.
        selectors: Whose, each with its λ.
        rows: What decides their filters.
    """

    NAME: ClassVar[str] = "loo-choice"
    VERSION: ClassVar[int] = 1

    choice: str
    num: int
    seed: int
    selectors: Sequence[Selector] | None = setting(None)
    rows: Sequence[Scorer] | None = setting(None)
    examples: Step = needs()
    sources: Mapping[int, Sequence[Step]] = needs(role="sources {}", default={})
    evaluations: Mapping[int, Step] = needs(role="evaluate {}", default={})

    def settings(self) -> dict[str, Any]:
        """Return the settings; the number of examples goes by the name of the study's key."""
        settings = super().settings()
        examples = settings.pop("num")
        return {**settings, "examples": examples}

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Choose, and store the training positions."""
        num_train = len(context.positions(self.examples).train)
        if self.choice == AT_RANDOM:
            chosen = hashed_rng("loo", self.seed).permutation(num_train)[: self.num]
        else:
            pairs = zip(self.selectors or (), self.rows or (), strict=True)
            orders = [self._order(context, number, *pair, num_train) for number, pair in enumerate(pairs)]
            chosen = in_turn(orders, self.num)
        writer.array("positions", np.asarray(chosen, dtype=np.int32))

    def _order(self, context: RunContext, number: int, selector: Selector, row: Scorer, num_train: int) -> np.ndarray:
        """Return training positions by descending absolute score over all queries."""
        source = read_configuration(context, row, self.sources[number])
        value = self.meant(context, selector, source, self.evaluations.get(number))
        total = np.zeros(num_train)
        for queries in spans(num_queries(source), _SCORED_AT_ONCE):
            total += np.abs(scores(source, value, range(queries.start, queries.stop))).sum(0)
        return np.argsort(-total, kind="stable")


def in_turn(orders: list[np.ndarray], num: int) -> np.ndarray:
    """Return the first ``num`` different positions when every order gives its next one in turn."""
    return np.array(list(dict.fromkeys(int(value) for values in zip(*orders, strict=True) for value in values))[:num])


@dataclass(frozen=True, kw_only=True)
class LeaveOut(CounterfactualStep):
    """Retraining without each of some examples.

    Attributes:
        first: Number of the first example among those chosen.
        last: Number after the last one.
    """

    NAME: ClassVar[str] = "loo"
    VERSION: ClassVar[int] = 1
    TABLES = (LOO_EFFECTS,)

    first: int
    last: int
    base: BaseModels = needs()
    choice: ChooseExamples = needs()

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Retrain with the base's seeds; store the queries' goodness ``[c, R, m]`` and its change."""
        queries = context.positions(self.examples).queries
        chosen = context.open(self.choice).array("positions")[self.first : self.last]
        values = self.retrain_without(context, [np.array([position]) for position in chosen], queries)
        writer.array("positions", chosen)
        writer.array("goodness", np.ascontiguousarray(values[..., 0]))
        base = context.open(self.base).array("goodness")[:, queries]
        found = leave_one_out_effects(base, values[..., 0])
        records = [
            {"position": int(position), "num_seeds": self.seeds, "effects": effects, "standard_errors": errors}
            for position, effects, errors in zip(
                chosen, found.effects.astype(np.float32), found.standard_errors.astype(np.float32), strict=True
            )
        ]
        writer.table("loo_effects", LOO_EFFECTS.rows(records))


@dataclass(frozen=True, kw_only=True)
class LeaveOneOutScores(Choice, Step):
    """How well one configuration's scores foretold the effects of leaving examples out.

    Attributes:
        row: What decides the configuration's filter.
        bootstrap: Draws of intervals.
        seed: The study's.
        configuration_id: Which configuration.
    """

    NAME: ClassVar[str] = "loo-scores"
    VERSION: ClassVar[int] = 1
    TABLES = (LOO_SCORES,)

    row: Scorer
    bootstrap: int
    seed: int
    examples: Step = needs()
    base: BaseModels = needs()
    loo: Sequence[LeaveOut] = needs()
    sources: Sequence[Step] = needs()
    configuration_id: str = about("", ingested=True)

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Correlate, at every λ of the grid and at λ*."""
        positions, found = self._effects(context)
        source = read_configuration(context, self.row, self.sources)
        values = None if isinstance(source, ScoreMatrix) else self.grid_with_selected(source)
        predicted = self._predicted(context, source, positions, values)
        records = []
        for index, value in enumerate([None] if values is None else values):
            result = leave_one_out_agreement(
                predicted[index].T, found, num_bootstrap=self.bootstrap, seed=bootstrap_seed(self.seed)
            )
            own = result.spearman_per_query
            records.append(
                {
                    "regularization": value,
                    "mean": own.mean,
                    "ci_low": own.ci_low,
                    "ci_high": own.ci_high,
                    "per_example": result.spearman_per_example.mean,
                    "ceiling": result.ceiling,
                    "num_undefined": int(np.isnan(own.values).sum()),
                    "num_examples": len(positions),
                    "is_selected": values is not None and index == len(values) - 1,
                }
            )
            context.on_progress(index + 1, len(predicted))
        writer.table("loo_scores", LOO_SCORES.rows(records))

    def _effects(self, context: RunContext) -> tuple[np.ndarray, LeaveOneOutEffects]:
        """Return the positions left out, ``[c]``, and what that did, from all finished chunks."""
        parts = context.open_all(self.loo)
        base = context.open(self.base).array("goodness")[:, context.positions(self.examples).queries]
        removed = np.concatenate([part.array("goodness") for part in parts])
        return np.concatenate([part.array("positions") for part in parts]), leave_one_out_effects(base, removed)

    def _predicted(
        self, context: RunContext, source: Source, positions: np.ndarray, values: list[float] | None
    ) -> np.ndarray:
        """Return the scores of the examples left out, ``[L, c, m]``."""
        only = np.zeros((len(positions), len(context.positions(self.examples).train)))
        only[np.arange(len(positions)), positions] = 1.0
        return subset_sums(source, only, values).cpu().numpy()


def plan_leave_one_out(planning: Planning, configurations: Sequence[Planned]) -> None:
    """Add leave-one-out, and every configuration's agreement with it, where the study asks for it."""
    section, study = planning.study.loo, planning.study
    if section is None:
        return
    base = plan_base_models(planning, section.seeds)
    choice = _plan_choice(planning, configurations)
    chunks = [(first, min(first + CHUNK, section.examples)) for first in range(0, section.examples, CHUNK)]
    steps = tuple(
        planning.steps.add(
            LeaveOut(
                first=first,
                last=last,
                seeds=section.seeds,
                seed=study.seed,
                examples=planning.examples,
                base=base,
                choice=choice,
                label=f"leave out one: examples {first + 1}–{last}",
                cost=Cost(
                    (last - first) * section.seeds * planning.retraining_seconds,
                    planning.sizes.training,
                    models=(last - first) * section.seeds,
                ),
            )
        )
        for first, last in chunks
    )
    for planned in configurations:
        _plan_scores(planning, planned.configuration, planned.sources, base, steps)


def _plan_choice(planning: Planning, configurations: Sequence[Planned]) -> ChooseExamples:
    section = planning.study.loo
    assert section is not None
    named: dict[str, Any] = {}
    if section.choice == TOP:
        chosen = [selected(planning, configurations, selector) for selector in section.of]
        evaluations = {number: each.evaluation for number, each in enumerate(chosen) if each.evaluation is not None}
        named = {
            **about_regularization(planning.study),
            "selectors": [each.selector for each in chosen],
            "rows": [scorer(each.planned.configuration) for each in chosen],
            "sources": {number: each.sources for number, each in enumerate(chosen)},
            "evaluations": evaluations,
        }
    return planning.steps.add(
        ChooseExamples(
            choice=section.choice,
            num=section.examples,
            seed=planning.study.seed,
            examples=planning.examples,
            label="which examples to leave out",
            cost=Cost(2.0),
            **named,
        )
    )


def _plan_scores(
    planning: Planning,
    configuration: Configuration,
    sources: Sequence[Step],
    base: BaseModels,
    steps: Sequence[LeaveOut],
) -> None:
    planning.steps.add(
        LeaveOneOutScores(
            **choice_settings(planning.study, configuration),
            row=scorer(configuration),
            bootstrap=planning.study.evaluation.bootstrap,
            seed=planning.study.seed,
            examples=planning.examples,
            base=base,
            loo=tuple(steps),
            sources=tuple(sources),
            configuration_id=configuration.configuration_id,
            label=f"leave-one-out agreement of {configuration.label}",
            cost=Cost(1.0),
        )
    )
