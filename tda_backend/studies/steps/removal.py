"""The steps of subset removal: choose what to remove, then retrain without it, size by size.

A removal reads the result of the size before it: a query that has flipped is not retrained again, and a run that was
killed goes on at the size that was not finished. Every retraining takes the same seeds (SOURCE, arXiv 2405.12186, B.3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from torch import Tensor

from tda_backend.errors import StudyError
from tda_backend.numerics.evaluation.brittleness import next_brittleness
from tda_backend.numerics.evaluation.removal import (
    always_correct,
    choose_queries,
    is_flipped,
    next_removals,
    removal_order,
    same_class_order,
)
from tda_backend.numerics.spectral.contraction import scores
from tda_backend.studies.config.configuration import Scorer
from tda_backend.studies.config.counterfactual import Removal as RemovalSection
from tda_backend.studies.config.selector import Selector
from tda_backend.studies.contract.method import scorer
from tda_backend.studies.pipeline.context import Positions, RunContext
from tda_backend.studies.pipeline.planning import Planned, Planning
from tda_backend.studies.pipeline.step import Cost, Step, about, needs, setting
from tda_backend.studies.steps.base_models import BaseModels, CounterfactualStep, plan_base_models, selected
from tda_backend.studies.steps.choice import Choice, about_regularization
from tda_backend.studies.steps.source import read_configuration
from tda_backend.studies.store.artifacts import ArtifactWriter
from tda_backend.studies.store.tables.counterfactual import REMOVALS

NOTHING = -1
"""Fills up the rows of queries that have fewer examples to remove."""


@dataclass(frozen=True, kw_only=True)
class RemovalOrder(Choice, Step):
    """Which queries are looked at and, for each, which training positions are removed first.

    Attributes:
        queries: How many.
        selector: Who says what helps; ``None``: random examples of the query's class.
        row: What decides its filter.
        seed: The study's.
        configuration_id: Whose scores; ``None``: nobody's.
        curve: The selector in words.
    """

    NAME: ClassVar[str] = "removal-order"
    VERSION: ClassVar[int] = 1
    TABLES = (REMOVALS,)

    queries: int
    selector: Selector | None
    row: Scorer | None = setting(None)
    seed: int
    examples: Step = needs()
    base: BaseModels = needs()
    sources: Sequence[Step] = needs(default=())
    evaluate: Step | None = needs(default=None)
    configuration_id: str | None = about(None, ingested=True)
    curve: str = about("")

    def context(self) -> dict[str, Any]:
        """Return whose curve this is."""
        return {**super().context(), "label": self.curve}

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Choose queries and orders; store their rows of ``removals`` with nothing removed: what the base models say.

        Raises:
            DataError: No query is predicted right by every base model.
        """
        positions, base = context.positions(self.examples), context.open(self.base)
        correct, goodness = (base.array(name)[:, positions.queries] for name in ("correct", "goodness"))
        labels = self._labels(context, positions)
        queries = self._queries(correct, labels)
        regularization, orders = self._orders(context, positions, labels, queries)
        rows = np.full((len(queries), max(1, *map(len, orders))), NOTHING, dtype=np.int32)
        for row, order in zip(rows, orders, strict=True):
            row[: len(order)] = order
        writer.array("queries", queries.astype(np.int32))
        writer.array("positions", rows)
        writer.facts["regularization"] = regularization
        records = [
            {
                "query": int(query),
                "size": 0,
                "num_seeds": len(correct),
                "mean_correct": correct[:, query].mean(),
                "mean_goodness": goodness[:, query].mean(dtype=np.float64),
                "flipped": False,
            }
            for query in queries
        ]
        available = dict(zip(queries, _available(rows), strict=True))
        writer.table("removals", _removal_table(records, regularization, available))

    def _labels(self, context: RunContext, positions: Positions) -> Tensor | None:
        if context.task.num_classes is None:
            return None
        return context.test_split[context.task.label_key][positions.queries]

    def _queries(self, correct: np.ndarray, labels: Tensor | None) -> np.ndarray:
        candidates = always_correct(np.isnan(correct) | (correct == 1))
        num = max(1, min(self.queries, int(candidates.sum())))
        return choose_queries(candidates, num, self.seed, None if labels is None else labels.numpy())

    def _orders(
        self, context: RunContext, positions: Positions, labels: Tensor | None, queries: np.ndarray
    ) -> tuple[float | None, Sequence[np.ndarray]]:
        """Return the λ, and each query's training positions, the most helpful first."""
        if self.selector is None or self.row is None:
            return None, [self._random_order(context, positions, labels, int(query)) for query in queries]
        source = read_configuration(context, self.row, self.sources)
        regularization = self.meant(context, self.selector, source, self.evaluate)
        return regularization, [removal_order(row) for row in scores(source, regularization, queries.tolist())]

    def _random_order(self, context: RunContext, positions: Positions, labels: Tensor | None, query: int) -> np.ndarray:
        """Return random training positions of the query's class (any, where there are no classes)."""
        if labels is None:
            return same_class_order(np.zeros(len(positions.train)), 0, query, self.seed)
        known = context.train_split[context.task.label_key].cpu().numpy()[positions.train]
        return same_class_order(known, int(labels[query]), query, self.seed)


