"""What a page says where a study lacks a section: the lines that a study file needs."""

from __future__ import annotations

import streamlit as st

from app.formats import plain
from app.session import Context
from app.shared.progress import is_running
from tda_backend.errors import command


def show_missing_section(context: Context, what: str, toml: str, is_asked: bool) -> None:
    """Draw the lines to add to the study file, and the command that goes on from what is computed.

    Args:
        context: What the page works with.
        what: How the sentence begins.
        toml: The lines.
        is_asked: Whether the study has them, so that the results are only on their way.
    """
    if is_asked:
        running = (
            " It is being computed." if is_running() else f" Go on with: {plain(command('run', context.view.study))}"
        )
        st.info(f"The study asks for this, and the first results are not there yet.{running}")
        return
    st.info(f"{what} these lines in the study file. What has been computed already is kept.")
    st.code(toml, language="toml")
    st.caption(
        "Then `tda plan STUDY.toml` says how many models that trains and how long it takes, and `tda run STUDY.toml` "
        "does it."
    )
