"""The textbook bootstrap of rank correlations, which ranks every draw anew: the slow reference."""

from __future__ import annotations

import numpy as np

from tda_backend.numerics.evaluation.bootstrap import ranks


def reranked_means(predictions: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean Spearman correlation of each draw with ranks taken anew in the draw, ``[B]``.

    Args:
        predictions: ``[S, m]`` subset sums.
        targets: ``[S, m]`` retrained goodness.
        weights: ``[B, S]`` integer counts.
    """
    result = np.full(len(weights), np.nan)
    for draw, row in enumerate(weights):
        chosen = np.repeat(np.arange(len(row)), row.astype(np.int64))
        left, right = ranks(predictions[chosen]), ranks(targets[chosen])
        defined = (np.abs(left).sum(0) > 0) & (np.abs(right).sum(0) > 0)
        if defined.any():
            result[draw] = (left * right).sum(0)[defined].mean()
    return result
