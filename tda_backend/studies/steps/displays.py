"""The steps that show examples and predictions anew where a person has changed only how his task shows them.

Examples and predictions are shown as soon as they are there, by the steps that make them. What a task computes is their
key; how it shows things is not. These steps have that in their key, and replace the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch

from tda_backend.models.training.outputs import Evaluation
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.planning import FinalStep, Planned, Planning
from tda_backend.studies.pipeline.step import Cost, Step, about, needs
from tda_backend.studies.pipeline.times import LEAST_SECONDS
from tda_backend.studies.steps.examples import DISPLAYS, TRAIN, write_shown
from tda_backend.studies.steps.train import predicted_name, prediction_rows
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactWriter
from tda_backend.studies.store.drop import Drop
from tda_backend.studies.store.tables.base import Table
from tda_backend.studies.store.tables.examples import EXAMPLES, NOISY_ROWS, PREDICTIONS


@dataclass(frozen=True, kw_only=True)
class ShowExamples(FinalStep):
    """How a person's own task shows its examples now.

    Attributes:
        displays: The task's.
        examples: Which there are.
    """

    NAME: ClassVar[str] = "show-examples"
    VERSION: ClassVar[int] = 1
    UNIT: ClassVar[str] = "examples"
    TABLES = (EXAMPLES, NOISY_ROWS)

    displays: str
    examples: Step = needs()

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Store how the examples look: as they did where nothing has changed since they were drawn."""
        drawn = context.open(self.examples)
        if not _copied(drawn, self.displays, self.TABLES, writer):
            write_shown(context, {name: drawn.array(name) for name in (TRAIN, "validation", "queries")}, writer)

    @classmethod
    def ingest(cls, drop: Drop) -> None:
        """Replace the rows."""
        for table in cls.TABLES:
            drop.delete(table)
        drop.insert_tables(cls.TABLES)

    @classmethod
    def plan(cls, planning: Planning, configurations: Sequence[Planned]) -> None:
        """Add the step for a person's own task."""
        if planning.facts.displays is not None:
            planning.steps.add(
                cls(
                    displays=planning.facts.displays,
                    examples=planning.examples,
                    label="show examples",
                    cost=Cost(LEAST_SECONDS),
                )
            )


@dataclass(frozen=True, kw_only=True)
class NamePredictions(FinalStep):
    """What the final model of one training seed says of each example, in the words that the task has now.

    Attributes:
        displays: The task's.
        trained: The training run.
        seed_index: Which of the study's training seeds.
    """

    NAME: ClassVar[str] = "name-predictions"
    VERSION: ClassVar[int] = 1
    TABLES = (PREDICTIONS,)

    displays: str
    trained: Step = needs()
    seed_index: int = about(0, ingested=True)

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Store the predictions: as they were where nothing has changed since the training."""
        trained = context.open(self.trained)
        if not _copied(trained, self.displays, self.TABLES, writer):
            known = trained.table(PREDICTIONS.name).to_pandas()
            parts = [
                prediction_rows(context.task, str(split), _says(trained, str(split), rows))
                for split, rows in known.groupby("split", sort=False)
            ]
            writer.table(PREDICTIONS.name, PREDICTIONS.of_frame(pd.concat(parts, ignore_index=True)))

    @classmethod
    def ingest(cls, drop: Drop) -> None:
        """Replace the rows."""
        drop.delete(PREDICTIONS, seed_index=drop.value("seed_index"))
        drop.insert_tables(cls.TABLES)

    @classmethod
    def plan(cls, planning: Planning, configurations: Sequence[Planned]) -> None:
        """Add one step per training seed for a person's own task."""
        if planning.facts.displays is None:
            return
        for seed, trained in enumerate(planning.trained):
            planning.steps.add(
                cls(
                    displays=planning.facts.displays,
                    trained=trained,
                    seed_index=seed,
                    label=f"name predictions{planning.of_seed(seed)}",
                    cost=Cost(LEAST_SECONDS),
                )
            )


def _copied(source: Artifact, displays: str, tables: Sequence[Table], writer: ArtifactWriter) -> bool:
    """Store the tables of an earlier step again, if the task's displays were the same then; return whether."""
    if source.fact(DISPLAYS) != displays:
        return False
    for table in tables:
        if source.has(f"{table.name}.parquet"):
            writer.table(table.name, source.table(table.name))
    return True


def _says(trained: Artifact, split: str, rows: pd.DataFrame) -> Evaluation:
    """Return what the model said of a split."""
    goodness, loss = (torch.from_numpy(rows[name].to_numpy(copy=True)) for name in ("goodness", "loss"))
    name = predicted_name(split)
    has_prediction = trained.has(f"{name}.npy")
    return Evaluation(goodness, loss, torch.from_numpy(trained.array(name)) if has_prediction else None)
