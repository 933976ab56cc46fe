"""Cached numbers and pictures that several pages show. No widgets here."""

from __future__ import annotations

from typing import Any

import numpy as np
import streamlit as st

from app import services
from app.services import opened, version
from app.shared.pictures import enlarged, is_picture, sprite_of
from tda_backend.interfaces.reading import influence as influence_data
from tda_backend.interfaces.reading.study import Study


@st.cache_data(max_entries=32, show_spinner=False)
def _scores_of_example(
    study_id: str, version: str, configuration_id: str, position: int, lam: float | None
) -> np.ndarray:
    return influence_data.scores_of_example(opened(study_id, version), configuration_id, position, lam)


def scores_of_example(study: Study, configuration_id: str, position: int, lam: float | None) -> np.ndarray:
    """Return one training example's score for every query."""
    return _scores_of_example(study.study_id, version(), configuration_id, position, lam)


@st.cache_resource(max_entries=48, show_spinner=False)
def _sprite(study_id: str, version: str, split: str, positions: tuple[int, ...]) -> dict[str, Any] | None:
    examples = services.examples(opened(study_id, version), split)
    return sprite_of([examples[position] for position in positions])


def train_sprite(study: Study, positions: tuple[int, ...]) -> dict[str, Any] | None:
    """Return a sprite of some training examples, or ``None`` if they are not pictures."""
    return _sprite(study.study_id, version(), "train", positions)


def query_sprite(study: Study, positions: tuple[int, ...]) -> dict[str, Any] | None:
    """Return a sprite of some queries, or ``None`` if they are not pictures."""
    return _sprite(study.study_id, version(), "queries", positions)


@st.cache_data(max_entries=16, show_spinner=False)
def _query_pictures(study_id: str, version: str, positions: tuple[int, ...]) -> list[str | None]:
    examples = services.examples(opened(study_id, version), "queries")
    chosen = [examples[position] for position in positions]
    return [enlarged(example.payload) if is_picture(example) else None for example in chosen]


def query_pictures(study: Study, positions: tuple[int, ...]) -> list[str | None]:
    """Return data URLs of queries' thumbnails for a table; ``None`` where a query is no picture."""
    return _query_pictures(study.study_id, version(), positions)
