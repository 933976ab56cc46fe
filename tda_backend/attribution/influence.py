"""Influence functions on the empirical Fisher (IFFIM) and TRAK: from features of a checkpoint to a spectrum.

Signs: scores are [query, train] and positive helps (METHODS §0).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tda_backend.errors import TaskError, UsageError
from tda_backend.features.checkpoint_features import CheckpointFeatures
from tda_backend.spectral.coordinates import Spectrum, squares_outside
from tda_backend.spectral.decompose import dual_coordinates, primal_coordinates

SPECTRAL = ("iffim", "trak")


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
    if method_name not in SPECTRAL:
        raise UsageError(f"Method {method_name!r} has no spectrum here.", f"Allowed: {', '.join(SPECTRAL)}.")
    if (gram is None) == (projected is None):
        raise UsageError("Give exactly one of gram and projected.", "gram: unprojected; projected: [N, k] features.")
    margins = method_name == "trak"
    weights = _required_weights(features) if margins else None
    rows, scale = train_rows(features, margins=margins)
    others = [features.rows("query"), features.rows("validation")]
    what = f"{method_name}"
    if projected is not None:
        check_rows(projected, features)
        train = projected[rows] if scale is None else projected[rows] * scale[:, None].to(projected.dtype)
        others_rows = torch.cat([projected[part] for part in others])
        squares = projected[others[0]].to(torch.float64).square().sum(1)
        if train.shape[0] > train.shape[1]:
            basis = primal_coordinates(train, others_rows, what=what, dtype=dtype)
        else:
            wide = train.to(torch.float64)
            mean_gram = wide @ wide.T
            mean_gram /= len(wide)
            basis = dual_coordinates(mean_gram, others_rows.to(torch.float64) @ wide.T, what=what, dtype=dtype)
    else:
        assert gram is not None
        check_rows(gram, features)
        mean_gram = gram[rows, rows] / features.num_train
        cross = torch.cat([gram[part, rows] for part in others])
        if scale is not None:
            factor = scale.to(torch.float64)
            mean_gram *= factor
            mean_gram *= factor[:, None]
            cross *= factor
        basis = dual_coordinates(mean_gram, cross, what=what, dtype=dtype)
        squares = gram.diagonal()[others[0]].clone()
    num_query = features.counts["query"]
    return Spectrum(
        eigenvalues=basis.eigenvalues,
        train=basis.train,
        query=basis.others[:num_query],
        validation=basis.others[num_query:],
        train_weights=None if weights is None else weights.to(dtype),
        num_cut=basis.num_cut,
        query_outside=squares_outside(squares, basis.others[:num_query]),
    )


def train_rows(features: CheckpointFeatures, *, margins: bool = False) -> tuple[slice, Tensor | None]:
    """Return the rows to take as train features and the factor on each that makes them −∇ℓ (or ∇goodness for TRAK)."""
    if margins:
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


def check_rows(rows: Tensor, features: CheckpointFeatures) -> None:
    """Raise a UsageError unless there is one row per vector of the checkpoint."""
    if rows.shape[0] != features.num_vectors:
        raise UsageError(
            f"Got {rows.shape[0]} feature rows for a checkpoint of {features.num_vectors} vectors.",
            "Rows are train, validation, query and, without the margin identity, train losses.",
        )
