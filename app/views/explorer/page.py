"""Explorer: one query, the training examples that helped and hurt, and λ under the thumb."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from app import services, session
from app.formats import is_missing, plain, regularization_text, signed
from app.session import Context, control
from app.shared import page
from app.shared.errors import shows_errors
from app.shared.gallery import offered, show_gallery
from app.shared.method_controls import method_buttons, setting_boxes
from app.shared.pictures import alt_text, is_picture, label_text
from app.shared.progress import follow
from app.shared.tables import show_data
from app.state import UNPROJECTED, describe, k_text
from app.views.explorer.data import top_examples, top_table
from app.views.explorer.element import candidates_of, show_explorer
from app.views.explorer.layers import show_layers
from tda_backend.errors import NumericalError
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.curves import LdsPoint, QueryPoint
from tda_backend.interfaces.reading.records.examples import Example
from tda_backend.interfaces.reading.remarks import beyond_grid

PICK_NAMES = {"all": "All", "wrong": "Misclassified", "margin": "Lowest margin"}
_SAME = 1e-4  # how far apart two λ are, in decades or from 0, that count as one: an address rounds
RIGHT_NAMES = {"": "all", "right": "predicted right", "wrong": "predicted wrong"}


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Explorer", anchor=False)
    context = page.opened()
    if context is None:
        return
    _show_query(context)
    _show_switches(context)
    show_explorer(context)
    _show_tables(context)
    show_layers(context)
    follow()


def _show_query(context: Context) -> None:
    queries = services.examples(context.opened, "queries")
    query = queries[context.query]
    left, right = st.columns([6, 11], gap="medium", vertical_alignment="center")
    with left:
        _show_chosen(context, query)
    with right:
        with st.container(horizontal=True, vertical_alignment="bottom"):
            _show_picks(context, queries)
        show_gallery(context, offered(queries, context.view))


def _show_picks(context: Context, queries: Sequence[Example]) -> None:
    """Draw the three ways to a query: a kind of queries, a class, a number."""
    control(
        st.segmented_control,
        "Pick a query",
        "pick",
        context.view.pick,
        _pick,
        options=[name for name in PICK_NAMES if context.has_classes or name != "wrong"],
        format_func=lambda name: PICK_NAMES[name] if context.has_classes or name == "all" else "Lowest goodness",
        required=True,
    )
    if context.has_classes:
        control(
            st.selectbox,
            "of class",
            "pick-class",
            context.view.pick_class,
            _pick_class,
            options=["", *services.labels(queries)],
            format_func=lambda text: text or "any",
            width=110,
        )
    control(
        st.number_input,
        "or by number",
        "pick-number",
        context.query,
        _pick_number,
        min_value=0,
        max_value=context.opened.num_queries - 1,
        step=1,
        width=140,
    )


def _pick(value: str) -> None:
    session.update(pick=value or "all")


def _pick_class(value: str) -> None:
    session.update(pick_class=value)


def _pick_number(value: int) -> None:
    session.update(query=int(value))


def _show_chosen(context: Context, query: Example) -> None:
    box = st.container(horizontal=True, vertical_alignment="center", gap="medium")
    with box:
        if is_picture(query):
            st.image(query.payload, width=112, alt=alt_text(query, "query, test example"))
        else:
            st.text(str(query.payload))
    measurement = context.facts.measurement.removeprefix("classification ")
    known = _lds_at(context)
    box.markdown(
        f"**Query {query.position}**"
        + (f"  \n{_said(query)}" if query.label else "")
        + f"  \n{plain(measurement)} **{signed(query.goodness, 2)}**"
        + (f"  \n{known}" if known else ""),
        width=180,
    )


def _said(query: Example) -> str:
    """Return a query's label and what the model says of it, as Markdown."""
    label = f"label **{plain(label_text(query.label))}**"
    predicted = f"{label}, predicted **{plain(label_text(query.prediction))}**"
    if query.error is not None:
        return f"{predicted}, error **{signed(query.error, 2)}**"
    return label if query.is_right is None else f"{predicted} {':green[right]' if query.is_right else ':red[wrong]'}"


