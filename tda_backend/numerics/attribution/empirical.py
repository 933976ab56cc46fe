"""Empirical influence: what retrained models say about an example, without any gradient (downsampling)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tda_backend.errors import NumericalError, UsageError
from tda_backend.numerics.spectral.contraction import ScoreMatrix

_SHOWN = 8


def empirical_influence(
    masks: Tensor | np.ndarray,
    outputs: Tensor | np.ndarray,
    evaluation_masks: Tensor | np.ndarray | None = None,
    device: torch.device | str = "cpu",
) -> ScoreMatrix:
    """Return mean goodness over subsets with z_i minus mean goodness over subsets without (arXiv 2008.03703, §2).

    In units of goodness: the effect of *one* example on a model trained on such a subset. It is **not** multiplied by
    n as influence-type scores are; compare by rank.

    Args:
        masks: ``[S, n]`` bool, which examples each subset holds. Its own subsets: scored on the subsets that LDS
            correlates with, it would predict them from themselves.
        outputs: ``[S, m]`` goodness of each query under the model trained on each subset.
        evaluation_masks: ``[S', n]`` subsets of the evaluation; a subset in both is refused.
        device: Where to compute.

    Returns:
        Values ``[m, n]`` float64.

    Raises:
        UsageError: Shapes do not fit; an example is in all or in none of the subsets (naming it); a subset belongs to
            the evaluation.
        NumericalError: An output is not finite (naming the subset).
    """
    chosen = torch.as_tensor(masks).to(device)
    values = torch.as_tensor(outputs).to(device, torch.float64)
    if chosen.ndim != 2 or values.ndim != 2 or len(chosen) != len(values):
        raise UsageError(
            f"Masks {tuple(chosen.shape)} and outputs {tuple(values.shape)} do not fit.",
            "Masks are [S, n] bool, outputs [S, m].",
        )
    if chosen.dtype != torch.bool:
        raise UsageError(f"Masks have type {chosen.dtype}.", "Give bool: in the subset or not.")
    bad = ~torch.isfinite(values).all(1)
    if bool(bad.any()):
        raise NumericalError(
            f"Outputs of {int(bad.sum())} of {len(bad)} subsets are not finite (first: {int(bad.nonzero()[0])}).",
            "Retrain it, or leave the subset out.",
        )
    inside = chosen.sum(0)
    for count, where in ((0, "none"), (len(chosen), "all")):
        stuck = (inside == count).nonzero()[:, 0].tolist()
        if stuck:
            names = ", ".join(map(str, stuck[:_SHOWN])) + (f" and {len(stuck) - _SHOWN} more" * (len(stuck) > _SHOWN))
            raise UsageError(
                f"Training positions {names} are in {where} of the {len(chosen)} subsets.",
                "Each needs a subset with it and one without: train more subsets, or use α nearer 0.5.",
            )
    if evaluation_masks is not None:
        _refuse_shared(chosen.cpu(), torch.as_tensor(evaluation_masks).cpu())
    centred = values - values.mean(0)  # the difference of means does not change, its rounding does
    weights = chosen.to(torch.float64)
    with_it = centred.T @ weights
    without = centred.sum(0)[:, None] - with_it
    return ScoreMatrix(with_it / inside - without / (len(chosen) - inside))


def _refuse_shared(masks: Tensor, evaluation: Tensor) -> None:
    if evaluation.ndim != 2 or evaluation.shape[1] != masks.shape[1]:
        raise UsageError(
            f"Evaluation masks {tuple(evaluation.shape)} do not fit masks {tuple(masks.shape)}.", "Give [S', n] bool."
        )
    held = {row.tobytes() for row in np.packbits(evaluation.numpy().astype(bool), axis=1)}
    shared = [i for i, row in enumerate(np.packbits(masks.numpy(), axis=1)) if row.tobytes() in held]
    if shared:
        raise UsageError(
            f"{len(shared)} subsets (first: {shared[0]}) are also subsets of the evaluation.",
            "Empirical influence needs subsets of its own: LDS on the same ones measures nothing.",
        )
