"""Training trajectory: what one example changes in this very run, and what selecting examples on the way brings."""

from __future__ import annotations

import streamlit as st

from app import session, trajectory_data
from app.components.errors import shows_errors
from app.components.lookahead import show_lookahead
from app.components.progress import follow, is_running, last_job, show_job
from app.components.sidebar import show_notes
from app.components.trajectory_agreement import optimizer_of, show_agreement
from app.components.trajectory_effects import show_effects, show_example
from app.components.trajectory_errors import show_errors
from app.components.trajectory_missing import find_results, show_nothing, show_origin
from app.components.trajectory_run import choose_run
from app.components.trajectory_runs import show_runs
from app.session import Context
from app.trajectory_data import Results


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Training trajectory", anchor=False)
    st.markdown(
        "Attribution by **unrolling**: every step of a training run is followed, to say what would have changed had "
        "one example been left out of it. Here predictions are put beside the truth, the same run trained again "
        "without the example."
    )
    context = session.context()
    if context is not None:
        show_notes(context)
    mine = trajectory_data.of_context(context)
    if mine is None:
        show_nothing(context)
    else:
        show_origin(mine)
        _show_running(context)
    results = find_results(context, mine, "trajectory", "Does it matter which optimizer is assumed?")
    if results is not None:
        _show_trajectory(context, results)
    results = find_results(context, mine, "lookahead", "Selecting data while training")
    if results is not None:
        st.markdown(
            "At every step the most useful part of the batch is kept, and the rest thrown away: useful is what "
            "lowers the loss of a small selection set **K steps later**, by the same unrolling."
        )
        _show_selection(results)
    follow()


def _show_running(context: Context | None) -> None:
    """Draw how far the study is while it is computed: what is below is what there is by now."""
    if context is None or not is_running():
        return
    job = last_job(str(context.row["study_id"]), str(context.row["name"]))
    if job is not None and job["status"] == "running":
        show_job(job)


def _show_trajectory(context: Context | None, results: Results) -> None:
    optimizer = optimizer_of(results)
    show_agreement(results, optimizer)
    _show_run(results, optimizer)
    st.subheader("The recorded runs", anchor=False)
    show_runs(context, results)


# Fragments: a click on an example draws anew what hangs on it, not twenty other figures.


@st.fragment
@shows_errors
def _show_run(results: Results, optimizer: str) -> None:
    st.subheader("Predicted against true", anchor=False)
    run = choose_run(results)
    if run is not None:
        show_effects(run, optimizer)
        st.subheader("One example over the steps", anchor=False)
        show_example(results, run)
        st.subheader("How wrong is it, and can one know without retraining?", anchor=False)
        show_errors(results, run)


@st.fragment
@shows_errors
def _show_selection(results: Results) -> None:
    show_lookahead(results)
