"""Overview: which studies there are, how good they are, how far they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import pandas as pd
import streamlit as st

from app import clocks, services, session
from app.configurations import Configurations
from app.formats import MISSING, lds_text, plain, regularization_text, signed
from app.shared.errors import shows_errors
from app.shared.method_controls import short_title
from app.shared.progress import (
    follow,
    is_running,
    last_job,
    planned_text,
    show_ended_job,
    show_job,
    start_button,
)
from app.shared.remarks import show_study_remarks
from app.shared.tables import show_data
from app.state import View
from app.views.overview.curves import show_curves
from app.views.overview.shipped import show_shipped
from tda_backend.interfaces.reading.records.studies import StudyRow
from tda_backend.studies.jobs.progress import JobState

MAX_STUDIES, MAX_NAMES = 8, 4
STARTS = ("start-demo", "start-quick")
ACTIONS = OPEN, UNROLLED, RESUME = "open", "trajectory", "resume"
"""How the keys of a study's buttons begin."""
STATUS = {
    "complete": ":green-badge[complete]",
    "running": ":blue-badge[running]",
    "failed": ":red-badge[failed]",
    "partial": ":orange-badge[unfinished]",
}


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Which training examples made the model answer like this?")
    st.markdown(
        "A study trains a model, attributes its answers to training examples by several methods, and measures by "
        "retraining on random subsets how far each attribution can be trusted (LDS)."
    )
    if is_running():
        clocks.every(1.5, _show_studies)(True, _num_usable(services.studies()))
    else:
        _show_studies(False, 0)
        follow()  # a run may begin elsewhere: in a terminal, or as the child of `tda demo`


def _num_usable(studies: Sequence[StudyRow]) -> int:
    """Return how many studies have something to look at."""
    return sum(row.num_configurations > 0 for row in studies)


@shows_errors
def _show_studies(was_running: bool, num_usable: int) -> None:
    studies = services.studies()
    has_changed = was_running and (not is_running() or _num_usable(studies) != num_usable)
    if has_changed and not _is_clicked(studies):
        st.rerun()  # the whole page, side bar included: the run has ended, or there is something to look at now
    jobs = services.running_jobs()
    known = {row.study_id for row in studies}
    for job in [job for job in jobs if job.is_running and job.study_id not in known]:
        with st.container(border=True):
            st.subheader(plain(job.study or "Study"), anchor=False)
            show_job(job)
    if not studies:
        _show_empty(jobs)
        return
    for number, row in enumerate(studies[:MAX_STUDIES]):
        _show_study(row, first=number == 0)
    show_data(_table(studies), "studies", f"All studies as a table ({len(studies)})")


def _is_clicked(studies: Sequence[StudyRow]) -> bool:
    """Return whether this run draws what a click asked for: drawing the whole page first would forget the click."""
    keys = [*STARTS, *(f"{kind}-{row.study_id}" for row in studies for kind in ACTIONS)]
    return any(st.session_state.get(key) for key in keys)


def _show_empty(jobs: Sequence[JobState]) -> None:
    if jobs and jobs[0].is_running:
        st.info("The study appears here as soon as its first step is done.")
        return
    with st.container(border=True):
        st.subheader("No study yet", anchor=False)
        if jobs and jobs[0].status != "done":
            show_ended_job(jobs[0])
        st.markdown(
            "The embedded study `mnist-mlp` attributes a small network's answers on real MNIST digits: 5 000 training "
            "images, 50 retrained subsets, several methods. It takes a few minutes on two cores; first curves appear "
            "within about a minute and a half. The quick version, 600 images, takes under a minute."
        )
        with st.container(horizontal=True):
            whole = partial(services.start_embedded, services.DEMO_STUDY)
            start_button("Run the first study", whole, STARTS[0], primary=True)
            start_button("Run the quick version", partial(whole, True), STARTS[1])
        st.caption("The same from a terminal, and your own model instead:")
        st.code("tda run mnist-mlp\ntda run --task my_task.py:factory", language="bash")
    show_shipped()


