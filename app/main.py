"""Navigation only. ``streamlit run app/main.py`` serves it; the server imports this file once, each visit runs it."""

from __future__ import annotations

import sys
from pathlib import Path

import streamlit as st

_ROOT = Path(__file__).resolve().parents[1]
if sys.path[:1] != [str(_ROOT)]:  # before anything else on the path that may be called "app"
    sys.path.insert(0, str(_ROOT))


def run() -> None:
    """Draw the page that the address names."""
    from app import clocks, session
    from app.components.errors import show_error
    from app.components.sidebar import show_sidebar
    from app.navigation import pages
    from tda_backend.errors import TDAError

    st.set_page_config(
        page_title="Training data attribution", page_icon=str(_ROOT / "app" / "favicon.png"), layout="wide"
    )
    page = st.navigation(pages(), position="top")
    clocks.turn_to(page.url_path)
    try:
        show_sidebar(session.open_context())
        page.run()
    except TDAError as error:
        show_error(error)


if __name__ == "__main__":
    run()
else:
    from starlette.middleware import Middleware

    from app.base_address import BaseAddress
    from app.navigation import ADDRESSES
    from app.server import lifespan

    app = st.App(Path(__file__).resolve(), lifespan=lifespan, middleware=[Middleware(BaseAddress, pages=ADDRESSES)])
