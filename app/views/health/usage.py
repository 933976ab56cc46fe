"""Which training examples many queries use, and which ones no query uses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app import services
from app.formats import count_text
from app.session import Context
from app.shared.plots import show_figure
from app.shared.tables import show_data
from app.views.health import data
from app.views.health.charts import usage_figure
from app.views.health.strip import SHOWN, show_strip


def show_usage(context: Context) -> None:
    """Draw the section."""
    found = data.usage(context)
    train, num_queries = services.examples(context.opened, "train"), context.opened.num_queries
    never = int((found.num_top == 0).sum())
    show_figure(
        usage_figure(found, num_queries),
        "usage",
        f"{never} of {len(train)} training examples are among the top {found.top} of no query",
    )
    st.caption(
        f"{count_text(never, 'training example')} of {len(train)} {'is' if never == 1 else 'are'} not among the "
        f"{found.top} largest scores of any of the {num_queries} queries: removing them should change little. "
        "Examples that are in very many lists dominate: near-duplicates, outliers, or wrong labels."
    )
    order = np.argsort(-(found.num_top + found.share / (found.share.max() + 1)), kind="stable").tolist()
    for title, key, chosen in (("Used most", "used", order[:SHOWN]), ("Used least", "unused", order[::-1][:SHOWN])):
        st.markdown(f"##### {title}")
        notes = [f"in the top {found.top} of {found.num_top[place]} queries" for place in chosen]
        show_strip(context, [train[place] for place in chosen], notes, key)
    table = pd.DataFrame(
        {
            "position": order,
            "label": [train[place].label for place in order],
            "prediction": [train[place].prediction for place in order],
            f"top {found.top} of queries": found.num_top[order],
            "share of all scores, 1 is average": found.share[order].round(3),
        }
    )
    show_data(table, "usage")
