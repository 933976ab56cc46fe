"""What the numbers of a study leave out or cannot know, said where they stand."""

from __future__ import annotations

import streamlit as st

from app import services
from app.formats import plain
from app.session import Context
from tda_backend.interfaces.reading import remarks, truncation


@st.cache_data(max_entries=16, show_spinner=False)
def _of_study(study_id: str, version: str) -> list[str]:
    return remarks.remarks(services.study(study_id))


def show_study_remarks(study_id: str) -> None:
    """Draw what the numbers of a study leave out; nothing where they leave out nothing."""
    _show(_of_study(study_id, services.version()))


def show_remarks(context: Context) -> None:
    """Draw what the numbers of the present study leave out, whether λ lies outside its grid, and what that λ lacks."""
    chosen = context.opened, context.configuration_id, context.lam
    here = [remarks.beyond_grid(*chosen), truncation.lacking_at(*chosen)]
    _show([*_of_study(context.opened.study_id, services.version()), *filter(None, here)])


def _show(sentences: list[str]) -> None:
    if sentences:
        st.caption(f":material/info: {' '.join(plain(sentence) for sentence in sentences)}")
