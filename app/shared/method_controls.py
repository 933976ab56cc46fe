"""Choosing a method and its hyper-parameters: one box for the method, a small one for each that differs here."""

from __future__ import annotations

from functools import partial
from typing import Any

import streamlit as st

from app import services, session
from app.formats import count_text, plain
from app.session import Context, control
from app.settings import label, value_of, value_words
from app.shared.method_style import known_method

MANY = 4  # more methods than this do not fit into a row of buttons


def short_title(method: str, title: str) -> str:
    """Return a method's title where there is little room."""
    spec = known_method(method)
    return title if spec is None else spec.short_title or title


def method_box(context: Context, prefix: str) -> None:
    """Draw the select box of methods."""
    known = context.configurations
    names = known.methods
    control(
        st.selectbox,
        "Method",
        f"{prefix}-method",
        context.view.method,
        lambda value: session.choose_method(known, value),
        options=list(names),
        format_func=lambda name: names.get(name, name),
        help=f"{count_text(len(names), 'method')}, {count_text(len(known), 'configuration')} in this study",
    )


def method_buttons(context: Context, prefix: str) -> None:
    """Draw the methods as a row of buttons where they are few, else as a select box."""
    known = context.configurations
    names = known.methods
    if len(names) > MANY:
        with st.container(width=320):
            method_box(context, prefix)
        return
    control(
        st.segmented_control,
        "Method",
        f"{prefix}-method",
        context.view.method,
        lambda value: session.choose_method(known, value),
        options=list(names),
        format_func=lambda name: plain(short_title(name, names.get(name, name))),
        required=True,
    )


def setting_boxes(context: Context, prefix: str, width: int | str = "stretch", columns: int = 0) -> None:
    """Draw one small select box for each hyper-parameter that takes several values in this study; else nothing.

    Args:
        context: What the page works with.
        prefix: Of the widgets' keys.
        width: Of each box.
        columns: How many stand side by side; 0: as the container has it.
    """
    known, method = context.configurations, context.view.method
    spec = services.methods()[method]
    places: list[Any] = []
    for number, (name, values) in enumerate(session.setting_options(known, method).items()):
        item = spec.hyperparameter(name)
        if columns and number % columns == 0:
            places = st.columns(columns)
        control(
            places[number % columns].selectbox if columns else st.selectbox,
            label(name),
            f"{prefix}-set-{method}-{name}",
            value_of(context.view.settings, name) or values[0],
            lambda value, name=name: session.choose_setting(known, name, value),
            options=values,
            format_func=partial(value_words, name),
            help=None if item is None else item.meaning,
            width=width,
        )
