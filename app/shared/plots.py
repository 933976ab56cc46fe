"""How pages draw a figure: as wide as its column, still, with a button that saves it, and described in words."""

from __future__ import annotations

import re
from collections.abc import Callable

import plotly.graph_objects as go
import streamlit as st

CHART = {"displaylogo": False, "modeBarButtons": [["toImage"]], "scrollZoom": False, "doubleClick": False}
ZOOMABLE = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}
_FOREIGN_TAG = re.compile(r"<(?!/?(b|br|extra|i|sub|sup)>)")


def show_figure(
    figure: go.Figure, key: str, alt: str, picked: Callable[[], None] | None = None, config: dict | None = None
) -> None:
    """Draw a figure.

    Args:
        figure: What to draw.
        key: Of the element; a click's points are under it in the session.
        alt: What it shows, in words.
        picked: Called when a point is clicked.
        config: Of Plotly; default: still, with one button that saves the figure.
    """
    st.plotly_chart(
        as_text(figure),
        width="stretch",
        config=CHART if config is None else config,
        key=key,
        alt=alt,
        on_select="ignore" if picked is None else picked,
        selection_mode="points",
    )


def as_text(figure: go.Figure) -> go.Figure:
    """Return the figure with every name and label in it as text, but for the line breaks and bold words of ours.

    Plotly takes tags in texts for its own, links among them, and what a study or a class is called is anybody's text.
    """
    for trace in figure.data:
        for name in ("name", "text", "hovertext", "hovertemplate"):
            value = getattr(trace, name, None)
            if isinstance(value, str):
                trace[name] = _literal(value)
            elif value is not None and len(value) and isinstance(value[0], str):
                trace[name] = [_literal(each) for each in value]
    figure.for_each_annotation(lambda note: note.update(text=_literal(note.text or "")))
    for axes in (figure.select_xaxes(), figure.select_yaxes()):
        for axis in axes:
            if axis.ticktext is not None:
                axis.ticktext = [_literal(str(each)) for each in axis.ticktext]
    return figure


def _literal(text: str) -> str:
    return _FOREIGN_TAG.sub("&lt;", text)


def picked_value(key: str) -> object | None:
    """Return the first of the data that the clicked point of a figure carries, or ``None``."""
    points = st.session_state[key].selection.points
    data = points[0].get("customdata") if points else None
    return data[0] if data else None


def picked_row(key: str) -> int | None:
    """Return the number of the row that was clicked in a table, or ``None``."""
    rows = st.session_state[key].selection.rows
    return rows[0] if rows else None
