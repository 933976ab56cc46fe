"""The recorded runs themselves, and how SOURCE shortens them to segments."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import streamlit as st

from app.formats import count_text, joined, plain, regularization_text
from app.navigation import open_page
from app.session import Context
from app.shared.method_style import known_method
from app.shared.plots import show_figure
from app.shared.tables import csv_button, show_data
from app.views.trajectory.charts import Point, rate_text
from app.views.trajectory.results import Results
from app.views.trajectory.unrolled.recorded_charts import filter_figure, runs_figure, schedule_figure
from tda_backend.interfaces.reading.influence import source_filter_shapes
from tda_backend.interfaces.reading.records.grouping import grouped
from tda_backend.interfaces.reading.records.trajectory import RecordedRun


def optimizer_of(results: Results) -> str:
    """Return the optimizer of the recorded runs without its constants: ``AdamW``."""
    runs = results.read(RecordedRun)
    if not runs:
        return "the optimizer as trained"
    whole = runs[0].optimizer
    first = re.split(r"[,(]", whole)[0].strip()
    return whole if first == "SGD" else first  # "SGD, momentum 0.9", so that it is not taken for the baseline


def show_recorded(context: Context | None, results: Results) -> None:
    """Draw loss and learning rate of the recorded runs, and the filter that a whole run amounts to."""
    runs = results.read(RecordedRun)
    if not runs:
        return
    first = runs[0]
    st.markdown(
        f"{plain(first.optimizer)}, {count_text(first.num_steps, 'step')} ({first.steps_per_epoch} an epoch), "
        f"{count_text(first.num_parameters, 'parameter')}. Every step is recorded, within a budget of memory, "
        "and one walk backwards serves all queries."
    )
    by_rate = grouped(runs, lambda row: row.learning_rate)
    schedules = {rate: [float(value) for value in mine[0].rates] for rate, mine in by_rate.items()}
    left, right = st.columns(2, gap="large")
    with left:
        _show_losses(by_rate)
    with right:
        _show_schedules(schedules)
    _show_filter(context, schedules)


def _show_losses(by_rate: Mapping[float, Sequence[RecordedRun]]) -> None:
    st.markdown("**Loss of the queries**")
    curves = {rate: loss_curve(runs) for rate, runs in by_rate.items()}
    show_figure(
        runs_figure(curves),
        "trajectory-losses",
        "Mean loss of the queries over the steps of the recorded runs, by learning rate",
    )
    st.caption("Means over seeds; bands: from the lowest to the highest seed.")
    rows = [(rate, point) for rate, points in curves.items() for point in points]
    table = pd.DataFrame(
        {
            "learning_rate": [rate for rate, _ in rows],
            "step": [point.x for _, point in rows],
            "mean": [point.y for _, point in rows],
            "low": [point.low for _, point in rows],
            "high": [point.high for _, point in rows],
            "seeds": [len(by_rate[rate]) for rate, _ in rows],
        }
    )
    show_data(table, "trajectory-losses")


def loss_curve(runs: Sequence[RecordedRun]) -> list[Point]:
    """Return the mean loss over the steps, from the lowest to the highest of several seeds."""
    values = np.stack([np.asarray(run.losses, dtype=np.float64) for run in runs])
    rows = zip(runs[0].steps.tolist(), values.mean(0), values.min(0), values.max(0), strict=True)
    return [Point(step, float(mean), float(low), float(high)) for step, mean, low, high in rows]


def _show_schedules(schedules: Mapping[float, Sequence[float]]) -> None:
    st.markdown("**Learning rate**")
    show_figure(
        schedule_figure(schedules),
        "trajectory-schedule",
        f"Learning rate of every step, for η = {joined([rate_text(rate) for rate in schedules])}",
    )
    table = pd.DataFrame({f"η = {rate_text(rate)}": values for rate, values in schedules.items()})
    table.insert(0, "step", np.arange(1, len(table) + 1))
    show_data(table, "trajectory-schedule")


def _show_filter(context: Context | None, schedules: Mapping[float, Sequence[float]]) -> None:
    with st.expander("From steps to segments: what SOURCE does to a whole run"):
        products = np.logspace(-2, 3, 121)
        source, damped = source_filter_shapes(products)
        show_figure(
            filter_figure(products, source, damped),
            "source-filter",
            "SOURCE's filter against the damped inverse with λ = 1/c: both are flat below σ = 1/c and fall as 1/σ "
            "above it",
        )
        lengths = [
            f"{regularization_text(1 / sum(values))} at η = {rate_text(rate)}" for rate, values in schedules.items()
        ]
        st.markdown(
            "SOURCE replaces the steps of a segment by their mean curvature. K steps of SGD with c = Σ η then weigh "
            "a direction of curvature σ by (1 − e^(−cσ))/σ, close to a damped inverse with λ = 1/c: what is not "
            f"trained to the end acts as damping. SGD with the learning rates of these runs would have λ = 1/c of "
            f"{joined(lengths)}; an optimizer like AdamW scales directions on its own, and this holds in "
            "its scale."
        )
        table = pd.DataFrame({"cσ": products, "SOURCE, relative to c": source, "damped inverse, relative to c": damped})
        csv_button(table, "source-filter")
        _link_methods(context)


def _link_methods(context: Context | None) -> None:
    """Draw the way to the page that compares methods by unrolling with others."""
    if context is not None and _has_unrolled(context):
        st.markdown("This study has attributions by unrolling, judged by LDS beside other methods:")
        if st.button("Compare them on Methods", key="trajectory-methods"):
            open_page("methods")
    else:
        st.caption("Attributions by SOURCE, with their segments and LDS, are on Methods, in studies that have them.")


def _has_unrolled(context: Context) -> bool:
    """Return whether the study has attributions by a method that unrolls the run."""
    known = [known_method(name) for name in context.configurations.methods]
    return any(spec is not None and spec.follows_training for spec in known)
