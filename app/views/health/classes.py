"""Influence of each class of training examples on each class of queries."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.session import Context
from app.shared.plots import show_figure
from app.shared.tables import show_data
from app.views.health import data
from app.views.health.charts import class_figure


def show_classes(context: Context) -> None:
    """Draw the section."""
    if not context.opened.info["num_classes"]:
        st.info("The task has no classes.")
        return
    found = data.class_influence(context)
    harmful, harmed = found.worst
    show_figure(
        class_figure(found),
        "classes",
        f"Mean score of {len(found.train)} training classes for {len(found.queries)} query classes: {harmful} hurts "
        f"{harmed} most",
    )
    st.caption(
        "Mean score of a training example of one class for a query of another. Blue helps, orange hurts; colour goes "
        "with the root, so that small values show. Off the diagonal, strong orange names classes that are confused."
    )
    table = pd.DataFrame(found.means, columns=found.train)
    table.insert(0, "query class", found.queries)
    show_data(table, "classes")
