"""The step that makes a score matrix: [query, train], positive helps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tda_backend.blocks import spans
from tda_backend.models.precision import Precision
from tda_backend.numerics.spectral.contraction import ScoreMatrix
from tda_backend.studies.config.configuration import Configuration, Parameters
from tda_backend.studies.config.hyperparameter import Hyperparameter
from tda_backend.studies.contract.method import Method, method
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.sizes import doubles
from tda_backend.studies.pipeline.step import Cost, Step, needs, setting
from tda_backend.studies.pipeline.times import LEAST_SECONDS, backward, product
from tda_backend.studies.steps.rounding import note_rounding
from tda_backend.studies.steps.source import FilterOf, SourceStep
from tda_backend.studies.steps.train import Train
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import ArtifactStore, ArtifactWriter

_QUERIES = 128
Scored: TypeAlias = ScoreMatrix | tuple[ScoreMatrix, Tensor]
"""Scores, with each training example's self-influence ``[n]`` where the method has one."""


@dataclass(frozen=True, kw_only=True)
class Scores(SourceStep):
    """Scores by a method without coordinates.

    Attributes:
        method: Who scores.
        epoch: Of the checkpoint, or the last one of several.
        parameters: Its hyper-parameters.
        more: What else its scores depend on: seeds, draws.
        method_version: Of the method's code, from 2 on.
        precision: Of passes that take gradients; ``None``: float32.
        examples: Which take part.
        train: The training run.
        features: Of the checkpoints, where the method needs them.
        downsample: Retrained subsets of its own, where the method needs them.
    """

    NAME: ClassVar[str] = "scores"
    VERSION: ClassVar[int] = 2

    method: str
    epoch: int
    parameters: Parameters
    more: Mapping[str, Any] = field(default_factory=dict)
    method_version: int | None = setting(None)
    precision: Precision | None = setting(None)
    examples: Step = needs()
    train: Step = needs()
    features: Sequence[Step] = needs(default=())
    downsample: Sequence[Step] = needs(default=())

    def settings(self) -> dict[str, Any]:
        """Return the settings, each hyper-parameter under its own name."""
        given = {"method_version": self.method_version, "precision": self.precision}
        more = {name: value for name, value in given.items() if value is not None}
        return {"method": self.method, "epoch": self.epoch, **self.parameters, **self.more, **more}

    def value(self, item: Hyperparameter) -> Any:
        """Return the value of one of the method's hyper-parameters."""
        return self.parameters[item.name]

    @property
    def seed(self) -> int:
        """Where the method's own randomness starts."""
        return self.more["seed"]

    @property
    def training_seed(self) -> int:
        """Seed of the training run."""
        assert isinstance(self.train, Train)
        return self.train.seed

    @classmethod
    def eigenvalues(cls, artifact: Artifact) -> np.ndarray:
        """Return none: scores have no spectrum."""
        return np.empty(0)

    @classmethod
    def read(cls, store: ArtifactStore, keys: Sequence[str], filter_of: FilterOf | None = None) -> ScoreMatrix:
        """Return the mean of the score matrices."""
        matrices = [matrix.values for matrix in score_matrices(store, keys)]
        if len(matrices) == 1:
            return ScoreMatrix(matrices[0])
        mean = torch.empty_like(matrices[0])
        for rows in spans(len(mean), _QUERIES):  # some rows of all seeds at a time
            mean[rows] = torch.stack([values[rows] for values in matrices]).mean(0)
        return ScoreMatrix(mean)

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Let the method score, and store the scores and, where there is one, the self-influence ``[n]``."""
        context.memo.clear()
        maker = method(self.method)
        assert isinstance(maker, ScoreMethod)
        if not self.features:  # which have noted theirs
            note_rounding(context, writer, self, "train_loss")
        found = maker.score(context, self)
        scores, own = found if isinstance(found, tuple) else (found, None)
        writer.array("scores", scores.values.to(torch.float32))
        if own is not None:
            writer.array("self_influence", own.to(torch.float64))


def score_matrices(store: ArtifactStore, keys: Sequence[str]) -> list[ScoreMatrix]:
    """Return the stored score matrix of each training seed, memory-mapped."""
    return [ScoreMatrix(torch.from_numpy(store.open(key).array("scores"))) for key in keys]


class ScoreMethod(Method):
    """A method without coordinates: it scores, and its scores are what is stored.

    Class attributes:
        TAKES_GRADIENTS: Whether scoring passes gradients over a model: its result then depends on their precision.
    """

    TAKES_GRADIENTS: ClassVar[bool] = True

    @abstractmethod
    def score(self, context: RunContext, step: Scores) -> Scored:
        """Return the scores of one training seed."""

    def more(self, planning: Planning, configuration: Configuration, seed: int) -> dict[str, Any]:
        """Return what its scores depend on beside epoch and hyper-parameters: seeds, draws."""
        return {}

    def seconds(self, planning: Planning, configuration: Configuration) -> float:
        """Return roughly how long scoring takes."""
        sizes = planning.sizes
        inner = sizes.factor_numbers or sizes.num_parameters
        scored = product(sizes, sizes.num_queries, inner, sizes.num_train) * max(1, self.num_features(configuration))
        return LEAST_SECONDS + 2 * backward(sizes, sizes.num_vectors) + scored

    def making_gib(self, planning: Planning, configuration: Configuration) -> float:
        """Return what scoring holds: two float64 matrices and the result, and all features that it reads."""
        sizes = planning.sizes
        products = 2 * doubles(sizes.num_queries, sizes.num_train) + self.source_gib(planning, configuration)
        held = sizes.factors or doubles(sizes.num_queries, sizes.num_train)
        return products + self.num_features(configuration) * held

    def num_features(self, configuration: Configuration) -> int:
        """Return of how many checkpoints it reads features."""
        return 0

    def feature_steps(self, planning: Planning, configuration: Configuration, seed: int) -> Sequence[Step]:
        """Add the features that it needs, and return them."""
        return ()

    def subset_steps(self, planning: Planning, configuration: Configuration) -> Sequence[Step]:
        """Add the retrained subsets that it needs, and return them."""
        return ()

    def sources(self, planning: Planning, configuration: Configuration) -> tuple[Step, ...]:
        """Add one score matrix for every training seed."""
        return tuple(self._source(planning, configuration, seed) for seed in range(len(planning.trained)))

    def _source(self, planning: Planning, configuration: Configuration, seed: int) -> Scores:
        return planning.steps.add(
            Scores(
                method=self.name,
                epoch=configuration.training_epoch,
                parameters=configuration.parameters,
                more=self.more(planning, configuration, seed),
                method_version=self.key_version,
                precision=planning.study.precision if self.TAKES_GRADIENTS else None,
                examples=planning.examples,
                train=planning.trained[seed],
                features=self.feature_steps(planning, configuration, seed),
                downsample=self.subset_steps(planning, configuration),
                configurations=planning.serves(configuration),
                seed_index=seed,
                label=f"scores {configuration.label}{planning.of_seed(seed)}{planning.of_draw}",
                cost=Cost(
                    self.seconds(planning, configuration),
                    self.making_gib(planning, configuration),
                    stored_gib=planning.sizes.scores,
                ),
            )
        )
