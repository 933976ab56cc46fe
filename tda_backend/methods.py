"""The table of methods, and the one route from features to spectral coordinates or scores.

A gradient-based method is features → basis → filter → contraction; a new filter method is one row of ``METHODS`` and
one row of the test matrix. Signs: scores are [query, train] and positive helps (METHODS §0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tda_backend.errors import TaskError, UsageError
from tda_backend.features.checkpoint_features import CheckpointFeatures
from tda_backend.features.gram import inner_products
from tda_backend.spectral.contraction import ScoreMatrix, num_queries
from tda_backend.spectral.decompose import dual_coordinates, primal_coordinates
from tda_backend.types import Spectrum

__all__ = ["METHODS", "MethodSpec", "ScoreMatrix", "build_spectrum", "method", "tracin_scores"]


@dataclass(frozen=True)
class MethodSpec:
    """One row of the method table.

    Attributes:
        name: Key, as in study files and on the command line.
        title: How pages call it.
        has_regularization: Whether λ is a hyper-parameter.
        features: Query features · train features.
        curvature: What is decomposed, or ``none``.
        filter: Name in :mod:`tda_backend.spectral.filters`.
        reduction: How training seeds or checkpoints are put together.
        hyperparameters: Names a study may set, beside λ.
        reference: Paper and section.
        formula: The score, as plain text.
    """

    name: str
    title: str
    has_regularization: bool
    features: str
    curvature: Literal["fisher", "margin_gram", "none"]
    filter: Literal["damped_inverse", "identity"]
    reduction: Literal["mean", "product_of_means", "weighted_sum"]
    hyperparameters: tuple[str, ...]
    reference: str
    formula: str


METHODS: dict[str, MethodSpec] = {
    spec.name: spec
    for spec in (
        MethodSpec(
            name="iffim",
            title="Influence function (FIM)",
            has_regularization=True,
            features="∇goodness · −∇ℓ",
            curvature="fisher",
            filter="damped_inverse",
            reduction="mean",
            hyperparameters=("epochs", "projection_dim"),
            reference="arXiv 2505.24261, §2 and appendix A",
            formula="−φ'ᵀ (F + λI)⁻¹ g_i,  F = JᵀJ/n",
        ),
        MethodSpec(
            name="trak",
            title="TRAK",
            has_regularization=True,
            features="∇margin · ∇margin",
            curvature="margin_gram",
            filter="damped_inverse",
            reduction="product_of_means",
            hyperparameters=("epochs", "projection_dim", "unprojected_epochs"),
            reference="arXiv 2303.14186, §3",
            formula="[mean_m φ_mᵀ (Φ_mᵀΦ_m/n + λI)⁻¹ Φ_mᵀ] ⊙ [mean_m (1 − p_i)]",
        ),
        MethodSpec(
            name="tracin",
            title="TracIn",
            has_regularization=False,
            features="∇goodness · −∇ℓ",
            curvature="none",
            filter="identity",
            reduction="weighted_sum",
            hyperparameters=("epochs", "normalization", "num_checkpoints", "projection_dim"),
            reference="arXiv 2002.08484, eq. 1; arXiv 2505.24261, appendix A",
            formula="−Σ_c η_c φ'_c · ∇ℓ(z_i; θ_c)",
        ),
    )
}


def method(name: str) -> MethodSpec:
    """Return a method's row.

    Raises:
        UsageError: The name is unknown; lists the allowed ones.
    """
    if name not in METHODS:
        raise UsageError(f"Unknown method {name!r}.", f"Allowed: {', '.join(METHODS)}.")
    return METHODS[name]


def build_spectrum(
    method_name: str,
    features: CheckpointFeatures,
    *,
    gram: Tensor | None = None,
    projected: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Spectrum:
    """Decompose one method's curvature at one checkpoint; every λ is then a filter.

    Args:
        method_name: ``iffim`` or ``trak``.
        features: The checkpoint's features (row order, weights).
        gram: ``[N, N]`` float64 raw inner products for the unprojected answer (dual); left intact.
        projected: ``[N, k]`` projected features; primal k × k, or dual where n ≤ k. Exactly one of the two.
        dtype: Storage type of the coordinates; eigenvalues are float64.

    Raises:
        UsageError: The method has no spectrum, or not exactly one of ``gram`` and ``projected`` is given.
        TaskError: TRAK on a task without the margin identity.
        NumericalError: The curvature is not finite, zero, or cannot be decomposed.
    """
    spec = method(method_name)
    if not spec.has_regularization:
        raise UsageError(f"Method {method_name!r} has no spectrum.", "Use tracin_scores.")
    if (gram is None) == (projected is None):
        raise UsageError("Give exactly one of gram and projected.", "gram: unprojected; projected: [N, k] features.")
    weights = _required_weights(features) if spec.curvature == "margin_gram" else None
    rows, scale = _train_rows(spec, features)
    others = [features.rows("query"), features.rows("validation")]
    what = f"{method_name}"
    if projected is not None:
        _check_rows(projected, features)
        train = projected[rows] if scale is None else projected[rows] * scale[:, None].to(projected.dtype)
        others_rows = torch.cat([projected[part] for part in others])
        if train.shape[0] > train.shape[1]:
            basis = primal_coordinates(train, others_rows, what=what, dtype=dtype)
        else:
            wide = train.to(torch.float64)
            mean_gram = wide @ wide.T
            mean_gram /= len(wide)
            basis = dual_coordinates(mean_gram, others_rows.to(torch.float64) @ wide.T, what=what, dtype=dtype)
    else:
        assert gram is not None
        _check_rows(gram, features)
        mean_gram = gram[rows, rows] / features.num_train
        cross = torch.cat([gram[part, rows] for part in others])
        if scale is not None:
            factor = scale.to(torch.float64)
            mean_gram *= factor
            mean_gram *= factor[:, None]
            cross *= factor
        basis = dual_coordinates(mean_gram, cross, what=what, dtype=dtype)
    num_query = features.counts["query"]
    return Spectrum(
        eigenvalues=basis.eigenvalues,
        train=basis.train,
        query=basis.others[:num_query],
        validation=basis.others[num_query:],
        train_weights=None if weights is None else weights.to(dtype),
        num_cut=basis.num_cut,
    )


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


def _tracin_products(features: CheckpointFeatures, projected: Tensor | None, normalization: bool) -> Tensor:
    """Return ``−∇goodness(z')·∇ℓ(z_i)`` (or cosines), ``[m, n]`` float64."""
    rows, scale = _train_rows(METHODS["tracin"], features)
    query = features.rows("query")
    if projected is not None:
        _check_rows(projected, features)
        left, right = projected[query].to(torch.float64), projected[rows].to(torch.float64)
        products = left @ right.T
        squares = (left.square().sum(1), right.square().sum(1))
    elif features.factors is not None:
        left, right = features.factors.select(query), features.factors.select(rows)
        products = inner_products(left, right)
        squares = (left.squared_norms(), right.squared_norms())
    else:
        assert features.gram is not None
        products = features.gram[query, rows].to(torch.float64, copy=True)
        diagonal = features.gram.diagonal().to(torch.float64)
        squares = (diagonal[query], diagonal[rows])
    if normalization:
        norms = [torch.where(square > 0, square, torch.ones_like(square)).sqrt() for square in squares]
        products /= norms[0][:, None]
        products /= norms[1]
        # Dividing −∇ℓ = scale·∇goodness by its norm leaves the sign of the scale: that of 1 − p, always positive.
        return products if scale is None else products * torch.sign(scale)
    return products if scale is None else products * scale.to(torch.float64)


def _train_rows(spec: MethodSpec, features: CheckpointFeatures) -> tuple[slice, Tensor | None]:
    """Return the rows to take as train features and the factor on each that makes them −∇ℓ (or ∇goodness for TRAK)."""
    if spec.curvature == "margin_gram":
        return features.rows("train"), None
    if features.loss_scale is not None:
        return features.rows("train"), -features.loss_scale
    return features.rows("train_loss"), -torch.ones(features.num_train, dtype=features.goodness.dtype)


def _required_weights(features: CheckpointFeatures) -> Tensor:
    if features.train_weights is None:
        raise TaskError(
            "TRAK needs a measurement with the margin identity ∇ℓ = −(1−p)∇f.",
            "Set margin_identity on a classification task, or use iffim or tracin.",
        )
    return features.train_weights


def _check_rows(rows: Tensor, features: CheckpointFeatures) -> None:
    if rows.shape[0] != features.num_vectors:
        raise UsageError(
            f"Got {rows.shape[0]} feature rows for a checkpoint of {features.num_vectors} vectors.",
            "Rows are train, validation, query and, without the margin identity, train losses.",
        )
