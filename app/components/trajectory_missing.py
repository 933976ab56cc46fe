"""What the page on training trajectories says while there is nothing computed, or not yet everything."""

from __future__ import annotations

import streamlit as st

from app import claims_data, session, trajectory_data
from app.components.progress import is_running, last_job, show_ended_job, show_job, start_button
from app.components.sections import show_missing_section
from app.formats import count_text, duration_text, plain
from app.session import Context, control
from app.state import View
from app.trajectory_data import EMBEDDED, Results

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


def show_nothing(context: Context | None) -> None:
    """Draw that the study in view has neither section, and how to get one that has."""
    others = trajectory_data.others()
    with st.container(border=True):
        if context is None:
            st.markdown("There is no study yet that unrolls a training run.")
        else:
            st.markdown(f"The study **{plain(context.opened.name)}** unrolls no training run.")
        if others:
            st.markdown("These studies do:")
            _offer_studies(others, "any")
        else:
            _offer_run()


def _offer_studies(names: list[str], key: str) -> None:
    with st.container(horizontal=True):
        for name in names:
            if st.button(name, key=f"trajectory-{key}-{name}", type="primary"):
                session.write(View(study=name))
                st.rerun()


def _offer_run() -> None:
    for study in EMBEDDED.values():
        for name in (study, f"{study}-quick"):
            job = last_job("", name)
            if job is not None and job["status"] == "running":
                show_job(job)
                return
            if job is not None and job["status"] in ("failed", "stale", "cancelled"):
                show_ended_job(job)
    study = EMBEDDED["trajectory"]
    st.markdown(
        f"The embedded study `{study}` trains the MLP of the AdamW-influence paper on real MNIST digits and leaves "
        f"training examples out, one at a time. `{EMBEDDED['lookahead']}` selects data while it trains. The quick "
        "version of each takes about a minute."
    )
    with st.container(horizontal=True):
        start_button("Run the quick version", ["run", study, "--quick"], "trajectory-quick", primary=True)
        start_button("Run the whole study", ["run", study], "trajectory-whole")
        start_button("Select data, quick version", ["run", EMBEDDED["lookahead"], "--quick"], "lookahead-quick")
    st.code("\n".join(f"tda run {name} --quick" for name in EMBEDDED.values()), language="bash")


def find_results(context: Context | None, mine: Results | None, section: str, title: str) -> Results | None:
    """Draw a section's heading and return what it shows; where there is nothing, say why and what to do.

    The study in view goes first; where it lacks the section, shipped results stand in unless another study of the
    catalogue has it.

    Args:
        context: What the page works with.
        mine: The study in view, if it has one of the sections.
        section: ``trajectory`` or ``lookahead``.
        title: Of the section.
    """
    asked = mine is not None and mine.asks_for(section)
    others = [] if asked else trajectory_data.others(section)
    names = [] if asked or others else trajectory_data.shipped_names(section)
    if mine is None and not names:
        return None
    st.subheader(title, anchor=False)
    if mine is not None and not (asked and mine.has(section)):
        assert context is not None
        _show_waiting(context, mine, section)
        if others:
            st.markdown("These studies have it:")
            _offer_studies(others, section)
        elif not asked:
            start_button(f"Run {EMBEDDED[section]}, quick", ["run", EMBEDDED[section], "--quick"], f"run-{section}")
    if asked:
        return mine if mine is not None and mine.has(section) else None
    return _choose_shipped(names, section) if names else None


def _choose_shipped(names: list[str], section: str) -> Results:
    wanted = session.view().results
    name = next((each for each in names if each in wanted), names[0])
    st.markdown("Until it is computed here: results that came with the program.")
    if len(names) > 1:
        control(
            st.segmented_control, "Shipped study", f"{section}-results", name,
            lambda value: session.update(results=(*(each for each in wanted if each not in names), value)),
            options=names, required=True,
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


def _show_waiting(context: Context, results: Results, section: str) -> None:
    """Draw why a section has no results: the study lacks it, or they are on their way."""
    what, toml = WHAT[section]
    if results.asks_for(section) and not is_running():
        job = last_job(str(context.row["study_id"]), str(context.row["name"]))
        if job is not None and job["status"] in ("failed", "stale", "cancelled"):
            show_ended_job(job)
    show_missing_section(context, what, toml, results.asks_for(section))
