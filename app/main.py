"""Navigation only. ``streamlit run app/main.py`` serves it; the server imports this file once, each visit runs it."""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path

import streamlit as st

_ROOT = Path(__file__).resolve().parents[1]
if sys.path[:1] != [str(_ROOT)]:  # before anything else on the path that may be called "app"
    sys.path.insert(0, str(_ROOT))

from app import clocks, garbage, navigation, session
from app.server import Server
from app.server_log import log_page
from app.shared.errors import show_error
from app.shared.sidebar import show_sidebar
from tda_backend.errors import TDAError


def run() -> None:
    """Draw the page that the address names."""
    st.set_page_config(
        page_title="Training data attribution", page_icon=str(_ROOT / "app" / "favicon.png"), layout="wide"
    )
    pages = {
        row.address: st.Page(
            importlib.import_module(row.module).render, title=row.title, url_path=row.address, default=number == 0
        )
        for number, row in enumerate(navigation.PAGES)
    }
    garbage.spare_what_stays()
    navigation.offer(pages)
    page = st.navigation(list(pages.values()), position="top")
    clocks.turn_to(page.url_path)
    begun = time.perf_counter()
    try:
        show_sidebar(session.open_context())
        page.run()
    except TDAError as error:
        show_error(error)
    finally:
        log_page(page.url_path or navigation.ADDRESSES[0], time.perf_counter() - begun)


if __name__ == "__main__":
    run()
else:
    server = Server()
    app = st.App(
        Path(__file__).resolve(), lifespan=server.lifespan, middleware=server.middleware(), routes=server.routes()
    )
