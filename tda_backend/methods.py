"""The table of methods, and the one route from features to spectral coordinates or scores.

A gradient-based method is features → basis → filter → contraction; a new filter method is one row of ``METHODS`` and
one row of the test matrix. Signs: scores are [query, train] and positive helps (METHODS §0).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tda_backend.errors import UsageError


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
