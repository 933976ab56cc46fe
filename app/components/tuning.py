"""How rules that need no retraining choose the training epoch and the projection dimension."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app.components.tables import csv_button
from app.session import Context

RULES = {
    "last": "last epoch (the papers')",
    "lowest-loss": "lowest validation loss",
    "progress": "first epoch with 90 % of the way down to the lowest validation loss",
    "default": "k = 512 (the papers')",
    "widest": "unprojected, or the largest k",
}
WHAT = {"training_epoch": "training epoch", "projection_dim": "projection dimension k"}


def tuned_rules(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row per rule: what it chooses, its regret over the groups of otherwise equal configurations.

    Args:
        frame: From :meth:`tda_backend.Study.tuning`.
    """
    rows = []
    for pair, group in frame.groupby(["what", "rule"], sort=False):
        what, rule = tuple(pair)  # two columns are grouped
        rows.append({
            "choosing": WHAT.get(str(what), str(what)), "rule": RULES.get(str(rule), str(rule)),
            "chooses": ", ".join(dict.fromkeys(group["chosen"])), "mean LDS": group["lds"].to_numpy().mean(),
            "mean regret": group["regret"].to_numpy().mean(), "worst regret": group["regret"].to_numpy().max(),
            "groups": len(group),
        })  # fmt: skip
    return pd.DataFrame(rows)


def show(context: Context) -> None:
    """Draw the table, if the study has several epochs or projection dimensions to choose from."""
    frame = context.opened.tuning(context.alpha)
    if not len(frame):
        return
    st.subheader("Which epoch, which k, without retraining?", anchor=False)
    table = tuned_rules(frame)
    st.dataframe(table.round(4), width="stretch", hide_index=True, height="content")
    st.caption(
        "λ is chosen by ξ throughout. A group: configurations that differ in this one setting alone; regret is against "
        "the best of them. The validation loss is that of the attributed model, so nothing is retrained."
    )
    csv_button(frame, "tuning")
