"""The step that finds mislabelled training examples by self-influence, at every λ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tda_backend.numerics.evaluation.bootstrap import bootstrap_seed
from tda_backend.numerics.evaluation.detection import noisy_label_detection
from tda_backend.numerics.spectral.contraction import ScoreMatrix, self_influence
from tda_backend.studies.config.configuration import Scorer
from tda_backend.studies.contract.method import method, scorer
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.planning import FinalStep, Planned, Planning
from tda_backend.studies.pipeline.step import Cost, Step, about, needs
from tda_backend.studies.steps.choice import Choice, choice_settings
from tda_backend.studies.steps.source import read_configuration
from tda_backend.studies.store.artifacts import ArtifactWriter
from tda_backend.studies.store.tables.counterfactual import NOISY_LABELS


@dataclass(frozen=True, kw_only=True)
class Detect(Choice, FinalStep):
    """How well one configuration's self-influence finds the wrong labels.

    Attributes:
        row: What decides the configuration's filter.
        bootstrap: Draws of intervals.
        seed: The study's.
        configuration_id: Which configuration.
    """

    NAME: ClassVar[str] = "detect"
    VERSION: ClassVar[int] = 1
    TABLES = (NOISY_LABELS,)

    row: Scorer
    bootstrap: int
    seed: int
    examples: Step = needs()
    sources: Sequence[Step] = needs()
    configuration_id: str = about("", ingested=True)

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Store AUC and recall of finding the wrong labels, by λ and at λ*."""
        flipped = np.zeros(len(context.positions(self.examples).train), dtype=bool)
        flipped[context.open(self.examples).array("noisy")] = True
        values, ranked = self._ranked(context)
        records = []
        for index, value in enumerate(values):
            found = noisy_label_detection(
                ranked[index], flipped, num_bootstrap=self.bootstrap, seed=bootstrap_seed(self.seed)
            )
            is_selected = len(values) > 1 and index == len(values) - 1
            records.append(NOISY_LABELS.record(found, regularization=value, is_selected=is_selected))
            context.on_progress(index + 1, len(values))
        writer.table("noisy_labels", NOISY_LABELS.rows(records))

    def _ranked(self, context: RunContext) -> tuple[list[float | None], np.ndarray]:
        """Return the λ, and the self-influence at each, ``[L, n]``."""
        source = read_configuration(context, self.row, self.sources)
        if isinstance(source, ScoreMatrix):
            parts = [artifact.array("self_influence") for artifact in context.open_all(self.sources)]
            return [None], np.mean(parts, axis=0)[None]
        values = self.grid_with_selected(source)
        return [*values], self_influence(source, values).cpu().numpy()

    @classmethod
    def plan(cls, planning: Planning, configurations: Sequence[Planned]) -> None:
        """Look for wrong labels, if there are some, by every configuration that tells an example's self-influence."""
        if planning.study.data.flip_labels is None and planning.facts.task.noisy_rows() is None:
            return
        for planned in configurations:
            configuration = planned.configuration
            if method(configuration.method).stores_self_influence(configuration.parameters):
                planning.steps.add(
                    cls(
                        **choice_settings(planning.study, configuration),
                        row=scorer(configuration),
                        bootstrap=planning.study.evaluation.bootstrap,
                        seed=planning.study.seed,
                        examples=planning.examples,
                        sources=planned.sources,
                        configuration_id=configuration.configuration_id,
                        label=f"find wrong labels by {configuration.label}",
                        cost=Cost(1.0),
                    )
                )
