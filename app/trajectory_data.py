"""Cached numbers of the page on training trajectories: of a study computed here, or of one whose results are shipped.

No widgets here. ``trajectory_*`` and ``lookahead_*`` are the catalogue's tables; `tda query` describes their columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import claims_data, services
from app.formats import is_missing
from app.session import Context
from tda_backend.evaluation.bootstrap import ranks
from tda_backend.evaluation.comparison import draws_from_ranks
from tda_backend.runs import shipped
from tda_backend.runs.api import Study
from tda_backend.runs.shipped_examples import ShippedExamples, shipped_examples

SECTIONS = ("trajectory", "lookahead")
EMBEDDED = {"trajectory": "trajectory-mnist-mlp", "lookahead": "lookahead-mnist-noisy"}
"""Section → the embedded study that shows it."""
NUM_BOOTSTRAP = 1000
_RESULT = {"trajectory": "trajectory_agreement", "lookahead": "lookahead_tuned"}
_WHOLE_NUMBERS = ("seed_index", "horizon", "query", "num_steps", "num_seeds", "num_removed", "num_queries")


@dataclass(frozen=True)
class Results:
    """Where the page's numbers come from.

    Attributes:
        name: Of the study.
        origin: ``computed here`` or ``shipped result``.
        config: The resolved study file.
        opened: The study; ``None`` if its results are shipped.
    """

    name: str
    origin: str
    config: Mapping[str, Any]
    opened: Study | None

    def rows(self, table: str, learning_rate: float | None = None, seed_index: int | None = None) -> pd.DataFrame:
        """Return a table's rows, of one run if learning rate and seed are given; none if it has none."""
        if self.opened is None:
            frame = shipped.shipped_results(self.name).tables.get(table, pd.DataFrame()).copy()
        elif table in ("trajectory_effects", "trajectory_paths"):
            assert learning_rate is not None
            assert seed_index is not None
            return getattr(self.opened, table)(learning_rate, seed_index)
        else:
            frame = getattr(self.opened, table)()
        for name in _WHOLE_NUMBERS:
            if name in frame:
                frame[name] = frame[name].astype("Int64")
        for name, value in (("learning_rate", learning_rate), ("seed_index", seed_index)):
            if value is not None and name in frame:
                frame = frame[frame[name] == value]
        return frame.reset_index(drop=True)

    def asks_for(self, section: str) -> bool:
        """Return whether the study has a section, computed or not."""
        return section in self.config

    def has(self, section: str) -> bool:
        """Return whether something of a section is there to be shown."""
        tables = (_RESULT[section], "lookahead_runs") if section == "lookahead" else (_RESULT[section],)
        return any(len(self.rows(table)) for table in tables)

    def examples(self, split: str) -> pd.DataFrame:
        """Return the examples of ``train`` or ``queries``; none while there are none, or if nobody has them here.

        Those of shipped results are drawn again from the program's own data.
        """
        if self.opened is not None:
            return self.opened.examples(split)
        found = _shipped_examples(self.name)
        return pd.DataFrame() if found is None else found.train if split == "train" else found.queries

    def wrong_labels(self) -> dict[int, str]:
        """Return training position → what is known of its right label, where the label is known to be wrong."""
        if self.opened is not None:
            rows = self.opened.noisy_rows()
            known = dict(zip(rows["position"], rows["original_label"], strict=True))
        else:
            found = _shipped_examples(self.name)
            known = {} if found is None else found.noisy
        return {
            int(position): "wrong label" if is_missing(label) else f"was {label}" for position, label in known.items()
        }


@st.cache_resource(max_entries=8, show_spinner="Drawing the examples again")
def _shipped_examples(name: str) -> ShippedExamples | None:
    return shipped_examples(name)


def asks_for_runs(config: Mapping[str, Any]) -> bool:
    """Return whether a study has one of the sections."""
    return any(section in config for section in SECTIONS)


def of_context(context: Context | None) -> Results | None:
    """Return the study in view as the page needs it, or ``None`` if it has neither section."""
    if context is None or not asks_for_runs(context.opened.config):
        return None
    return Results(context.opened.name, claims_data.COMPUTED, context.opened.config, context.opened)


def others(*sections: str) -> list[str]:
    """Return the names of the catalogue's studies that have one of the sections (none named: any), newest first."""
    wanted = set(sections or SECTIONS)
    frame = services.studies()
    named = [(str(row["name"]), str(row["study_id"])) for row in frame.to_dict("records")] if len(frame) else []
    return list(dict.fromkeys(name for name, key in named if wanted & set(services.study(key).config)))


def shipped_names(section: str) -> list[str]:
    """Return the studies with shipped results of a section; the embedded one that shows it first."""
    folder = shipped.results_folder()
    names = [name for name in shipped.shipped_names() if (folder / name / f"{_RESULT[section]}.parquet").is_file()]
    return sorted(names, key=lambda name: name != EMBEDDED[section])


def of_shipped(name: str) -> Results:
    """Return shipped results as the page needs them."""
    return Results(name, claims_data.SHIPPED, shipped.shipped_results(name).facts["config"], None)


