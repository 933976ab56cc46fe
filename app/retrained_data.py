"""Cached numbers of the pages on counterfactual retraining and on data health. No widgets here."""

from __future__ import annotations

import base64
import io

import numpy as np
import pandas as pd
import streamlit as st

from app.explorer_data import TILE, has_pictures, sprite, thumbnail
from app.services import _study, version
from tda_backend.runs import influence_data
from tda_backend.runs.api import Study


@st.cache_data(max_entries=64, show_spinner=False)
def _subset_points(
    study_id: str, version: str, configuration_id: str, query: int, lam: float | None, alpha: float
) -> pd.DataFrame:
    return influence_data.subset_points(_study(study_id, version), configuration_id, query, lam, alpha)


def subset_points(opened: Study, configuration_id: str, query: int, lam: float | None, alpha: float) -> pd.DataFrame:
    """Return predicted and actual goodness of one query for every retrained subset."""
    return _subset_points(opened.study_id, version(), configuration_id, query, lam, alpha)


def rank_correlation(points: pd.DataFrame) -> float:
    """Return the LDS of one query from its points."""
    return influence_data.spearman(points["predicted"].to_numpy(), points["actual"].to_numpy())


@st.cache_data(max_entries=8, show_spinner=False)
def _removal_curves(study_id: str, version: str) -> pd.DataFrame:
    return _study(study_id, version).removal_curves()


def removal_curves(opened: Study) -> pd.DataFrame:
    """Return :meth:`Study.removal_curves`."""
    return _removal_curves(opened.study_id, version())


@st.cache_data(max_entries=8, show_spinner=False)
def _brittleness(study_id: str, version: str) -> pd.DataFrame:
    return _study(study_id, version).brittleness()


def brittleness(opened: Study) -> pd.DataFrame:
    """Return :meth:`Study.brittleness`."""
    return _brittleness(opened.study_id, version())


@st.cache_data(max_entries=16, show_spinner="Computing self-influence")
def _own_influence(study_id: str, version: str, configuration_id: str, lam: float | None) -> np.ndarray | None:
    return influence_data.own_influence(_study(study_id, version), configuration_id, lam)


def own_influence(opened: Study, configuration_id: str, lam: float | None) -> np.ndarray | None:
    """Return each training example's influence on its own loss, or ``None`` where the method has none."""
    return _own_influence(opened.study_id, version(), configuration_id, lam)


@st.cache_data(max_entries=16, show_spinner="Computing influence by class")
def _class_influence(
    study_id: str, version: str, configuration_id: str, lam: float | None
) -> tuple[list[str], list[str], np.ndarray]:
    return influence_data.class_influence(_study(study_id, version), configuration_id, lam)


def class_influence(opened: Study, configuration_id: str, lam: float | None) -> tuple[list[str], list[str], np.ndarray]:
    """Return query classes, training classes and the mean score of every pair."""
    return _class_influence(opened.study_id, version(), configuration_id, lam)


@st.cache_data(max_entries=16, show_spinner="Computing all scores")
def _usage(study_id: str, version: str, configuration_id: str, lam: float | None) -> influence_data.Usage:
    return influence_data.usage(_study(study_id, version), configuration_id, lam)


def usage(opened: Study, configuration_id: str, lam: float | None) -> influence_data.Usage:
    """Return how often each training example is among those that matter most for a query."""
    return _usage(opened.study_id, version(), configuration_id, lam)


@st.cache_data(max_entries=32, show_spinner=False)
def _scores_of_example(
    study_id: str, version: str, configuration_id: str, position: int, lam: float | None
) -> np.ndarray:
    return influence_data.scores_of_example(_study(study_id, version), configuration_id, position, lam)


def scores_of_example(opened: Study, configuration_id: str, position: int, lam: float | None) -> np.ndarray:
    """Return one training example's score for every query."""
    return _scores_of_example(opened.study_id, version(), configuration_id, position, lam)


@st.cache_resource(max_entries=32, show_spinner=False)
def _train_sprite(study_id: str, version: str, positions: tuple[int, ...]) -> dict | None:
    examples = _study(study_id, version).examples("train").set_index("position").loc[list(positions)]
    return sprite(examples["payload"].tolist()) if has_pictures(examples) else None


def train_sprite(opened: Study, positions: tuple[int, ...]) -> dict | None:
    """Return a sprite of some training examples, or ``None`` if they are not pictures."""
    return _train_sprite(opened.study_id, version(), positions) if positions else None


@st.cache_data(max_entries=16, show_spinner=False)
def _query_pictures(study_id: str, version: str, positions: tuple[int, ...]) -> list[str | None]:
    examples = _study(study_id, version).examples("queries").set_index("position").loc[list(positions)]
    urls: list[str | None] = []
    for row in examples.to_dict("records"):
        if row["kind"] != "image":
            urls.append(None)
            continue
        picture = thumbnail(row["payload"])
        scale = max(1, TILE // max(picture.size))  # small pictures keep their pixels
        picture = picture.resize((picture.width * scale, picture.height * scale), 0)
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        urls.append(f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}")
    return urls


def query_pictures(opened: Study, positions: tuple[int, ...]) -> list[str | None]:
    """Return data URLs of queries' thumbnails for a table; ``None`` where a query is no picture."""
    return _query_pictures(opened.study_id, version(), positions)
