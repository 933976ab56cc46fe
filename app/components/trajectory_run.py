"""Which run is looked at: learning rate, seed and query; and one of its training examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import streamlit as st

from app import session
from app.formats import is_missing, plain
from app.session import control
from app.trajectory_charts import rate_text
from app.trajectory_data import Paths, Results, effects_of, paths_of

MEAN = -1  # stands for the mean over queries where a widget needs a number


@dataclass(frozen=True)
class Run:
    """One recorded run, and what is looked at in it.

    Attributes:
        learning_rate: η of the run.
        seed_index: Its seed.
        query: Whose effects; ``None``: the mean over queries.
        effects: From :func:`~app.trajectory_data.effects_of`, with ``label`` of each example.
        paths: Effects over the steps, or ``None``.
        selected: Training position of the example that is open, or ``None``.
        train: The study's training examples by position; empty for shipped results.
    """

    learning_rate: float
    seed_index: int
    query: int | None
    effects: pd.DataFrame
    paths: Paths | None
    selected: int | None
    train: pd.DataFrame


def choose_run(results: Results) -> Run | None:
    """Draw the switches of learning rate, seed and query; return what they mean, or ``None`` while there is no run."""
    runs, view = results.rows("trajectory_runs"), session.view()
    if not len(runs):
        return None
    rates = sorted(set(runs["learning_rate"]), reverse=True)
    rate = next((each for each in rates if view.rate is not None and np.isclose(each, view.rate)), rates[0])
    if view.rate is not None and not np.isclose(rate, view.rate):
        st.info(f"No run has η = {rate_text(view.rate)}; η = {rate_text(rate)} is shown.")
    seeds = sorted(int(seed) for seed in set(runs.loc[runs["learning_rate"] == rate, "seed_index"]))
    seed = view.run if view.run in seeds else seeds[0]
    if view.run is not None and seed != view.run:
        st.info(f"There is no seed {view.run} at this learning rate; seed {seed} is shown.")
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        control(
            st.segmented_control, "Learning rate η", "trajectory-rate", rate,
            lambda value: session.update(rate=value), options=rates, format_func=rate_text, required=True,
        )  # fmt: skip
        control(
            st.segmented_control, "Seed", "trajectory-seed", seed, lambda value: session.update(run=value),
            options=seeds, required=True,
        )  # fmt: skip
        frame = results.rows("trajectory_effects", rate, seed)
        query = _choose_query(results, frame)
    effects = effects_of(frame, query, view.truth)
    paths = paths_of(results.rows("trajectory_paths", rate, seed))
    train = results.examples("train")
    train = train.set_index("position", drop=False) if len(train) else train
    effects["label"] = [_label(train, position) for position in effects["position"]]
    return Run(rate, seed, query, effects, paths, _selected(effects, paths), train)


def _choose_query(results: Results, frame: pd.DataFrame) -> int | None:
    known = [int(query) for query in frame["query"].dropna()] if len(frame) else []
    wanted = session.view().effect
    query = wanted if wanted in known else None
    examples = results.examples("queries")
    labels = dict(zip(examples["position"], examples["label"], strict=True)) if len(examples) else {}

    def words(value: int) -> str:
        if value == MEAN:
            return "mean over all queries"
        label = labels.get(value)
        return f"query {value}" if label is None or pd.isna(label) or label == "" else f"query {value}: {label}"

    control(
        st.selectbox, "Effect on the loss of", "trajectory-query", MEAN if query is None else query,
        lambda value: session.update(effect=None if value == MEAN else int(value)), options=[MEAN, *known],
        format_func=words, width=260,
    )  # fmt: skip
    if wanted is not None and wanted not in known:
        st.caption(f"Query {wanted} was not looked at one by one; the mean is shown.")
    return query


def _selected(effects: pd.DataFrame, paths: Paths | None) -> int | None:
    """Return the example in the address if the run has it, else that with the largest effect."""
    known = paths.positions if paths is not None else effects["position"].tolist()
    wanted = session.view().train
    return wanted if wanted in known else known[0] if known else None


def _label(train: pd.DataFrame, position: int) -> str:
    label = train["label"].get(position) if len(train) else None
    return "unknown" if label is None or pd.isna(label) else str(label)


def example_words(run: Run, position: int, wrong: dict[int, str]) -> str:
    """Return an example in words, as Markdown."""
    if position not in run.train.index:
        return f"Training example at position **{position}**"
    return row_words(run.train.loc[position], wrong)


def show_payload(row: pd.Series) -> None:
    """Draw a training example: its picture, or the beginning of its text."""
    if row["kind"] == "image":
        st.image(row["payload"], width=112)
    elif not is_missing(row["payload"]):
        st.text(str(row["payload"])[:600])


def row_words(row: pd.Series, wrong: dict[int, str]) -> str:
    """Return a training example in words, as Markdown."""
    position = int(row["position"])
    words = [f"Training example **{row['index']}**"]
    words += [f"label **{plain(row['label'])}**"] if not pd.isna(row["label"]) and row["label"] != "" else []
    words += [f"({plain(wrong[position])})"] if position in wrong else []
    return ", ".join(words)
