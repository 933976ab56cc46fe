"""Influence functions and TRAK from one eigendecomposition per checkpoint and projection; every λ is a filter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from tda_backend.errors import StudyError
from tda_backend.numerics.attribution.influence import influence_spectrum, trak_spectrum
from tda_backend.numerics.features.checkpoint_features import CheckpointFeatures
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.numerics.spectral.filters.krylov import Krylov
from tda_backend.numerics.spectral.filters.lissa import LissaMean
from tda_backend.studies.config.configuration import Configuration, Parameters
from tda_backend.studies.config.hyperparameter import NONE, Hyperparameter
from tda_backend.studies.config.study import Study
from tda_backend.studies.contract.method import EMPIRICAL_FISHER, Settings, Style, no_training
from tda_backend.studies.methods.checks import (
    NEED_OUTPUTS,
    SMALL_MODEL,
    check_matrix,
    check_projection,
    explicit_curvatures,
    quick_curvature,
)
from tda_backend.studies.methods.explicit import FAMILY, IF_EXPLICIT, without_indefinite
from tda_backend.studies.methods.hyperparameters import (
    BLUE,
    CURVATURE,
    DASHES,
    DEPTH,
    EPOCHS,
    HESSIAN,
    INDEFINITE,
    INFLUENCE,
    MAX_ITER,
    PROJECTION,
    SCALING,
    UNPROJECTED,
    VIOLET,
)
from tda_backend.studies.methods.truncating import LEADING, Truncating
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.steps.coordinates import plan_coordinates, structured
from tda_backend.studies.steps.spectrum import DecomposesGradients, plan_spectrum
from tda_backend.studies.steps.train import plan_half_models


@dataclass(frozen=True, kw_only=True)
class SpectralMethod(DecomposesGradients):
    """A method on a checkpoint's Gram matrix or projected features."""

    RECIPE = "spectrum"
    RANK = 0
    HAS_REGULARIZATION = True
    QUICK_KEEPS_EPOCHS = True

    @property
    def gradients(self) -> tuple[str, str]:
        """Whose gradients are decomposed: key and title of the method that they are named after."""
        return IFFIM.name, IFFIM.title

    def decompose(
        self,
        features: CheckpointFeatures,
        *,
        gram: Tensor | None = None,
        projected: Tensor | None = None,
        overwrite: bool = False,
        num_eigenvalues: int | None = None,
    ) -> Spectrum:
        """Return the spectrum of the loss gradients."""
        return influence_spectrum(
            features, gram=gram, projected=projected, overwrite=overwrite, num_eigenvalues=num_eigenvalues
        )

    def sources(self, planning: Planning, configuration: Configuration) -> tuple[Step, ...]:
        """Add the spectrum of every training seed."""
        return tuple(
            plan_spectrum(planning, configuration, trained, (seed,), self.gradients, planning.of_seed(seed))
            for seed, trained in enumerate(planning.trained)
        )

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise a StudyError where task or model do not fit."""
        super().check(settings, study, facts)
        check_projection(self.name, settings, study, facts)

    def quick_projection(self, settings: Settings, dim: int, num_parameters: int) -> dict[str, Any]:
        """Return one k beside the unprojected answer."""
        return {"projection_dim": [dim, NONE]}

    def is_preview(self, configuration: Configuration) -> bool:
        """Return whether a configuration is cheap to show early."""
        return True


@dataclass(frozen=True, kw_only=True)
class Influence(Truncating, SpectralMethod):
    """Influence functions with the empirical Fisher."""


@dataclass(frozen=True, kw_only=True)
class Trak(Truncating, SpectralMethod):
    """TRAK: features of the margin, scores and weights averaged apart."""

    @property
    def gradients(self) -> tuple[str, str]:
        """Its own: those of the margin."""
        return self.name, self.title

    def decompose(
        self,
        features: CheckpointFeatures,
        *,
        gram: Tensor | None = None,
        projected: Tensor | None = None,
        overwrite: bool = False,
        num_eigenvalues: int | None = None,
    ) -> Spectrum:
        """Return the spectrum of the margin's gradients."""
        return trak_spectrum(
            features, gram=gram, projected=projected, overwrite=overwrite, num_eigenvalues=num_eigenvalues
        )

    def sources(self, planning: Planning, configuration: Configuration) -> tuple[Step, ...]:
        """Add the spectrum of every training seed, or of every model of half the data."""
        count = configuration.parameters.get(HALVES.name)
        if not count:
            return super().sources(planning, configuration)
        return tuple(
            plan_spectrum(
                planning, configuration, trained, ("half", number), self.gradients, f" half-subset model {number + 1}"
            )
            for number, trained in enumerate(plan_half_models(planning, count))
        )

    def num_sources(self, parameters: Parameters, num_seeds: int) -> int:
        """Return the models of half the data, or the seeds."""
        return parameters.get(HALVES.name) or num_seeds

    def title_of(self, parameters: Parameters, num_seeds: int) -> str:
        """Return TRAK-M for an ensemble of M."""
        num = self.num_sources(parameters, num_seeds)
        title = f"{self.title}-{num}" if num > 1 else self.title
        return f"{title} (half subsets)" if parameters.get(HALVES.name) else title

    def is_preview(self, configuration: Configuration) -> bool:
        """Return whether it needs no models of its own."""
        return not configuration.parameters.get(HALVES.name)

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise a StudyError where task or model do not fit."""
        super().check(settings, study, facts)
        if any(settings.get(HALVES.name, [])) and not facts.trains:
            raise StudyError(
                f"methods.{self.name}.{HALVES.name} needs {no_training()}; the task {facts.task.name!r} has none.",
                f"Set methods.{self.name}.{HALVES.name} = 0: the given checkpoints alone.",
            )


@dataclass(frozen=True, kw_only=True)
class Solver(SpectralMethod):
    """An iterative solver as a filter: on the features of the Fisher, or on the coordinates of another curvature."""

    def parameters(self, values: Parameters, settings: Settings, epoch: int) -> dict[str, Any]:
        """Return the values; what becomes of negative eigenvalues matters where there may be some."""
        return without_indefinite(values)

    def needed(self, settings: Settings) -> set[str]:
        """Return what a task must have with these settings."""
        return set(self.needs) | ({"outputs"} if NEED_OUTPUTS & set(settings.get("curvature", [])) else set())

    def sources(self, planning: Planning, configuration: Configuration) -> tuple[Step, ...]:
        """Add spectra, or the coordinates of an explicit curvature."""
        if _is_empirical(configuration.parameters):
            return super().sources(planning, configuration)
        return plan_coordinates(planning, configuration, self, IF_EXPLICIT.name)

    def projection_kind(self, parameters: Parameters, kind: str) -> str:
        """Return how a configuration projects: what is not drawn from a Gram matrix is structured."""
        return kind if _is_empirical(parameters) else structured(kind)

    def is_preview(self, configuration: Configuration) -> bool:
        """Return no: the plain answers come first."""
        return False

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise a StudyError where task or model do not fit."""
        super().check(settings, study, facts)
        check_matrix(self.name, settings, explicit_curvatures(settings), study, facts)

    def quick_projection(self, settings: Settings, dim: int, num_parameters: int) -> dict[str, Any]:
        """Return one k beside the unprojected answer; a projected curvature for all but small models."""
        curvatures: Sequence[str] = settings.get("curvature", self.usual_values("curvature"))
        if set(curvatures) - {EMPIRICAL_FISHER} and num_parameters > SMALL_MODEL:
            return quick_curvature(curvatures, dim)
        return {"projection_dim": [NONE] if HESSIAN in curvatures else [dim, NONE]}


