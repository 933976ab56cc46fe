"""What a person asks for on the command line, as a study and its plan."""

from __future__ import annotations

import argparse
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tda_backend.errors import MachineError, TDAError, UsageError, command
from tda_backend.interfaces.cli.printing import duration
from tda_backend.models.measuring.machine import Machine
from tda_backend.models.tasks.data import num_rows, validate_data
from tda_backend.models.tasks.registry import load_task
from tda_backend.studies.config.study import Study
from tda_backend.studies.methods import METHODS
from tda_backend.studies.pipeline.facts import device_type, num_parameters, task_facts
from tda_backend.studies.pipeline.plan import Plan, may_end_early, planned_steps, retraining_counts
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.runs.rounds import is_open, last_round
from tda_backend.studies.store import repository
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import default_study, embedded_studies, override, read_study_file, resolve
from tda_backend.studies.study.quick import quick


def find_content(target: str, workspace: Workspace) -> dict[str, Any]:
    """Return the study that ``target`` names: a TOML file, an embedded study, or one of the catalogue.

    Raises:
        UsageError: There is none.
    """
    if target.endswith(".toml"):
        return read_study_file(Path(target).expanduser())
    embedded = embedded_studies()
    if target in embedded:
        return read_study_file(embedded[target])
    known: list[str] = []
    if workspace.catalogue.exists():
        studies = repository.known_studies(workspace)
        known = list(dict.fromkeys(study.name for study in studies))
        if target in known or any(target == study.study_id for study in studies):
            return dict(repository.find_study(workspace, target).config)
    hint = f"Studies: {', '.join(dict.fromkeys([*embedded, *known]))}; or give a STUDY.toml, or --task FILE.py:factory."
    raise UsageError(f"There is no study called {target!r}.", hint)


def requested_study(arguments: argparse.Namespace, workspace: Workspace) -> Study:
    """Return the study that the arguments ask for.

    Raises:
        UsageError: Nothing was named, or nothing has that name.
        StudyError: A value is not allowed.
    """
    if bool(arguments.study) == bool(arguments.task) and not (arguments.study and arguments.task):
        raise UsageError(
            "Nothing to run was named.", "E.g. `tda run mnist-mlp`, or `tda run --task my_task.py:factory`."
        )
    if arguments.study:
        content = find_content(arguments.study, workspace)
        if arguments.task:
            content["task"] = arguments.task
    else:
        content = study_of_task(arguments.task)
    if arguments.quick:
        content = quick(content, num_parameters(load_task(str(content.get("task", "")))))
    return resolve(override(content, arguments.set))


def study_of_task(spec: str) -> dict[str, Any]:
    """Return a sensible study for a person's own task, with the methods that it is fit for."""
    task = load_task(spec)
    data = validate_data(task)
    epochs = task.training.num_epochs if task.training is not None else len(task.checkpoint_files)
    counts = num_rows(data["train"]), num_rows(data["test"])
    content = default_study(task.name, spec, *counts, max(1, epochs), num_parameters(task))
    if not task.margin_identity:
        content["methods"] = {
            name: settings for name, settings in content["methods"].items() if "margin" not in METHODS[name].needs
        }
    if task.training is None:
        content["ground_truth"] = {"subsets": 0}
    return content


def requested_plan(
    arguments: argparse.Namespace, study: Study, store: ArtifactStore, elsewhere: Machine | None = None
) -> Plan:
    """Return the plan of a study on the device that the arguments ask for: what it comes to, or comes to at most.

    Args:
        arguments: Of the command.
        study: To be planned.
        store: Of its workspace, whose results tell where retraining ends.
        elsewhere: The machine that times are estimated for; ``None``: this one.

    Raises:
        MachineError: The device is not there.
        StudyError: The study asks for more than its task has.
    """
    facts = replace(task_facts(load_task(study.task), study.task), elsewhere=elsewhere)
    plan = build_plan(study, facts, chosen_device(arguments.device))
    return last_round(plan, store) or plan


def chosen_device(name: str) -> str:
    """Return the device for ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        MachineError: It is not there.
    """
    device = device_type(name)
    if device == "cuda" and not torch.cuda.is_available():
        raise MachineError("There is no CUDA device that torch can use.", "Use --device cpu (or auto).")
    if device == "mps" and not torch.backends.mps.is_available():
        raise MachineError("There is no MPS device that torch can use.", "Use --device cpu (or auto).")
    return device


def retraining_line(plan: Plan, store: ArtifactStore) -> str:
    """Return one sentence on what will be retrained and how long that takes; empty where nothing will."""
    num, done, seconds = retraining_counts(planned_steps(plan, store))
    if not num:
        return ""
    known = f"; {done} are finished" if done else ""
    reasons = ["where queries flip early"] if may_end_early(plan, store) else []
    if is_open(plan, store):
        reasons.append(f"once every LDS is known to ±{plan.study.ground_truth.until:g}")
    most, tail = ("Up to ", f", fewer {' or '.join(reasons)}") if reasons else ("", "")
    models = "model" if num == 1 else "models"
    return f"{most}{num} {models} to train, about {duration(seconds)}{tail}{known}."


def changed_task_line(plan: Plan, workspace: Workspace) -> str:
    """Return one sentence where the task is another one than when the study was last computed; empty elsewhere."""
    if not workspace.catalogue.exists():
        return ""
    known = None
    with contextlib.suppress(TDAError):  # what is wrong with the catalogue is said where it is needed
        known = repository.newest_fingerprint(workspace, plan.name)
    if known is None or known == plan.facts.fingerprint:
        return ""
    return (
        f"The task computes other things than when {plan.name} was last run (its code, data or model changed), so all "
        f"is computed anew. If you changed nothing, see {command('check', plan.study.task)}."
    )
