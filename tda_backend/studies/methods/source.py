"""SOURCE: a training run shortened to segments of constant curvature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tda_backend.errors import StudyError, UsageError
from tda_backend.models.precision import FULL
from tda_backend.models.tasks.data import num_rows, validate_data
from tda_backend.numerics.trajectory.source.fit import fit_source
from tda_backend.numerics.trajectory.source.segments import TrainingSegment
from tda_backend.numerics.trajectory.source.settings import CheckpointedRun, SourceSettings
from tda_backend.numerics.trajectory.source.staged import run_segments
from tda_backend.seeds import hashed_seed
from tda_backend.studies.config.configuration import Configuration, Parameters
from tda_backend.studies.config.study import Study
from tda_backend.studies.contract.method import Settings, Style
from tda_backend.studies.methods.along_sgd import AlongSGD
from tda_backend.studies.methods.checks import check_untracked
from tda_backend.studies.methods.hyperparameters import (
    ALONG_THE_RUN,
    DASHES,
    FISHER,
    GREEN,
    NUM_CHECKPOINTS,
    NUM_SEGMENTS,
    SELF_INFLUENCE,
    STOP,
    UNTRACKED,
    WEIGHT_DECAY,
)
from tda_backend.studies.methods.kronecker import needed_by_fisher
from tda_backend.studies.pipeline.context import RunContext, checkpoint_name
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.steps.scores import Scored, Scores
from tda_backend.types import Task

FEW_EPOCHS = 6
"""Epochs below which a quick study has few checkpoints to choose from."""


@dataclass(frozen=True, kw_only=True)
class SourceMethod(AlongSGD):
    """SOURCE: a training run shortened to segments of constant curvature.

    Attributes:
        fast: Whether curvature and gradients are taken at the mean parameters of each segment.
    """

    fast: bool = False

    @property
    def follows_training(self) -> bool:
        """Yes."""
        return True

    def to_json(self) -> dict[str, Any]:
        """Return the row as ``tda methods --json`` prints it."""
        return {name: value for name, value in super().to_json().items() if name != "fast"}

    def needed(self, settings: Settings) -> set[str]:
        """Return what a task must have with these settings."""
        return needed_by_fisher(self.needs, settings)

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise a StudyError where task or model do not fit."""
        super().check(settings, study, facts)
        check_untracked(self.name, settings, facts)

    def stores_self_influence(self, parameters: Parameters) -> bool:
        """Return whether the study asked for it."""
        return bool(parameters.get(SELF_INFLUENCE.name))

    def checkpoint_epochs(self, configuration: Configuration, task: Task, num_train: int) -> tuple[int, ...]:
        """Return the epochs of all segments."""
        return tuple(e for segment in self.segments(configuration, task, num_train) for e in segment.epochs)

    def segments(self, configuration: Configuration, task: Task, num_train: int) -> Sequence[TrainingSegment]:
        """Return the segments of a configuration.

        Raises:
            StudyError: The run is too short for the checkpoints asked for, or they are no multiple of the segments.
        """
        epoch = configuration.training_epoch
        try:
            # Which rows take part decides the steps of an epoch, but not the checkpoints, which is what a plan needs.
            train = validate_data(task)["train"]
            rows = np.arange(num_rows(train) if task.stages else num_train)
            return run_segments(
                task, train, rows, epoch, configuration.value(NUM_SEGMENTS), configuration.value(NUM_CHECKPOINTS)
            )
        except UsageError as error:
            raise StudyError(
                f"Method {self.name} to epoch {epoch}: {error.message}",
                f"{error.hint} Or leave {epoch} out of methods.{self.name}.epochs.",
            ) from error

    def more(self, planning: Planning, configuration: Configuration, seed: int) -> dict[str, Any]:
        """Return the seed of the labels that the true Fisher draws."""
        return {"seed": hashed_seed("labels", planning.study.seed, seed)}

    def seconds(self, planning: Planning, configuration: Configuration) -> float:
        """Return roughly how long it takes."""
        return planning.here(8.0 * planning.size * configuration.value(NUM_CHECKPOINTS))

    def quick(self, settings: Settings, epochs: Sequence[int], dim: int, num_parameters: int) -> dict[str, Any]:
        """Return its settings with small numbers; a short run has few epochs to choose checkpoints from."""
        result, few = super().quick(settings, epochs, dim, num_parameters), min(3, epochs[-1])
        short = {NUM_SEGMENTS.name: [few], NUM_CHECKPOINTS.name: [few]}
        return result | (short if epochs[-1] < FEW_EPOCHS else {})

    def score(self, context: RunContext, step: Scores) -> Scored:
        """Return the chain of segment responses, backwards from the end of the run."""
        train, _, queries = context.positions(step.examples).tensors()
        segments = run_segments(
            context.task,
            context.train_split,
            train,
            step.epoch,
            step.value(NUM_SEGMENTS),
            step.value(NUM_CHECKPOINTS),
        )
        trained = context.open(step.train)
        states = {epoch: trained.tensors(checkpoint_name(epoch)) for segment in segments for epoch in segment.epochs}
        fit = fit_source(
            CheckpointedRun(
                context.task,
                context.data,
                states,
                segments,
                train,
                context.device,
                precision=step.precision or FULL,
            ),
            SourceSettings(
                fisher=step.value(FISHER),
                seed=step.seed,
                weight_decay=step.value(WEIGHT_DECAY),
                untracked=step.value(UNTRACKED),
                fast=self.fast,
            ),
            on_progress=lambda done, total: context.on_progress(done, 2 * total),
        )
        scores = fit.scores(queries, lambda done, total: context.on_progress(total + done, 2 * total))
        return (scores, fit.self_influence()) if step.value(SELF_INFLUENCE) else scores


def _source(name: str, title: str, dash: str, fast: bool, **says: Any) -> SourceMethod:
    return SourceMethod(
        name=name,
        title=title,
        curve="no λ",
        features="∇goodness(θ_final) · segment means of −∇ℓ",
        curvature="EK-FAC, averaged by segment",
        reduction="segment chain",
        hyperparameters=(STOP, NUM_SEGMENTS, NUM_CHECKPOINTS, FISHER, WEIGHT_DECAY, SELF_INFLUENCE, UNTRACKED),
        style=Style(ALONG_THE_RUN, GREEN, dash),
        needs=("outputs", "training"),
        fast=fast,
        **says,
    )


SOURCE = _source(
    "source",
    "SOURCE",
    DASHES[1],
    fast=False,
    formula="Σ_ℓ v_ℓ·ḡ_ℓ,  v = (1−e^{−cH̄})H̄⁻¹q,  q ← e^{−cH̄}q backwards",
    cost="three passes per checkpoint; 2·m·n·p products per checkpoint",
    reference="arXiv 2405.12186, §3",
)
FAST_SOURCE = _source(
    "fast-source",
    "Fast-SOURCE",
    DASHES[2],
    fast=True,
    formula="SOURCE at the mean parameters of each segment",
    cost="three passes per segment; 2·m·n·p products per segment",
    reference="arXiv 2405.12186, appendix",
)
