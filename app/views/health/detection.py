"""Finding wrong labels: how well the self-influence of each configuration does it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from app import session
from app.formats import lds_text, regularization_text
from app.session import Context
from app.shared.curves import CurvePoint, NamedCurve, lambda_title
from app.shared.method_style import method_color, method_dash
from app.shared.plots import picked_value, show_figure
from app.shared.sections import show_missing_section
from app.shared.tables import show_data
from app.views.health.charts import auc_curve_figure, auc_figure, recall_figure
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.noisy_labels import Detection

FLIPS = """[data]
flip_labels = 0.1"""


def show_detection(context: Context) -> None:
    """Draw the section."""
    found = records(context.opened.noisy_labels(), Detection)
    if not found:
        _show_missing(context)
        return
    at = sorted((row for row in found if row.is_selected or row.regularization is None), key=lambda row: -row.auc)
    num_wrong, best = max(row.num_flipped for row in found), at[0]

    def clicked() -> None:
        identity = picked_value("auc")
        row = next((row for row in at if row.configuration_id == identity), None)
        if row is not None and identity in context.configurations.ids:
            session.go_to(context.configurations.by_id(row.configuration_id), row.regularization)

    show_figure(
        auc_figure(at, context.configuration_id),
        "auc",
        f"AUC of finding {num_wrong} wrong labels by {len(at)} configurations; best {best.label} "
        f"{lds_text(best.auc, best.auc_low, best.auc_high)}",
        clicked,
    )
    st.caption(
        f"{num_wrong} of {context.opened.num_train} labels are wrong on purpose. AUC: how often a wrong label has "
        "higher self-influence than a right one, at λ* where the method has λ. **A click on a dot** makes it the "
        "present configuration."
    )
    show_data(_table("configuration", at, "λ*"), "auc")
    left, right = st.columns(2, gap="large")
    with left:
        _show_recall(context, at)
    with right:
        _show_auc_curve(context, found)


def _show_missing(context: Context) -> None:
    if len(context.opened.noisy_rows()):
        st.info("Detection appears with the first configuration that has self-influence.")
        return
    what = "No label of this study is known to be wrong. A share is flipped on purpose, before training, with"
    show_missing_section(context, what, FLIPS, "flip_labels" in context.opened.config["data"])


def _table(label: str, rows: Sequence[Detection], lam: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            label: [row.label for row in rows],
            lam: [row.regularization for row in rows],
            "auc": [row.auc for row in rows],
            "auc_low": [row.auc_low for row in rows],
            "auc_high": [row.auc_high for row in rows],
        }
    )


def _show_recall(context: Context, at: Sequence[Detection]) -> None:
    """Draw the recall of the present configuration, or of the best one where it has no self-influence."""
    row = next((row for row in at if row.configuration_id == context.configuration_id), at[0])
    shares = context.opened.recall_shares
    at_tenth = float(row.recall[0])
    show_figure(
        recall_figure(row, shares),
        "recall",
        f"Share of wrong labels found against the share inspected; {row.label} finds {at_tenth:.0%} among the first "
        "10 %",
    )
    st.caption(f"Looking through the first 10 % of the data finds {at_tenth:.0%} of the wrong labels.")
    table = pd.DataFrame(
        {"share inspected": shares, "found": row.recall, "95 % low": row.recall_low, "95 % high": row.recall_high}
    )
    show_data(table, "recall")


def _show_auc_curve(context: Context, found: Sequence[Detection]) -> None:
    mine = [row for row in found if row.configuration_id == context.configuration_id and row.regularization is not None]
    if not mine:
        st.info("The present configuration has no λ, or no self-influence.")
        return
    chosen = context.chosen
    color = method_color(chosen.variant)
    points = [CurvePoint(row.regularization, row.auc, row.auc_low, row.auc_high, row.is_selected) for row in mine]
    curve = NamedCurve(chosen.variant_title, color, method_dash(chosen.variant), points)
    figure = auc_curve_figure(curve, lambda_title([chosen.is_relative]))
    best = max(mine, key=lambda row: row.auc)
    show_figure(
        figure,
        "auc-curve",
        f"AUC against λ; highest {best.auc:.3f} at λ {regularization_text(best.regularization)}",
    )
    st.caption("Line: λ*, chosen without knowing which labels are wrong.")
    table = _table("configuration", mine, "regularization").drop(columns="configuration")
    show_data(table.assign(is_selected=[row.is_selected for row in mine]), "auc-curve")