@dataclass(frozen=True, kw_only=True)
class Removal(CounterfactualStep):
    """Retraining without the first k of every query that has not flipped yet, or in the middle of its last two sizes.

    Attributes:
        sizes: Numbers of examples tried so far, this one the last.
        bisection: Number of the round that narrows down; ``None``: it is a size of the study's.
        configuration_id: Whose scores; ``None``: nobody's.
        curve: The selector in words.
    """

    NAME: ClassVar[str] = "removal"
    VERSION: ClassVar[int] = 1
    TABLES = (REMOVALS,)
    ENDS_EARLY: ClassVar[bool] = True

    sizes: Sequence[int]
    bisection: int | None
    base: BaseModels = needs()
    order: RemovalOrder = needs()
    previous: Removal | None = needs(default=None)
    configuration_id: str | None = about(None, ingested=True)
    curve: str = about("")

    def context(self) -> dict[str, Any]:
        """Return whose curve this is."""
        return {**super().context(), "label": self.curve}

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Store the rows of ``removals`` and all results so far: query, number removed, mean correctness."""
        order = context.open(self.order)
        queries, positions = order.array("queries").astype(np.int64), order.array("positions")
        available = _available(positions)
        results: dict[tuple[int, int], float] = {}
        if self.previous is not None:
            earlier = context.open(self.previous).array("results")
            results = {(int(query), int(size)): float(value) for query, size, value in earlier}
        following = next_removals if self.bisection is None else next_brittleness
        wanted = following(results, queries.tolist(), self.sizes, available.tolist())
        place = {int(query): number for number, query in enumerate(queries)}
        left_out = [positions[place[query], :size] for query, size in wanted]
        records = self._retrained(context, wanted, left_out, results) if wanted else []
        table = _removal_table(records, order.fact("regularization"), dict(zip(queries, available, strict=True)))
        writer.table("removals", table)
        writer.array("results", np.array([[*key, value] for key, value in results.items()], float).reshape(-1, 3))

    def _retrained(
        self,
        context: RunContext,
        wanted: Sequence[tuple[int, int]],
        left_out: Sequence[np.ndarray],
        results: dict[tuple[int, int], float],
    ) -> list[dict[str, Any]]:
        """Retrain without each; return the rows and add to ``results`` how often each query is still right."""
        rows = context.positions(self.examples).queries[[query for query, _ in wanted]]
        values = self.retrain_without(context, left_out, rows).astype(np.float64)
        records = []
        for number, (query, size) in enumerate(wanted):
            goodness, correct = values[number, :, number].T
            # Where nothing is right or wrong nothing can flip: the goodness is what is looked at.
            results[query, size] = 1.0 if np.isnan(correct).any() else float(correct.mean())
            records.append(
                {
                    "query": query,
                    "size": size,
                    "num_seeds": self.seeds,
                    "mean_correct": correct.mean(),
                    "mean_goodness": goodness.mean(),
                    "flipped": is_flipped(results[query, size]),
                }
            )
        return records


def _available(positions: np.ndarray) -> np.ndarray:
    return (positions != NOTHING).sum(axis=1)


def _removal_table(
    records: list[dict[str, Any]], regularization: float | None, available: Mapping[int, int]
) -> pa.Table:
    def number(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    return REMOVALS.rows(
        {
            **row,
            "regularization": regularization,
            "available": int(available[row["query"]]),
            "mean_correct": number(row["mean_correct"]),
        }
        for row in records
    )


@dataclass(frozen=True)
class RemovalCurve:
    """The steps of one curve of subset removal.

    Attributes:
        selector: As the study has it; ``None``: the random baseline.
        order: What is removed in which order.
        last: The last size, which holds the results of all.
    """

    selector: Selector | None
    order: RemovalOrder
    last: Removal


def plan_removals(planning: Planning, configurations: Sequence[Planned]) -> list[RemovalCurve]:
    """Add subset removal by every selector of the study, and the random baseline.

    Raises:
        StudyError: Two selectors mean the same.
    """
    section = planning.study.removal
    if section is None:
        return []
    base = plan_base_models(planning, section.seeds)
    plain = RemovalOrder(
        queries=section.queries,
        selector=None,
        seed=planning.study.seed,
        examples=planning.examples,
        base=base,
        cost=Cost(1.0),
    )
    curves: list[RemovalCurve] = []
    labels: set[str] = set()
    for selector in section.of:
        found = selected(planning, configurations, selector)
        configuration = found.planned.configuration
        label = configuration.label + (f", {selector.words}" if configuration.has_regularization else "")
        if selector.seeds is not None:
            label += f", {selector.seeds} model{'s' if selector.seeds > 1 else ''}"
        if label in labels:
            raise StudyError(f"removal.of names {label} twice.", "Two selectors mean the same: leave one out.")
        labels.add(label)
        order = replace(
            plain,
            **about_regularization(planning.study),
            selector=found.selector,
            row=scorer(configuration),
            sources=found.sources,
            evaluate=found.evaluation,
            configuration_id=configuration.configuration_id,
            curve=label,
        )
        curves.append(_plan_curve(planning, section, selector, order))
    if section.random:
        curves.append(_plan_curve(planning, section, None, replace(plain, curve="random, same class")))
    return curves


def _plan_curve(
    planning: Planning, section: RemovalSection, selector: Selector | None, choice: RemovalOrder
) -> RemovalCurve:
    """Add what is removed in which order, then one step a size."""
    order = planning.steps.add(replace(choice, label=f"what to remove: {choice.curve}"))
    sizes, models = list(section.sizes), section.queries * section.seeds
    rounds: list[tuple[list[int], int | None]] = [(sizes[: number + 1], None) for number in range(len(sizes))]
    rounds += [(sizes, number + 1) for number in range(section.bisections)]
    last: Removal | None = None
    for tried, bisection in rounds:
        what = f"remove {tried[-1]}" if bisection is None else f"narrow down {bisection}"
        last = planning.steps.add(
            Removal(
                sizes=tried,
                bisection=bisection,
                seeds=section.seeds,
                order=order,
                previous=last,
                configuration_id=order.configuration_id,
                label=f"{what}: {order.curve}",
                cost=Cost(models * planning.retraining_seconds, planning.sizes.training, models=models),
                seed=order.seed,
                examples=order.examples,
                base=order.base,
                curve=order.curve,
            )
        )
    assert last is not None  # sizes are never empty
    return RemovalCurve(selector, order, last)
