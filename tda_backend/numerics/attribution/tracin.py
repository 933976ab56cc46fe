"""TracIn: sums of gradient products over checkpoints (arXiv 2002.08484)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tda_backend.errors import UsageError
from tda_backend.numerics.attribution.influence import check_rows, train_rows
from tda_backend.numerics.features.checkpoint_features import CheckpointFeatures
from tda_backend.numerics.spectral.contraction import ScoreMatrix, num_queries


def tracin_scores(
    checkpoints: Sequence[CheckpointFeatures],
    learning_rates: Sequence[float],
    normalization: bool = False,
    projected: Sequence[Tensor] | None = None,
) -> ScoreMatrix:
    """Return TracIn's scores ``−Σ_c η_c φ'_c·∇ℓ_c`` (arXiv 2002.08484, eq. 1); positive helps.

    Only query × train products are formed. With ``normalization`` both gradients are divided by their L2 norm; an
    example whose gradient is exactly zero then scores 0.

    Args:
        checkpoints: Features of the selected checkpoints.
        learning_rates: η_c of each.
        normalization: Use cosines.
        projected: ``[N, k]`` features of each checkpoint, or ``None`` for the unprojected answer.

    Returns:
        Values ``[m, n]`` float32 (float64 for float64 factors).

    Raises:
        UsageError: No checkpoint, or lengths differ.
    """
    if not checkpoints or len(checkpoints) != len(learning_rates):
        raise UsageError(
            f"TracIn got {len(checkpoints)} checkpoints and {len(learning_rates)} learning rates.",
            "Give at least one checkpoint, and one learning rate for each.",
        )
    if projected is not None and len(projected) != len(checkpoints):
        raise UsageError("TracIn got another number of projections than of checkpoints.", "Give one for each.")
    total: Tensor | None = None
    for index, (features, rate) in enumerate(zip(checkpoints, learning_rates, strict=True)):
        products = _tracin_products(features, None if projected is None else projected[index], normalization)
        total = products.mul_(rate) if total is None else total.add_(products, alpha=rate)
    assert total is not None
    double = checkpoints[0].goodness.dtype == torch.float64
    scores = ScoreMatrix(total if double else total.to(torch.float32))
    assert num_queries(scores) == checkpoints[0].counts["query"]
    return scores


def tracin_self_influence(
    checkpoints: Sequence[CheckpointFeatures],
    learning_rates: Sequence[float],
    normalization: bool = False,
    projected: Sequence[Tensor] | None = None,
) -> Tensor:
    """Return each example's TracIn score on its own loss: ``Σ_c η_c ‖∇ℓ_c‖²`` (arXiv 2002.08484, §4.1).

    With ``normalization`` it is the same Σ_c η_c for every example with a gradient.

    Returns:
        ``[n]`` float64, ≥ 0.
    """
    total = checkpoints[0].goodness.new_zeros(checkpoints[0].num_train, dtype=torch.float64)
    for index, (features, rate) in enumerate(zip(checkpoints, learning_rates, strict=True)):
        rows, scale = train_rows(features)
        if projected is not None:
            squares = projected[index][rows].to(torch.float64).square().sum(1)
        else:
            squares = features.squared_norms(rows)
        squares = squares * scale.to(torch.float64).square()
        total += rate * ((squares > 0).to(torch.float64) if normalization else squares)
    return total


def _tracin_products(features: CheckpointFeatures, projected: Tensor | None, normalization: bool) -> Tensor:
    """Return ``−∇goodness(z')·∇ℓ(z_i)`` (or cosines), ``[m, n]`` float64."""
    rows, scale = train_rows(features)
    query = features.rows("query")
    if projected is not None:
        check_rows(projected, features)
        left, right = projected[query].to(torch.float64), projected[rows].to(torch.float64)
        products = left @ right.T
        squares = (left.square().sum(1), right.square().sum(1))
    else:
        products = features.query_products()
        squares = (features.squared_norms(query), features.squared_norms(rows))
    if normalization:
        norms = [torch.where(square > 0, square, torch.ones_like(square)).sqrt() for square in squares]
        products /= norms[0][:, None]
        products /= norms[1]
        # Dividing −∇ℓ = scale·∇goodness by its norm leaves the sign of the scale: that of 1 − p, always positive.
        return products.mul_(torch.sign(scale))
    return products.mul_(scale.to(torch.float64))
