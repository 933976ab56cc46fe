"""Training examples by their influence on their own loss, and the one that is open: whom it helps and whom it hurts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st

from app import services, session
from app.formats import MISSING, plain, regularization_text
from app.navigation import open_page
from app.session import Context
from app.shared.pictures import is_picture
from app.shared.plots import picked_row
from app.shared.reads import scores_of_example
from app.shared.tables import show_data
from app.views.health import data
from app.views.health.strip import SHOWN, show_strip
from tda_backend.interfaces.reading.records.examples import Example

NUM_QUERIES = 5  # that the open example helps most, and hurts most


def show_self_influence(context: Context) -> None:
    """Draw the section."""
    values = data.own_influence(context)
    st.subheader("Highest self-influence", anchor=False)
    if values is None:
        st.info(
            f"{plain(context.chosen.variant_title)} has no self-influence stored; choose another method in the side "
            "bar, e.g. an influence function."
        )
        return
    train, wrong = services.examples(context.opened, "train"), data.known_labels(context)
    order = np.argsort(-values, kind="stable")[:SHOWN].tolist()
    rows = [train[place] for place in order]
    show_strip(context, rows, [f"self-influence {values[place]:.3g}" for place in order], "self-influence")
    misread = sum(row.is_right is False for row in rows)
    said = f" The model still predicts {misread} of them differently from their label (red)."
    known = f" {sum(place in wrong for place in order)} of them carry a label known to be wrong." if wrong else ""
    at = "" if context.lam is None else f" at λ = {regularization_text(context.lam)}"
    st.caption(
        f"Training examples by their influence on their own loss{at}, the {len(rows)} highest of {len(train)}."
        f"{said if context.has_classes else ''}{known}"
    )
    _show_open(context, train, values)
    table = pd.DataFrame(
        {
            "rank": np.arange(1, len(rows) + 1),
            "training example": [row.index for row in rows],
            "position": [row.position for row in rows],
            "label": [row.label for row in rows],
            "prediction": [row.prediction for row in rows],
            "self-influence": values[order],
            "known": [wrong.get(place, "") for place in order],
        }
    )
    show_data(table, "self-influence")


def _show_open(context: Context, train: Sequence[Example], values: np.ndarray) -> None:
    position = context.view.train
    if position is None:
        st.caption("Click a picture: it opens here.")
        return
    row = train[position]
    with st.container(border=True):
        left, right = st.columns([1, 3], gap="medium")
        with left:
            if is_picture(row):
                st.image(row.payload, width=112, caption=f"training example {row.index}")
            else:
                st.text(str(row.payload)[:400])
        with right:
            known = data.known_labels(context).get(position)
            words = [f"label **{plain(row.label)}**", f"predicted **{plain(row.prediction)}**"]
            words += [f"known: {plain(known)}"] if known else []
            rank = int((values > values[position]).sum()) + 1
            words.append(f"self-influence rank {rank} of {len(values)}")
            st.markdown(", ".join(words))
            _show_queries(context, position)


def _show_queries(context: Context, position: int) -> None:
    """Draw the queries that the open example helps and hurts most; one is picked from them."""
    scores = scores_of_example(context.opened, context.configuration_id, position, context.lam)
    queries = services.examples(context.opened, "queries")
    helped = [("helps", query) for query in np.argsort(-scores)[:NUM_QUERIES].tolist() if scores[query] > 0]
    hurt = [("hurts", query) for query in np.argsort(scores)[:NUM_QUERIES].tolist() if scores[query] < 0]
    shown = [*helped, *hurt]

    def chosen() -> None:
        row = picked_row("health-queries")
        if row is not None:
            session.update(query=shown[row][1])

    st.dataframe(
        pd.DataFrame(
            {
                "effect": [effect for effect, _ in shown],
                "query": [query for _, query in shown],
                "label": [queries[query].label for _, query in shown],
                "prediction": [queries[query].prediction for _, query in shown],
                "score": [scores[query] for _, query in shown],
            }
        ),
        width="stretch",
        hide_index=True,
        placeholder=MISSING,
        key="health-queries",
        on_select=chosen,
        selection_mode="single-row",
    )
    if st.button("Open the chosen query in the Explorer", key="health-explorer"):
        open_page("explorer")
