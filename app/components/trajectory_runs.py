"""The recorded runs themselves, and how SOURCE shortens them to segments."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app.components.tables import csv_button, show_data
from app.components.trajectory_agreement import CHART
from app.formats import count_text, joined, plain, regularization_text
from app.navigation import open_page
from app.session import Context
from app.trajectory_charts import rate_text
from app.trajectory_data import Results
from app.trajectory_lines import filter_figure, runs_figure, schedule_figure
from tda_backend.runs.filter_shapes import source_filter_shapes

UNROLLING = ("source", "fast-source", "unrolled-influence")


def show_runs(context: Context | None, results: Results) -> None:
    """Draw loss and learning rate of the recorded runs, and the filter that a whole run amounts to."""
    runs = results.rows("trajectory_runs")
    if not len(runs):
        return
    first = runs.iloc[0]
    st.markdown(
        f"{plain(first['optimizer'])}, {count_text(int(first['num_steps']), 'step')} "
        f"({int(first['steps_per_epoch'])} an epoch), {count_text(int(first['num_parameters']), 'parameter')}. Every "
        "step is recorded, within a budget of memory, and walked backwards once for all queries."
    )
    losses = loss_table(runs)
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**Loss of the queries**")
        st.plotly_chart(
            runs_figure(losses), width="stretch", config=CHART, key="trajectory-losses",
            alt="Mean loss of the queries over the steps of the recorded runs, by learning rate",
        )  # fmt: skip
        st.caption("Means over seeds; bands: from the lowest to the highest seed.")
        show_data(losses, "trajectory-losses")
    with right:
        st.markdown("**Learning rate**")
        schedules = {
            float(rate): np.asarray(rows["rates"].iloc[0], dtype=np.float64).tolist()
            for rate, rows in runs.groupby("learning_rate", sort=False)
        }  # type: ignore[arg-type]
        st.plotly_chart(
            schedule_figure(schedules), width="stretch", config=CHART, key="trajectory-schedule",
            alt=f"Learning rate of every step, for η = {joined([rate_text(rate) for rate in schedules])}",
        )  # fmt: skip
        table = pd.DataFrame({f"η = {rate_text(rate)}": values for rate, values in schedules.items()})
        table.insert(0, "step", np.arange(1, len(table) + 1))
        show_data(table, "trajectory-schedule")
    _show_filter(context, schedules)


def loss_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the mean loss over the steps: learning_rate, step, mean, low, high, seeds."""
    frames = []
    for rate, rows in runs.groupby("learning_rate", sort=False):
        steps = np.asarray(rows["steps"].iloc[0], dtype=int)
        values = np.stack([np.asarray(row, dtype=np.float64) for row in rows["losses"]])
        frames.append(pd.DataFrame({"learning_rate": rate, "step": steps, "mean": values.mean(0), "low": values.min(0),
                                    "high": values.max(0), "seeds": len(rows)}))  # fmt: skip
    return pd.concat(frames)


def _show_filter(context: Context | None, schedules: dict[float, list[float]]) -> None:
    with st.expander("From steps to segments: what SOURCE does to a whole run"):
        products = np.logspace(-2, 3, 121)
        source, damped = source_filter_shapes(products)
        st.plotly_chart(
            filter_figure(products, source, damped), width="stretch", config=CHART, key="source-filter",
            alt="SOURCE's filter against the damped inverse with λ = 1/c: both are flat below σ = 1/c and fall as 1/σ "
            "above it",
        )  # fmt: skip
        lengths = [f"{regularization_text(1 / sum(values))} at η = {rate_text(rate)}"
                   for rate, values in schedules.items()]  # fmt: skip
        st.markdown(
            "SOURCE replaces the steps of a segment by their mean curvature. K steps of SGD with c = Σ η then weigh "
            "a direction of curvature σ by (1 − e^(−cσ))/σ, close to a damped inverse with λ = 1/c: what is not "
            f"trained to the end acts as damping. SGD with the learning rates of these runs would have λ = 1/c of "
            f"{joined(lengths)}; an optimizer like AdamW scales directions on its own, and this holds in "
            "its scale."
        )
        table = pd.DataFrame({"cσ": products, "SOURCE, relative to c": source, "damped inverse, relative to c": damped})
        csv_button(table, "source-filter")
        if context is not None and context.configurations["method"].isin(UNROLLING).any():
            st.markdown("This study has attributions by unrolling, judged by LDS beside other methods:")
            if st.button("Compare them on Methods", key="trajectory-methods"):
                open_page("methods")
        else:
            st.caption(
                "Attributions by SOURCE, with their segments and LDS, are on Methods, in studies that have them."
            )
