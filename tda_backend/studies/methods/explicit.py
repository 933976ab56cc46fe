"""Influence functions with an explicit curvature: its matrix, a Krylov basis of it, or runs of iterative solvers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tda_backend.errors import StudyError
from tda_backend.numerics.attribution.arnoldi import arnoldi_spectrum
from tda_backend.numerics.attribution.conjugate_gradient import conjugate_gradient_scores
from tda_backend.numerics.attribution.explicit import explicit_spectrum
from tda_backend.numerics.attribution.lissa import LissaSettings, lissa_scores
from tda_backend.numerics.curvature.problem import AmbientProblem, ambient_problem
from tda_backend.numerics.curvature.pseudo_gradients import Curvature
from tda_backend.numerics.spectral.contraction import ScoreMatrix
from tda_backend.numerics.spectral.coordinates import Spectrum
from tda_backend.numerics.spectral.filters.base import Filter
from tda_backend.numerics.spectral.filters.damped import StrictDampedInverse
from tda_backend.seeds import hashed_seed
from tda_backend.studies.config.configuration import Configuration, Parameters
from tda_backend.studies.config.hyperparameter import Hyperparameter
from tda_backend.studies.config.study import Study
from tda_backend.studies.contract.method import EMPIRICAL_FISHER, Settings, Style
from tda_backend.studies.methods.checks import (
    NEED_OUTPUTS,
    SMALL_MODEL,
    check_matrix,
    check_products,
    check_projection,
    quick_curvature,
)
from tda_backend.studies.methods.hyperparameters import (
    BLUE,
    CURVATURE,
    CURVATURES,
    DASHES,
    DEPTH,
    EPOCHS,
    GGN,
    HESSIAN,
    INDEFINITE,
    INFLUENCE,
    MAX_ITER,
    PROJECTION,
    REGULARIZATION,
    SCALING,
)
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.pipeline.planning import Planning
from tda_backend.studies.pipeline.sizes import doubles
from tda_backend.studies.steps.coordinates import CoordinateMethod
from tda_backend.studies.steps.coordinates import Curvature as CurvatureStep
from tda_backend.studies.steps.scores import ScoreMethod, Scores

FAMILY = "influence functions"
OF_RUNS = Hyperparameter(
    "curvature", "choice", CURVATURE.meaning, (EMPIRICAL_FISHER,), choices=(EMPIRICAL_FISHER, GGN, HESSIAN)
)


BATCH_SIZE = Hyperparameter("batch_size", "whole", "examples of each step's batch", (50,))
REPEATS = Hyperparameter("repeats", "whole", "independent recursions to average", 1, sweep=False)


class _WithCurvature:
    """What methods of this file have in common: curvatures may need the task's outputs."""

    needs: tuple[str, ...]

    def needed(self, settings: Settings) -> set[str]:
        """Return what a task must have with these settings."""
        return set(self.needs) | ({"outputs"} if NEED_OUTPUTS & set(settings.get("curvature", [])) else set())


