"""Influence functions on the empirical Fisher (IFFIM) and TRAK: from features of a checkpoint to a spectrum.

Signs: scores are [query, train] and positive helps (METHODS §0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tda_backend.errors import TaskError, UsageError
from tda_backend.numerics.features.checkpoint_features import CheckpointFeatures
from tda_backend.numerics.features.factors import GradientFactors
from tda_backend.numerics.features.gram import cross_products, gram_products
from tda_backend.numerics.spectral.coordinates import Spectrum, squares_outside
from tda_backend.numerics.spectral.decompose import (
    RotatedRows,
    corner,
    dual_coordinates,
    leading_dual_coordinates,
    row_coordinates,
)
from tda_backend.numerics.spectral.leading import FORMED_ANEW, Products


def influence_spectrum(
    features: CheckpointFeatures,
    *,
    gram: Tensor | None = None,
    projected: Tensor | None = None,
    overwrite: bool = False,
    num_eigenvalues: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Spectrum:
    """Decompose the empirical Fisher of the training loss at one checkpoint (IFFIM); every λ is then a filter.

    Args:
        features: The checkpoint's features (row order, weights).
        gram: ``[N, N]`` float64 raw inner products for the unprojected answer (dual).
        projected: ``[N, k]`` projected features; primal k × k, or dual where n ≤ k. Exactly one of the two; with
            ``num_eigenvalues`` and a model that has factors neither, for the unprojected answer.
        overwrite: Allow ``gram`` to be destroyed (saves n² float64).
        num_eigenvalues: How many of the largest are kept, without decomposing the whole; ``None``: all.
        dtype: Storage type of the coordinates; eigenvalues are float64.

    Raises:
        UsageError: Not exactly one of ``gram`` and ``projected`` is given.
        NumericalError: The curvature is not finite, zero, or cannot be decomposed.
    """
    rows = _rows(features, train_rows(features), gram, projected, overwrite, num_eigenvalues)
    return _spectrum(features, rows, None, "iffim", dtype)


def trak_spectrum(
    features: CheckpointFeatures,
    *,
    gram: Tensor | None = None,
    projected: Tensor | None = None,
    overwrite: bool = False,
    num_eigenvalues: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Spectrum:
    """Decompose the mean Gram of the margins' gradients at one checkpoint (TRAK); every λ is then a filter.

    Arguments are those of :func:`influence_spectrum`; ``train_weights`` are Q_i = 1 − p_i.

    Raises:
        UsageError: Not exactly one of ``gram`` and ``projected`` is given.
        TaskError: The task has no margin identity.
        NumericalError: The curvature is not finite, zero, or cannot be decomposed.
    """
    weights = features.train_weights
    if weights is None:
        raise TaskError(
            "TRAK needs a measurement with the margin identity ∇ℓ = −(1−p)∇f.",
            "Set margin_identity on a classification task, or use iffim or tracin.",
        )
    rows = _rows(features, (features.rows("train"), None), gram, projected, overwrite, num_eigenvalues)
    return _spectrum(features, rows, weights, "trak", dtype)


class _Rows(Protocol):
    """Inner products or projections of a checkpoint's gradients, in the order of its rows."""

    def coordinates(self, others: Sequence[slice], what: str, dtype: torch.dtype) -> RotatedRows:
        """Return the train rows' eigenbasis, and the other rows in it."""
        ...

    def squares(self, rows: slice) -> Tensor:
        """Return the squared norms of some rows, ``[b]`` float64."""
        ...


@dataclass(frozen=True, eq=False)
class _Projected:
    """Projected gradients ``[N, k]``; the train rows are multiplied by a factor each, or by 1."""

    values: Tensor
    train: slice
    scale: Tensor | None
    num_eigenvalues: int | None

    def coordinates(self, others: Sequence[slice], what: str, dtype: torch.dtype) -> RotatedRows:
        rest = torch.cat([self.values[part] for part in others])
        return row_coordinates(
            self.values[self.train],
            rest,
            what=what,
            dtype=dtype,
            scale=self.scale,
            num_eigenvalues=self.num_eigenvalues,
        )

    def squares(self, rows: slice) -> Tensor:
        return self.values[rows].to(torch.float64).square().sum(1)


