"""Leaving out one example at a time: how well scores foretell its effect, and the effects themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import streamlit as st

from app.formats import MISSING, count_text, lds_text, regularization_text
from app.session import Context
from app.shared.charts import comparison_figure
from app.shared.curves import CurvePoint, NamedCurve, lambda_title
from app.shared.method_style import method_color, method_dash
from app.shared.plots import show_figure
from app.shared.sections import show_missing_section
from app.shared.tables import show_data
from app.views.counterfactuals import data
from app.views.counterfactuals.charts import effects_figure
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.frames import frame_of
from tda_backend.interfaces.reading.records.grouping import grouped
from tda_backend.interfaces.reading.records.leave_one_out import LOOScore

LOO = """[loo]
examples = 20
seeds = 5
of = [{method = "iffim"}]"""


def show_leave_one_out(context: Context) -> None:
    """Draw the section."""
    scores = records(context.opened.loo(), LOOScore)
    if not scores:
        show_missing_section(context, "Single examples are left out with", LOO, "loo" in context.opened.config)
        return
    left, right = st.columns(2, gap="large")
    with left:
        _show_curve(context, [row for row in scores if row.configuration_id == context.configuration_id])
    with right:
        _show_effects(context)
    ceiling = scores[0].ceiling
    limit = "" if ceiling is None else f" With this noise between seeds perfect scores would reach {ceiling:.2f}."
    st.caption(
        f"{count_text(max(row.num_examples for row in scores), 'training example')} were left out one at a time and "
        "the model retrained with the same seeds. Correlation: Spearman over those examples, mean over queries; band: "
        f"95 % bootstrap over examples.{limit} The effect of one example is small and training noise large, so low "
        "numbers are usual; LDS asks about many examples at once."
    )
    show_data(_best_table(scores), "loo", "Every configuration at its best λ, table and CSV")


def _best_table(scores: Sequence[LOOScore]) -> pd.DataFrame:
    """Return every configuration at the λ of its highest correlation, best first; constant scores have none."""
    known = [row for row in scores if not math.isnan(row.mean)]
    groups = grouped(known, lambda row: row.configuration_id).values()
    rows = sorted((max(group, key=lambda row: row.mean) for group in groups), key=lambda row: -row.mean)
    return pd.DataFrame(
        {
            "configuration": [row.label for row in rows],
            "correlation": [round(row.mean, 3) for row in rows],
            "95 % low": [round(row.ci_low, 3) for row in rows],
            "95 % high": [round(row.ci_high, 3) for row in rows],
            "at λ": [regularization_text(row.regularization) for row in rows],
        }
    )


def _show_curve(context: Context, mine: Sequence[LOOScore]) -> None:
    if not mine:
        st.info("The present configuration has not been compared with the effects yet.")
        return
    title, variant = context.chosen.variant_title, context.chosen.variant
    if all(row.regularization is None for row in mine):
        st.metric(f"Correlation of {title}", lds_text(mine[0].mean, mine[0].ci_low, mine[0].ci_high))
        return
    selected = next((row for row in mine if row.is_selected), None)
    points = [CurvePoint(row.regularization, row.mean, row.ci_low, row.ci_high, row.is_selected) for row in mine]
    figure = comparison_figure(
        [NamedCurve(title, method_color(variant), method_dash(variant), points)],
        lambda_title([context.chosen.is_relative]),
        340,
        "correlation with leave-one-out",
    )
    at_selected = MISSING if selected is None else lds_text(selected.mean, selected.ci_low, selected.ci_high)
    show_figure(
        figure,
        "loo-curve",
        f"Correlation of {title} with leave-one-out effects against λ; at λ* {at_selected}",
    )
    table = pd.DataFrame(
        {
            "λ": [row.regularization for row in mine],
            "correlation": [row.mean for row in mine],
            "ci_low": [row.ci_low for row in mine],
            "ci_high": [row.ci_high for row in mine],
            "per_example": [row.per_example for row in mine],
            "is_selected": [row.is_selected for row in mine],
        }
    )
    show_data(table, "loo-curve")


def _show_effects(context: Context) -> None:
    points = data.left_out(context)
    show_figure(
        effects_figure(points, method_color(context.view.method)),
        "effects",
        f"Goodness that query {context.query} loses without each of {len(points)} training examples against their "
        "scores",
    )
    show_data(frame_of(points, data.LeftOut), "effects")
