"""Cached reads of the catalogue and the starting of jobs. No widgets here, and nothing that a page could draw."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import streamlit as st

from app.configurations import Configurations, described
from app.server_log import log_job
from tda_backend.errors import UsageError
from tda_backend.interfaces.reading.costs import configuration_costs
from tda_backend.interfaces.reading.layers import blocks
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.configurations import ConfigurationRow, Cost
from tda_backend.interfaces.reading.records.curves import LdsRow
from tda_backend.interfaces.reading.records.examples import Example
from tda_backend.interfaces.reading.records.studies import StudyRow, facts_of
from tda_backend.interfaces.reading.study import Study, catalogue_version, list_studies, open_study
from tda_backend.studies.jobs import jobs
from tda_backend.studies.jobs.progress import JobState
from tda_backend.studies.jobs.servers import READ_ONLY_VARIABLE, TASK_FILES_VARIABLE
from tda_backend.studies.methods import METHODS, Method
from tda_backend.studies.runs import drafts
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import embedded_studies

DEMO_STUDY = "mnist-mlp"
_STUDY_ID = re.compile(r"[0-9a-f]{12}")
RUN_SECTIONS = ("trajectory", "lookahead")  # of a study file that asks for recorded training runs


def workspace() -> Workspace:
    """Return the workspace of TDA_DB or of the current folder; this server writes to it only if it may."""
    return replace(Workspace.at(None), read_only=read_only())


def read_only() -> bool:
    """Return whether nothing may be started or ended here, and nothing written."""
    return _is_set(READ_ONLY_VARIABLE)


def allows_task_files() -> bool:
    """Return whether visitors may have code of their own run: task files, and modules by name."""
    return not read_only() and _is_set(TASK_FILES_VARIABLE)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


def version() -> str:
    """Return a token that changes whenever the catalogue does."""
    return f"{workspace().catalogue}:{catalogue_version(workspace())}"


def studies() -> list[StudyRow]:
    """Return one row per study, newest first; none if there is no catalogue yet."""
    place = workspace()
    if not place.catalogue.exists() and not place.snapshot.exists():
        return []
    return records(list_studies(place), StudyRow)


@st.cache_resource(max_entries=8, show_spinner=False)
def opened(study_id: str, version: str) -> Study:
    """Return an open study as of one version of the catalogue, for functions that remember what they read of it."""
    return open_study(study_id, workspace())


def study(study_id: str) -> Study:
    """Return an open study; opened anew when the catalogue has changed."""
    return opened(study_id, version())


def methods() -> dict[str, Method]:
    """Return the table of methods, in its order."""
    return METHODS


def configurations(opened: Study) -> Configurations:
    """Return the study's configurations with what pages choose by, in the order of the method table."""
    return _configurations(opened.study_id, version())


@st.cache_resource(max_entries=16, show_spinner=False)
def _configurations(study_id: str, version: str) -> Configurations:
    study = opened(study_id, version)
    best: dict[str, float] = {}
    for row in records(study.lds_table(), LdsRow):
        if row.mean > best.get(row.configuration_id, float("-inf")):
            best[row.configuration_id] = row.mean
    return described(records(study.configurations(), ConfigurationRow), METHODS, best)


@st.cache_resource(max_entries=12, show_spinner=False)
def _examples(study_id: str, version: str, split: str) -> list[Example]:
    return records(opened(study_id, version).examples(split), Example)


def examples(opened: Study, split: str) -> list[Example]:
    """Return the examples of a split by position. Shared: do not change the list."""
    return _examples(opened.study_id, version(), split)


def labels(examples: Sequence[Example]) -> list[str]:
    """Return the labels that occur, sorted."""
    return sorted({str(row.label) for row in examples if row.label})


@st.cache_data(max_entries=8, show_spinner=False)
def _costs(study_id: str, version: str) -> dict[str, float]:
    found = records(configuration_costs(opened(study_id, version)), Cost)
    return {row.configuration_id: row.seconds for row in found}


def costs(opened: Study) -> dict[str, float]:
    """Return configuration_id → seconds of its scores."""
    return _costs(opened.study_id, version())


@dataclass(frozen=True)
class Layer:
    """A layer of a configuration's coordinates.

    Attributes:
        name: For people.
        size: Coordinates.
        scale: Its mean curvature: what a relative λ is multiplied by.
    """

    name: str
    size: int
    scale: float


def layers(opened: Study, configuration_id: str) -> list[Layer]:
    """Return a configuration's layers; none where its coordinates mix all layers."""
    return [Layer(layer_name(block.name), block.size, block.scale) for block in blocks(opened, configuration_id)]


def layer_name(name: str) -> str:
    """Return a layer's name for people; in a plain sequence of modules it is but a number."""
    return f"layer {name}" if name.replace(".", "").isdigit() else name


def draft(toml: str, small: bool) -> drafts.Draft:
    """Return what running a study file would do.

    Raises:
        TDAError: The study's own error, or :func:`refuse_task`'s. A task that is not built in is a person's code: it
            is loaded by a process of its own, and only on a server that allows it. Ask for it after a click alone.
    """
    task = drafts.named(toml).task
    refuse_task(task)
    return _draft(toml, small) if is_built_in(task) else _draft_apart(toml, small)


