"""How far training seeds agree on who helps most: rank intervals over seeds.

A rank of 1 is the most helpful example. Each seed ranks by its **own** scores (for TRAK its own Q_i = 1 − p_i), not by
the ensemble's: the interval shows what another run of the same training would have said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from torch import Tensor

from tda_backend.errors import UsageError
from tda_backend.numerics.spectral.contraction import ScoreMatrix, Source, num_train
from tda_backend.numerics.spectral.coordinates import Coordinates
from tda_backend.numerics.spectral.one_query import score_curves

Seeds: TypeAlias = Sequence[Coordinates] | Sequence[ScoreMatrix]
"""One spectrum, or one score matrix, per training seed."""


def rank_intervals(
    seeds: Seeds,
    query: int,
    positions: Sequence[int] | np.ndarray,
    regularizations: Sequence[float] | None,
    allowed: np.ndarray | Tensor | None = None,
) -> np.ndarray:
    """Return the lowest and the highest rank over seeds of some training examples at every λ.

    The rank is 1 + the number of allowed examples with a strictly higher score; ties share the better rank.

    Args:
        seeds: One spectrum per training seed (L values of λ), or one score matrix per seed (L = 1).
        query: Query index.
        positions: c training positions.
        regularizations: The λ grid; ``None`` for score matrices.
        allowed: ``[n]`` bool, which training examples are ranked (filters of the explorer); ``None`` for all.

    Returns:
        ``[L, c, 2]`` int64; both ends are equal with one seed.

    Raises:
        UsageError: No seed; a query or position is out of range; λ is missing; ``allowed`` does not have n entries.
        NumericalError: λ is not allowed, or a score is not finite (naming λ).
    """
    sources = _sources(seeds)
    total = num_train(sources[0])
    chosen = np.asarray(positions, dtype=np.int64)
    if chosen.size and (chosen.min() < 0 or chosen.max() >= total):
        raise UsageError(f"A training position is outside 0…{total - 1}.", "Give positions, not indices.")
    pool = _pool(allowed, total)
    by_seed = []
    for source in sources:
        scores = score_curves(source, query, regularizations).cpu().numpy()
        ordered = np.sort(scores if pool is None else scores[:, pool], axis=1)  # vectorised; 20 × faster than torch's
        # Everything right of the last equal score is strictly higher.
        places = [np.searchsorted(row, own, side="right") for row, own in zip(ordered, scores[:, chosen], strict=True)]
        by_seed.append(1 + ordered.shape[1] - np.stack(places))
    return np.stack([np.min(by_seed, axis=0), np.max(by_seed, axis=0)], axis=2)


def _sources(seeds: Seeds) -> list[Source]:
    """Return one source per seed, so that nothing is averaged over seeds."""
    if isinstance(seeds, ScoreMatrix) or not isinstance(seeds, Sequence) or not seeds:
        raise UsageError("Ranks need a list with one entry per training seed.", "Give spectra or score matrices.")
    sources: list[Source] = [seed if isinstance(seed, ScoreMatrix) else [seed] for seed in seeds]
    if len({num_train(source) for source in sources}) > 1:
        raise UsageError("The training seeds have different numbers of training examples.", "Give one study's seeds.")
    return sources


def _pool(allowed: np.ndarray | Tensor | None, total: int) -> np.ndarray | None:
    if allowed is None:
        return None
    mask = np.asarray(allowed).astype(bool)
    if mask.shape != (total,):
        raise UsageError(
            f"The mask of allowed examples has shape {mask.shape}; there are {total} training examples.",
            "Give one entry per training example.",
        )
    if not mask.any():
        raise UsageError("No training example is allowed.", "Loosen the filters.")
    return np.nonzero(mask)[0]
