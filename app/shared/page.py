"""What every page about a configuration begins with."""

from __future__ import annotations

import streamlit as st

from app import session
from app.session import Context
from app.shared import no_study
from app.shared.remarks import show_remarks
from app.shared.sidebar import show_notes


def opened() -> Context | None:
    """Return what the page shows, its notes drawn; while there is nothing, say so and return ``None``."""
    notes = st.container()  # a place of its own: a note that comes and goes must not move what is below
    context = session.context()
    if context is None or context.configuration is None:
        no_study.show_waiting(context)
        return None
    with notes:
        show_notes(context)
        show_remarks(context)
    return context