@dataclass(frozen=True, kw_only=True)
class Explicit(_WithCurvature, CoordinateMethod):
    """Influence functions by the eigendecomposition of a p × p curvature, or of a projected one."""

    phi: type[Filter] = StrictDampedInverse

    def parameters(self, values: Parameters, settings: Settings, epoch: int) -> dict[str, Any]:
        """Return the values; what becomes of negative eigenvalues matters where there may be some."""
        return without_indefinite(values)

    def coordinates(self, context: RunContext, step: CurvatureStep) -> Spectrum:
        """Return the coordinates in the eigenvectors of the curvature."""
        probe = context.probe(step, context.model(step.train, step.epoch))
        projection = None if step.draw.dim is None else replace(step.draw.projection, max_dim=step.draw.dim)
        parameters = dict(step.parameters)
        curvature = Curvature(parameters.pop(CURVATURE.name), step.seed)
        return explicit_spectrum(probe, curvature, **parameters, projection=projection)

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise a StudyError where task or model do not fit."""
        super().check(settings, study, facts)
        check_projection(self.name, settings, study, facts)
        check_matrix(self.name, settings, set(settings["curvature"]), study, facts)

    def quick_projection(self, settings: Settings, dim: int, num_parameters: int) -> dict[str, Any]:
        """Return a projected curvature for all but small models."""
        curvatures: Sequence[str] = settings.get("curvature", self.usual_values("curvature"))
        return quick_curvature(curvatures, dim) if num_parameters > SMALL_MODEL else {}


@dataclass(frozen=True, kw_only=True)
class Arnoldi(_WithCurvature, CoordinateMethod):
    """Influence functions in a Krylov basis of the curvature."""

    phi: type[Filter] = StrictDampedInverse

    def parameters(self, values: Parameters, settings: Settings, epoch: int) -> dict[str, Any]:
        """Return the values; what becomes of negative eigenvalues matters where there may be some."""
        return without_indefinite(values)

    def num_coordinates(self, planning: Planning, configuration: Configuration) -> float:
        """Return how many Ritz vectors are kept."""
        return configuration.parameters["num_eigenvalues"]

    def making_gib(self, planning: Planning, configuration: Configuration) -> float:
        """Return what making them holds: the Krylov basis, and gradients of all examples in it."""
        sizes = planning.sizes
        basis = doubles(configuration.parameters["num_iterations"] + 2, sizes.num_parameters)
        return basis + 2 * super().source_gib(planning, configuration) + sizes.factors

    def coordinates(self, context: RunContext, step: CurvatureStep) -> Spectrum:
        """Return the coordinates in the largest Ritz vectors."""
        probe = context.probe(step, context.model(step.train, step.epoch))
        parameters = dict(step.parameters)
        curvature = Curvature(parameters.pop(CURVATURE.name), step.seed)
        return arnoldi_spectrum(probe, curvature, **parameters)

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise a StudyError where task or model do not fit."""
        super().check(settings, study, facts)
        check_products(self.name, settings, study, facts)
        steps, kept = settings["num_iterations"], settings["num_eigenvalues"]
        if max(kept) > min(steps) or max(steps) > facts.num_parameters:
            raise StudyError(
                f"methods.{self.name} keeps num_eigenvalues = {max(kept)} of num_iterations = {min(steps)} to "
                f"{max(steps)}; the model of task {facts.task.name!r} has {facts.num_parameters} parameters.",
                "Eigenvalues are at most as many as iterations, iterations at most as many as parameters.",
            )


def without_indefinite(values: Parameters) -> dict[str, Any]:
    """Return hyper-parameters without ``indefinite`` where the curvature has no negative eigenvalues."""
    known = dict(values)
    if known.get("curvature") == EMPIRICAL_FISHER:
        known.pop("indefinite", None)
    return known


