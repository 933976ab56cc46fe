"""Influence functions with Kronecker-factored curvature: EK-FAC, K-FAC and the diagonal approximation.

``score = −Σ_ℓ ⟨Q_SᵀΦ'_ℓQ_A ⊘ (Λ_ℓ+λ), Q_Sᵀ∇W_ℓQ_A⟩`` with Φ' the gradient of the query's goodness and ∇W that of the
training loss (Grosse et al. 2023, arXiv 2308.03296, §3.1; METHODS §3); positive helps. Scores by layer are the terms
of the sum. Parameters outside tracked layers (norms, embeddings, tied weights) take no part, and only if asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tda_backend.errors import NumericalError, UsageError
from tda_backend.features.kronecker import (
    Fisher,
    Kind,
    KroneckerBasis,
    check_kind,
    eigenbasis,
    eigenvalue_correction,
    fisher_targets,
    kronecker_moments,
    rotated_gradients,
)
from tda_backend.features.layers import UntrackedPolicy
from tda_backend.features.streaming import Quantity
from tda_backend.spectral.kronecker import Damping, KroneckerSpectrum, check_damping, kronecker_block
from tda_backend.spectral.kronecker_rows import LayerRows
from tda_backend.types import Batch, Task


@dataclass(frozen=True)
class KroneckerCurvature:
    """A basis and the eigenvalues Λ of each layer in it, ``[d_out, d_in]`` float64."""

    basis: KroneckerBasis
    eigenvalues: tuple[Tensor, ...]


def kronecker_curvature(
    task: Task,
    model: nn.Module,
    data: Batch,
    indices: Sequence[int] | Tensor,
    *,
    kind: Kind = "ekfac",
    fisher: Fisher = "true",
    seed: int = 0,
    num_samples: int = 1,
    targets: Tensor | None = None,
    untracked: UntrackedPolicy = "refuse",
    device: torch.device | str = "cpu",
    batch_size: int = 512,
) -> KroneckerCurvature:
    """Fit the curvature at one checkpoint: moments, eigenvectors, corrected eigenvalues.

    Args:
        task: Loss, and for the true Fisher outputs and sample_targets.
        model: At the checkpoint.
        data: The training split.
        indices: Its rows to fit on.
        kind: ``ekfac``, ``kfac`` or ``diagonal``.
        fisher: ``true`` (targets drawn from the model) or ``empirical`` (the data's targets).
        seed: Of the draws; the same draws serve moments and Λ.
        num_samples: Draws per example.
        targets: Targets instead of draws, ``[num_samples, n]`` or ``[n]``.
        untracked: ``refuse`` or ``leave-out`` parameters outside tracked layers.
        device: Where the passes run.
        batch_size: Examples per pass.
    """
    check_kind(kind)
    if fisher == "true" and targets is None:  # drawn once for moments and Λ
        draw = {"seed": seed, "num_samples": num_samples, "batch_size": batch_size, "device": device}
        targets = fisher_targets(task, model, data, indices, **draw)
    fit = {"fisher": fisher, "seed": seed, "num_samples": num_samples, "targets": targets}
    run = {"batch_size": batch_size, "device": device, "untracked": untracked}
    basis = eigenbasis(kronecker_moments(task, model, data, indices, **fit, **run), kind)
    return KroneckerCurvature(basis, eigenvalue_correction(task, model, data, indices, basis, **fit, **run))


def ekfac_spectrum(
    task: Task,
    model: nn.Module,
    data: Mapping[str, Batch],
    train_indices: Sequence[int] | Tensor,
    validation_indices: Sequence[int] | Tensor,
    query_indices: Sequence[int] | Tensor,
    *,
    kind: Kind = "ekfac",
    fisher: Fisher = "true",
    damping: Damping = "absolute",
    seed: int = 0,
    num_samples: int = 1,
    targets: Tensor | None = None,
    untracked: UntrackedPolicy = "refuse",
    device: torch.device | str = "cpu",
    batch_size: int = 512,
    factors: KroneckerCurvature | None = None,
) -> KroneckerSpectrum:
    """Return the spectrum of Kronecker-factored influence at one checkpoint; every λ is then a filter.

    With ``damping="relative"`` λ is d, a share of each layer's mean Λ (0.1 is the published default), and
    ``Block.scale`` records the mean. The margin identity gives −∇ℓ as (1−p)·∇goodness, which float32 keeps exact
    where 1−p is tiny.

    Args:
        task: Measurement, its sign, and loss.
        model: At the checkpoint; used in eval mode.
        data: ``train`` and ``test`` splits.
        train_indices: Rows of the train split, n.
        validation_indices: Rows of the test split for ξ.
        query_indices: Rows of the test split to attribute.
        kind: See :func:`kronecker_curvature`.
        fisher: See :func:`kronecker_curvature`.
        damping: ``absolute`` or ``relative``.
        seed: Of the true Fisher's draws.
        num_samples: Draws per example.
        targets: Targets instead of draws.
        untracked: ``refuse`` or ``leave-out``.
        device: Where the passes run.
        batch_size: Examples per pass.
        factors: A curvature fitted before, instead of one at this checkpoint on the train rows.

    Raises:
        TaskError: Parameters outside tracked layers are refused, or the task cannot draw targets.
        NumericalError: A gradient is not finite or a layer's curvature is 0 (named).
        UsageError: A group has no examples, or an unknown choice.
    """
    check_damping(damping)
    for group, indices in (("train", train_indices), ("validation", validation_indices), ("query", query_indices)):
        if len(indices) == 0:
            raise UsageError(f"There are no {group} examples.", "Give at least one index for each group.")
    run = {"batch_size": batch_size, "device": device, "untracked": untracked}
    if factors is None:
        factors = kronecker_curvature(
            task,
            model,
            data["train"],
            train_indices,
            kind=kind,
            fisher=fisher,
            seed=seed,
            num_samples=num_samples,
            targets=targets,
            **run,
        )
    basis = factors.basis

    def rows(group: str, split: str, indices: Sequence[int] | Tensor, quantity: Quantity):
        try:
            return rotated_gradients(task, model, data[split], indices, quantity, basis, **run)
        except NumericalError as error:
            raise NumericalError(f"In the {group} examples: {error.message}", error.hint) from error

    if task.margin_identity:
        gradients, goodness = rows("train", "train", train_indices, "goodness")
        train: list[LayerRows] = [part.scaled(torch.sigmoid(-goodness)) for part in gradients]
    else:
        gradients, _ = rows("train", "train", train_indices, "train_loss")
        train = [part.scaled(-1.0) for part in gradients]
    query, _ = rows("query", "test", query_indices, "goodness")
    validation, _ = rows("validation", "test", validation_indices, "goodness")
    blocks = [
        kronecker_block(
            layer.name,
            eigenvalues,
            *parts,
            damping=damping,
            null_outputs=layer.null_deltas,
            null_inputs=layer.null_inputs,
        )
        for layer, eigenvalues, *parts in zip(basis.layers, factors.eigenvalues, train, query, validation, strict=True)
    ]
    return KroneckerSpectrum(tuple(blocks))
