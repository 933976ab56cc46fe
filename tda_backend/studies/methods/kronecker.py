"""Influence functions layer by layer: in one Kronecker basis per layer, or projected by one (LoGra)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from tda_backend.numerics.attribution.ekfac import ekfac_spectrum
from tda_backend.numerics.attribution.logra import logra_spectrum
from tda_backend.numerics.curvature.kronecker.basis import Kind
from tda_backend.numerics.curvature.kronecker.fisher import Fisher
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.numerics.spectral.kronecker.spectrum import KroneckerSpectrum
from tda_backend.studies.config.configuration import Configuration, Parameters
from tda_backend.studies.config.hyperparameter import Hyperparameter
from tda_backend.studies.config.study import Study
from tda_backend.studies.contract.method import Settings, Style
from tda_backend.studies.methods.checks import check_untracked
from tda_backend.studies.methods.hyperparameters import (
    DAMPING,
    DASHES,
    EPOCHS,
    FISHER,
    INFLUENCE,
    RELATIVE,
    TEAL,
    UNTRACKED,
)
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.sizes import doubles
from tda_backend.studies.steps.coordinates import CoordinateMethod, Curvature, Kronecker, KroneckerMethod

FAMILY = "by layer"
USUAL_SHARE = 0.1
"""Damping relative to the mean eigenvalue, EK-FAC's usual choice."""


def needed_by_fisher(needs: tuple[str, ...], settings: Settings) -> set[str]:
    """Return what a task must have: the empirical Fisher draws no labels and needs no outputs."""
    return set(needs) - ({"outputs"} if set(settings.get(FISHER.name, [])) == {"empirical"} else set())


@dataclass(frozen=True, kw_only=True)
class KroneckerInfluence(KroneckerMethod):
    """EK-FAC and its simpler kin, which differ in how the eigenvalues are found.

    Attributes:
        kind: How.
    """

    kind: Kind = "ekfac"

    def to_json(self) -> dict[str, Any]:
        """Return the row as ``tda methods --json`` prints it."""
        return {name: value for name, value in super().to_json().items() if name != "kind"}

    def factors(self, context: RunContext, step: Kronecker) -> KroneckerSpectrum:
        """Return factors, eigenvalues and rotated gradients of one training seed."""
        probe = context.probe(step, context.model(step.train, step.epoch))
        parameters = dict(step.parameters)
        fisher = Fisher(parameters.pop(FISHER.name), step.seed)
        return ekfac_spectrum(probe, kind=self.kind, fisher=fisher, **parameters)

    def default_for(self, parameters: Parameters) -> float | None:
        """Return the papers' λ; a share of the mean eigenvalue where damping is relative."""
        return USUAL_SHARE if parameters.get(DAMPING.name) == RELATIVE else self.default_regularization

    def needed(self, settings: Settings) -> set[str]:
        """Return what a task must have with these settings."""
        return needed_by_fisher(self.needs, settings)

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise a StudyError where task or model do not fit."""
        super().check(settings, study, facts)
        check_untracked(self.name, settings, facts)


@dataclass(frozen=True, kw_only=True)
class LoGra(CoordinateMethod):
    """Gradients projected layer by layer with a Kronecker product."""

    def num_coordinates(self, planning: Planning, configuration: Configuration) -> float:
        """Return the sum of all layers: rank by rank, or less where a layer is narrower."""
        rank = configuration.parameters["rank"]
        return sum(min(rank, outputs) * min(rank, inputs) for outputs, inputs in planning.sizes.layers)

    def making_gib(self, planning: Planning, configuration: Configuration) -> float:
        """Return what making them holds: projected gradients, coordinates, and one layer's decomposition."""
        sizes, rank = planning.sizes, configuration.parameters["rank"]
        widest = max((min(rank, o) * min(rank, i) for o, i in sizes.layers), default=0)
        inner = min(widest, sizes.num_train)
        projected = sizes.numbers(sizes.num_train + sizes.num_others, self.num_coordinates(planning, configuration))
        joined = 2 * self.source_gib(planning, configuration)
        return max(joined, projected + sizes.coordinates(widest) + 4 * doubles(inner, inner))

    def coordinates(self, context: RunContext, step: Curvature) -> Spectrum:
        """Return the coordinates in the eigenvectors of each layer's projected Fisher."""
        probe = context.probe(step, context.model(step.train, step.epoch))
        return logra_spectrum(probe, **step.parameters, seed=step.seed)

    def default_for(self, parameters: Parameters) -> float | None:
        """Return the paper's λ, which is relative; none where damping is absolute."""
        return self.default_regularization if parameters.get(DAMPING.name) == RELATIVE else None

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise a StudyError where task or model do not fit."""
        super().check(settings, study, facts)
        check_untracked(self.name, settings, facts)


def _kronecker(name: Kind, title: str, dash: str, **says: Any) -> KroneckerInfluence:
    return KroneckerInfluence(
        name=name,
        kind=name,
        title=title,
        curve="exact filter",
        features=INFLUENCE,
        reduction="mean",
        hyperparameters=(EPOCHS, FISHER, DAMPING, UNTRACKED),
        style=Style(FAMILY, TEAL, dash),
        needs=("outputs",),
        default_regularization=1e-8,
        **says,
    )


EKFAC = _kronecker(
    "ekfac",
    "EK-FAC influence",
    DASHES[0],
    curvature="Kronecker basis, corrected eigenvalues",
    formula="−Σ_layers (Q_SᵀΦ'Q_A) · (Q_Sᵀ G_i Q_A) ⊘ (Λ + λ)",
    cost="two gradient passes for factors, one for rotation; 2·m·n·p products per λ",
    reference="arXiv 2308.03296, §2.4",
)
KFAC = _kronecker(
    "kfac",
    "K-FAC influence",
    DASHES[1],
    curvature="Kronecker factors",
    formula="as EK-FAC with Λ = D_S ⊗ D_A",
    cost="one gradient pass less than EK-FAC",
    reference="arXiv 1503.05671; 2308.03296",
)
DIAGONAL = _kronecker(
    "diagonal",
    "Diagonal Fisher influence",
    DASHES[2],
    curvature="diagonal of the Fisher",
    formula="−Σ_j φ'_j g_ij / (F_jj + λ)",
    cost="one gradient pass",
    reference="arXiv 2308.03296, appendix",
)
LOGRA = LoGra(
    name="logra",
    title="LoGra",
    curve="exact filter",
    features="Kronecker-projected ∇goodness · −∇ℓ, per layer",
    curvature="empirical Fisher of the projected gradients, per layer",
    reduction="mean",
    formula="−Σ_layers φ̃'ᵀ (C + d·tr(C)/dim·I)⁻¹ g̃_i",
    hyperparameters=(
        EPOCHS,
        Hyperparameter("rank", "whole", "projection rank on each side of a layer", (64,), (16, 32, 64), quick=16),
        Hyperparameter(
            "initialization",
            "choice",
            "random, or top eigenvectors of the layer's factors",
            ("random",),
            choices=("random", "pca"),
        ),
        replace(DAMPING, default=(RELATIVE,)),
        UNTRACKED,
    ),
    cost="one gradient pass; one eigendecomposition of min(n, rank²) per layer",
    reference="arXiv 2405.13954, §3",
    style=Style(FAMILY, TEAL, DASHES[3]),
    default_regularization=1e-3,
)