class _Run(_WithCurvature, ScoreMethod):
    """A measured run of an iterative solver on products with the curvature, as it was published."""

    def more(self, planning: Planning, configuration: Configuration, seed: int) -> dict[str, Any]:
        """Return the seed of its draws."""
        return {"seed": hashed_seed(self.name, planning.study.seed, seed)}

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise a StudyError where task or model do not fit."""
        super().check(settings, study, facts)
        check_products(self.name, settings, study, facts)

    def seconds(self, planning: Planning, configuration: Configuration) -> float:
        """Return roughly how long it takes."""
        return planning.here(90 * planning.size**2)

    @staticmethod
    def problem(context: RunContext, step: Scores) -> AmbientProblem:
        """Return the curvature with the gradients of queries and training examples."""
        probe = context.probe(step, context.model(step.train, step.epoch))
        return ambient_problem(probe, Curvature(step.value(CURVATURE), step.seed))


@dataclass(frozen=True, kw_only=True)
class ConjugateGradientRun(_Run):
    """t iterations of conjugate gradients."""

    def score(self, context: RunContext, step: Scores) -> ScoreMatrix:
        """Return the scores of one training seed."""
        return conjugate_gradient_scores(
            self.problem(context, step), step.value(REGULARIZATION), max_iter=step.value(MAX_ITER)
        )


@dataclass(frozen=True, kw_only=True)
class LissaRun(_Run):
    """The stochastic recursion of LiSSA."""

    def score(self, context: RunContext, step: Scores) -> ScoreMatrix:
        """Return the scores of one training seed."""
        recursion = LissaSettings(
            scaling=step.value(SCALING),
            depth=step.value(DEPTH),
            batch_size=step.value(BATCH_SIZE),
            num_repeats=step.value(REPEATS),
            seed=step.seed,
        )
        return lissa_scores(self.problem(context, step), step.value(REGULARIZATION), recursion)


IF_EXPLICIT = Explicit(
    name="if-explicit",
    title="Influence function (explicit)",
    curve="exact filter",
    features=INFLUENCE,
    curvature="Hessian, GGN, true or empirical Fisher",
    reduction="mean",
    formula="−φ'ᵀ (H + λI)⁻¹ g_i",
    hyperparameters=(
        EPOCHS,
        Hyperparameter("curvature", "choice", CURVATURE.meaning, (HESSIAN,), choices=CURVATURES),
        PROJECTION,
        INDEFINITE,
    ),
    cost="p × p matrix (p ≤ 10 000), or k × k when projected; one eigendecomposition",
    reference="arXiv 1703.04730; 2505.24261, appendix A",
    style=Style(FAMILY, BLUE, DASHES[3]),
    default_regularization=1e-5,
)
IF_ARNOLDI = Arnoldi(
    name="if-arnoldi",
    title="Influence function (Arnoldi)",
    curve="exact filter",
    features=INFLUENCE,
    curvature="Krylov basis of the curvature",
    reduction="mean",
    formula="−φ'ᵀ V (Θ + λ)⁻¹ Vᵀ g_i,  (Θ, V) the largest Ritz pairs",
    hyperparameters=(
        EPOCHS,
        CURVATURE,
        Hyperparameter("num_iterations", "whole", "Krylov dimension", (200,), quick=60),
        Hyperparameter("num_eigenvalues", "whole", "Ritz pairs that are kept", (50,), (50, 100), quick=60),
        INDEFINITE,
    ),
    cost="one curvature product per iteration",
    reference="arXiv 2112.03052",
    style=Style(FAMILY, BLUE, DASHES[4]),
    default_regularization=1e-5,
)
IF_CG_RUN = ConjugateGradientRun(
    name="if-cg-run",
    title="Influence function (CG, run)",
    curve="measured run",
    features=INFLUENCE,
    curvature="Hessian, GGN or empirical Fisher",
    reduction="mean",
    formula="t steps of conjugate gradients on curvature-vector products",
    hyperparameters=(EPOCHS, MAX_ITER, REGULARIZATION, OF_RUNS),
    cost="t products of the curvature with m vectors",
    reference="arXiv 2505.24261, appendix A.1",
    style=Style(FAMILY, BLUE, DASHES[5]),
    has_self_influence=False,
)
IF_LISSA_RUN = LissaRun(
    name="if-lissa-run",
    title="Influence function (LiSSA, run)",
    curve="measured run",
    features=INFLUENCE,
    curvature="Hessian, GGN or empirical Fisher of mini-batches",
    reduction="mean",
    formula="x ← φ' + (1−λ/s)x − H_B x/s,  result x_T/s",
    hyperparameters=(
        EPOCHS,
        SCALING,
        replace(DEPTH, counts_repeats=True),
        replace(REGULARIZATION, default=(1e-3,)),
        BATCH_SIZE,
        REPEATS,
        OF_RUNS,
    ),
    cost="T products of a batch's curvature with m vectors",
    reference="arXiv 1602.03943; 2505.24261, appendix A.1",
    style=Style(FAMILY, BLUE, DASHES[6]),
    has_self_influence=False,
)
