"""Influence functions with Kronecker-factored curvature: EK-FAC, K-FAC and the diagonal approximation.

``score = −Σ_ℓ ⟨Q_SᵀΦ'_ℓQ_A ⊘ (Λ_ℓ+λ), Q_Sᵀ∇W_ℓQ_A⟩`` with Φ' the gradient of the query's goodness and ∇W that of the
training loss (Grosse et al. 2023, arXiv 2308.03296, §3.1; METHODS §3); positive helps. Scores by layer are the terms
of the sum. Parameters outside tracked layers (norms, embeddings, tied weights) take no part, and only if asked for.
"""

from __future__ import annotations

import torch

from tda_backend.errors import UsageError
from tda_backend.models.probe import GROUPS, Group, Probe
from tda_backend.numerics.curvature.kronecker.basis import EKFAC, Kind, KroneckerBasis
from tda_backend.numerics.curvature.kronecker.fisher import Fisher
from tda_backend.numerics.curvature.kronecker.fit import KroneckerCurvature, kronecker_curvature, rotated_gradients
from tda_backend.numerics.features.layers import UntrackedPolicy
from tda_backend.numerics.features.streaming import naming_group
from tda_backend.numerics.spectral.kronecker.rows import LayerRows
from tda_backend.numerics.spectral.kronecker.spectrum import (
    Damping,
    KroneckerBlock,
    KroneckerSpectrum,
    check_damping,
    kronecker_block,
)


def ekfac_spectrum(
    probe: Probe,
    *,
    kind: Kind = EKFAC,
    fisher: Fisher | None = None,
    damping: Damping = "absolute",
    untracked: UntrackedPolicy = "refuse",
    fitted: KroneckerCurvature | None = None,
) -> KroneckerSpectrum:
    """Return the spectrum of Kronecker-factored influence at one checkpoint; every λ is then a filter.

    With ``damping="relative"`` λ is d, a share of each layer's mean Λ (0.1 is the published default), and
    ``Block.scale`` records the mean. The margin identity gives −∇ℓ as (1−p)·∇goodness, which float32 keeps exact
    where 1−p is tiny.

    Args:
        probe: Task, model, and the rows of all groups.
        kind: See :func:`~tda_backend.numerics.curvature.kronecker.fit.kronecker_curvature`.
        fisher: Which Fisher information; ``None`` for the true one.
        damping: ``absolute`` or ``relative``.
        untracked: ``refuse`` or ``leave-out`` parameters outside tracked layers.
        fitted: A curvature fitted before, instead of one at this checkpoint on the train rows.

    Raises:
        TaskError: Parameters outside tracked layers are refused, or the task cannot draw targets.
        NumericalError: A gradient is not finite or a layer's curvature is 0 (named).
        UsageError: A group has no examples, or an unknown choice.
    """
    check_damping(damping)
    for group in GROUPS:
        if probe.count(group) == 0:
            raise UsageError(f"There are no {group} examples.", "Give at least one index for each group.")
    curvature = kronecker_curvature(probe, kind, fisher, untracked) if fitted is None else fitted
    basis = curvature.basis
    groups = [_rows(probe, group, basis, untracked) for group in GROUPS]
    blocks = []
    for layer, eigenvalues, train, validation, query in zip(basis.layers, curvature.eigenvalues, *groups, strict=True):
        raw = KroneckerBlock(layer.name, eigenvalues, train, query, validation)
        blocks.append(kronecker_block(raw, damping, null_outputs=layer.null_deltas, null_inputs=layer.null_inputs))
    return KroneckerSpectrum(tuple(blocks))


def _rows(probe: Probe, group: Group, basis: KroneckerBasis, untracked: UntrackedPolicy) -> list[LayerRows]:
    """Return −∇ℓ of the train examples, ∇goodness of the others, layer by layer in the basis."""
    margins = group != "train" or probe.task.margin_identity
    with naming_group(group):
        gradients, goodness = rotated_gradients(probe, group, "goodness" if margins else "train_loss", basis, untracked)
    if group != "train":
        return list(gradients)
    scale = torch.sigmoid(-goodness) if margins else -1.0
    return [part.scaled(scale) for part in gradients]
