"""What is random in retraining, as pure functions of hashed seeds: subsets and training seeds."""

from __future__ import annotations

import math

import numpy as np

from tda_backend.errors import UsageError
from tda_backend.seeds import hashed_rng, hashed_seed


def subset_masks(
    num_train: int, alpha: float, num_subsets: int, seed: int, attributed: np.ndarray | None = None
) -> np.ndarray:
    """Return S random subsets of exactly round(α·n) examples each, drawn without replacement.

    Subset j depends on (seed, j) alone, so a smaller S is a prefix of a larger one. Subsets of a smaller α lie inside
    those of a larger α with the same j: an α sweep compares nested sets.

    Args:
        num_train: n.
        alpha: α.
        num_subsets: S.
        seed: Seed of the draws.
        attributed: Which examples are drawn from, bool ``[n]``; all others are in every subset, and α is a share of
            these alone (``stages.attributed_rows``). ``None``: all.

    Returns:
        bool ``[S, n]``.

    Raises:
        UsageError: α outside (0, 1], a subset that would be empty, or S < 1.
    """
    if not 0 < alpha <= 1:
        raise UsageError(f"alpha is {alpha}.", "The share of training examples in a subset lies in (0, 1].")
    if num_subsets < 1:
        raise UsageError(f"The number of subsets is {num_subsets}.", "At least 1 is needed.")
    candidates = np.arange(num_train) if attributed is None else np.flatnonzero(attributed)
    size = math.floor(alpha * len(candidates) + 0.5)
    if size < 1:
        raise UsageError(f"alpha = {alpha} of {len(candidates)} examples is an empty subset.", "Raise alpha.")
    masks = np.ones((num_subsets, num_train), dtype=bool)
    masks[:, candidates] = False
    for subset in range(num_subsets):
        masks[subset, candidates[hashed_rng("subset", seed, subset).permutation(len(candidates))[:size]]] = True
    return masks


def retraining_seed(seed: int, subset_id: int, repeat: int) -> int:
    """Return the training seed of one retraining: a hash of (study seed, subset, repeat)."""
    return hashed_seed("retraining", seed, subset_id, repeat)
