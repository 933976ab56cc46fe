"""Training trajectory: what one example changes in this very run, and what selecting examples on the way brings."""

from __future__ import annotations

import streamlit as st

from app import session
from app.session import Context
from app.shared.errors import shows_errors
from app.shared.progress import follow, is_running, last_job, show_job
from app.shared.sidebar import show_notes
from app.views.trajectory import results as found_results
from app.views.trajectory.missing import find_results, show_nothing, show_origin
from app.views.trajectory.results import Results
from app.views.trajectory.sections import SELECTION, UNROLLED
from app.views.trajectory.selection.section import show_selection
from app.views.trajectory.unrolled.agreement import show_agreement
from app.views.trajectory.unrolled.choice import choose_run
from app.views.trajectory.unrolled.effects import show_effects
from app.views.trajectory.unrolled.errors import show_errors
from app.views.trajectory.unrolled.example import show_example
from app.views.trajectory.unrolled.recorded import optimizer_of, show_recorded


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Training trajectory", anchor=False)
    st.markdown(
        "Attribution by **unrolling** follows every step of a training run, to say what would have changed had one "
        "example been left out of it. This page compares its predictions with the truth: the same run, trained again "
        "without the example."
    )
    context = session.context()
    if context is not None:
        show_notes(context)
    mine = found_results.of_context(context)
    if mine is None:
        show_nothing(context)
    else:
        show_origin(mine)
        _show_running(context)
    results = find_results(context, mine, UNROLLED)
    if results is not None:
        optimizer = optimizer_of(results)
        show_agreement(results, optimizer)
        _show_run(results, optimizer)
        st.subheader("The recorded runs", anchor=False)
        show_recorded(context, results)
    results = find_results(context, mine, SELECTION)
    if results is not None:
        st.markdown(
            "Every step keeps the most useful part of its batch and drops the rest. An example is useful if it lowers "
            "the loss of a small selection set **K steps later**; unrolling predicts that."
        )
        _show_selection(results)
    follow()


def _show_running(context: Context | None) -> None:
    """Draw how far the study is while it is computed: what is below is what there is by now."""
    if context is None or not is_running():
        return
    job = last_job(context.row.study_id, context.row.name)
    if job is not None and job.is_running:
        show_job(job)


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
    show_selection(results)