def _show_study(row: StudyRow, first: bool) -> None:
    with st.container(border=True):
        head, actions = st.columns([3, 2], vertical_alignment="center")
        head.subheader(f"{plain(row.name)} {STATUS.get(row.status, '')}", anchor=False)
        head.caption(f"task {plain(row.task)} · {planned_text(row)}")
        with actions, st.container(horizontal=True, horizontal_alignment="right"):
            _show_actions(row, first)
        _show_progress(row)
        _show_metrics(row)
        if row.num_configurations:
            show_study_remarks(row.study_id)
        if first and row.num_configurations:
            show_curves(row.study_id)


def _show_actions(row: StudyRow, first: bool) -> None:
    """Draw the buttons that lead on from a study."""
    look = "primary" if first else "secondary"
    if row.num_configurations and st.button("Open the Explorer", key=f"{OPEN}-{row.study_id}", type=look):
        current = session.view()
        session.leave("explorer", current if current.study == row.name else View(study=row.name))
    unrolls = services.asks_for_runs(services.study(row.study_id))
    if unrolls and st.button("Open Training trajectory", key=f"{UNROLLED}-{row.study_id}"):
        session.leave("trajectory", View(study=row.name))
    if row.status in ("failed", "partial"):
        if services.may_load(services.code_of(services.study(row.study_id))):
            start_button("Resume", partial(services.resume, row.study_id), f"{RESUME}-{row.study_id}")
        else:
            st.caption("Its task is code: go on with `tda run`.")


def _show_progress(row: StudyRow) -> None:
    """Draw how far a study is, or how its job ended."""
    job = last_job(row.study_id, row.name)
    if row.status == "running" and job is not None:
        show_job(job)
    elif row.status != "complete" and job is not None and job.has_failed:
        show_ended_job(job)
        st.progress(row.progress, text=f"{row.steps_done} of {row.steps_total} steps are kept")
    elif row.status == "partial":
        st.progress(row.progress, text=f"{row.steps_done} of {row.steps_total} steps done")


def _show_metrics(row: StudyRow) -> None:
    known = services.configurations(services.study(row.study_id)) if row.num_configurations else Configurations()
    names = _names(known)
    low, high = row.best_lds_low, row.best_lds_high
    has_band = low is not None and high is not None
    band = f"95 %: {signed(low, 3)} to {signed(high, 3)}" if has_band else "comes with the retrained subsets"
    entries = [
        ("Best LDS", MISSING if row.best_lds is None else signed(row.best_lds, 3), band),
        ("λ* there", regularization_text(row.lambda_selected), f"LDS at λ*: {lds_text(row.lds_selected)}"),
        ("Methods", str(len(known.methods) or MISSING), ", ".join(plain(name) for name in names) or MISSING),
    ]
    with st.container(horizontal=True, gap="large"):
        for title, value, detail in entries:
            with st.container(width="content", gap=None):
                st.metric(title, value)
                st.caption(detail)
    if row.best_method is not None:
        st.caption(f"The best LDS is reached by {plain(row.best_method)}, at the best λ of the grid.")


def _names(known: Configurations) -> list[str]:
    """Return the names of a study's methods, where there is little room."""
    titles = [short_title(name, title) for name, title in known.methods.items()]
    return [*titles[:MAX_NAMES], f"{len(titles) - MAX_NAMES} more"] if len(titles) > MAX_NAMES + 1 else titles


def _table(studies: Sequence[StudyRow]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "study": [row.name for row in studies],
            "task": [row.task for row in studies],
            "status": [row.status for row in studies],
            "steps": [f"{row.steps_done} of {row.steps_total}" for row in studies],
            "configurations": [row.num_configurations for row in studies],
            "best LDS": _rounded(row.best_lds for row in studies),
            "95 % low": _rounded(row.best_lds_low for row in studies),
            "95 % high": _rounded(row.best_lds_high for row in studies),
            "reached by": [row.best_method for row in studies],
            "λ*": [regularization_text(row.lambda_selected) for row in studies],
            "LDS at λ*": _rounded(row.lds_selected for row in studies),
            "created": pd.Series([row.created for row in studies]).astype("datetime64[s]"),
        }
    )


def _rounded(values: Iterable[float | None]) -> list[float | None]:
    """Return numbers with three decimals."""
    return [None if value is None else round(value, 3) for value in values]
