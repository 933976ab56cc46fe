"""What the page on training trajectories says while there is nothing computed, or not yet everything."""

from __future__ import annotations

import streamlit as st

from app import claims_data, session, trajectory_data
from app.components.progress import is_running, last_job, show_ended_job, show_job, start_button
from app.components.sections import show_missing_section
from app.formats import count_text, duration_text, plain
from app.session import Context, control
from app.state import View
from app.trajectory_data import STUDY, Results

TRAJECTORY = """[trajectory]
learning_rates = [1e-3, 1e-4, 1e-5]
seeds = 3
removed = 200"""
LOOKAHEAD = """[lookahead]
learning_rates = [1e-3, 3e-3]
horizons = [1, 5, 20, "all"]
fraction = 0.5
seeds = 5"""
WHAT = {
    "trajectory": ("A training run is unrolled, and its predictions put to the test, with", TRAJECTORY),
    "lookahead": ("Data is selected while training with", LOOKAHEAD),
}


def find_results(context: Context | None) -> Results | None:
    """Return what the page shows; where the study in view has no such section, say so and offer what there is."""
    mine = trajectory_data.of_context(context)
    if mine is not None:
        return mine
    others = trajectory_data.others()
    with st.container(border=True):
        if context is None:
            st.markdown("There is no study yet that unrolls a training run.")
        else:
            st.markdown(f"The study **{plain(context.opened.name)}** unrolls no training run.")
        if others:
            st.markdown("These studies do:")
            with st.container(horizontal=True):
                for name in others:
                    if st.button(name, key=f"trajectory-study-{name}", type="primary"):
                        session.write(View(study=name))
                        st.rerun()
        else:
            _offer_run()
    if others:
        return None
    return _choose_shipped()


def _offer_run() -> None:
    job = last_job("", STUDY)
    job = last_job("", f"{STUDY}-quick") if job is None else job
    if job is not None and job["status"] == "running":
        show_job(job)
        return
    if job is not None and job["status"] in ("failed", "stale", "cancelled"):
        show_ended_job(job)
    st.markdown(
        f"The embedded study `{STUDY}` trains the MLP of the AdamW-influence paper on real MNIST digits, leaves "
        "training examples out one at a time, and selects data while training. Its quick version takes under a minute."
    )
    with st.container(horizontal=True):
        start_button("Run the quick version", ["run", STUDY, "--quick"], "trajectory-quick", primary=True)
        start_button("Run the whole study", ["run", STUDY], "trajectory-whole")
    st.code(f"tda run {STUDY} --quick", language="bash")


def _choose_shipped() -> Results | None:
    names = trajectory_data.shipped_names()
    if not names:
        return None
    wanted = session.view().results
    name = wanted if wanted in names else names[0]
    st.markdown("Until then: results that came with the program.")
    if len(names) > 1:
        control(
            st.segmented_control, "Shipped study", "trajectory-results", name,
            lambda value: session.update(results=value), options=names, required=True,
        )  # fmt: skip
    results = trajectory_data.of_shipped(name)
    show_origin(results)
    return results


def show_origin(results: Results) -> None:
    """Draw where the numbers come from."""
    facts = claims_data.facts(results.name, results.origin)
    sizes = count_text(facts["num_train"], "training example"), count_text(facts["num_queries"], "query", "queries")
    made = [f"task {plain(facts['task'])}", *sizes]
    made += [f"computed {plain(facts['created'])}"] if facts["created"] else []
    made += [f"code {plain(facts['version'])}"] if facts["version"] else []
    made += [f"torch {plain(facts['torch'])} on {plain(facts['device'])}"] if facts["torch"] else []
    made += [duration_text(facts["seconds"])] if facts["seconds"] else []
    badge = ":violet-badge[shipped result]" if results.opened is None else ":blue-badge[computed here]"
    st.caption(f"{badge} **{plain(results.name)}** · {' · '.join(made)}")


def show_waiting(context: Context | None, results: Results, section: str) -> None:
    """Draw why a section has no results: the study lacks it, or they are on their way.

    Args:
        context: What the page works with.
        results: Of the study in view.
        section: ``trajectory`` or ``lookahead``.
    """
    if context is None or results.opened is None:
        st.info("The shipped study has no such results.")
        return
    what, toml = WHAT[section]
    if results.asks_for(section) and not is_running():
        job = last_job(str(context.row["study_id"]), str(context.row["name"]))
        if job is not None and job["status"] in ("failed", "stale", "cancelled"):
            show_ended_job(job)
    show_missing_section(context, what, toml, results.asks_for(section))
