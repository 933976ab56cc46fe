"""Which run is looked at: learning rate, seed and query; and one of its training examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from app import session
from app.session import control
from app.views.trajectory.charts import rate_text
from app.views.trajectory.results import Results, is_same
from app.views.trajectory.unrolled.data import UNKNOWN, Effect, Paths, effects_of, paths_of
from tda_backend.interfaces.reading.records.examples import Example
from tda_backend.interfaces.reading.records.trajectory import RecordedRun, RunEffects, RunPath

MEAN = -1  # stands for the mean over queries where a widget needs a number


@dataclass(frozen=True)
class Run:
    """One recorded run, and what is looked at in it.

    Attributes:
        learning_rate: η of the run.
        seed_index: Its seed.
        query: Whose effects; ``None``: the mean over queries.
        rows: Effects on all queries.
        effects: Those on the query.
        paths: Effects over the steps, or ``None``.
        selected: Training position of the example that is open, or ``None``.
        train: The study's training examples by position; none where nobody has them.
    """

    learning_rate: float
    seed_index: int
    query: int | None
    rows: list[RunEffects]
    effects: list[Effect]
    paths: Paths | None
    selected: int | None
    train: list[Example]

    @property
    def labels(self) -> dict[int, str]:
        """Training position → label."""
        return {example.position: example.label or UNKNOWN for example in self.train}


def choose_run(results: Results) -> Run | None:
    """Draw the switches of learning rate, seed and query; return what they mean, or ``None`` while there is no run."""
    runs = results.read(RecordedRun)
    if not runs:
        return None
    rates = sorted({run.learning_rate for run in runs}, reverse=True)
    rate = _rate_in_view(rates)
    seeds = sorted({run.seed_index for run in runs if run.learning_rate == rate})
    seed = _seed_in_view(seeds)
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        control(
            st.segmented_control,
            "Learning rate η",
            "trajectory-rate",
            rate,
            lambda value: session.update(rate=value),
            options=rates,
            format_func=rate_text,
            required=True,
        )
        control(
            st.segmented_control,
            "Seed",
            "trajectory-seed",
            seed,
            lambda value: session.update(run=value),
            options=seeds,
            required=True,
        )
        rows = results.read_run(RunEffects, rate, seed)
        query = _choose_query(results, rows)
    train = results.examples("train")
    labels = {example.position: example.label or UNKNOWN for example in train}
    effects = effects_of(rows, query, session.view().truth, labels)
    paths = paths_of(results.read_run(RunPath, rate, seed))
    return Run(rate, seed, query, rows, effects, paths, _selected(effects, paths), train)


def _rate_in_view(rates: Sequence[float]) -> float:
    wanted = session.view().rate
    if wanted is None:
        return rates[0]
    found = next((rate for rate in rates if is_same(rate, wanted)), None)
    if found is None:
        st.info(f"No run has η = {rate_text(wanted)}; η = {rate_text(rates[0])} is shown.")
    return rates[0] if found is None else found


def _seed_in_view(seeds: Sequence[int]) -> int:
    wanted = session.view().run
    if wanted in seeds or wanted is None:
        return seeds[0] if wanted is None else wanted
    st.info(f"There is no seed {wanted} at this learning rate; seed {seeds[0]} is shown.")
    return seeds[0]


def _choose_query(results: Results, rows: Sequence[RunEffects]) -> int | None:
    known = [row.query for row in rows if row.query is not None]
    wanted = session.view().effect
    query = wanted if wanted in known else None
    labels = {example.position: example.label for example in results.examples("queries")}

    def words(value: int) -> str:
        if value == MEAN:
            return "mean over all queries"
        label = labels.get(value)
        return f"query {value}: {label}" if label else f"query {value}"

    control(
        st.selectbox,
        "Effect on the loss of",
        "trajectory-query",
        MEAN if query is None else query,
        lambda value: session.update(effect=None if value == MEAN else int(value)),
        options=[MEAN, *known],
        format_func=words,
        width=260,
    )
    if wanted is not None and wanted not in known:
        st.caption(f"Query {wanted} was not looked at one by one; the mean is shown.")
    return query


def _selected(effects: Sequence[Effect], paths: Paths | None) -> int | None:
    """Return the example in the address if the run has it, else that with the largest effect."""
    known = paths.positions if paths is not None else [effect.position for effect in effects]
    wanted = session.view().train
    return wanted if wanted in known else next(iter(known), None)
