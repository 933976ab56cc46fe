"""Errors as people see them: what happened and what to do; never a traceback."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import streamlit as st

from app.formats import plain
from tda_backend.errors import TDAError

P = ParamSpec("P")


def show_error(error: TDAError) -> None:
    """Draw an error with its hint."""
    hint = f"\n\n{plain(error.hint)}" if error.hint else ""
    st.error(f"**{plain(error.message)}**{hint}")


def shows_errors(draw: Callable[P, None]) -> Callable[P, None]:
    """Make a page or fragment draw a :class:`TDAError` in its place; anything else is a bug and stays one."""

    @functools.wraps(draw)
    def guarded(*arguments: P.args, **named: P.kwargs) -> None:
        try:
            draw(*arguments, **named)
        except TDAError as error:
            show_error(error)

    return guarded
