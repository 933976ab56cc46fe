"""The numbers behind a figure: an equivalent table, and the same as CSV."""

from __future__ import annotations

import pandas as pd
import streamlit as st


def show_data(frame: pd.DataFrame, name: str, title: str = "Table and CSV") -> None:
    """Draw an expander with the figure's data.

    Args:
        frame: The data, with readable column names.
        name: Name of the file without ending; also the widget's key.
        title: Label of the expander.
    """
    with st.expander(title):
        st.dataframe(frame, width="stretch", hide_index=True, height=min(38 + 35 * len(frame), 320))
        st.download_button(
            "Download CSV", frame.to_csv(index=False).encode(), f"{name}.csv", "text/csv", key=f"csv-{name}"
        )
