"""Methods that run the training again: replayed (HyDRA) or unrolled, step by step."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tda_backend.errors import StudyError
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.spectral.contraction import ScoreMatrix
from tda_backend.numerics.spectral.filters.base import Filter
from tda_backend.numerics.spectral.filters.identity import Identity
from tda_backend.numerics.trajectory.hydra import hydra_scores
from tda_backend.numerics.trajectory.unrolled.influence import Variant, unrolled_influence
from tda_backend.numerics.trajectory.unrolled.queries import Queries
from tda_backend.numerics.trajectory.unrolled.recording import record
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.config.hyperparameter import Hyperparameter
from tda_backend.studies.config.study import Study
from tda_backend.studies.contract.method import Settings, Style
from tda_backend.studies.contract.unrollable import check_unrollable
from tda_backend.studies.methods.along_sgd import AlongSGD
from tda_backend.studies.methods.checks import check_precision
from tda_backend.studies.methods.hyperparameters import (
    ALONG_THE_RUN,
    DASHES,
    GREEN,
    STOP,
)
from tda_backend.studies.pipeline.context import RunContext, checkpoint_name
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.steps.scores import ScoreMethod, Scores


@dataclass(frozen=True, kw_only=True)
class Hydra(AlongSGD):
    """HyDRA-fast: the run replayed, each step's gradients against the query's at the end."""

    phi: type[Filter] = Identity

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise a StudyError where the task has no single run of SGD."""
        super().check(settings, study, facts)
        _check_precision(self.name, study)
        if facts.task.training is not None and facts.task.stages:
            raise StudyError(
                f"Method {self.name} replays one run of SGD; the task {facts.task.name!r} is trained in "
                f"{len(facts.task.stages)} stages.",
                f"Leave [methods.{self.name}] out; SOURCE knows stages.",
            )

    def seconds(self, planning: Planning, configuration: Configuration) -> float:
        """Return roughly how long it takes."""
        return 2 * planning.model_seconds + planning.here(60 * planning.size**2)

    def score(self, context: RunContext, step: Scores) -> ScoreMatrix:
        """Return the scores of one training seed."""
        train, _, queries = context.positions(step.examples).tensors()
        trained = context.open(step.train)
        return hydra_scores(
            TrainingRun(context.task, context.data, train, step.training_seed, context.device),
            queries,
            last_epoch=step.epoch,
            final_state=trained.tensors(checkpoint_name(step.epoch)),
            on_progress=context.on_progress,
        )


@dataclass(frozen=True, kw_only=True)
class Unrolled(ScoreMethod):
    """AdamW-influence: every step of the run linearised, through the optimizer that trained it."""

    phi: type[Filter] = Identity

    @property
    def follows_training(self) -> bool:
        """Yes."""
        return True

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise where the task has no run that could be unrolled."""
        super().check(settings, study, facts)
        _check_precision(self.name, study)
        check_unrollable(facts.task, f"methods.{self.name}")

    def seconds(self, planning: Planning, configuration: Configuration) -> float:
        """Return roughly how long it takes: per query as much arithmetic as training, without its calls."""
        return 0.3 * planning.model_seconds * planning.study.data.queries

    def score(self, context: RunContext, step: Scores) -> ScoreMatrix:
        """Return the scores of one training seed, on the mean-Gram scale."""
        positions = context.positions(step.examples)
        run = TrainingRun(context.task, context.data, positions.train, step.training_seed, context.device)
        trajectory = record(run, last_epoch=step.epoch, folder=context.snapshot_folder(step))
        found = unrolled_influence(
            trajectory,
            Queries(torch.from_numpy(positions.queries)),
            Variant(step.value(ASSUME), step.value(BATCH_CURVATURE)),
            on_progress=context.on_progress,
        )
        return ScoreMatrix(found.scores * len(positions.train))


def _check_precision(name: str, study: Study) -> None:
    does = "runs the training again, which is in float32, and differentiates its steps"
    check_precision(name, study, does, f"Leave [methods.{name}] out")


ASSUME = Hyperparameter(
    "assume",
    "choice",
    "the optimizer that the linearised steps are of",
    ("as trained",),
    choices=("as trained", "sgd"),
)
BATCH_CURVATURE = Hyperparameter(
    "curvature",
    "choice",
    "second derivative of each batch's loss",
    ("hessian",),
    choices=("hessian", "gauss-newton", "fisher", "none"),
)
HYDRA_FAST = Hydra(
    name="hydra-fast",
    title="HyDRA-fast",
    curve="no λ",
    features="∇goodness(θ_final) · −∇ℓ(θ_t) at every step",
    curvature="none",
    reduction="weighted sum",
    formula="−φ'(θ_T)ᵀ Σ_t (η_t/B) 1{z∈B_t} ∇ℓ(z; θ_t)",
    hyperparameters=(STOP,),
    cost="the training run again, with m products per example and epoch",
    reference="arXiv 2102.02515",
    style=Style(ALONG_THE_RUN, GREEN, DASHES[3]),
    needs=("training",),
    has_self_influence=False,
)
UNROLLED_INFLUENCE = Unrolled(
    name="unrolled-influence",
    title="AdamW-influence (unrolled)",
    curve="no λ",
    features="∇goodness(θ_final) · −∇ℓ(θ_t) at every step",
    curvature="each batch's own",
    reduction="weighted sum",
    formula="−Σ_t U_t R_t ∇ℓ(z; θ_t)/B · 1{z∈B_t},  U_{t−1} = U_t (A_t + R_t H_t)",
    hyperparameters=(STOP, ASSUME, BATCH_CURVATURE),
    cost="the training run again; one curvature product per query and step",
    reference="arXiv 2605.18814; METHODS §6",
    style=Style(ALONG_THE_RUN, GREEN, DASHES[4]),
    needs=("training",),
    has_self_influence=False,
)
