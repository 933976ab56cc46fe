"""The step that evaluates one configuration: LDS and ξ over λ, λ* with its baselines, top examples at λ*."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from tda_backend.blocks import in_blocks
from tda_backend.numerics.evaluation.bootstrap import bootstrap_seed
from tda_backend.numerics.evaluation.by_layer import has_layers, select_by_layer
from tda_backend.numerics.evaluation.indicator import indicator_frame
from tda_backend.numerics.evaluation.lds import GroundTruth, lds_curve
from tda_backend.numerics.evaluation.projection_noise import lds_over_draws
from tda_backend.numerics.evaluation.rules import rule_regularizations
from tda_backend.numerics.evaluation.selection import (
    Selection,
    WantedGrid,
    grid_and_selection,
    regret,
    spectrum_quantiles,
)
from tda_backend.numerics.spectral.contraction import (
    ScoreMatrix,
    Source,
    admissible,
    num_queries,
    num_train,
    score_rows,
)
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.studies.config.configuration import Configuration, Parameters, Scorer
from tda_backend.studies.config.study import Evaluation
from tda_backend.studies.contract.method import method
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.step import Step, about, needs, setting
from tda_backend.studies.steps.evaluation_size import BLOCK_NUMBERS, QUERY_BLOCK, evaluation_cost
from tda_backend.studies.steps.source import read_configuration
from tda_backend.studies.steps.train import FIRST_CHUNK, Retrain, read_masks, read_outputs
from tda_backend.studies.store.artifacts import ArtifactWriter
from tda_backend.studies.store.drop import Drop
from tda_backend.studies.store.tables.evaluation import INDICATOR, LDS, LDS_QUERY, SELECTIONS, TOP_EXAMPLES

Truth = Mapping[float, GroundTruth]
"""Retrained subsets by α."""
Interval = tuple[float, float, float]
"""Mean, low and high."""


@dataclass(frozen=True)
class Grid:
    """The λ of an evaluated configuration.

    Attributes:
        regularizations: The study's grid.
        default: The λ of the method's paper; ``None``: it gives none.
        relative: Whether the grid is relative to the spectrum; ``None``: it is not.
    """

    regularizations: Sequence[float]
    default: float | None
    relative: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluate(Step):
    """One evaluated configuration.

    Its arrays, for every α: ``values_α`` float64 ``[L']`` (λ of the grid, λ*, what other rules choose; one NaN without
    λ), ``means_α`` float64 ``[L']`` (LDS), ``ranks_α`` uint16 ``[L', S, m]`` (twice the average rank of the summed
    scores over subsets) and ``draws_α`` float32 ``[B, L']`` (bootstrap means, paired between configurations). The fact
    ``num_grid`` says how many of the values are the grid's; they come first, then λ*.

    Attributes:
        evaluation: How.
        seed: The study's.
        method: Key of the method table.
        parameters: Hyper-parameters of the configuration.
        alphas: Of the ground truth.
        grid: The λ; ``None``: the method has none.
        draws: Sources of further draws of its projection, which judge it too.
        method_version: Of the method's code, from 2 on.
        configuration_id: Which configuration.
        num_subsets: Retrained subsets behind it.
    """

    NAME: ClassVar[str] = "evaluate"
    VERSION: ClassVar[int] = 4
    TABLES = (LDS, LDS_QUERY, INDICATOR, SELECTIONS, TOP_EXAMPLES)

    evaluation: Evaluation
    seed: int
    method: str
    parameters: Parameters
    alphas: Sequence[float]
    grid: Grid | None
    method_version: int | None = setting(None)
    examples: Step = needs()
    sources: Sequence[Step] = needs()
    draws: Mapping[int, Sequence[Step]] = needs(role="draw {}", default={})
    truth: Mapping[float, Sequence[Retrain]] = needs(role="retrain {:g}")
    configuration_id: str = about("", ingested=True)
    num_subsets: int = about(0, ingested=True)

    def settings(self) -> dict[str, Any]:
        """Return the settings; those of λ where the method has one."""
        settings = {
            "evaluation": self.evaluation.to_json(),
            "seed": self.seed,
            "method": self.method,
            "alphas": list(self.alphas),
        }
        if self.method_version is not None:
            settings["method_version"] = self.method_version
        if self.grid is None:
            return settings
        of_grid = {
            "regularizations": list(self.grid.regularizations),
            "default_regularization": self.grid.default,
        }
        if self.grid.relative is not None:
            of_grid["relative"] = self.grid.relative
        return {**settings, "parameters": dict(self.parameters), **of_grid}

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Evaluate and store."""
        queries = context.positions(self.examples).queries
        scorer = Scorer(self.method, self.parameters)
        source = read_configuration(context, scorer, self.sources)
        others = [read_configuration(context, scorer, steps) for steps in self.draws.values()]
        truth = {}
        for alpha, steps in self.truth.items():
            artifacts = context.open_all(steps)
            truth[alpha] = GroundTruth(read_masks(artifacts), read_outputs(artifacts, queries))
        result = self.evaluated(source, truth, others)
        for name, table in result.tables.items():
            writer.table(name, table)
        for name, array in result.arrays.items():
            writer.array(name, array)
        writer.facts["num_grid"] = result.num_grid

    def evaluated(self, source: Source, truth: Truth, others: Sequence[Source] = ()) -> Evaluated:
        """Evaluate one configuration.

        The LDS grid is the study's grid and λ*; the quantile baselines are evaluated too and kept with the selection.

        Args:
            source: Its scores.
            truth: Retrained subsets.
            others: Its scores with other draws of its projection: they judge it at the same λ, and choose nothing.
        """
        drawn = [source, *others]
        if isinstance(source, ScoreMatrix):
            result = Evaluated({"top_examples": top_examples(source, None, self.evaluation.top)})
            if truth:
                self._add_lds(result, drawn, None, (), truth)
            return result
        assert self.grid is not None
        grid, chosen = self._chosen(source)
        baselines = spectrum_quantiles(source, self.evaluation.quantiles)
        present = set(admissible(source, [grid[-1], *baselines.values()]))
        quantiles = {quantile: value for quantile, value in baselines.items() if value in present}
        indicator = indicator_frame(source, [*grid, chosen.regularization])
        indicator["is_selected"] = [False] * len(grid) + [True]
        rules = rule_regularizations(source, self.grid.default, quantiles=self.evaluation.quantiles)
        result = Evaluated(
            {
                "indicator": INDICATOR.of_frame(indicator),
                "top_examples": top_examples(source, chosen.regularization, self.evaluation.top),
                "rules": pd.DataFrame({"rule": list(rules), "regularization": list(rules.values())}),
            },
            num_grid=len(grid),
        )
        lds_at: dict[float, dict[float, Interval]] = {}
        if truth:
            extra = [chosen.regularization, *dict.fromkeys([*quantiles.values(), *rules.values()])]
            lds_at = self._add_lds(result, drawn, grid, extra, truth)
            if has_layers(source):
                self._add_layers(result, source, truth)
        rows = [
            _selection_row(alpha, chosen, quantiles, grid, lds_at.get(alpha), len(truth[alpha].masks) if truth else 0)
            for alpha in self.alphas
        ]
        result.tables["selections"] = SELECTIONS.rows(rows)
        return result

    def _chosen(self, source: Any) -> tuple[list[float], Selection]:
        """Return the λ of the grid at which the method has a value, and λ* with a warning where some are left out."""
        assert self.grid is not None
        wanted = WantedGrid(self.grid.regularizations, bool(self.grid.relative))
        grid, chosen = grid_and_selection(source, wanted, self.evaluation.threshold)
        if len(grid) < len(wanted.values):
            left_out = [f"{value:.3g}" for value in wanted.of(source) if value not in grid]
            note = f"the method has no value at λ = {', '.join(left_out[:6])}{' …' if len(left_out) > 6 else ''}"
            chosen = replace(chosen, warnings=(*chosen.warnings, note))
        return grid, chosen

    def _add_layers(self, result: Evaluated, source: Sequence[Spectrum], truth: Truth) -> None:
        """Add every layer's own λ by ξ, and the LDS with them as ``layers_α`` (a number) for every α."""
        rescaled, chosen = select_by_layer(source, self.evaluation.threshold)
        for alpha, retrained in truth.items():
            found = lds_curve(rescaled, retrained, [1.0], num_bootstrap=0).mean[0]
            result.arrays[f"layers_{alpha:g}"] = np.array(found)
        result.tables["layers"] = pd.DataFrame({"layer": list(chosen), "regularization": list(chosen.values())})

    def _add_lds(
        self, result: Evaluated, drawn: Sequence[Source], grid: list[float] | None, extra: Sequence[float], truth: Truth
    ) -> dict[float, dict[float, Interval]]:
        """Add LDS over grid ∪ {λ*} (the first of ``extra``); return LDS by α and λ for all of both."""
        rows: list[dict[str, Any]] = []
        per_query: list[dict[str, Any]] = []
        found: dict[float, dict[float, Interval]] = {}
        values = None if grid is None else [*grid, *extra]
        kept = 1 if grid is None else len(grid) + 1
        for alpha, retrained in truth.items():
            curve = lds_over_draws(drawn, retrained, values, self.evaluation.bootstrap, bootstrap_seed(self.seed))
            result.arrays[f"values_{alpha:g}"] = curve.regularizations
            result.arrays[f"means_{alpha:g}"] = curve.mean
            result.arrays[f"ranks_{alpha:g}"] = np.asarray(curve.predicted_ranks)
            result.arrays[f"draws_{alpha:g}"] = np.asarray(curve.bootstrap_means, dtype=np.float32)
            intervals = list(zip(*(part.tolist() for part in (curve.mean, curve.ci_low, curve.ci_high)), strict=True))
            found[alpha] = {} if values is None else dict(zip(values, intervals, strict=True))
            for index, value in enumerate([None] if values is None else values[:kept]):
                common = {"alpha": alpha, "regularization": value, "num_subsets": curve.num_subsets}
                mean, low, high = intervals[index]
                rows.append(
                    {
                        **common,
                        "mean": mean,
                        "ci_low": low,
                        "ci_high": high,
                        "num_undefined": int(curve.num_undefined[index]),
                        "is_selected": grid is not None and index == kept - 1,
                    }
                )
                per_query.append({**common, "lds": curve.per_query[index].astype(np.float32)})
        result.tables["lds"] = LDS.rows(rows)
        result.tables["lds_query"] = LDS_QUERY.rows(per_query)
        return found

    @classmethod
    def ingest(cls, drop: Drop) -> None:
        """Insert curves and selections unless rows from more subsets are there already; fewer are replaced."""
        identity = {"configuration_id": drop.value("configuration_id")}
        present = drop.maximum(LDS, "num_subsets", **identity)
        if present is not None and present > drop.value("num_subsets"):
            return
        for table in cls.TABLES:
            drop.delete(table, **identity)
        drop.insert_tables(cls.TABLES)


@dataclass
class Evaluated:
    """What :class:`Evaluate` stores: tables, arrays, and how many of their λ are the grid's."""

    tables: dict[str, pa.Table | pd.DataFrame]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    num_grid: int = 1


def plan_evaluation(
    planning: Planning,
    configuration: Configuration,
    sources: Sequence[Step],
    chunks: Mapping[float, Sequence[Retrain]],
    is_preview: bool = False,
) -> Evaluate:
    """Add the evaluation of a configuration; a preview is made from the first retrained subsets alone."""
    study = planning.study
    total = study.ground_truth.subsets
    spec, grid = method(configuration.method), None
    if configuration.has_regularization:
        wanted = study.regularization
        grid = Grid(wanted.values, spec.default_for(configuration.parameters), wanted.relative)
    return planning.steps.add(
        Evaluate(
            evaluation=study.evaluation,
            seed=study.seed,
            method=configuration.method,
            parameters=configuration.parameters,
            alphas=list(chunks),
            grid=grid,
            method_version=spec.key_version,
            examples=planning.examples,
            sources=tuple(sources),
            draws=_further_draws(planning, configuration, sources),
            truth={alpha: tuple(steps) for alpha, steps in chunks.items() if steps},
            configuration_id=configuration.configuration_id,
            num_subsets=min(FIRST_CHUNK, total) if is_preview else total,
            label=f"{'preview: ' if is_preview else ''}evaluate {configuration.label}",
            cost=evaluation_cost(planning, configuration, total if chunks else 0),
        )
    )


def _further_draws(
    planning: Planning, configuration: Configuration, sources: Sequence[Step]
) -> dict[int, Sequence[Step]]:
    """Add the sources of every further draw of a configuration's projection, by number; none where none is drawn."""
    found: dict[int, Sequence[Step]] = {}
    count = planning.study.projection.draws or 1
    for number in range(1, count if configuration.projection_dim is not None else 1):
        steps = method(configuration.method).sources(planning.drawing(number), configuration)
        if [step.key for step in steps] != [step.key for step in sources]:
            found[number] = steps
    return found


def _selection_row(
    alpha: float,
    chosen: Selection,
    quantiles: Mapping[float, float],
    grid: list[float],
    lds: Mapping[float, Interval] | None,
    num_subsets: int,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "alpha": alpha,
        "lambda_selected": chosen.regularization,
        "xi_at_selected": chosen.xi,
        "threshold": chosen.threshold,
        "num_crossings": len(chosen.crossings),
        "warnings": list(chosen.warnings),
        "num_subsets": num_subsets if lds else 0,
    }
    baselines = {
        f"{quantile:g}": {"lambda": value, "lds": None, "regret": None} for quantile, value in quantiles.items()
    }
    if lds:
        mean, low, high = lds[chosen.regularization]
        best = regret(grid, [lds[value][0] for value in grid], chosen.regularization, mean)
        row |= {
            "lds_selected": mean,
            "lds_selected_low": low,
            "lds_selected_high": high,
            "lambda_best": best.regularization_best,
            "lds_best": best.lds_best,
            "regret": best.regret,
            "lds_at_zero": lds[0.0][0] if 0.0 in lds else None,
        }
        # Against the best over grid ∪ {λ*}: a quantile that beats it has negative regret, and is reported so.
        baselines = {
            f"{quantile:g}": {"lambda": value, "lds": lds[value][0], "regret": best.lds_best - lds[value][0]}
            for quantile, value in quantiles.items()
        }
    return {**row, "quantiles": json.dumps(baselines)}


def top_examples(source: Source, regularization: float | None, num: int) -> pa.Table:
    """Return the most helpful and most harmful training positions of every query at one λ."""
    count = min(num, num_train(source))
    columns: dict[str, list] = {name: [] for name in ("helpful", "helpful_scores", "harmful", "harmful_scores")}
    total = num_queries(source)
    step = max(1, min(QUERY_BLOCK, BLOCK_NUMBERS // num_train(source)))

    def best_of(queries: slice) -> dict[str, np.ndarray]:
        block, found = score_rows(source, regularization, range(queries.start, queries.stop)), {}
        for name, largest in (("helpful", True), ("harmful", False)):
            best = block.topk(count, dim=1, largest=largest)
            found[name] = best.indices.to(torch.int32).cpu().numpy()
            found[f"{name}_scores"] = best.values.cpu().numpy()
        return found

    for _, found in in_blocks(total, step, best_of, "queries"):
        for name, values in found.items():
            columns[name].extend(values)
    records = {"query": range(total), "regularization": [regularization] * total, **columns}
    return pa.Table.from_pydict(records, schema=TOP_EXAMPLES.schema)
