"""What a page says while there is nothing to show on it yet."""

from __future__ import annotations

import streamlit as st

from app.navigation import open_page
from app.session import Context
from app.shared.progress import follow, is_running, last_job, show_ended_job, show_job


def show_waiting(context: Context | None) -> None:
    """Draw why there is nothing yet, and what to do."""
    if context is None and not is_running():
        st.info("There is no study yet. Overview says how to run the first one.")
        if st.button("Go to Overview", type="primary"):
            open_page("overview")
        return
    if context is not None:
        job = last_job(context.row.study_id, context.row.name)
        if job is not None and job.has_failed:
            show_ended_job(job)
        elif job is not None and job.is_running:
            show_job(job)
    st.info("This page fills as soon as one configuration has been computed; the first takes about a minute.")
    follow()
