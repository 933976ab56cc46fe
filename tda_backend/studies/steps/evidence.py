"""What claims are compared with, read from the results of a study's steps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tda_backend.errors import StudyError
from tda_backend.numerics.evaluation.bootstrap import bootstrap_seed, multinomial_weights
from tda_backend.numerics.evaluation.claims import Measured, spread
from tda_backend.numerics.evaluation.lds import GroundTruth, lds_curve
from tda_backend.numerics.evaluation.removal import removal_curve
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.config.selector import BEST, SELECTED, Selector
from tda_backend.studies.contract.choosing import RANDOM, choose
from tda_backend.studies.contract.claim import EVALUATED, REMOVED, SOURCES, removal_name
from tda_backend.studies.contract.evidence import Curve, NamedRun
from tda_backend.studies.contract.method import scorer
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.step import Step, about, needs
from tda_backend.studies.steps.choice import Known, regularization_of
from tda_backend.studies.steps.compare_unrolled import SummarizeRuns, Summary
from tda_backend.studies.steps.lookahead import SelectExamples, complete_runs, stored_runs
from tda_backend.studies.steps.removal import NOTHING
from tda_backend.studies.steps.source import read_configuration
from tda_backend.studies.steps.train import Retrain, read_masks, read_outputs
from tda_backend.studies.store.artifact import Artifact

_NEAR = 1.45
"""A λ named by a claim is taken from the grid within this factor; the λ taken is named with the number."""


@dataclass(frozen=True, kw_only=True)
class ReadsEvidence(Step):
    """A step that reads what claims are compared with.

    Attributes:
        alphas: Of the ground truth.
        num_subsets: Retrained subsets of each α.
        bootstrap: Draws of every interval.
        seed: The study's.
        sizes: Numbers of examples that subset removal takes away.
        configurations: Those that some claim names.
    """

    alphas: Sequence[float]
    num_subsets: int
    bootstrap: int
    seed: int
    sizes: Sequence[int]
    examples: Step = needs(optional=True)
    evaluations: Mapping[str, Step] = needs(role=EVALUATED, optional=True, default={})
    sources: Mapping[str, Sequence[Step]] = needs(role=SOURCES, optional=True, default={})
    retrained: Mapping[float, Sequence[Retrain]] = needs(role="retrain {:g}", default={})
    removals: Mapping[str, tuple[Step, Step]] = needs(role=REMOVED, optional=True, default={})
    trajectory: Sequence[SummarizeRuns] | None = needs(optional=True, default=None)
    lookahead: Sequence[SelectExamples] | None = needs(optional=True, default=None)
    configurations: Sequence[Configuration] = about(())


class StoredEvidence:
    """The figures of a study, from the results that a step reads.

    Args:
        context: Where results lie.
        step: What it reads.
    """

    def __init__(self, context: RunContext, step: ReadsEvidence) -> None:
        self._context, self._step = context, step

    @property
    def configurations(self) -> Sequence[Configuration]:
        """Those that some claim names."""
        return self._step.configurations

    @property
    def alphas(self) -> Sequence[float]:
        """α of the ground truth."""
        return self._step.alphas

    def _evaluation(self, configuration: Configuration) -> Artifact:
        return self._context.open(self._step.evaluations[configuration.configuration_id])

    def curve(self, configuration: Configuration, alpha: float | None = None) -> Curve:
        """Return LDS over λ, grid first.

        Raises:
            StudyError: The study has no ground truth at this α.
        """
        name = f"{self.alphas[0] if alpha is None else alpha:g}"
        artifact = self._evaluation(configuration)
        if not artifact.has(f"values_{name}.npy"):
            raise StudyError(
                f"The study has no ground truth at α = {name} for {configuration.label}.",
                f"ground_truth.alphas has {', '.join(f'{each:g}' for each in self.alphas)}.",
            )
        values, means, draws = (artifact.array(f"{part}_{name}") for part in ("values", "means", "draws"))
        return Curve(values, means, np.asarray(draws, dtype=np.float64), int(artifact.fact("num_grid")))

    def measured(self, selector: Selector) -> Measured:
        """Return the LDS that a selector names, with its draws."""
        configuration = choose(self.configurations, selector)
        curve = self.curve(configuration, selector.alpha)
        index, name = self._index(configuration, selector, curve)
        if selector.alpha is not None:
            name += f" · α={selector.alpha:g}"
        if selector.seeds:
            return self._of_seeds(configuration, selector, float(curve.values[index]), name)
        # Subsets of another α are nested in these and share their numbers, so their draws are paired too.
        return Measured(name, float(curve.means[index]), curve.draws[:, index])

    def at(self, configuration: Configuration, selector: Selector) -> Measured:
        """Return the LDS of a configuration at the λ that a selector means, at the first α."""
        curve = self.curve(configuration)
        index, _ = self._index(configuration, selector, curve)
        return Measured(configuration.label, float(curve.means[index]), curve.draws[:, index])

    def _index(self, configuration: Configuration, selector: Selector, curve: Curve) -> tuple[int, str]:
        """Return where a curve has the λ that a selector means, and both in words."""
        if not configuration.has_regularization:
            return 0, configuration.label
        word = selector.regularization
        if word == BEST:
            index = int(np.nanargmax(curve.means[: curve.grid + 1]))
        elif word == SELECTED:
            index = curve.grid
        else:
            wanted = regularization_of(selector, Known(quantiles=self._quantiles(configuration)))
            index = _nearest(curve.values, float(wanted or 0.0), configuration.label)
        said = f" ({word})" if isinstance(word, str) else ""
        return index, f"{configuration.label} · λ={curve.values[index]:.2g}{said}"

    def _quantiles(self, configuration: Configuration) -> dict[str, float]:
        """Return λ at the quantiles of the spectrum."""
        artifact = self._evaluation(configuration)
        if not artifact.has("selections.parquet"):
            return {}
        text = artifact.table("selections").column("quantiles")[0].as_py()
        return {name: entry["lambda"] for name, entry in json.loads(text or "{}").items()}

    def _of_seeds(self, configuration: Configuration, selector: Selector, value: float, name: str) -> Measured:
        """Return the LDS of an ensemble's first models alone."""
        context, step = self._context, self._step
        steps = step.sources[configuration.configuration_id][: selector.seeds]
        retrained = context.open_all(step.retrained[self.alphas[0] if selector.alpha is None else selector.alpha])
        queries = context.positions(step.examples).queries
        curve = lds_curve(
            read_configuration(context, scorer(configuration), steps),
            GroundTruth(read_masks(retrained), read_outputs(retrained, queries)),
            [value] if configuration.has_regularization else None,
            num_bootstrap=step.bootstrap,
            seed=bootstrap_seed(step.seed),
            keep_bootstrap=True,
        )
        many = "1 model" if selector.seeds == 1 else f"{selector.seeds} models"
        return Measured(f"{name} · {many}", float(curve.mean[0]), np.asarray(curve.bootstrap_means)[:, 0])

    def spread(self, selector: Selector) -> Measured:
        """Return the range of LDS over the positive λ of the grid."""
        configuration = choose(self.configurations, selector)
        curve = self.curve(configuration, selector.alpha)
        kept = np.flatnonzero(curve.values[: curve.grid] > 0)
        return spread(f"range over λ of {configuration.label}", curve.means[kept], curve.draws[:, kept])

    def indicator(self, configuration: Configuration) -> np.ndarray:
        """Return ξ̄ over the positive λ of the grid, ascending, ``[L]``."""
        table = self._evaluation(configuration).table("indicator")
        is_selected, values, means = (table.column(n).to_numpy() for n in ("is_selected", "regularization", "mean"))
        kept = np.flatnonzero(~is_selected & (values > 0))
        return means[kept[np.argsort(values[kept])]]

    def area(self, selector: Selector) -> Measured:
        """Return the area under a subset-removal curve (share of queries flipped), with draws over queries."""
        step = self._step
        order, last = self._context.open_all(step.removals[removal_name(selector)])
        results = {(int(query), int(size)): float(value) for query, size, value in last.array("results")}
        queries, positions = order.array("queries").tolist(), order.array("positions")
        # The study's sizes, not those found: where all queries flip early the larger ones were never tried.
        curve = removal_curve(results, queries, step.sizes, (positions != NOTHING).sum(1).tolist(), num_bootstrap=0)
        num = len(curve.queries)
        weights = multinomial_weights(num, step.bootstrap, step.seed) / num
        draws = np.trapezoid(weights @ curve.flipped, curve.sizes, axis=-1) / curve.sizes[-1]
        return Measured(f"area of {self._removed_words(selector)}", curve.area, draws)

    def _removed_words(self, selector: Selector) -> str:
        if selector == RANDOM:
            return "random examples of the class"
        configuration = choose(self.configurations, selector)
        return configuration.label + (f", {selector.words}" if configuration.has_regularization else "")

    @cached_property
    def _summaries(self) -> dict[float, Summary]:
        found = [Summary(artifact) for artifact in self._context.open_all(self._step.trajectory or ())]
        return {each.learning_rate: each for each in found}

    def unrolled(self, rate: float, what: str, words: str) -> Measured:
        """Return a number of the summary of the runs at one learning rate; NaN where it has none."""
        return self._summaries[rate].measured(what, words)

    def selections(self) -> Sequence[NamedRun]:
        """Return the runs of selection while training that every seed finished."""
        return self._selections

    @cached_property
    def _selections(self) -> list[NamedRun]:
        artifacts = self._context.open_all(self._step.lookahead or ())
        whole, _ = complete_runs([each for artifact in artifacts for each in stored_runs(artifact)])
        return whole


def _nearest(values: np.ndarray, wanted: float, label: str) -> int:
    """Return where the λ are nearest to the one that is wanted.

    Raises:
        StudyError: None is near.
    """
    if wanted == 0.0:
        found = np.flatnonzero(values == 0.0)
        if len(found):
            return int(found[0])
    else:
        distance = np.abs(np.log(np.maximum(values, 1e-300) / wanted))
        index = int(np.argmin(distance))
        if distance[index] <= math.log(_NEAR):
            return index
    raise StudyError(
        f"{label} has no LDS at λ = {wanted:g}.",
        f"The grid has {values.min():.2g} to {values.max():.2g}; change [regularization] or the claim.",
    )
