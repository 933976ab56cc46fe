"""The clocks that keep a page up to date while something is computed, and their end when the page changes.

A browser's timers go on until it hears that the page has changed. Streamlit (1.67) keeps a tick that arrives while the
next page is drawn, runs it afterwards, and announces that run under the page the tick came from, even if the fragment
is gone by then. The browser takes the announcement for a change of page, clears what it shows, and stops for good at
the next piece of a page that it no longer has ("Bad delta path index"). A tick whose fragment is not known when it
arrives is dropped at once, so a page's clocks end here, on the server, before the next page begins.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

P = ParamSpec("P")
_PAGE = "clocks-page"


def every(seconds: float, draw: Callable[P, None]) -> Callable[P, None]:
    """Return ``draw`` as a fragment that is drawn anew every ``seconds`` while its page is open.

    A fragment is known by its function's name and its place. The name is given the page's here: a late tick of one
    page's clock is never taken for one of the next page's.
    """

    @functools.wraps(draw)
    def ticking(*arguments: P.args, **named: P.kwargs) -> None:
        draw(*arguments, **named)

    ticking.__qualname__ = f"{draw.__qualname__} on {st.session_state.get(_PAGE)}"
    return st.fragment(ticking, run_every=seconds)


def end() -> None:
    """Forget the clocks of the page that is being left: ticks of theirs that arrive from now on are dropped."""
    context = get_script_run_ctx()
    if context is not None:
        context.fragment_storage.clear()


def turn_to(page: str) -> None:
    """Say which page is drawn next; the clocks of another one end."""
    if st.session_state.get(_PAGE) != page:
        end()
    st.session_state[_PAGE] = page
