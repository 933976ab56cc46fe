"""Methods: every method of the study at its best, with its cost beside it, and a form for the next study."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
import streamlit as st

from app import services, session
from app.formats import MISSING, duration_text, lds_text, projection_text, regularization_text
from app.navigation import open_page
from app.session import Context
from app.shared import no_study
from app.shared.curves import LDS_HELP
from app.shared.errors import shows_errors
from app.shared.progress import follow
from app.shared.sidebar import show_notes
from app.shared.tables import csv_button
from app.views.methods.best import Best, best_of_each
from app.views.methods.charts import methods_figure
from app.views.methods.compare import show_compare
from app.views.methods.study_form import show_study_form

CHART = {"modeBarButtons": [["toImage"]], "displaylogo": False, "scrollZoom": False, "doubleClick": False}
FIGURE, TABLE = "methods-chart", "methods-table"


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Methods", anchor=False)
    st.markdown(
        "Which method can be trusted most here, and what did it cost? **Click a dot or a row**: that configuration "
        "becomes the present one on every page."
    )
    notes = st.container()
    context = session.context()
    if context is None or context.configuration is None:
        no_study.show_waiting(context)
    else:
        with notes:
            show_notes(context)
        _show_comparison(context)
        st.divider()
        show_compare(context)
        follow()
    st.divider()
    show_study_form(context)


def _show_comparison(context: Context) -> None:
    rows = best_of_each(context)
    if all(row.lds is None for row in rows):
        st.info("LDS appears here once subsets have been retrained; the cost of each method is known already.")

    def go(best: Best) -> None:
        session.go_to(best.row, best.regularization)

    def clicked() -> None:
        points = st.session_state[FIGURE].selection.points
        data = points[0].get("customdata") if points else None
        for best in rows if data else []:
            if best.row.configuration_id == data[0]:
                go(best)

    st.plotly_chart(
        methods_figure(rows, context.configuration_id),
        width="stretch",
        config=CHART,
        key=FIGURE,
        on_select=clicked,
        selection_mode="points",
        alt=f"LDS of {len(rows)} methods with 95 % intervals; best {rows[0].row.method_title} {lds_text(rows[0].lds)}",
    )
    st.caption(
        f"{LDS_HELP} Each method at the configuration whose λ* (chosen without retraining) gives the highest LDS; "
        "methods without λ at their best setting. The best of many settings flatters: a method with more "
        "configurations had more chances. Cost: seconds of the steps behind those scores on this machine, shared steps "
        "counted in full; training and retraining of models belong to all. Ring: where you are."
    )
    _show_table(rows, go)
    if st.button("Open in the Explorer", key="methods-open"):
        open_page("explorer")


def _show_table(rows: Sequence[Best], go: Callable[[Best], None]) -> None:
    shown = _table(rows)

    def picked() -> None:
        chosen = st.session_state[TABLE].selection.rows
        if chosen:
            go(rows[chosen[0]])

    st.dataframe(
        shown,
        width="stretch",
        hide_index=True,
        placeholder=MISSING,
        key=TABLE,
        on_select=picked,
        selection_mode="single-row",
        height="content",
    )
    total = sum(row.seconds or 0.0 for row in rows)
    left, right = st.columns([1, 3], vertical_alignment="center")
    with left:
        csv_button(shown, "methods")
    right.caption(f"All of them together: {duration_text(total) if total else MISSING}.")


def _table(rows: Sequence[Best]) -> pd.DataFrame:
    specs = [services.methods()[row.row.method] for row in rows]
    return pd.DataFrame(
        {
            "method": [row.row.variant_title for row in rows],
            "LDS": _rounded([row.lds for row in rows]),
            "95 % low": _rounded([row.low for row in rows]),
            "95 % high": _rounded([row.high for row in rows]),
            "λ*": [
                regularization_text(row.regularization) + (" relative" if row.row.is_relative else "") for row in rows
            ],
            "seconds": [None if row.seconds is None else float(f"{row.seconds:.3g}") for row in rows],
            "epoch": [row.row.training_epoch for row in rows],
            "k": [projection_text(row.row.projection_dim).removeprefix("k = ") for row in rows],
            "configurations": [row.num_configurations for row in rows],
            "curve over λ": [spec.curve for spec in specs],
            "cost model": [spec.cost for spec in specs],
        }
    )


def _rounded(values: Sequence[float | None]) -> list[float]:
    """Return numbers with three decimals, NaN where there is none."""
    return [float("nan") if value is None else round(value, 3) for value in values]
