"""Cached numbers of the page on data health. No widgets here."""

from __future__ import annotations

import numpy as np
import streamlit as st

from app import services
from app.session import Context
from tda_backend.interfaces.reading import influence
from tda_backend.interfaces.reading.influence import ClassInfluence, Usage
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.noisy_labels import WrongLabel


@st.cache_data(max_entries=16, show_spinner="Computing self-influence")
def _own_influence(study_id: str, version: str, configuration_id: str, lam: float | None) -> np.ndarray | None:
    return influence.own_influence(services.opened(study_id, version), configuration_id, lam)


def own_influence(context: Context) -> np.ndarray | None:
    """Return each training example's influence on its own loss, or ``None`` where the method has none."""
    return _own_influence(context.opened.study_id, services.version(), context.configuration_id, context.lam)


@st.cache_data(max_entries=16, show_spinner="Computing influence by class")
def _class_influence(study_id: str, version: str, configuration_id: str, lam: float | None) -> ClassInfluence:
    return influence.class_influence(services.opened(study_id, version), configuration_id, lam)


def class_influence(context: Context) -> ClassInfluence:
    """Return the mean score of every pair of classes."""
    return _class_influence(context.opened.study_id, services.version(), context.configuration_id, context.lam)


@st.cache_data(max_entries=16, show_spinner="Computing all scores")
def _usage(study_id: str, version: str, configuration_id: str, lam: float | None) -> Usage:
    return influence.usage(services.opened(study_id, version), configuration_id, lam)


def usage(context: Context) -> Usage:
    """Return how often each training example is among those that matter most for a query."""
    return _usage(context.opened.study_id, services.version(), context.configuration_id, context.lam)


def known_labels(context: Context) -> dict[int, str]:
    """Return training position → what is known of its right label, where the label is known to be wrong."""
    return {row.position: row.words for row in records(context.opened.noisy_rows(), WrongLabel)}
