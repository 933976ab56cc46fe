"""What the page on training trajectories says while there is nothing computed, or not yet everything."""

from __future__ import annotations

from functools import partial

import streamlit as st

from app import services, session
from app.formats import count_text, duration_text, plain
from app.session import Context, control
from app.shared import claims
from app.shared.progress import is_running, last_job, show_ended_job, show_job, start_button
from app.shared.sections import show_missing_section
from app.state import View
from app.views.trajectory import results as found_results
from app.views.trajectory.results import Results
from app.views.trajectory.sections import SELECTION, UNROLLED, Section


def show_nothing(context: Context | None) -> None:
    """Draw that the study in view has neither section, and how to get one that has."""
    others = found_results.others()
    with st.container(border=True):
        if context is None:
            st.markdown("There is no study yet that unrolls a training run.")
        else:
            st.markdown(f"The study **{plain(context.opened.name)}** does not unroll a training run.")
        if others:
            st.markdown("These studies do:")
            _offer_studies(others, "any")
        else:
            _offer_run()


def _offer_studies(names: list[str], key: str) -> None:
    with st.container(horizontal=True):
        for name in names:
            if st.button(plain(name), key=f"trajectory-{key}-{name}", type="primary"):
                session.write(View(study=name))
                st.rerun()


def _offer_run() -> None:
    names = [section.embedded for section in (UNROLLED, SELECTION)]
    for name in [each for study in names for each in (study, f"{study}-quick")]:
        job = last_job("", name)
        if job is not None and job.is_running:
            show_job(job)
            return
        if job is not None and job.has_failed:
            show_ended_job(job)
    study, selection = names
    st.markdown(
        f"The embedded study `{study}` trains the MLP of the AdamW-influence paper on real MNIST digits and leaves "
        f"training examples out, one at a time. `{selection}` selects data while it trains. The quick version of each "
        "takes about a minute."
    )
    with st.container(horizontal=True):
        whole = partial(services.start_embedded, study)
        start_button("Run the quick version", partial(whole, True), "trajectory-quick", primary=True)
        start_button("Run the whole study", whole, "trajectory-whole")
        start_button("Select data, quick version", partial(services.start_embedded, selection, True), "lookahead-quick")
    st.code("\n".join(f"tda run {name} --quick" for name in names), language="bash")


def find_results(context: Context | None, mine: Results | None, section: Section) -> Results | None:
    """Draw a section's heading and return what it shows; where there is nothing, say why and what to do.

    The study in view goes first; where it lacks the section, shipped results stand in unless another study of the
    catalogue has it.

    Args:
        context: What the page works with.
        mine: The study in view, if it has one of the sections.
        section: Which.
    """
    asked = mine is not None and mine.asks_for(section)
    others = [] if asked else found_results.others(section)
    names = [] if asked or others else found_results.shipped_names(section)
    if mine is None and not names:
        return None
    st.subheader(section.title, anchor=False)
    if mine is not None and not (asked and mine.has(section)):
        assert context is not None
        _show_waiting(context, mine, section)
        if others:
            st.markdown("These studies have it:")
            _offer_studies(others, section.name)
        elif not asked:
            small = partial(services.start_embedded, section.embedded, True)
            start_button(f"Run {section.embedded}, quick", small, f"run-{section.name}")
    if asked:
        return mine if mine is not None and mine.has(section) else None
    return _choose_shipped(names, section) if names else None


def _choose_shipped(names: list[str], section: Section) -> Results:
    wanted = session.view().results
    name = next((each for each in names if each in wanted), names[0])
    st.markdown("Until it is computed here, results that came with the program are shown.")
    if len(names) > 1:
        control(
            st.segmented_control,
            "Shipped study",
            f"{section.name}-results",
            name,
            lambda value: session.update(results=(*(each for each in wanted if each not in names), value)),
            options=names,
            required=True,
        )
    results = found_results.of_shipped(name)
    show_origin(results)
    return results


def show_origin(results: Results) -> None:
    """Draw where the numbers come from."""
    known = claims.provenance(results.name, results.origin)
    made = [
        f"task {plain(known.task)}",
        count_text(known.num_train, "training example"),
        count_text(known.num_queries, "query", "queries"),
    ]
    made += [f"computed {plain(known.created)}"] if known.created else []
    made += [f"code {plain(known.version)}"] if known.version else []
    made += [f"torch {plain(known.torch)} on {plain(known.device)}"] if known.torch else []
    made += [duration_text(known.seconds)] if known.seconds else []
    badge = ":violet-badge[shipped result]" if results.opened is None else ":blue-badge[computed here]"
    st.caption(f"{badge} **{plain(results.name)}** · {' · '.join(made)}")


def _show_waiting(context: Context, results: Results, section: Section) -> None:
    """Draw why a section has no results: the study lacks it, or they are on their way."""
    if results.asks_for(section) and not is_running():
        job = last_job(context.row.study_id, context.row.name)
        if job is not None and job.has_failed:
            show_ended_job(job)
    show_missing_section(context, section.what, section.lines, results.asks_for(section))
