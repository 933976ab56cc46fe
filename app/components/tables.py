"""The numbers behind a figure: an equivalent table, and the same as CSV."""

from __future__ import annotations

import pandas as pd
import streamlit as st


def show_rows(frame: pd.DataFrame, name: str) -> None:
    """Draw a table and a button that gives it as CSV.

    Args:
        frame: The data, with readable column names.
        name: Name of the file without ending; also the widget's key.
    """
    st.dataframe(frame, width="stretch", hide_index=True, height=min(38 + 35 * len(frame), 320))
    st.download_button("Download CSV", frame.to_csv(index=False).encode(), f"{name}.csv", "text/csv", key=f"csv-{name}")


def show_data(frame: pd.DataFrame, name: str, title: str = "Table and CSV") -> None:
    """Draw an expander with the figure's data; arguments as of :func:`show_rows`, and the expander's label."""
    with st.expander(title):
        show_rows(frame, name)
