"""The side bar: study, method, epoch, k, λ and query, the same on every page, and a link to exactly this view."""

from __future__ import annotations

import streamlit as st

from app import services, session
from app.formats import plain, regularization_text
from app.session import Context, control
from app.shared.copy_link import copy_link
from app.shared.method_controls import method_box, setting_boxes
from app.state import UNPROJECTED, View, k_text


def show_sidebar(context: Context | None) -> None:
    """Draw the side bar."""
    with st.sidebar:
        if context is None:
            st.caption("No study yet.")
            return
        names = list(dict.fromkeys(row.name for row in services.studies()))
        control(st.selectbox, "Study", "side-study", context.view.study, _change_study, options=names)
        if context.configuration is not None:
            _show_settings(context)
        copy_link()
        st.caption("The address of this page holds all of this. A positive score helps.")


def _change_study(name: str) -> None:
    session.write(View(study=name))


def _show_settings(context: Context) -> None:
    view, known = context.view, context.configurations
    method_box(context, "side")
    setting_boxes(context, "side", columns=2)
    left, right = st.columns(2)
    with left:
        control(
            st.selectbox,
            "Epoch",
            "side-epoch",
            view.epoch,
            lambda value: session.choose(known, epoch=value),
            options=session.epochs(known, view.method),
        )
    dims = session.dimensions(known, view.method)
    with right:
        control(
            st.selectbox,
            "k",
            "side-k",
            view.k,
            lambda value: session.choose(known, k=value),
            options=[k_text(value) for value in dims],
            help="Projection dimension of the gradients",
            format_func=lambda text: "none" if text == UNPROJECTED else text,
        )
    left, right = st.columns(2)
    with left:
        has_lambda = context.chosen.has_regularization
        unit = (
            "relative to each layer's mean curvature"
            if context.chosen.is_relative
            else "in units of the mean curvature"
        )
        control(
            st.text_input,
            "λ",
            "side-lam",
            regularization_text(view.lam) if has_lambda else "–",
            session.set_regularization,
            disabled=not has_lambda,
            help=f"Regularization, {unit}; e.g. 0, 0.01 or 1e-3",
        )
    with right:
        control(
            st.number_input,
            "Query",
            "side-query",
            view.query or 0,
            lambda value: session.update(query=int(value)),
            min_value=0,
            max_value=context.opened.num_queries - 1,
            step=1,
        )


def show_notes(context: Context) -> None:
    """Draw what could not be shown as asked."""
    for sentence in dict.fromkeys(context.notes):
        st.info(plain(sentence), icon=":material/info:")
