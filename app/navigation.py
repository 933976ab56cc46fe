"""The pages as data: addresses and titles. What draws them is known to :mod:`app.main` alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app import clocks


@dataclass(frozen=True)
class PageRow:
    """One page of the dashboard.

    Attributes:
        address: Its name in the URL.
        title: Its name in the navigation.
        module: What draws it: a module with a function ``render``.
    """

    address: str
    title: str
    module: str


PAGES = (
    PageRow("overview", "Overview", "app.views.overview.page"),
    PageRow("explorer", "Explorer", "app.views.explorer.page"),
    PageRow("selection", "λ selection", "app.views.selection.page"),
    PageRow("sensitivity", "Sensitivity", "app.views.sensitivity.page"),
    PageRow("methods", "Methods", "app.views.methods.page"),
    PageRow("counterfactuals", "Counterfactuals", "app.views.counterfactuals.page"),
    PageRow("health", "Data health", "app.views.health.page"),
    PageRow("trajectory", "Training trajectory", "app.views.trajectory.page"),
    PageRow("papers", "Papers", "app.views.papers.page"),
    PageRow("guide", "Guide", "app.views.guide.page"),
)
"""In the order of the navigation; the first is what the server's own address shows."""

ADDRESSES = tuple(row.address for row in PAGES)
_OPEN = "navigation-pages"


def offer(pages: Mapping[str, Any]) -> None:
    """Make pages (address → ``st.Page``) known to this run, so that :func:`open_page` finds them."""
    st.session_state[_OPEN] = dict(pages)


def open_page(address: str) -> None:
    """Go to a page; the view is remembered and its query written anew there."""
    clocks.end()  # the browser hears of the change only after it has been made
    st.switch_page(st.session_state[_OPEN][address])