@st.cache_data(max_entries=64, show_spinner="Checking the study")
def _draft(toml: str, small: bool) -> drafts.Draft:
    return drafts.draft(toml, small)


@st.cache_data(max_entries=64, show_spinner="Checking the study, in a process of its own")
def _draft_apart(toml: str, small: bool) -> drafts.Draft:
    return drafts.draft_apart(toml, small, os.environ.get("TDA_CWD") or None)


def count_configurations(toml: str) -> int:
    """Return how many configurations a study file asks for; raises the study's own error. No code is loaded."""
    return drafts.count_configurations(toml)


def is_built_in(task: str) -> bool:
    """Return whether a task came with the program: all others are code of somebody else."""
    return task in drafts.built_in_tasks()


def may_load(task: str) -> bool:
    """Return whether this server may load a task."""
    return is_built_in(task) or allows_task_files()


def refuse_task(task: str) -> None:
    """Raise a UsageError unless this server may load a task."""
    if not may_load(task):
        raise UsageError(
            f"The task {task} is code, and this server runs none but its own.",
            "Copy the study file and run it with `tda run`, or start the server with --allow-task-files.",
        )


def tasks() -> list[str]:
    """Return the built-in tasks, then those of the catalogue's studies."""
    return list(dict.fromkeys([*drafts.built_in_tasks(), *(task_of(study(row.study_id)) for row in studies())]))


def task_of(opened: Study) -> str:
    """Return the task of a study as its file names it."""
    return facts_of(opened.info).task_spec


def code_of(opened: Study) -> str:
    """Return the task that a run of a study loads, whatever its other records say."""
    return str(opened.config.get("task", ""))


def asks_for_runs(opened: Study) -> bool:
    """Return whether a study records training runs, so that Training trajectory has something to show."""
    return any(section in opened.config for section in RUN_SECTIONS)


# ---------------------------------------------------------------- jobs


def running_jobs() -> list[JobState]:
    """Return all jobs of the workspace, newest first."""
    return jobs.list_jobs(workspace())


def refuse_change() -> None:
    """Raise a UsageError where the server only reads: whatever asks, nothing is started, ended or written."""
    if read_only():
        raise UsageError("This server is read-only.", "Start it without --read-only, or use the command line.")


def start_embedded(name: str, small: bool = False) -> str:
    """Start a study that came with the program; return the job id.

    Raises:
        UsageError: The server is read-only, or there is no such study.
    """
    refuse_change()
    if name not in embedded_studies():
        raise UsageError(f"No study {name!r} came with the program.", f"Those are: {', '.join(embedded_studies())}.")
    return _start([name, *(["--quick"] if small else [])])


def resume(study_id: str) -> str:
    """Go on with a study of the catalogue; return the job id.

    Raises:
        UsageError: The server is read-only, or may not load the study's task: a catalogue may have been copied here,
            and a click on it must not run what its maker named.
    """
    refuse_change()
    found = study(study_id)
    if not _STUDY_ID.fullmatch(found.study_id):
        raise UsageError("The study's id is none of this program.", "Make the catalogue again: tda rebuild.")
    refuse_task(code_of(found))
    return _start([found.study_id])


def start_study(toml: str, small: bool) -> str:
    """Write a study file into the workspace and start ``tda run`` on it; return the job id.

    Raises:
        TDAError: The server is read-only, may not load the task, or the study cannot be run.
    """
    refuse_change()
    draft(toml, small)
    name = drafts.named(toml).name  # checked by now: it names a file here
    folder = workspace().folder / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(toml, encoding="utf-8")
    return _start([str(path), *(["--quick"] if small else [])])


def _start(arguments: list[str]) -> str:
    job_id = jobs.submit(["run", *arguments], workspace(), cwd=os.environ.get("TDA_CWD") or None)
    log_job("started", job_id, study=arguments[0])
    return job_id


def cancel(job_id: str) -> bool:
    """End a job; finished steps are kept.

    Raises:
        UsageError: The server is read-only, or the job is none of this workspace.
    """
    refuse_change()
    log_job("cancelled", job_id)
    return jobs.cancel(job_id, workspace())


@dataclass(frozen=True)
class Sizes:
    """Sizes of a study as the form shows them.

    Attributes:
        train: Training examples.
        validation: Validation points.
        queries: Queries.
        epochs: Saved checkpoints, with commas.
    """

    train: str = "5000"
    validation: str = "500"
    queries: str = "500"
    epochs: str = "1, 5, 20"


def usual_sizes(task: str) -> Sizes:
    """Return sizes to begin with: those of the newest study of the task here."""
    for row in studies():
        found = study(row.study_id)
        if task_of(found) == task:
            facts = facts_of(found.info)
            epochs = ", ".join(str(epoch) for epoch in facts.epochs)
            return Sizes(str(facts.num_train), str(facts.num_validation), str(facts.num_queries), epochs)
    return Sizes()


def absolute_task(spec: str) -> str:
    """Return a task's text with a relative file made absolute: a study file elsewhere must find it too."""
    file, colon, factory = spec.rpartition(":")
    if not file.endswith(".py"):
        return spec
    return f"{Path(os.environ.get('TDA_CWD') or '.', file).expanduser().resolve()}{colon}{factory}"
