"""A strip of pictures (or texts) to pick a query or a training example from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import streamlit as st

from app import session
from app.formats import MISSING, signed
from app.session import Context
from app.shared import reads
from app.shared.pictures import Pictured, alt_text, mark_text, sprite_of, text_of
from app.state import View
from tda_backend.interfaces.reading.records.examples import Example
from tda_backend.interfaces.reading.study import Study

_FOLDER = Path(__file__).parent
_element = st.components.v2.component(
    "tda_gallery",
    css=(_FOLDER / "gallery.css").read_text(encoding="utf-8"),
    js=(_FOLDER / "gallery.js").read_text(encoding="utf-8"),
)


class Placed(Pictured, Protocol):
    """An example with its place in its split."""

    @property
    def position(self) -> int: ...


def offered(queries: Sequence[Example], view: View) -> list[Example]:
    """Return the queries that the gallery offers, in its order."""
    rows = [row for row in queries if not view.pick_class or row.label == view.pick_class]
    if view.pick == "wrong":
        return [row for row in rows if row.is_right is False]
    if view.pick == "margin":
        return sorted(rows, key=lambda row: float("inf") if row.goodness is None else row.goodness)
    return rows


def _item(row: Placed, label: str, alt: str) -> dict[str, Any]:
    """Return one tile of the strip as the browser wants it."""
    return {
        "query": row.position,
        "label": label,
        "right": row.is_right,
        "alt": alt,
        "goodness": MISSING if row.goodness is None else signed(row.goodness, 1),
        "text": text_of(row),
    }


def _draw(key: str, data: dict[str, Any], picked: Callable[[int], None]) -> None:
    """Draw the element; picking a tile reports its position."""

    def on_pick() -> None:
        value = st.session_state[key].get("query")
        if value is not None:
            picked(int(value))

    _element(key=key, data=data, on_query_change=on_pick)


def show_gallery(context: Context, rows: Sequence[Example], key: str = "gallery") -> None:
    """Draw the strip; picking one makes it the query."""
    positions = tuple(row.position for row in rows)
    data = {
        "items": [_item(row, mark_text(row), f"query {row.position}, {alt_text(row, 'test example')}") for row in rows],
        "sprite": reads.query_sprite(context.opened, positions),
        "selected": context.view.query,
        "key": f"{context.opened.study_id}/{hash(positions)}",
        "noun": "queries",
    }
    _draw(key, data, lambda position: session.update(query=position))


def show_training_strip(
    opened: Study | None,
    rows: Sequence[Placed],
    marks: Sequence[str],
    notes: Sequence[str],
    selected: int | None,
    key: str,
    picked: Callable[[int], None],
) -> None:
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
    positions = tuple(row.position for row in rows)
    data = {
        "items": [
            _item(row, f"{mark_text(row)} {mark}".strip(), f"{alt_text(row, 'training example')}; {note}")
            for row, mark, note in zip(rows, marks, notes, strict=True)
        ],
        "sprite": sprite_of(rows) if opened is None else reads.train_sprite(opened, positions),
        "selected": selected,
        "key": f"{key}/{'' if opened is None else opened.study_id}/{hash(positions)}",
        "noun": "training examples",
    }
    _draw(key, data, picked)
