"""Baselines: similarities, random scores, and the influence that retrained subsets show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tda_backend.errors import StudyError
from tda_backend.numerics.attribution.baselines import gradient_similarity, random_scores
from tda_backend.numerics.attribution.empirical import empirical_influence
from tda_backend.numerics.attribution.nearest import InputMeasure, nearest_inputs
from tda_backend.numerics.attribution.representation import representation_similarity
from tda_backend.numerics.attribution.tracin import tracin_self_influence
from tda_backend.numerics.features.checkpoint_features import InnerProducts
from tda_backend.numerics.spectral.contraction import ScoreMatrix
from tda_backend.numerics.spectral.filters.base import Filter
from tda_backend.numerics.spectral.filters.identity import Identity
from tda_backend.seeds import hashed_seed
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.config.hyperparameter import Hyperparameter
from tda_backend.studies.config.study import Study
from tda_backend.studies.contract.method import Settings, Style
from tda_backend.studies.methods.hyperparameters import BASELINES, DASHES, EPOCHS, GRAY, INFLUENCE
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.steps.features import Features, plan_features
from tda_backend.studies.steps.scores import Scored, ScoreMethod, Scores
from tda_backend.studies.steps.train import plan_downsampled, read_masks, read_outputs


@dataclass(frozen=True, kw_only=True)
class GradientSimilarity(ScoreMethod):
    """−φ'·∇ℓ_i at one checkpoint, or its cosine."""

    TAKES_GRADIENTS: ClassVar[bool] = False

    phi: type[Filter] = Identity

    def num_features(self, configuration: Configuration) -> int:
        """Return one."""
        return 1

    def feature_steps(self, planning: Planning, configuration: Configuration, seed: int) -> Sequence[Step]:
        """Add the features of the checkpoint."""
        trained, of = planning.trained[seed], planning.of_seed(seed)
        return (plan_features(planning, trained, configuration.training_epoch, of, InnerProducts.QUERIES),)

    def score(self, context: RunContext, step: Scores) -> Scored:
        """Return scores and self-influence of one training seed."""
        features, similarity = (
            Features.read(context.open(step.features[0]), context.home),
            step.parameters[SIMILARITY.name],
        )
        own = tracin_self_influence([features], [1.0], normalization=similarity == COSINE)
        return gradient_similarity(features, similarity), own


@dataclass(frozen=True, kw_only=True)
class RepresentationSimilarity(ScoreMethod):
    """Cosine of the last hidden activations."""

    TAKES_GRADIENTS: ClassVar[bool] = False

    phi: type[Filter] = Identity

    def score(self, context: RunContext, step: Scores) -> ScoreMatrix:
        """Return the scores of one training seed."""
        return representation_similarity(context.question(step.examples, context.model(step.train, step.epoch)))


@dataclass(frozen=True, kw_only=True)
class NearestInputs(ScoreMethod):
    """Similarity of the inputs."""

    TAKES_GRADIENTS: ClassVar[bool] = False

    phi: type[Filter] = Identity

    def score(self, context: RunContext, step: Scores) -> ScoreMatrix:
        """Return the scores, which no training seed changes."""
        train, _, queries = context.positions(step.examples).tensors()
        measure = InputMeasure(**step.parameters)
        return nearest_inputs(context.task, context.data, train, queries, measure, context.home)


@dataclass(frozen=True, kw_only=True)
class RandomScores(ScoreMethod):
    """Independent normal numbers: the floor."""

    TAKES_GRADIENTS: ClassVar[bool] = False

    phi: type[Filter] = Identity

    def more(self, planning: Planning, configuration: Configuration, seed: int) -> dict[str, Any]:
        """Return the seed of the draw."""
        return {"seed": hashed_seed(self.name, planning.study.seed, seed)}

    def score(self, context: RunContext, step: Scores) -> ScoreMatrix:
        """Return the scores of one training seed."""
        train, _, queries = context.positions(step.examples).tensors()
        return random_scores(step.seed, train, queries)