def optimizer_name(runs: pd.DataFrame) -> str:
    """Return the optimizer of recorded runs without its constants: ``AdamW``."""
    if not len(runs):
        return "the optimizer as trained"
    whole = str(runs["optimizer"].iloc[0])
    first = re.split(r"[,(]", whole)[0].strip()
    return whole if first == "SGD" else first  # "SGD, momentum 0.9", so that it is not taken for the baseline


@st.cache_data(max_entries=64, show_spinner=False)
def agreement(predicted: tuple[float, ...], true: tuple[float, ...]) -> tuple[float, float, float]:
    """Return Spearman's correlation of two rows with its 95 % bootstrap interval over the examples; NaN if constant."""
    left, right = np.asarray(predicted, dtype=np.float64)[:, None], np.asarray(true, dtype=np.float64)[:, None]
    if len(left) < 3 or np.ptp(left) == 0 or np.ptp(right) == 0:
        return float("nan"), float("nan"), float("nan")
    ranked = ranks(left)
    drawn = draws_from_ranks(ranked, right, NUM_BOOTSTRAP)
    drawn = drawn[np.isfinite(drawn)]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
    return float(ranked[:, 0] @ ranks(right)[:, 0]), float(low), float(high)


def effects_of(frame: pd.DataFrame, query: int | None, truth: str) -> pd.DataFrame:
    """Return the effects on one query (``None``: mean over queries), a row a removed example.

    Args:
        frame: Rows of ``trajectory_effects`` of one run.
        query: Which one.
        truth: ``fixed`` or ``smaller``: what the batch becomes without the example.

    Returns:
        position, true, predicted, predicted_sgd, proxy, cheap; columns of NaN where a list is missing.
    """
    mine = frame[frame["query"].isna() if query is None else frame["query"] == query]
    if not len(mine):
        return pd.DataFrame(columns=["position", "true", "predicted", "predicted_sgd", "proxy", "cheap"])
    row = mine.iloc[0]
    names = {"true": "truth" if truth == "fixed" else "truth_smaller", "predicted": "predicted",
             "predicted_sgd": "predicted_sgd", "proxy": "proxy", "cheap": "cheap"}  # fmt: skip
    lists = {name: _numbers(row[column], len(row["positions"])) for name, column in names.items()}
    return pd.DataFrame({"position": np.asarray(row["positions"], dtype=int), **lists})


def _numbers(values: Any, length: int) -> np.ndarray:
    return np.full(length, np.nan) if values is None or np.ndim(values) == 0 else np.asarray(values, dtype=np.float64)


@dataclass(frozen=True)
class Paths:
    """Effects over the steps of one run, the largest true final effect first.

    Attributes:
        positions: Training positions, ``[c]``.
        steps: Steps trained, ``[s]``.
        seen: Steps whose batch holds each example.
        truth: ``[c, s]``, as predicted, proxy (NaN where there is none).
        predicted: ``[c, s]``.
        proxy: ``[c, s]``.
        sound: Whether the proxy is at most half of the prediction, ``[c]``: elsewhere neither is to be trusted.
    """

    positions: list[int]
    steps: np.ndarray
    seen: list[list[int]]
    truth: np.ndarray
    predicted: np.ndarray
    proxy: np.ndarray
    sound: list[bool]


def paths_of(frame: pd.DataFrame) -> Paths | None:
    """Return rows of ``trajectory_paths`` of one run as arrays, or ``None`` if there are none."""
    if not len(frame):
        return None
    steps = np.asarray(frame["steps"].iloc[0], dtype=int)
    lists = {
        name: np.stack([_numbers(row, len(steps)) for row in frame[name]]) for name in ("truth", "predicted", "proxy")
    }
    order = np.argsort(-np.abs(lists["truth"][:, -1]), kind="stable")
    sound = frame["sound"].fillna(True).to_numpy(dtype=bool) if "sound" in frame else np.ones(len(frame), dtype=bool)
    return Paths(
        [int(value) for value in frame["position"].to_numpy()[order]], steps,
        [[int(step) for step in frame["seen"].iloc[place]] for place in order],
        *(lists[name][order] for name in ("truth", "predicted", "proxy")), [bool(flag) for flag in sound[order]],
    )  # fmt: skip


@dataclass(frozen=True)
class WrongShare:
    """Share of wrong labels in what a selection kept or dropped, with a 95 % bootstrap interval over examples."""

    value: float
    low: float
    high: float


def wrong_shares(frame: pd.DataFrame, wrong: set[int]) -> dict[str, WrongShare]:
    """Return the share of wrong labels among what was kept and what was dropped, weighted by how often.

    Args:
        frame: Rows of ``lookahead_examples`` of one strategy.
        wrong: Positions whose label is known to be wrong.
    """
    is_wrong = frame["position"].isin(wrong).to_numpy().astype(float)
    kept = frame["times_kept"].to_numpy(dtype=float)
    times = {"kept": kept, "dropped": frame["times_seen"].to_numpy(dtype=float) - kept}
    weights = np.random.default_rng(0).multinomial(len(frame), np.full(len(frame), 1 / len(frame)), NUM_BOOTSTRAP)
    found = {}
    for name, count in times.items():
        if count.sum():
            totals = weights @ count
            drawn = (weights @ (count * is_wrong))[totals > 0] / totals[totals > 0]
            low, high = np.percentile(drawn, [2.5, 97.5])
            found[name] = WrongShare(float(count @ is_wrong / count.sum()), float(low), float(high))
    return found
