"""The numbers behind a figure: an equivalent table, and the same as CSV."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.formats import MISSING, plain


def show_rows(frame: pd.DataFrame, name: str) -> None:
    """Draw a table and a button that gives it as CSV.

    Args:
        frame: The data, with readable column names.
        name: Name of the file without ending; also the widget's key.
    """
    st.dataframe(frame, width="stretch", hide_index=True, placeholder=MISSING, height=min(38 + 35 * len(frame), 320))
    csv_button(frame, name)


def csv_button(frame: pd.DataFrame, name: str) -> None:
    """Draw a button that gives a table as CSV, ``NAME.csv``.

    The file is made when it is asked for. One made beforehand goes when the page changes, and a slow browser, which
    looks for the files of all buttons that it draws, then reports that it is missing.
    """
    st.download_button(
        "Download CSV",
        lambda: frame.to_csv(index=False).encode(),
        f"{name}.csv",
        "text/csv",
        key=f"csv-{name}",
        on_click="ignore",
    )


def show_data(frame: pd.DataFrame, name: str, title: str = "Table and CSV") -> None:
    """Draw an expander with the figure's data; arguments as of :func:`show_rows`, and the expander's label."""
    with st.expander(plain(title)):
        show_rows(frame, name)
