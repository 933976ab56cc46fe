"""Removing the examples that helped a query most: curves, the query itself, and how many it takes to flip one."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from app import services, session
from app.formats import MISSING, count_text
from app.session import Context
from app.shared.plots import picked_row, show_figure
from app.shared.reads import query_pictures
from app.shared.sections import show_missing_section
from app.shared.tables import csv_button, show_data
from app.views.counterfactuals import data
from app.views.counterfactuals.charts import goodness_figure, removal_figure
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.grouping import grouped
from tda_backend.interfaces.reading.records.removals import QueryBrittleness, Removal, RemovalPoint

REMOVAL = """[removal]
queries = 20
sizes = [20, 40, 80, 160]
seeds = 5
of = [{method = "iffim", regularization = "selected"}, {method = "iffim", regularization = "zero"}]"""


def show_removal(context: Context, known: Sequence[QueryBrittleness]) -> None:
    """Draw the section.

    Args:
        context: What the page works with.
        known: How many removed examples flip each query.
    """
    if not known:
        what = "The most helpful examples of some queries are removed with"
        show_missing_section(context, what, REMOVAL, "removal" in context.opened.config)
        return
    rows = records(context.opened.removals(), Removal)
    points = data.removal_points(context.opened)
    if points:
        _show_curves(points, max(row.num_seeds for row in rows))
    else:
        st.info("The curves appear once the first size has been retrained.")
    _show_query_curve(context, rows)
    _show_brittleness(context, known)


def _show_curves(points: Sequence[RemovalPoint], num_seeds: int) -> None:
    last = [curve[-1] for curve in grouped(points, lambda point: point.label).values()]
    words = [f"{point.label}: {point.fraction:.0%} at {point.size}" for point in last]
    show_figure(
        removal_figure(points),
        "removal",
        "Share of queries whose prediction flips, against the number of training examples removed; " + "; ".join(words),
    )
    st.caption(
        f"{count_text(max(point.num_queries for point in points), 'query', 'queries')} that models trained on "
        f"everything predict right. A query has flipped when fewer than half of "
        f"{count_text(num_seeds, 'retrained model')} still predict it right; it then stays flipped. Bands: 95 % "
        "bootstrap over queries. A curve that rises early found what the prediction hangs on; compare with the random "
        "baseline (SOURCE, arXiv 2405.12186, B.3)."
    )
    table = pd.DataFrame(
        {
            "curve": [point.label for point in points],
            "λ": [point.regularization for point in points],
            "size": [point.size for point in points],
            "share flipped": [point.fraction for point in points],
            "ci_low": [point.ci_low for point in points],
            "ci_high": [point.ci_high for point in points],
            "num_queries": [point.num_queries for point in points],
        }
    )
    show_data(table, "removal")


def _show_query_curve(context: Context, rows: Sequence[Removal]) -> None:
    own = [row for row in rows if row.query == context.view.query]
    st.markdown("##### This query")
    if not own:
        st.info("This query was not among those tested; the table below lists them, and a click picks one.")
        return
    show_figure(
        goodness_figure(own),
        "query-removal",
        f"Goodness of query {context.view.query} after removing more and more of its most helpful examples",
    )
    st.caption("Mean goodness over the retrained models; an open ring: the prediction has flipped.")
    table = pd.DataFrame(
        {
            "curve": [row.label for row in own],
            "size": [row.size for row in own],
            "mean_goodness": [row.mean_goodness for row in own],
            "share right": [row.mean_correct for row in own],
            "flipped": [row.flipped for row in own],
        }
    )
    show_data(table, "query-removal")


def _show_brittleness(context: Context, known: Sequence[QueryBrittleness]) -> None:
    st.markdown("##### How many examples each prediction hangs on")
    positions = tuple(dict.fromkeys(row.query for row in known))
    table = _brittleness_table(context, known, positions)
    pictures = query_pictures(context.opened, positions)
    shown = table.copy()
    if any(pictures):
        shown.insert(0, "picture", pictures)

    def picked() -> None:
        row = picked_row("brittleness")
        if row is not None:
            session.update(query=positions[row])

    st.dataframe(
        shown,
        width="stretch",
        hide_index=True,
        placeholder=MISSING,
        key="brittleness",
        on_select=picked,
        selection_mode="single-row",
        column_config={"picture": st.column_config.ImageColumn("picture", width="small")},
        row_height=44,
    )
    st.caption(
        "The smallest number of removed examples that flipped the query, up to the sizes tried: “≤ 40, > 20” means "
        "that 20 did not and 40 did. Only examples with a positive score (random: of the class) can be removed. "
        "**A click on a row** picks the query."
    )
    csv_button(table, "brittleness")


def _brittleness_table(context: Context, known: Sequence[QueryBrittleness], positions: Sequence[int]) -> pd.DataFrame:
    """Return query, label, and a column for each who chose what to remove."""
    queries = services.examples(context.opened, "queries")
    words = {(row.label, row.query): flip_words(row) for row in known}
    columns = {
        label: [words.get((label, query), MISSING) for query in positions]
        for label in dict.fromkeys(row.label for row in known)
    }
    return pd.DataFrame({"query": positions, "label": [queries[query].label for query in positions], **columns})


def flip_words(row: QueryBrittleness) -> str:
    """Return how many removed examples flip a query: ``12``, ``≤ 40, > 20``, ``> 160``."""
    if row.flips_at is None:
        if row.holds_at:
            return f"> {row.holds_at}"
        return "none helps" if row.done else "not tried yet"
    if row.flips_at - row.holds_at == 1:
        return str(row.flips_at)
    return f"≤ {row.flips_at}, > {row.holds_at}" if row.holds_at else f"≤ {row.flips_at}"
