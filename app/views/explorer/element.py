"""The live explorer as a page element: Python sends one query's factors, the browser does every λ by itself."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import streamlit as st

from app import services, session
from app.session import Context
from app.views.explorer.browser import explorer_json
from app.views.explorer.data import Candidates, ExplorerNumbers, explorer_numbers

_FOLDER = Path(__file__).parent
_PARTS = ("numbers.js", "filters.js", "view.js", "explorer.js")
_LAMBDA = "explorer_lambda"
_MOUNT = """
export default function ({ parentElement, data, setStateValue }) {
  return explorer(parentElement, data, (lambda) => setStateValue("lam", lambda));
}
"""


def explorer_module() -> str:
    """Return the explorer's JavaScript: one plain module that exports ``explorer(root, payload, onRest)``."""
    return "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in _PARTS)


_element = st.components.v2.component(
    "tda_explorer", css=(_FOLDER / "explorer.css").read_text(encoding="utf-8"), js=explorer_module() + _MOUNT
)


def candidates_of(context: Context) -> Candidates:
    """Return what the present view ranks."""
    view = context.view
    return Candidates(context.configuration_id, context.query, view.classes, view.right)


@dataclass(frozen=True)
class _Sent:
    """The λ that the element was last told.

    Attributes:
        known: λ of the view then, or what the element itself has reported since.
        value: λ that was sent.
        sequence: Grows only when λ came from outside the element.
    """

    known: float | None
    value: float
    sequence: int


def start_of_regularization(view_lam: float | None) -> dict[str, Any]:
    """Return λ for the element with a sequence number that grows only when λ came from outside it.

    What the element itself reported comes back with the old number, so the payload stays the same bytes and a person
    who has moved on meanwhile is not pulled back.
    """
    last: _Sent | None = st.session_state.get(_LAMBDA)
    if last is None or last.known != view_lam:
        last = _Sent(view_lam, view_lam or 0.0, last.sequence + 1 if last else 1)
        st.session_state[_LAMBDA] = last
    return {"sequence": last.sequence, "value": last.value}


def _numbers(context: Context) -> ExplorerNumbers:
    """Return the numbers of the present view; says that it computes where that takes seconds."""
    waiting = contextlib.nullcontext()
    if services.methods()[context.view.method].SLOW_PER_QUERY:
        waiting = st.spinner("Computing this query's scores from the factors of every layer")
    with waiting:
        return explorer_numbers(context.opened, candidates_of(context))


def show_explorer(context: Context, key: str = "explorer") -> None:
    """Draw the explorer of the present query and configuration."""

    def rested() -> None:
        value = st.session_state[key].get("lam")
        if value is None or float(value) < 0:
            return
        session.update(lam=float(value))
        written = session.view().lam  # as the URL rounds it, which is what the next run reads
        st.session_state[_LAMBDA] = replace(st.session_state[_LAMBDA], known=written)

    numbers = _numbers(context)
    data = explorer_json(context, numbers, start_of_regularization(context.view.lam))
    _element(key=key, data=data, on_lam_change=rested)
