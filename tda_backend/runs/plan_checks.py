"""What a study's methods need of its task and model, checked before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tda_backend.attribution.explicit import MAX_PARAMETERS
from tda_backend.errors import StudyError
from tda_backend.methods import METHODS
from tda_backend.methods.spec import NONE
from tda_backend.runs.facts import TaskFacts
from tda_backend.trajectory.unrolled.objective import check_repeatable
from tda_backend.types import Task


def check_methods(study: Mapping[str, Any], facts: TaskFacts) -> None:
    """Raise a StudyError where a method needs what the task does not have."""
    task = facts.task
    lacks = {
        "margin": None if task.margin_identity else "the margin identity (margin_identity on a classification task)",
        "training": None if facts.trains else "a training run of its own (the task is an already trained model)",
        "outputs": None
        if type(task).outputs is not Task.outputs
        else "outputs(model, batch), output_loss(outputs, batch) and sample_targets(outputs, generator)",
        "labels": None,
    }
    for name, settings in study["methods"].items():
        needs = set(METHODS[name].needs)
        if "outputs" in needs and set(settings.get("fisher", [])) == {"empirical"}:
            needs.discard("outputs")
        if {"ggn", "true-fisher"} & set(settings.get("curvature", [])):
            needs.add("outputs")
        for need in sorted(needs):
            if lacks[need]:
                raise StudyError(
                    f"Method {name} needs {lacks[need]}; the task {task.name!r} has none.",
                    f"Leave [methods.{name}] out, or add it to the task.",
                )
        if any(settings.get("half_subset_models", [])) and lacks["training"]:
            raise StudyError(
                f"methods.{name}.half_subset_models needs {lacks['training']}; the task {task.name!r} has none.",
                f"Set methods.{name}.half_subset_models = 0: the given checkpoints alone.",
            )
        for share in settings.get("subset_fraction", []):
            size, total = math.floor(share * study["data"]["train"] + 0.5), study["data"]["train"]
            if not 1 <= size < total:
                raise StudyError(
                    f"methods.{name}.subset_fraction has {share:g}: a subset would have {size} of {total} training "
                    "examples.",
                    "Each example must be in some subsets and not in others: take a share near 0.5.",
                )
        _check_path(name, task)
        _check_model(name, settings, study["projection"]["kind"], facts)


def _check_path(name: str, task: Task) -> None:
    """Raise a StudyError where a method follows the steps of a training run that has none, or not one run."""
    if name == "unrolled-influence":
        check_unrollable(task, f"methods.{name}")
    if name not in ("source", "fast-source", "hydra-fast") or task.training is None:
        return
    if task.training.optimizer == "lbfgs":
        raise StudyError(
            f"Method {name} follows the training run; the task {task.name!r} is trained to its optimum, without one.",
            f"Leave [methods.{name}] out: influence functions are exact there.",
        )
    if not task.training.is_plain_sgd:
        raise StudyError(
            f"Method {name} assumes SGD; the task {task.name!r} is trained by {task.training.optimizer_text}.",
            f"Leave [methods.{name}] out; influence functions and TracIn take any optimizer. SOURCE for AdamW is there "
            "as library functions (tda_backend.trajectory.preconditioned).",
        )
    if name == "hydra-fast" and task.stages:
        raise StudyError(
            f"Method {name} replays one run of SGD; the task {task.name!r} is trained in {len(task.stages)} stages.",
            f"Leave [methods.{name}] out; SOURCE knows stages.",
        )


def check_unrollable(task: Task, section: str) -> None:
    """Raise where a section of a study unrolls a training run that the task does not have.

    Raises:
        StudyError: No run, or not one run of an optimizer.
        TaskError: Its steps are no function of parameters and batch (dropout, batch norm).
    """
    if task.training is None or task.training.optimizer == "lbfgs" or task.stages:
        why = (
            "is an already trained model" if task.training is None
            else "is trained in stages" if task.stages else "is trained to its optimum, without a path"
        )  # fmt: skip
        raise StudyError(
            f"[{section}] unrolls a training run, but the task {task.name!r} {why}.", f"Leave [{section}] out."
        )
    check_repeatable(task, task.build_model(0))


def _check_model(name: str, settings: Mapping[str, Any], kind: str, facts: TaskFacts) -> None:
    """Raise a StudyError where a method's settings do not fit the model."""
    task = facts.task
    dims = [dim for dim in settings.get("projection_dim", []) if dim != NONE]
    if dims and max(dims) > facts.num_parameters:
        raise StudyError(
            f"methods.{name}.projection_dim has {max(dims)}; the model of task {task.name!r} has "
            f"{facts.num_parameters} parameters.",
            'A projection is smaller than what it projects; "none" is exact.',
        )
    if dims and "hessian" in settings.get("curvature", []):
        raise StudyError(
            f"methods.{name} projects the Hessian (projection_dim has {dims[0]}): it is no mean of outer products, so "
            "that projected gradients do not make it.",
            f'Set methods.{name}.projection_dim = "none", or another curvature.',
        )
    if name == "if-arnoldi":
        steps, kept = settings["num_iterations"], settings["num_eigenvalues"]
        if max(kept) > min(steps) or max(steps) > facts.num_parameters:
            raise StudyError(
                f"methods.{name} keeps num_eigenvalues = {max(kept)} of num_iterations = {min(steps)} to {max(steps)}; "
                f"the model of task {task.name!r} has {facts.num_parameters} parameters.",
                "Eigenvalues are at most as many as iterations, iterations at most as many as parameters.",
            )
    if dims and kind == "kronecker" and facts.without_factors:
        raise StudyError(
            f"Projection kind 'kronecker' needs a model of Linear layers; task {task.name!r} has also "
            f"{', '.join(facts.without_factors[:4])}.",
            'Set projection.kind = "sparse".',
        )
    if settings.get("untracked") == "refuse" and facts.untracked:
        share = sum(size for _, size in facts.untracked)
        named = ", ".join(each for each, _ in facts.untracked[:4]) + (" …" if len(facts.untracked) > 4 else "")
        raise StudyError(
            f"Method {name} has no Kronecker factors for {named}: {share} of {facts.num_parameters} parameters.",
            f'Set methods.{name}.untracked = "leave-out" to attribute through the other layers, or use iffim.',
        )
    if "projection_dim" in settings and "curvature" in settings and facts.num_parameters > MAX_PARAMETERS:
        explicit = set(settings["curvature"]) - ({"empirical-fisher"} if name != "if-explicit" else set())
        if (explicit and NONE in settings["projection_dim"]) or "hessian" in explicit:
            curvatures = ", ".join(sorted(explicit))
            raise StudyError(
                f"Method {name} with curvature {curvatures} forms a matrix of {facts.num_parameters} × "
                f"{facts.num_parameters}; the largest is {MAX_PARAMETERS}.",
                f"Set methods.{name}.projection_dim and a curvature other than hessian, or use iffim or ekfac.",
            )