@dataclass(frozen=True, eq=False)
class _Gram:
    """Inner products ``[N, N]`` of whole gradients; the train rows are multiplied by a factor each, or by 1.

    Where they may be overwritten, they can be asked for coordinates once, and for squares before that alone.
    """

    values: Tensor
    train: slice
    scale: Tensor | None
    overwrite: bool
    num_eigenvalues: int | None

    def coordinates(self, others: Sequence[slice], what: str, dtype: torch.dtype) -> RotatedRows:
        cross = torch.cat([self.values[part, self.train] for part in others])
        mean_gram = corner(self.values, self.train) if self.overwrite else self.values[self.train, self.train].clone()
        mean_gram /= self.train.stop - self.train.start
        if self.scale is not None:
            factor = self.scale.to(torch.float64)
            mean_gram *= factor
            mean_gram *= factor[:, None]
            cross *= factor
        count = self.num_eigenvalues
        if count is None or count >= len(mean_gram):
            return dual_coordinates(mean_gram, cross, what=what, dtype=dtype)
        trace = float(mean_gram.trace())
        products = Products(len(mean_gram), trace, mean_gram.device, lambda vectors: mean_gram @ vectors)
        return leading_dual_coordinates(products, lambda vectors: cross @ vectors, count, what=what, dtype=dtype)

    def squares(self, rows: slice) -> Tensor:
        return self.values.diagonal()[rows].clone()


@dataclass(frozen=True, eq=False)
class _Factored:
    """Rank-one factors of whole gradients; the train rows are multiplied by a factor each, or by 1."""

    values: GradientFactors
    train: slice
    scale: Tensor | None
    num_eigenvalues: int

    def coordinates(self, others: Sequence[slice], what: str, dtype: torch.dtype) -> RotatedRows:
        train = self.values.select(self.train)
        num_train = train.num_vectors
        factor = train.layers[0].deltas.new_ones(num_train, 1, dtype=torch.float64)
        if self.scale is not None:
            factor *= self.scale[:, None]
        trace = float((train.squared_norms() * factor[:, 0].square()).sum()) / num_train

        def mean_gram(vectors: Tensor) -> Tensor:
            return (factor * gram_products(train, factor * vectors)).div_(num_train)

        def cross(vectors: Tensor) -> Tensor:
            weighted = factor * vectors
            return torch.cat([cross_products(self.values.select(part), train, weighted) for part in others])

        products = Products(num_train, trace, self.values.device, mean_gram, FORMED_ANEW)
        return leading_dual_coordinates(products, cross, self.num_eigenvalues, what=what, dtype=dtype)

    def squares(self, rows: slice) -> Tensor:
        return self.values.select(rows).squared_norms()


def _rows(
    features: CheckpointFeatures,
    train: tuple[slice, Tensor | None],
    gram: Tensor | None,
    projected: Tensor | None,
    overwrite: bool,
    num_eigenvalues: int | None,
) -> _Rows:
    if projected is not None and gram is None:
        check_rows(projected, features)
        return _Projected(projected, *train, num_eigenvalues)
    if gram is not None and projected is None:
        check_rows(gram, features)
        return _Gram(gram, *train, overwrite, num_eigenvalues)
    if gram is None and projected is None and features.factors is not None and num_eigenvalues is not None:
        return _Factored(features.factors, *train, num_eigenvalues)
    raise UsageError("Give exactly one of gram and projected.", "gram: unprojected; projected: [N, k] features.")


def _spectrum(
    features: CheckpointFeatures, rows: _Rows, weights: Tensor | None, what: str, dtype: torch.dtype
) -> Spectrum:
    query = features.rows("query")
    squares = rows.squares(query)
    basis = rows.coordinates([query, features.rows("validation")], what, dtype)
    num_query = query.stop - query.start
    return Spectrum(
        eigenvalues=basis.eigenvalues,
        train=basis.train,
        query=basis.others[:num_query],
        validation=basis.others[num_query:],
        train_weights=None if weights is None else weights.to(dtype),
        num_cut=basis.num_cut,
        left_out=basis.left_out,
        query_outside=squares_outside(squares, basis.others[:num_query]),
    )


def train_rows(features: CheckpointFeatures) -> tuple[slice, Tensor]:
    """Return the rows to take as train features and the factor on each that makes them −∇ℓ, ``[n]``."""
    if features.loss_scale is not None:
        return features.rows("train"), -features.loss_scale
    return features.rows("train_loss"), -torch.ones_like(features.goodness[: features.num_train])


def check_rows(rows: Tensor, features: CheckpointFeatures) -> None:
    """Raise a UsageError unless there is one row per vector of the checkpoint."""
    if rows.shape[0] != features.num_vectors:
        raise UsageError(
            f"Got {rows.shape[0]} feature rows for a checkpoint of {features.num_vectors} vectors.",
            "Rows are train, validation, query and, without the margin identity, train losses.",
        )
