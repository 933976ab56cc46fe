"""A strip of pictures (or texts) to pick a query or a training example from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import streamlit as st

from app import explorer_data, retrained_data, session
from app.formats import signed
from app.session import Context
from app.state import View
from tda_backend.runs.api import Study

_FOLDER = Path(__file__).parent
_element = st.components.v2.component(
    "tda_gallery",
    css=(_FOLDER / "gallery.css").read_text(encoding="utf-8"),
    js=(_FOLDER / "gallery.js").read_text(encoding="utf-8"),
)


def offered(queries: pd.DataFrame, view: View) -> pd.DataFrame:
    """Return the queries that the gallery offers, in its order."""
    rows = queries
    if view.pick_class:
        rows = rows[rows["label"].astype(str) == view.pick_class]
    if view.pick == "wrong":
        rows = rows[[explorer_data.is_right(record) is False for record in rows.to_dict("records")]]
    if view.pick == "margin":
        rows = rows.sort_values("goodness", kind="stable")
    return rows


def show_gallery(context: Context, rows: pd.DataFrame, key: str = "gallery") -> None:
    """Draw the strip; picking one makes it the query."""
    positions = tuple(int(value) for value in rows["position"])
    items = [
        {
            "query": int(row["position"]),
            "label": str(row["label"]),
            "prediction": str(row["prediction"]),
            "right": explorer_data.is_right(row),
            "alt": f"query {row['position']}, {explorer_data.alt_text(row, 'test example')}",
            "goodness": signed(row["goodness"], 1),
            "text": "" if row["kind"] == "image" else str(row["payload"]),
        }
        for row in rows.to_dict("records")
    ]
    data = {
        "items": items,
        "sprite": explorer_data.query_sprite(context.opened, positions),
        "selected": context.view.query,
        "key": f"{context.opened.study_id}/{hash(positions)}",
        "noun": "queries",
    }

    def picked() -> None:
        value = st.session_state[key].get("query")
        if value is not None:
            session.update(query=int(value))

    _element(key=key, data=data, on_query_change=picked)


def show_training_strip(
    opened: Study | None, rows: pd.DataFrame, marks: list[str], notes: list[str], selected: int | None, key: str,
    picked: Callable[[int], None],
) -> None:  # fmt: skip
    """Draw training examples in the order given; picking one reports its position.

    Args:
        opened: The study; ``None``: of shipped results, whose rows hold all there is.
        rows: Of the study's training examples, with position.
        marks: What stands after each label, e.g. ``was 7`` where it is known to be wrong.
        notes: One line for each, for its tooltip, e.g. its self-influence.
        selected: Position of the one that is open.
        key: Of the element.
        picked: Called with the position.
    """
    positions = tuple(int(value) for value in rows["position"])
    items = [
        {
            "query": int(row["position"]),
            "label": f"{row['label']} {mark}".strip(),
            "prediction": str(row["prediction"]),
            "right": explorer_data.is_right(row),
            "alt": f"{explorer_data.alt_text(row, 'training example')}; {note}",
            "goodness": signed(row["goodness"], 1),
            "text": "" if row["kind"] == "image" else str(row["payload"]),
        }
        for row, mark, note in zip(rows.to_dict("records"), marks, notes, strict=True)
    ]
    is_own = opened is None and explorer_data.has_pictures(rows)
    own = explorer_data.sprite(rows["payload"].tolist()) if is_own else None
    data = {
        "items": items,
        "sprite": own if opened is None else retrained_data.train_sprite(opened, positions),
        "selected": selected,
        "key": f"{key}/{'' if opened is None else opened.study_id}/{hash(positions)}",
        "noun": "training examples",
    }

    def on_pick() -> None:
        value = st.session_state[key].get("query")
        if value is not None:
            picked(int(value))

    _element(key=key, data=data, on_query_change=on_pick)
