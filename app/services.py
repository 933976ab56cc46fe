"""Cached reads of the catalogue and the starting of jobs. No widgets here, and nothing that a page could draw."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from app import settings
from tda_backend.methods import METHODS, MethodSpec
from tda_backend.runs import jobs, page_data
from tda_backend.runs.api import Study, catalogue_version, list_studies, open_study
from tda_backend.store.workspace import Workspace

DEMO_STUDY = "mnist-mlp"


def workspace() -> Workspace:
    """Return the workspace of TDA_DB or of the current folder."""
    return Workspace.at(None)


def read_only() -> bool:
    """Return whether buttons that start or end jobs are hidden."""
    return os.environ.get("TDA_READ_ONLY", "") not in ("", "0")


def version() -> str:
    """Return a token that changes whenever the catalogue does."""
    return f"{workspace().catalogue}:{catalogue_version(workspace())}"


def studies() -> pd.DataFrame:
    """Return one row per study, newest first; none if there is no catalogue yet."""
    place = workspace()
    if not place.catalogue.exists() and not place.snapshot.exists():
        return pd.DataFrame(columns=["study_id", "name", "status"])
    return list_studies(place)


@st.cache_resource(max_entries=8, show_spinner=False)
def _study(study_id: str, version: str) -> Study:
    return open_study(study_id, workspace())


def study(study_id: str) -> Study:
    """Return an open study; opened anew when the catalogue has changed."""
    return _study(study_id, version())


def methods() -> dict[str, MethodSpec]:
    """Return the table of methods, in its order."""
    return METHODS


def configurations(opened: Study) -> pd.DataFrame:
    """Return the study's configurations with what pages choose by, in the order of the method table.

    Beside the columns of :meth:`Study.configurations`: ``settings`` (every swept hyper-parameter as text),
    ``defaults`` (theirs), ``choices`` (those settings that differ within the method in this study), ``variant`` (key
    of method and choices), ``variant_title``, ``method_title`` and ``best_lds`` (NaN if unknown).
    """
    return _configurations(opened.study_id, version()).copy()


@st.cache_data(max_entries=16, show_spinner=False)
def _configurations(study_id: str, version: str) -> pd.DataFrame:
    opened = _study(study_id, version)
    frame = opened.configurations()
    frame["settings"] = [
        settings.settings_of(json.loads(text), METHODS[name].swept)
        for name, text in zip(frame["method"], frame["parameters"], strict=True)
    ]
    frame["defaults"] = [settings.settings_of({}, METHODS[name].swept) for name in frame["method"]]
    differing = {name: settings.choices_of(rows.tolist()) for name, rows in frame.groupby("method")["settings"]}
    frame["choices"] = [
        {key: row[key] for key in differing[name]} for name, row in zip(frame["method"], frame["settings"], strict=True)
    ]
    chosen = [tuple(row.items()) for row in frame["choices"]]
    frame["variant"] = ["|".join(filter(None, pair)) for pair in zip(
        frame["method"], map(settings.settings_text, chosen), strict=True)]  # fmt: skip
    frame["variant_title"] = [
        ", ".join([title, *(settings.words(*pair) for pair in row if pair[0] != "half_subset_models")])
        for title, row in zip(frame["title"], chosen, strict=True)
    ]
    frame["method_title"] = [METHODS[name].title for name in frame["method"]]
    best = opened.lds_table().groupby("configuration_id")["mean"].max()
    frame["best_lds"] = frame["configuration_id"].map(best).astype(float)
    order = {name: number for number, name in enumerate(METHODS)}
    return frame.sort_values("method", key=lambda names: names.map(order), kind="stable").reset_index(drop=True)


def lds_table(opened: Study, alpha: float) -> pd.DataFrame:
    """Return every grid value of LDS with what :func:`configurations` says of its configuration."""
    known = configurations(opened).set_index("configuration_id")
    frame = opened.lds_table(alpha)
    for name in ("variant", "variant_title", "method_title", "settings", "choices"):
        frame[name] = frame["configuration_id"].map(known[name])
    return frame


@st.cache_data(max_entries=8, show_spinner=False)
def _costs(study_id: str, version: str) -> pd.DataFrame:
    return page_data.configuration_costs(_study(study_id, version))


def costs(opened: Study) -> pd.DataFrame:
    """Return configuration_id and seconds of each configuration's scores."""
    return _costs(opened.study_id, version())


def blocks(opened: Study, configuration_id: str) -> list[dict[str, Any]]:
    """Return name, size and scale of a configuration's layers; none where its coordinates mix all layers."""
    return [
        {"name": layer_name(block.name), "size": block.size, "scale": block.scale}
        for block in page_data.blocks(opened, configuration_id)
    ]


def layer_name(name: str) -> str:
    """Return a layer's name for people; in a plain sequence of modules it is but a number."""
    return f"layer {name}" if name.replace(".", "").isdigit() else name


@st.cache_data(max_entries=64, show_spinner="Checking the study")
def draft(toml: str, small: bool) -> page_data.Draft:
    """Return what running a study file would do; raises the study's own error. It loads the task, a person's code."""
    return page_data.draft(toml, small)


def may_load(task: str) -> bool:
    """Return whether this server may load a task: one that only reads loads none but the built-in ones."""
    return not read_only() or task in page_data.built_in_tasks()


def tasks() -> list[str]:
    """Return the built-in tasks, then those of the catalogue's studies."""
    frame = studies()
    own = [str(study(study_id).config["task"]) for study_id in frame["study_id"]] if len(frame) else []
    return list(dict.fromkeys([*page_data.built_in_tasks(), *own]))


# ---------------------------------------------------------------- jobs


def running_jobs() -> pd.DataFrame:
    """Return all jobs of the workspace, newest first."""
    return jobs.list_jobs(workspace())


def start(arguments: list[str]) -> str:
    """Start ``tda ARGUMENTS`` beside the server and return its job id."""
    return jobs.submit(arguments, workspace(), cwd=os.environ.get("TDA_CWD") or None)


def resume_arguments(study_id: str) -> list[str]:
    """Return the command that goes on with a study of the catalogue."""
    return ["run", study_id]


def cancel(job_id: str) -> bool:
    """End a job; finished steps are kept."""
    return jobs.cancel(job_id, workspace())


def start_study(name: str, toml: str, small: bool) -> str:
    """Write a study file into the workspace and start ``tda run`` on it; return the job id."""
    folder = workspace().folder / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(toml, encoding="utf-8")
    return start(["run", str(path), *(["--quick"] if small else [])])


def usual_sizes(task: str) -> dict[str, str]:
    """Return train, validation, queries and epochs to begin with: those of the newest study of the task here."""
    frame = studies()
    for study_id in frame["study_id"] if len(frame) else []:
        config = study(study_id).config
        if config["task"] == task:
            sizes = {key: str(config["data"][key]) for key in ("train", "validation", "queries")}
            return {**sizes, "epochs": ", ".join(str(epoch) for epoch in config["training"]["epochs"])}
    return {"train": "5000", "validation": "500", "queries": "500", "epochs": "1, 5, 20"}


def absolute_task(spec: str) -> str:
    """Return a task's text with a relative file made absolute: a study file elsewhere must find it too."""
    file, colon, factory = spec.rpartition(":")
    if not file.endswith(".py"):
        return spec
    return f"{Path(os.environ.get('TDA_CWD') or '.', file).expanduser().resolve()}{colon}{factory}"
