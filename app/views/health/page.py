"""Data health: which training examples were learnt by heart, which labels look wrong, who is used at all."""

from __future__ import annotations

import streamlit as st

from app.shared import page
from app.shared.errors import shows_errors
from app.shared.progress import follow
from app.views.health.classes import show_classes
from app.views.health.detection import show_detection
from app.views.health.self_influence import show_self_influence
from app.views.health.usage import show_usage


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Data health", anchor=False)
    st.markdown(
        "Which training examples deserve a second look? First come those that the model could only learn **by heart**: "
        "wrong labels, and the truly unusual. **Click one** to see whom it helps and whom it hurts."
    )
    context = page.opened()
    if context is None:
        return
    show_self_influence(context)
    st.subheader("Finding wrong labels", anchor=False)
    show_detection(context)
    st.subheader("Influence by class", anchor=False)
    show_classes(context)
    st.subheader("Examples that many queries use, and none", anchor=False)
    show_usage(context)
    follow()
