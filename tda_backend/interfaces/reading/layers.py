"""Scores by layer, self-influence and ensembles of one configuration, as the Explorer asks for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tda_backend.interfaces.reading.reader import StudyReader
from tda_backend.numerics.spectral.contraction import ScoreMatrix, admissible, block_scores, self_influence
from tda_backend.numerics.spectral.coordinates import Block
from tda_backend.studies.store import repository


def blocks(study: StudyReader, configuration_id: str) -> tuple[Block, ...]:
    """Return the layers of a configuration's coordinates (first training seed); none where they mix all layers."""
    source = study.source(configuration_id)
    return () if isinstance(source, ScoreMatrix) else tuple(block for block in source[0].blocks if block.name)


def num_sources(study: StudyReader, configuration_id: str) -> int:
    """Return over how many training seeds (or models of an ensemble) a configuration is averaged."""
    return len(repository.sources(study.workspace, study.study_id, configuration_id))


def admissible_regularizations(
    study: StudyReader, configuration_id: str, regularizations: Sequence[float], query: int
) -> list[float]:
    """Return those λ at which a configuration has scores of one query."""
    source = study.source(configuration_id)
    return [] if isinstance(source, ScoreMatrix) else admissible(source, regularizations, [query])


def self_influence_of(study: StudyReader, configuration_id: str, regularization: float) -> np.ndarray:
    """Return every training example's influence on its own loss at one λ, ``[n]``."""
    return self_influence(study.source(configuration_id), [regularization])[0].numpy()


def layer_scores_of(
    study: StudyReader, configuration_id: str, query: int, regularization: float
) -> dict[str, np.ndarray]:
    """Return one query's scores by layer at one λ, each ``[n]``; they sum to the scores."""
    return block_scores(study.source(configuration_id), regularization, query)
