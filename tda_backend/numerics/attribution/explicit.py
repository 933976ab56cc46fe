"""Influence functions with an explicit curvature: Hessian, Gauss–Newton, empirical or true Fisher of the mean loss.

score = −φ'ᵀ(C + λI)⁻¹∇ℓ_i with C formed and decomposed (METHODS §3; Taming, arXiv 2505.24261, §2.1). Without a
projection that is p × p in float64, for models of up to ``MAX_PARAMETERS`` parameters; the float64 copy of model and
data keeps rounding below what decides whether a Hessian is indefinite. With a projection the k × k matrix P C Pᵀ is
summed from projected pseudo-gradients, for models of any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tda_backend.blocks import spans
from tda_backend.errors import NumericalError, UsageError
from tda_backend.finite import all_finite
from tda_backend.models.probe import GROUPS, Group, Probe
from tda_backend.numerics.curvature.indefinite import (
    IndefinitePolicy,
    SignedEigenpairs,
    check_policy,
    signed_spectrum,
)
from tda_backend.numerics.curvature.matrix import (
    matrix_in_float64,
    probe_in_float64,
    projected_gradients,
    projected_matrix,
)
from tda_backend.numerics.curvature.parameters import flat_gradients
from tda_backend.numerics.curvature.pseudo_gradients import Curvature
from tda_backend.numerics.features.projection import Projection
from tda_backend.numerics.features.streaming import Quantity, naming_group
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.numerics.spectral.decompose import eigh_in_place

_ROWS = 1024


def explicit_spectrum(
    probe: Probe,
    curvature: Curvature,
    *,
    indefinite: IndefinitePolicy = "refuse",
    projection: Projection | None = None,
    dtype: torch.dtype = torch.float32,
) -> Spectrum:
    """Return spectral coordinates in the complete eigenbasis of an explicit curvature.

    λ = 0 is refused by the spectrum's filter where the curvature is singular.

    Args:
        probe: Task (with ``outputs`` and the like for ggn and true-fisher), model, and the rows of all groups.
        curvature: C.
        indefinite: What to do with a Hessian's negative eigenvalues: ``refuse``, ``absolute`` or ``clip``.
        projection: Any kind with an explicit product; not for the Hessian.
        dtype: Storage type of the coordinates.

    Raises:
        UsageError: Unknown policy; a model above the limit; a projection of the Hessian, or one larger than the
            parameters.
        TaskError: A group is empty, or the task lacks what the curvature needs.
        NumericalError: An indefinite Hessian with the policy ``refuse``, a curvature that is zero, or a gradient that
            is not finite.
    """
    check_policy(indefinite)
    probe.refuse_empty()
    what = f"{curvature.kind} of task {probe.task.name!r}"
    if projection is not None:
        gradients = _projected(probe, curvature, projection)
        matrix = projected_matrix(probe, curvature, projection, gradients.train)
        what = f"{what}, projected to {projection.max_dim}"
    else:
        gradients = _Streamed(probe_in_float64(probe))
        matrix = matrix_in_float64(gradients.probe, curvature)
    size = len(matrix)
    values, basis = _eigenpairs(matrix, what)
    del matrix
    train, _ = _in_basis(gradients.of("train"), basis)
    validation, _ = _in_basis(gradients.of("validation"), basis)
    query, squares = _in_basis(gradients.of("query"), basis)
    del basis
    pairs = SignedEigenpairs(
        values,
        train=train.neg_(),
        query=query,
        validation=validation,
        query_squares=squares,
        rounding=max(probe.count("train"), size) * torch.finfo(torch.float64).eps,
        what=what,
    )
    return signed_spectrum(pairs, indefinite, dtype)


@dataclass(frozen=True, eq=False)
class _Streamed:
    """Whole gradients in float64, taken a few rows at a time."""

    probe: Probe

    def of(self, group: Group) -> Iterator[Tensor]:
        """Yield the gradients of a group, ``[b, p]``."""
        rows = self.probe.rows(group)
        for some in spans(len(rows), _ROWS):
            with naming_group(group):
                part = flat_gradients(self.probe.only(group, rows[some]), group, _quantity(group))
            yield part


@dataclass(frozen=True, eq=False)
class _Projected:
    """Projected gradients of every group, ``[N, k]``."""

    train: Tensor
    validation: Tensor
    query: Tensor

    def of(self, group: Group) -> Iterator[Tensor]:
        """Yield the projected gradients of a group, ``[b, k]`` float64."""
        rows: Tensor = getattr(self, group)
        for part in spans(len(rows), _ROWS):
            yield rows[part].to(torch.float64)


def _projected(probe: Probe, curvature: Curvature, projection: Projection) -> _Projected:
    if curvature.kind == "hessian":
        raise UsageError(
            "The Hessian is not a mean of outer products and cannot be projected by its gradients.",
            "Use ggn, true-fisher or empirical-fisher with a projection, or no projection.",
        )
    rows = []
    for group in GROUPS:
        with naming_group(group):
            rows.append(projected_gradients(probe, group, _quantity(group), projection))
    return _Projected(*rows)


def _in_basis(parts: Iterator[Tensor], basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return the coordinates of gradients ``[N, r]`` in a basis ``[p, r]``, and their squared norms ``[N]``."""
    pairs = [(part @ basis, part.square().sum(1)) for part in parts]
    coordinates, squares = (torch.cat(same) for same in zip(*pairs, strict=True))
    return coordinates, squares


def _quantity(group: Group) -> Quantity:
    """Return what is differentiated: the loss of train examples, the goodness of the others."""
    return "train_loss" if group == "train" else "goodness"


def _eigenpairs(matrix: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Return all eigenpairs of a symmetric matrix, ascending, **destroying the matrix**."""
    if not all_finite(matrix):
        raise NumericalError(f"The {what} has entries that are not finite.", "Look for NaN or overflow in the data.")
    try:
        values, vectors = eigh_in_place(matrix)
    except np.linalg.LinAlgError as error:
        raise NumericalError(
            f"The eigendecomposition of the {what} did not converge ({error}).", "Use a projection, or iffim."
        ) from error
    return values, vectors