@dataclass(frozen=True, kw_only=True)
class EmpiricalInfluence(ScoreMethod):
    """Mean goodness of retrained subsets with an example, less that of those without."""

    TAKES_GRADIENTS: ClassVar[bool] = False

    phi: type[Filter] = Identity

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise a StudyError where the task cannot be retrained, or a subset would be empty or everything."""
        super().check(settings, study, facts)
        total = study.data.train
        for share in settings.get(FRACTION.name, []):
            size = math.floor(share * total + 0.5)
            if not 1 <= size < total:
                raise StudyError(
                    f"methods.{self.name}.{FRACTION.name} has {share:g}: a subset would have {size} of {total} "
                    "training examples.",
                    "Each example must be in some subsets and not in others: take a share near 0.5.",
                )

    def subset_steps(self, planning: Planning, configuration: Configuration) -> Sequence[Step]:
        """Add subsets of its own, never those of LDS."""
        parameters = configuration.parameters
        return plan_downsampled(planning, parameters[SUBSETS.name], parameters[FRACTION.name])

    def score(self, context: RunContext, step: Scores) -> ScoreMatrix:
        """Return the scores, which no training seed changes."""
        artifacts = context.open_all(step.downsample)
        outputs = read_outputs(artifacts, context.positions(step.examples).queries)
        return empirical_influence(read_masks(artifacts), np.asarray(outputs), device=context.home)


COSINE = "cosine"
SIMILARITY = Hyperparameter("similarity", "choice", "dot product or cosine", ("dot", COSINE), choices=("dot", COSINE))
SUBSETS = Hyperparameter(
    "subsets",
    "whole",
    "retrained subsets of its own, never those of LDS",
    (50,),
    low=4,
    quick=24,
    counts_repeats=True,
)
FRACTION = Hyperparameter("subset_fraction", "real", "share of the training set in each", (0.5,), low=0, high=1)
REPSIM = RepresentationSimilarity(
    name="repsim",
    title="Representation similarity",
    curve="no λ",
    features="last hidden activations",
    curvature="none",
    reduction="mean",
    formula="cos(h(z'), h(z_i))",
    hyperparameters=(EPOCHS,),
    cost="one forward pass",
    reference="arXiv 2405.12186, appendix B.4",
    style=Style(BASELINES, GRAY, DASHES[1]),
    has_self_influence=False,
)
GRADIENT_SIMILARITY = GradientSimilarity(
    name="gradient-similarity",
    title="Gradient similarity",
    curve="no λ",
    features=INFLUENCE,
    curvature="none",
    reduction="mean",
    formula="−φ'·∇ℓ_i, or its cosine",
    hyperparameters=(EPOCHS, SIMILARITY),
    cost="one gradient pass",
    reference="arXiv 2002.08484, at one checkpoint",
    style=Style(BASELINES, GRAY, DASHES[0]),
)
NEAREST_INPUTS = NearestInputs(
    name="nearest-inputs",
    title="Nearest inputs",
    curve="no λ",
    features="inputs",
    curvature="none",
    reduction="mean",
    formula="±similarity of the inputs, + for the same label",
    hyperparameters=(
        Hyperparameter("metric", "choice", "−distance or cosine", ("euclidean",), choices=("euclidean", COSINE)),
        Hyperparameter("signed", "flag", "same label helps, another one harms", (True,), (True, False)),
    ),
    cost="one product of the inputs",
    reference="arXiv 1811.09720 (kernel replaced by inputs)",
    style=Style(BASELINES, GRAY, DASHES[2]),
    needs=("labels",),
    has_self_influence=False,
)
EMPIRICAL_INFLUENCE = EmpiricalInfluence(
    name="empirical-influence",
    title="Empirical influence",
    curve="measured run",
    features="retrained models",
    curvature="none",
    reduction="mean",
    formula="mean goodness of subsets with z_i − mean of those without",
    hyperparameters=(SUBSETS, FRACTION),
    cost="one retraining per subset",
    reference="arXiv 2008.03703",
    style=Style(BASELINES, GRAY, DASHES[3]),
    needs=("training",),
    has_self_influence=False,
)
RANDOM = RandomScores(
    name="random",
    title="Random scores",
    curve="no λ",
    features="none",
    curvature="none",
    reduction="mean",
    formula="independent normal numbers",
    hyperparameters=(),
    cost="none",
    reference="the floor that every method must beat",
    style=Style(BASELINES, GRAY, DASHES[4]),
    has_self_influence=False,
)
