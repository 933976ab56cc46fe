"""Cached numbers of the page on counterfactual retraining. No widgets here."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from app import services
from app.session import Context
from app.shared.reads import scores_of_example
from tda_backend.interfaces.reading import influence
from tda_backend.interfaces.reading.influence import SubsetPoints
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.leave_one_out import LOOEffect
from tda_backend.interfaces.reading.records.removals import QueryBrittleness, RemovalPoint
from tda_backend.interfaces.reading.study import Study


@st.cache_data(max_entries=64, show_spinner=False)
def _subset_points(
    study_id: str, version: str, configuration_id: str, query: int, lam: float | None, alpha: float
) -> SubsetPoints:
    return influence.subset_points(services.opened(study_id, version), configuration_id, query, lam, alpha)


def subset_points(context: Context) -> SubsetPoints:
    """Return predicted and actual goodness of the query for every retrained subset."""
    opened = context.opened
    return _subset_points(
        opened.study_id, services.version(), context.configuration_id, context.query, context.lam, context.alpha
    )


@st.cache_data(max_entries=8, show_spinner=False)
def _removal_points(study_id: str, version: str) -> list[RemovalPoint]:
    return services.opened(study_id, version).removal_points()


def removal_points(opened: Study) -> list[RemovalPoint]:
    """Return the removal curves, one after the other."""
    return _removal_points(opened.study_id, services.version())


@st.cache_data(max_entries=8, show_spinner=False)
def _brittle_queries(study_id: str, version: str) -> list[QueryBrittleness]:
    return services.opened(study_id, version).brittle_queries()


def brittle_queries(opened: Study) -> list[QueryBrittleness]:
    """Return how many removed examples flip each query, by who chose them."""
    return _brittle_queries(opened.study_id, services.version())


@dataclass(frozen=True)
class LeftOut:
    """A training example that was left out, and what that did to one query.

    Attributes:
        position: Training position.
        label: Its label.
        score: Its score for the query, divided by n.
        effect: Goodness lost without it.
        standard_error: Of the effect, over seeds; NaN with one seed.
    """

    position: int
    label: str | None
    score: float
    effect: float
    standard_error: float


def left_out(context: Context) -> list[LeftOut]:
    """Return the examples that were left out with their effect on the query and their score for it."""
    opened, query = context.opened, context.query
    train = services.examples(opened, "train")
    return [
        LeftOut(
            position=row.position,
            label=train[row.position].label,
            score=float(scores_of_example(opened, context.configuration_id, row.position, context.lam)[query])
            / opened.num_train,
            effect=float(row.effects[query]),
            standard_error=float(row.standard_errors[query]),
        )
        for row in records(opened.loo_effects(), LOOEffect)
    ]