def _lds_at(context: Context) -> str:
    """Return the query's own LDS and the mean, as Markdown: at the nearest stored λ, named where it differs."""
    identity, lam = context.configuration_id, context.lam
    curve = records(context.opened.curve(identity, context.alpha), LdsPoint)
    own = records(context.opened.query_curve(identity, context.query, context.alpha), QueryPoint)
    if not curve or not own or beyond_grid(context.opened, identity, lam):
        return ""
    mine, whole = own[0], curve[0]
    if lam is not None:
        mine = min(own, key=lambda row: _distance(row.regularization, lam))
        whole = min(curve, key=lambda row: _distance(row.regularization, lam))
    if is_missing(mine.lds):
        return ""
    is_here = lam is None or _distance(mine.regularization, lam) < _SAME
    at = "" if is_here else f", at the stored λ = {regularization_text(mine.regularization)}"
    return f"own LDS **{signed(mine.lds, 2)}** (mean {signed(whole.mean, 2)}{at})"


def _distance(value: float | None, lam: float) -> float:
    """Return how far a stored λ is from another one: in decades, unless that one is 0."""
    if value is None:
        return math.inf
    return abs(value - lam) if lam <= 0 else abs(math.log(max(value, 1e-300) / lam))


def _show_switches(context: Context) -> None:
    view, known = context.view, context.configurations
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        method_buttons(context, "switch")
        setting_boxes(context, "switch", width=150)
        epochs = session.epochs(known, view.method)
        if len(epochs) > 1:
            control(
                st.segmented_control,
                "Epoch",
                "switch-epoch",
                view.epoch,
                lambda value: session.choose(known, epoch=value),
                options=epochs,
                required=True,
            )
        dims = [k_text(value) for value in session.dimensions(known, view.method)]
        if len(dims) > 1:
            control(
                st.segmented_control,
                "Projection k",
                "switch-k",
                view.k,
                lambda value: session.choose(known, k=value),
                options=dims,
                format_func=lambda text: "none" if text == UNPROJECTED else text,
                required=True,
            )
        if context.has_classes or view.classes:
            with st.popover("Filter examples" + (" (on)" if view.classes or view.right else "")):
                _show_filter(context)


def _show_filter(context: Context) -> None:
    """Draw which training examples take part."""
    control(
        st.pills,
        "Classes of training examples",
        "filter-classes",
        list(context.view.classes),
        _filter_classes,
        options=services.labels(services.examples(context.opened, "train")),
        format_func=plain,
        selection_mode="multi",
    )
    control(
        st.segmented_control,
        "Keep",
        "filter-right",
        context.view.right,
        _filter_right,
        options=list(RIGHT_NAMES),
        format_func=RIGHT_NAMES.get,
        required=True,
    )
    st.caption("Within the filter the ranking is exact: it is computed anew over all that pass.")


def _filter_classes(values: list[str]) -> None:
    session.update(classes=tuple(values))


def _filter_right(value: str) -> None:
    session.update(right=value or "")


def _show_tables(context: Context) -> None:
    st.caption(
        "Score: first-order change of this query's goodness when the example's weight is raised, on the mean-Gram "
        f"scale; compare ranks, not sizes, between methods. {_marks(context)} "
        "Arrow keys move λ, Shift finer, Page keys by a decade."
    )
    left, right = st.columns(2)
    view = context.view
    with left:
        try:
            rows = top_examples(context.opened, candidates_of(context), view.lam)
        except NumericalError:  # why, the element above says live
            st.caption("No table: the method has no scores at this λ.")
        else:
            name = f"examples-query{view.query}-{view.method}"
            show_data(top_table(rows), name, f"Top examples at {describe(view)}")
    with right:
        show_data(_curve_table(context), "curves", "The two curves")


def _marks(context: Context) -> str:
    """Return what is marked on the cards."""
    if context.has_classes:
        return "Green frame: the query's own class. ✗: the model gets that training example wrong (label → prediction)."
    return "Under an example: its label and, in brackets, prediction minus label, where both are numbers."


def _curve_table(context: Context) -> pd.DataFrame:
    """Return LDS and ξ over λ as a table for people."""
    curve = context.opened.curve(context.configuration_id, context.alpha)
    own = context.opened.query_curve(context.configuration_id, context.query, context.alpha)
    frame = curve.merge(own, on="regularization", how="left")
    indicator = context.opened.indicator_curve(context.configuration_id)
    if len(indicator):
        columns = ["regularization", "mean", "q05", "q95"]
        frame = frame.merge(indicator[columns], on="regularization", how="outer", suffixes=("", "_xi"))
    names = {
        "regularization": "λ",
        "mean": "LDS",
        "ci_low": "95 % low",
        "ci_high": "95 % high",
        "lds": "this query",
        "num_subsets": "subsets",
        "mean_xi": "ξ̄",
        "q05": "ξ 5 %",
        "q95": "ξ 95 %",
    }
    return frame[[name for name in names if name in frame]].rename(columns=names).round(6)
