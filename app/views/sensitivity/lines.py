"""LDS against one hyper-parameter, all methods in one figure."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from app.session import Context
from app.shared.method_style import method_color, method_dash
from app.shared.tables import show_data
from app.views.sensitivity.grid import (
    ALL,
    BEST,
    LAM,
    PRESENT,
    SETTING,
    TITLES,
    axes_of,
    axis_name,
    axis_title,
    like_text,
    line_of,
)
from app.views.sensitivity.line_chart import Line, line_figure
from app.views.sensitivity.shown import Shown

_HOW = {
    BEST: "at each value the best of those others that every value has",
    ALL: "at each value the best of all others, wherever they were computed",
    PRESENT: "all others as chosen",
}


def show_line(context: Context, shown: Sequence[Shown], axes: Sequence[str], treatment: str) -> None:
    """Draw the choice of the hyper-parameter, the figure and its table.

    Args:
        context: What the page works with.
        shown: The methods.
        axes: On which they differ.
        treatment: What becomes of the other hyper-parameters.
    """
    st.subheader("One hyper-parameter", anchor=False)
    axis = _choose_axis(context, shown, axes)
    lines, remarks = [], []
    for each in shown:
        others = {other: each.present(other) for other in _fixable(each) if other != axis}
        found = each.compared([axis], treatment)
        points = line_of(found.cells, axis, others if treatment == PRESENT else {})
        if points:
            method = each.row.method
            lines.append(Line(each.row.method_title, method_color(method), method_dash(method), points))
            remarks.append(like_text(each.row.method_title, found, treatment))
    if not lines:
        st.info("Nothing was computed with these values.")
        return
    st.plotly_chart(
        line_figure(lines, axis_title(axis)),
        width="stretch",
        key="line-chart",
        config={"displaylogo": False},
        alt=f"LDS against {axis_title(axis)} with 95 % intervals",
    )
    st.caption(" ".join(filter(None, [f"LDS with its 95 % interval; {_HOW[treatment]}.", *remarks])))
    show_data(_line_table(lines, axis_title(axis)), f"line-{axis_name(axis)}")


def _choose_axis(context: Context, shown: Sequence[Shown], axes: Sequence[str]) -> str:
    """Draw the choice of the one hyper-parameter; it begins with one of the present method's own."""
    first = next((each for each in shown if each.row.method == context.view.method), shown[0])
    own = [axis for axis in axes if axis != LAM and axis in axes_of(first.cells)]
    options = [each for each in axes if each != LAM] or list(axes)
    start = next(iter([axis for axis in own if axis.startswith(SETTING)] or own or options))
    key = f"line-{context.view.method}"
    return st.selectbox("LDS by", options, index=options.index(start), format_func=axis_title, key=key)


def _fixable(shown: Shown) -> list[str]:
    """Return every axis that the present configuration has a value on."""
    return [*TITLES, *(f"{SETTING}{name}" for name, _ in shown.row.settings)]


def _line_table(lines: Sequence[Line], title: str) -> pd.DataFrame:
    rows = [(line.name, point) for line in lines for point in line.points]
    return pd.DataFrame(
        {
            "method": [name for name, _ in rows],
            title: [point.value for _, point in rows],
            "LDS": [round(point.mean, 4) for _, point in rows],
            "95 % low": [round(point.ci_low, 4) for _, point in rows],
            "95 % high": [round(point.ci_high, 4) for _, point in rows],
            "λ": [point.regularization for _, point in rows],
            "settings": [point.words for _, point in rows],
        }
    )
