"""How far the runs are, and the clocks that keep pages up to date while they go on."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import clocks, services
from app.formats import count_text, duration_text, plain, rate_text


def is_running() -> bool:
    """Return whether a job of this workspace is running."""
    frame = services.running_jobs()
    return bool(len(frame)) and bool((frame["status"] == "running").any())


def show_job(job: pd.Series) -> None:
    """Draw one running job: step, rate, time left, share."""
    share = float(job["fraction"] or 0.0)
    details = [f"step {int(job['done'])} of {int(job['total'])}" if job["total"] else "starting"]
    details += [f"{int(job['step_done'])} of {int(job['step_total'])} in this step"] if job["step_total"] else []
    details += [text for text in [rate_text(job["rate"])] if text]
    if job["eta_seconds"]:
        details.append(f"about {duration_text(job['eta_seconds'])} left")
    st.progress(min(1.0, share), text=f"**{share:.0%}** · {plain(job['step'])}")
    left, right = st.columns([5, 1], vertical_alignment="center")
    left.caption(" · ".join(details))
    if not services.read_only() and right.button("Cancel", key=f"cancel-{job['job_id']}", width="stretch"):
        services.cancel(str(job["job_id"]))
        st.rerun()


def show_ended_job(job: pd.Series) -> None:
    """Draw the message and hint of a job that did not finish."""
    hint = f"\n\n{plain(job['hint'])}" if job["hint"] else ""
    message = plain(job["message"] or "The run ended.")
    if job["status"] == "cancelled":
        st.warning(f"**{message}**{hint}")
    else:
        st.error(f"**{message}**{hint}")


def last_job(study_id: str, name: str) -> pd.Series | None:
    """Return the newest job of a study, or ``None``."""
    frame = services.running_jobs()
    mine = frame[(frame["study_id"] == study_id) | ((frame["study_id"].fillna("") == "") & (frame["study"] == name))]
    return mine.iloc[0] if len(mine) else None


def start_button(label: str, arguments: list[str], key: str, primary: bool = False) -> None:
    """Draw a button that starts ``tda ARGUMENTS``; nothing in read-only mode."""
    if services.read_only():
        return
    if st.button(label, key=key, type="primary" if primary else "secondary"):
        services.start(arguments)
        st.rerun()


def follow() -> None:
    """Draw the page anew when results land or a run begins or ends, here or in another process."""
    running = is_running()
    clocks.every(2.0 if running else 4.0, _watch)(services.version(), running)


def _watch(seen: str, was_running: bool) -> None:
    if services.version() != seen or is_running() != was_running:
        st.rerun()


def planned_text(row: pd.Series) -> str:
    """Return a study's size in words."""
    parts = [
        count_text(int(row["num_train"]), "training example"),
        count_text(int(row["num_queries"]), "query", "queries"),
        count_text(int(row["num_subsets"]), "retrained subset"),
        count_text(int(row["num_configurations"]), "configuration"),
    ]
    return " · ".join(parts)
