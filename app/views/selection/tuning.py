"""How rules that need no retraining choose the training epoch and the projection dimension."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st

from app.formats import MISSING
from app.session import Context
from app.shared.tables import csv_button
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.selections import TuningRow

RULES = {
    "last": "last epoch (the papers')",
    "lowest-loss": "lowest validation loss",
    "progress": "first epoch with 90 % of the way down to the lowest validation loss",
    "default": "k = 512 (the papers')",
    "widest": "unprojected, or the largest k",
}
WHAT = {"training_epoch": "training epoch", "projection_dim": "projection dimension k"}


def tuned_rules(rows: Sequence[TuningRow]) -> pd.DataFrame:
    """Return one row per rule: what it chooses, its regret over the groups of otherwise equal configurations.

    Without ground truth there is no regret.

    Args:
        rows: From :meth:`tda_backend.Study.tuning`.
    """
    groups: dict[tuple[str, str], list[TuningRow]] = {}
    for row in rows:
        groups.setdefault((row.what, row.rule), []).append(row)
    regrets = [np.array([row.regret for row in mine]) for mine in groups.values()]
    table = pd.DataFrame(
        {
            "choosing": [WHAT.get(what, what) for what, _ in groups],
            "rule": [RULES.get(rule, rule) for _, rule in groups],
            "chooses": [", ".join(dict.fromkeys(row.chosen for row in mine)) for mine in groups.values()],
            "mean LDS": [float(np.mean([row.lds for row in mine])) for mine in groups.values()],
            "mean regret": [float(values.mean()) for values in regrets],
            "worst regret": [float(values.max()) for values in regrets],
            "groups": [len(mine) for mine in groups.values()],
        }
    )
    is_judged = any(row.is_judged for row in rows)
    return table if is_judged else table.drop(columns=["mean LDS", "mean regret", "worst regret"])


def show(context: Context) -> None:
    """Draw the table, if the study has several epochs or projection dimensions to choose from."""
    frame = context.opened.tuning(context.alpha)
    if not len(frame):
        return
    st.subheader("Which epoch, which k, without retraining?", anchor=False)
    rows = records(frame, TuningRow)
    table = tuned_rules(rows)
    st.dataframe(table.round(4), width="stretch", hide_index=True, placeholder=MISSING, height="content")
    is_judged = any(row.is_judged for row in rows)
    regret = "regret is against the best of them" if is_judged else "without retrained subsets nothing judges the rules"
    st.caption(
        f"λ is chosen by ξ throughout. A group: configurations that differ in this one setting alone; {regret}. "
        "The validation loss is that of the attributed model, so nothing is retrained."
    )
    csv_button(frame, "tuning")