def _is_empirical(parameters: Parameters) -> bool:
    return parameters.get("curvature", EMPIRICAL_FISHER) == EMPIRICAL_FISHER


HALVES = Hyperparameter(
    "half_subset_models",
    "whole",
    "models trained on random halves of the data; 0: the seeds' own",
    (0,),
    (0, 10),
    low=0,
    is_labelled=False,
    quick=3,
    counts_repeats=True,
)
IFFIM = Influence(
    name="iffim",
    title="Influence function (FIM)",
    curve="exact filter",
    features=INFLUENCE,
    curvature="empirical Fisher",
    reduction="mean",
    formula="−φ'ᵀ (F + λI)⁻¹ g_i,  F = JᵀJ/n",
    hyperparameters=(EPOCHS, PROJECTION, UNPROJECTED, LEADING),
    cost="one gradient pass; N²·(d_in+d_out) products; one eigendecomposition of min(n, k)",
    reference="arXiv 2505.24261, §2 and appendix A",
    style=Style(FAMILY, BLUE, DASHES[0]),
    default_regularization=0.0,
    short_title="IFFIM",
    is_usual=True,
)
TRAK = Trak(
    name="trak",
    title="TRAK",
    curve="exact filter",
    features="∇margin · ∇margin",
    curvature="margin Gram",
    reduction="product of means",
    formula="[mean_m φ_mᵀ (Φ_mᵀΦ_m/n + λI)⁻¹ Φ_mᵀ] ⊙ [mean_m (1 − p_i)]",
    hyperparameters=(EPOCHS, PROJECTION, UNPROJECTED, HALVES, LEADING),
    cost="as iffim, once per model",
    reference="arXiv 2303.14186, §3",
    style=Style("margin features", VIOLET),
    needs=("margin",),
    default_regularization=0.0,
    is_usual=True,
)
IF_CG = Solver(
    name="if-cg",
    title="Influence function (CG)",
    curve="exact filter",
    features=INFLUENCE,
    curvature="empirical Fisher; others for small models",
    reduction="mean",
    formula="−p_t(F + λI; φ')ᵀ g_i,  t steps of conjugate gradients from x₀ = φ'",
    hyperparameters=(EPOCHS, PROJECTION, CURVATURE, replace(MAX_ITER, in_filter=True), INDEFINITE),
    cost="the coordinates of iffim; t·r per query and λ",
    reference="arXiv 2505.24261, appendix A.1",
    style=Style(FAMILY, BLUE, DASHES[1]),
    phi=Krylov,
    default_regularization=1e-2,
)
IF_LISSA = Solver(
    name="if-lissa",
    title="Influence function (LiSSA)",
    curve="mean of a stochastic method",
    features=INFLUENCE,
    curvature="empirical Fisher; others for small models",
    reduction="mean",
    formula="−φ'ᵀ [1−(1−(F+λ)/s)^{T+1}](F+λ)⁻¹ g_i",
    hyperparameters=(
        EPOCHS,
        PROJECTION,
        CURVATURE,
        replace(SCALING, in_filter=True),
        replace(DEPTH, in_filter=True),
        INDEFINITE,
    ),
    cost="the coordinates of iffim",
    reference="arXiv 1602.03943; 2505.24261, appendix A.1",
    style=Style(FAMILY, BLUE, DASHES[2]),
    phi=LissaMean,
    default_regularization=1e-3,
)
