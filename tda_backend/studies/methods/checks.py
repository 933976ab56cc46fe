"""What several families check of a study: projections and curvatures that fit the model."""

from __future__ import annotations

from collections.abc import Sequence

from tda_backend.errors import StudyError
from tda_backend.models.precision import FULL
from tda_backend.numerics.curvature.matrix import MAX_PARAMETERS
from tda_backend.studies.config.hyperparameter import NONE
from tda_backend.studies.config.study import Study
from tda_backend.studies.contract.method import EMPIRICAL_FISHER, Settings
from tda_backend.studies.methods.hyperparameters import GGN, HESSIAN, TRUE_FISHER
from tda_backend.studies.pipeline.facts import TaskFacts

BY_LAYER = "kronecker"
"""The kind of projection that needs a model of Linear layers."""
NEED_OUTPUTS = {GGN, TRUE_FISHER}
"""Curvatures that need a task's outputs."""
SMALL_MODEL = 2000
"""Parameters from which on a quick study does not decompose a whole Hessian."""


def check_projection(name: str, settings: Settings, study: Study, facts: TaskFacts) -> None:
    """Raise a StudyError where a method's projections do not fit the model.

    Args:
        name: The method's.
        settings: Its table in the study.
        study: The kind of projection.
        facts: The model's.
    """
    dims = [dim for dim in settings.get("projection_dim", []) if dim != NONE]
    if dims and max(dims) > facts.num_parameters:
        raise StudyError(
            f"methods.{name}.projection_dim has {max(dims)}; the model of task {facts.task.name!r} has "
            f"{facts.num_parameters} parameters.",
            'A projection is smaller than what it projects; "none" is exact.',
        )
    if dims and HESSIAN in settings.get("curvature", []):
        raise StudyError(
            f"methods.{name} projects the Hessian (projection_dim has {dims[0]}): it is no mean of outer products, so "
            "that projected gradients do not make it.",
            f'Set methods.{name}.projection_dim = "none", or another curvature.',
        )
    if dims and study.projection.kind == BY_LAYER and facts.without_factors:
        raise StudyError(
            f"Projection kind 'kronecker' needs a model of Linear layers; task {facts.task.name!r} has also "
            f"{', '.join(facts.without_factors[:4])}.",
            'Set projection.kind = "sparse".',
        )


def check_matrix(name: str, settings: Settings, explicit: set[str], study: Study, facts: TaskFacts) -> None:
    """Raise a StudyError where a method would form a curvature matrix that is too large, or not in float64.

    Args:
        name: The method's.
        settings: Its table in the study.
        explicit: Curvatures of which it forms the matrix.
        study: The precision of gradients.
        facts: The model's.
    """
    whole = (explicit and NONE in settings["projection_dim"]) or HESSIAN in explicit
    if whole:
        check_precision(
            name,
            study,
            f"forms the whole matrix of curvature {', '.join(sorted(explicit))} in float64",
            f"Set methods.{name}.projection_dim and a curvature other than hessian",
        )
    if whole and facts.num_parameters > MAX_PARAMETERS:
        raise StudyError(
            f"Method {name} with curvature {', '.join(sorted(explicit))} forms a matrix of {facts.num_parameters} × "
            f"{facts.num_parameters}; the largest is {MAX_PARAMETERS}.",
            f"Set methods.{name}.projection_dim and a curvature other than hessian, or use iffim or ekfac.",
        )


def check_products(name: str, settings: Settings, study: Study, facts: TaskFacts) -> None:
    """Raise a StudyError where a method multiplies with a curvature by passes in less than float32.

    Args:
        name: The method's.
        settings: Its table in the study, with the curvatures.
        study: The precision of gradients.
        facts: The model's.
    """
    if facts.without_factors or HESSIAN in settings["curvature"]:
        check_precision(
            name,
            study,
            "multiplies with the curvature by passes over the model, and would meet another one in each product",
            f"Take a model of Linear layers and another curvature than hessian, or leave [methods.{name}] out",
        )


def check_precision(name: str, study: Study, does: str, hint: str) -> None:
    """Raise a StudyError where gradients are passed in less than float32, and a method cannot be.

    Args:
        name: The method's.
        study: The precision of gradients.
        does: What it does instead, for the error.
        hint: What to do, without a full stop.
    """
    if study.precision is not None:
        raise StudyError(
            f'gradients.precision = "{study.precision}" is not for method {name}: it {does}.',
            f'{hint}; or leave gradients.precision out, which is "{FULL}".',
        )


def check_untracked(name: str, settings: Settings, facts: TaskFacts) -> None:
    """Raise a StudyError where parameters have no Kronecker factors and the study does not leave them out."""
    if settings.get("untracked") != "refuse" or not facts.untracked:
        return
    share = sum(size for _, size in facts.untracked)
    named = ", ".join(each for each, _ in facts.untracked[:4]) + (" …" if len(facts.untracked) > 4 else "")
    raise StudyError(
        f"Method {name} has no Kronecker factors for {named}: {share} of {facts.num_parameters} parameters.",
        f'Set methods.{name}.untracked = "leave-out" to attribute through the other layers, or use iffim.',
    )


def quick_curvature(curvatures: Sequence[str], dim: int) -> dict:
    """Return curvature and projection of a quick study where a whole Hessian takes long to decompose."""
    smaller = [GGN if name == HESSIAN else name for name in curvatures]
    return {"projection_dim": [dim], "curvature": list(dict.fromkeys(smaller))}


def explicit_curvatures(settings: Settings) -> set[str]:
    """Return the curvatures of a method's settings of which a matrix is formed where the Fisher has features."""
    return set(settings.get("curvature", [])) - {EMPIRICAL_FISHER}
