"""What the explorer computes, remembered: one query's factors, ranks over training seeds, self-influence, layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import services
from app.services import layer_name, opened, version
from app.shared.pictures import alt_text, mark_text, sprite_of, text_of
from tda_backend.interfaces.reading import layers
from tda_backend.interfaces.reading.payload import Payload, payload_scores
from tda_backend.interfaces.reading.records.studies import facts_of
from tda_backend.interfaces.reading.study import Study

NUM_SHOWN = 20  # examples on either side of the explorer
NUM_RANK_STEPS = 65  # values of λ at which intervals of ranks are sent


@dataclass(frozen=True)
class Candidates:
    """Which training examples the explorer ranks, and for which query of which configuration.

    Attributes:
        configuration_id: Of the configuration.
        query: Position of the query.
        classes: Labels that are kept; none: all.
        right: ``right`` or ``wrong``: keep what the model predicts so; empty: both.
    """

    configuration_id: str
    query: int
    classes: tuple[str, ...] = ()
    right: str = ""


@dataclass(frozen=True)
class RankIntervals:
    """Lowest and highest rank of each candidate over training seeds.

    Attributes:
        grid: L values of λ; one 0 for methods without λ.
        values: int ``[L, c, 2]``; rank 1 helps most.
    """

    grid: list[float]
    values: np.ndarray


@dataclass(frozen=True)
class ExplorerNumbers:
    """What the browser needs to rank one query's training examples at any λ.

    Attributes:
        payload: Factors and filter.
        cards: What stands on each candidate's card, as the browser wants it.
        sprite: Their pictures in one, or ``None``.
        ranks: Over training seeds; ``None`` with one seed.
        num_seeds: Training seeds, or models of an ensemble.
    """

    payload: Payload
    cards: list[dict[str, Any]]
    sprite: dict[str, Any] | None
    ranks: RankIntervals | None
    num_seeds: int


@st.cache_resource(max_entries=16, show_spinner=False)
def _payload(study_id: str, version: str, wanted: Candidates) -> Payload:
    return opened(study_id, version).explorer_payload(
        wanted.configuration_id,
        wanted.query,
        num=NUM_SHOWN,
        classes=wanted.classes or None,
        correctness=wanted.right or None,
    )


@st.cache_resource(max_entries=16, show_spinner=False)
def _explorer_numbers(study_id: str, version: str, wanted: Candidates) -> ExplorerNumbers:
    study = opened(study_id, version)
    payload = _payload(study_id, version, wanted)
    train = services.examples(study, "train")
    chosen = [train[position] for position in payload.positions]
    cards = [
        {
            "position": row.position,
            "class": (row.label or "") if row.has_classes else "",
            "label": mark_text(row),
            "right": row.is_right,
            "alt": alt_text(row, "training example"),
            "text": text_of(row),
        }
        for row in chosen
    ]
    num_seeds = layers.num_sources(study, wanted.configuration_id)
    ranks = _ranks(study, wanted, payload.positions) if num_seeds > 1 and payload.positions else None
    return ExplorerNumbers(payload, cards, sprite_of(chosen), ranks, num_seeds)


def _ranks(study: Study, wanted: Candidates, positions: list[int]) -> RankIntervals:
    """Return each candidate's lowest and highest rank over training seeds on a grid of λ."""
    grid: list[float] | None = None
    if services.configurations(study).by_id(wanted.configuration_id).has_regularization:
        positive = facts_of(study.info).positive
        steps = [0.0, *np.geomspace(min(positive), max(positive), NUM_RANK_STEPS - 1).tolist()]
        grid = layers.admissible_regularizations(study, wanted.configuration_id, steps, wanted.query)
    values = study.rank_intervals(wanted.configuration_id, wanted.query, positions, grid)
    return RankIntervals(grid or [0.0], values)


def explorer_numbers(study: Study, wanted: Candidates) -> ExplorerNumbers:
    """Return what the browser needs to rank one query's training examples at any λ. Shared: do not change it."""
    return _explorer_numbers(study.study_id, version(), wanted)


@dataclass(frozen=True)
class TopExample:
    """A training example that the explorer shows.

    Attributes:
        side: ``helpful`` or ``harmful``.
        rank: From 1, from its side's end.
        example: Row in the task's data set.
        position: Place in the study's training set.
        label: Its class.
        prediction: What the model predicts.
        score: Positive helps.
    """

    side: str
    rank: int
    example: int
    position: int
    label: str | None
    prediction: str | None
    score: float


def top_examples(study: Study, wanted: Candidates, lam: float | None) -> list[TopExample]:
    """Return the examples that the explorer shows at one λ: those that help, then those that hurt.

    Raises:
        NumericalError: The method has no scores at this λ.
    """
    payload = _payload(study.study_id, version(), wanted)
    values = payload_scores(payload, lam or 0.0)
    order = np.argsort(-values, kind="stable").tolist()
    num_helpful = min(NUM_SHOWN, -(-len(order) // 2))
    num_harmful = min(NUM_SHOWN, len(order) - num_helpful)
    train = services.examples(study, "train")
    found = []
    for side, places in (("helpful", order[:num_helpful]), ("harmful", order[::-1][:num_harmful])):
        for rank, place in enumerate(places, 1):
            row = train[payload.positions[place]]
            score = float(values[place])
            found.append(TopExample(side, rank, row.index, row.position, row.label, row.prediction, score))
    return found


def top_table(rows: list[TopExample]) -> pd.DataFrame:
    """Return top examples as a table for people."""
    return pd.DataFrame(
        {
            "side": [row.side for row in rows],
            "rank": [row.rank for row in rows],
            "training example": [row.example for row in rows],
            "position": [row.position for row in rows],
            "label": [row.label for row in rows],
            "prediction": [row.prediction for row in rows],
            "score": [row.score for row in rows],
        }
    )


@st.cache_resource(max_entries=8, show_spinner=False)
def _self_influence(study_id: str, version: str, configuration_id: str, lam: float) -> np.ndarray:
    return layers.self_influence_of(opened(study_id, version), configuration_id, lam)


def self_influence(study: Study, configuration_id: str, lam: float) -> np.ndarray:
    """Return every training example's influence on its own loss at one λ, ``[n]``."""
    return _self_influence(study.study_id, version(), configuration_id, lam)


@st.cache_resource(max_entries=8, show_spinner=False)
def _layer_scores(study_id: str, version: str, configuration_id: str, query: int, lam: float) -> dict[str, np.ndarray]:
    return layers.layer_scores_of(opened(study_id, version), configuration_id, query, lam)


def layer_scores(study: Study, configuration_id: str, query: int, lam: float) -> dict[str, np.ndarray]:
    """Return one query's scores by layer at one λ, each ``[n]``; they sum to the scores."""
    parts = _layer_scores(study.study_id, version(), configuration_id, query, lam)
    return {layer_name(name): values for name, values in parts.items()}
