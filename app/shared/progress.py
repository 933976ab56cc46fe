"""How far the runs are, and the clocks that keep pages up to date while they go on."""

from __future__ import annotations

import time
from collections.abc import Callable

import streamlit as st

from app import clocks, services
from app.formats import count_text, duration_text, plain, rate_text
from tda_backend.interfaces.reading.records.studies import StudyRow
from tda_backend.studies.jobs.progress import JobState

SILENT_SECONDS = 60.0


def is_running() -> bool:
    """Return whether a job of this workspace is running."""
    return any(job.is_running for job in services.running_jobs())


def show_job(job: JobState) -> None:
    """Draw one running job: step, rate, time left, share."""
    share = job.fraction or 0.0
    details = [f"step {job.done or 0} of {job.total}" if job.total else "starting"]
    details += [f"{job.step_done or 0} of {job.step_total} in this step"] if job.step_total else []
    details += [text for text in [rate_text(job.rate)] if text]
    if job.eta_seconds:
        details.append(f"about {duration_text(job.eta_seconds)} left")
    silent = time.time() - job.updated
    if silent > SILENT_SECONDS:
        details.append(f"no sign of life for {duration_text(silent)}: a long step, or a busy machine")
    st.progress(min(1.0, share), text=f"**{share:.0%}** · {plain(job.step)}")
    left, right = st.columns([5, 1], vertical_alignment="center")
    left.caption(" · ".join(details))
    if job.message:
        st.caption(plain(job.message))
    if not services.read_only() and right.button("Cancel", key=f"cancel-{job.job_id}", width="stretch"):
        services.cancel(job.job_id)
        st.rerun()


def show_ended_job(job: JobState) -> None:
    """Draw the message and hint of a job that did not finish."""
    hint = f"\n\n{plain(job.hint)}" if job.hint else ""
    message = plain(job.message or "The run ended.")
    if job.status == "cancelled":
        st.warning(f"**{message}**{hint}")
    else:
        st.error(f"**{message}**{hint}")


def last_job(study_id: str, name: str) -> JobState | None:
    """Return the newest job of a study, or ``None``."""
    jobs = services.running_jobs()
    return next((job for job in jobs if job.study_id == study_id or (not job.study_id and job.study == name)), None)


def start_button(label: str, start: Callable[[], str], key: str, primary: bool = False) -> None:
    """Draw a button that starts a run; nothing in read-only mode.

    Args:
        label: What it says.
        start: Starts it: one of :mod:`app.services`, which refuses what this server may not do.
        key: Of the widget.
        primary: Whether it stands out.
    """
    if services.read_only():
        return
    if st.button(label, key=key, type="primary" if primary else "secondary"):
        start()
        st.rerun()


def follow() -> None:
    """Draw the page anew when results land or a run begins or ends, here or in another process."""
    running = is_running()
    clocks.every(2.0 if running else 4.0, _watch)(services.version(), running)


def _watch(seen: str, was_running: bool) -> None:
    if services.version() != seen or is_running() != was_running:
        st.rerun()


def planned_text(row: StudyRow) -> str:
    """Return a study's size in words."""
    parts = [
        count_text(row.num_train, "training example"),
        count_text(row.num_queries, "query", "queries"),
        count_text(row.num_subsets, "retrained subset"),
        count_text(row.num_configurations, "configuration"),
    ]
    return " · ".join(parts)
