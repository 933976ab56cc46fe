"""Baselines that need no curvature: similarity of representations, gradients or inputs, chance, and downsampling.

========================  ==========================================================================  ===============
function                  score (positive helps)                                                      reference
========================  ==========================================================================  ===============
representation_similarity cos(h(z'), h(z_i)), h the last hidden activations                           arXiv 2405.12186
gradient_similarity       −φ'·∇ℓ(z_i) or its cosine, at one checkpoint                                arXiv 2002.08484
nearest_inputs            closeness of standardised inputs, optionally signed by class                arXiv 1811.09720
random_scores             N(0, 1), a pure function of (seed, query, train example)                    none
empirical_influence       mean goodness over subsets with z_i minus over subsets without              arXiv 2008.03703
========================  ==========================================================================  ===============

Similarity of representations, nearest inputs and empirical influence have modules of their own
(:mod:`.representation`, :mod:`.nearest`, :mod:`.empirical`). None of them has λ.
Their scales differ; compare ranks, never magnitudes.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tda_backend.errors import UsageError
from tda_backend.models.probe import Indices
from tda_backend.numerics.attribution.tracin import tracin_scores
from tda_backend.numerics.features.checkpoint_features import CheckpointFeatures
from tda_backend.numerics.spectral.contraction import ScoreMatrix
from tda_backend.seeds import hashed_rng

Similarity: TypeAlias = Literal["dot", "cosine"]

_TRAIN_BLOCK = 1024
"""Train indices per hashed block of random scores. Part of what a seed means."""


def gradient_similarity(
    features: CheckpointFeatures, similarity: Similarity = "dot", projected: Tensor | None = None
) -> ScoreMatrix:
    """Return ``−φ'·∇ℓ(z_i)`` or its cosine at one checkpoint: TracIn with one checkpoint and η = 1.

    Args:
        features: The checkpoint's gradients.
        similarity: ``dot``, or ``cosine`` (both gradients divided by their L2 norm; a zero gradient scores 0).
        projected: ``[N, k]`` projected features, or ``None`` for the exact products.

    Returns:
        Values ``[m, n]``.

    Raises:
        UsageError: Another similarity, or rows that do not fit the checkpoint.
    """
    if similarity not in ("dot", "cosine"):
        raise UsageError(f"Unknown similarity {similarity!r}.", "Allowed: dot, cosine.")
    return tracin_scores([features], [1.0], similarity == "cosine", None if projected is None else [projected])


def random_scores(seed: int, train_indices: Indices, query_indices: Indices) -> ScoreMatrix:
    """Return independent N(0, 1) scores: what a method that knows nothing gets. LDS of them is 0 on average.

    Each score is a pure function of (seed, query index, train index), so no choice of rows or batches changes it.

    Returns:
        Values ``[m, n]`` float32.
    """
    train = np.asarray(torch.as_tensor(train_indices), dtype=np.int64)
    queries = np.asarray(torch.as_tensor(query_indices), dtype=np.int64)
    values = np.empty((len(queries), len(train)), dtype=np.float32)
    blocks, within = np.divmod(train, _TRAIN_BLOCK)
    places = {int(block): np.nonzero(blocks == block)[0] for block in np.unique(blocks)}
    for row, query in enumerate(queries):
        for block, columns in places.items():
            draw = hashed_rng("random-scores", seed, int(query), block).standard_normal(_TRAIN_BLOCK, dtype=np.float32)
            values[row, columns] = draw[within[columns]]
    return ScoreMatrix(torch.from_numpy(values))
