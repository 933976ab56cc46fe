"""The pages and the way to them."""

from __future__ import annotations

import streamlit as st

from app import clocks

ADDRESSES = (
    "overview",
    "explorer",
    "selection",
    "sensitivity",
    "methods",
    "counterfactuals",
    "health",
    "trajectory",
    "papers",
    "guide",
)


def pages() -> list:
    """Return the pages in the order of the navigation."""
    from app.views import (
        counterfactuals,
        data_health,
        explorer,
        guide,
        methods,
        overview,
        papers,
        selection,
        sensitivity,
        trajectory,
    )

    return [
        st.Page(overview.render, title="Overview", url_path="overview", default=True),
        st.Page(explorer.render, title="Explorer", url_path="explorer"),
        st.Page(selection.render, title="λ selection", url_path="selection"),
        st.Page(sensitivity.render, title="Sensitivity", url_path="sensitivity"),
        st.Page(methods.render, title="Methods", url_path="methods"),
        st.Page(counterfactuals.render, title="Counterfactuals", url_path="counterfactuals"),
        st.Page(data_health.render, title="Data health", url_path="health"),
        st.Page(trajectory.render, title="Training trajectory", url_path="trajectory"),
        st.Page(papers.render, title="Papers", url_path="papers"),
        st.Page(guide.render, title="Guide", url_path="guide"),
    ]


def open_page(name: str) -> None:
    """Go to a page; the view is remembered and its query written anew there."""
    titles = {
        "overview": "Overview",
        "explorer": "Explorer",
        "selection": "λ selection",
        "sensitivity": "Sensitivity",
        "methods": "Methods",
        "counterfactuals": "Counterfactuals",
        "health": "Data health",
        "trajectory": "Training trajectory",
        "papers": "Papers",
    }
    clocks.end()  # the browser hears of the change only after it has been made
    st.switch_page(next(page for page in pages() if page.title == titles[name]))
