"""Counterfactuals: what retraining without some examples really did, beside what the scores predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from app import services, session
from app.formats import MISSING, is_missing, lds_text, plain, regularization_text, signed
from app.session import Context, control
from app.shared import page
from app.shared.curves import LDS_HELP
from app.shared.errors import shows_errors
from app.shared.gallery import show_gallery
from app.shared.method_style import method_color
from app.shared.plots import show_figure
from app.shared.progress import follow
from app.shared.sections import show_missing_section
from app.shared.tables import show_data
from app.views.counterfactuals import data
from app.views.counterfactuals.charts import points_figure
from app.views.counterfactuals.leave_one_out import show_leave_one_out
from app.views.counterfactuals.removal import show_removal
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.curves import LdsPoint
from tda_backend.interfaces.reading.records.removals import QueryBrittleness

TRUTH = """[ground_truth]
subsets = 50"""


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Counterfactuals", anchor=False)
    st.markdown(
        "Attribution says which training examples made the model answer as it did. Here models were **really retrained "
        "without them**. **Pick a query** to see its own numbers."
    )
    context = page.opened()
    if context is None:
        return
    known = data.brittle_queries(context.opened)
    _show_queries(context, known)
    st.subheader("Predicted against actual", anchor=False)
    _show_points(context)
    st.subheader("Removing what helped most", anchor=False)
    show_removal(context, known)
    st.subheader("Leaving one example out", anchor=False)
    show_leave_one_out(context)
    follow()


def _show_queries(context: Context, known: Sequence[QueryBrittleness]) -> None:
    queries = services.examples(context.opened, "queries")
    removed = {row.query for row in known}
    first = [query for query in queries if query.position in removed]
    rest = [query for query in queries if query.position not in removed]
    show_gallery(context, [*first, *rest], "counterfactual-gallery")
    if removed:
        st.caption(f"Subset removal was tested on the first {len(removed)} of these queries.")


def _show_points(context: Context) -> None:
    opened = context.opened
    curve = records(opened.curve(context.configuration_id, context.alpha), LdsPoint)
    if not curve and not _has_subsets(context):
        show_missing_section(
            context, "Subsets of the training data are retrained with", TRUTH, bool(context.facts.num_subsets)
        )
        return
    if len(opened.alphas) > 1:
        control(
            st.segmented_control,
            "Share of the training set in a subset, α",
            "counterfactual-alpha",
            context.alpha,
            lambda value: session.update(alpha=value),
            options=opened.alphas,
            required=True,
        )
    points = data.subset_points(context)
    own, lam = points.lds, context.lam
    left, right = st.columns([3, 2], gap="large")
    with left:
        show_figure(
            points_figure(points, method_color(context.view.method)),
            "points",
            f"Goodness of query {context.view.query} in {len(points.actual)} retrained models against what the scores "
            f"predict; rank correlation {lds_text(own)}",
        )
    with right:
        with st.container(horizontal=True, gap="large"):
            st.metric("LDS of this query", MISSING if is_missing(own) else signed(own, 2), width="content")
            near = _lds_near(curve, lam)
            st.metric(f"mean of all queries{near.at}", near.text, width="content")
        at = "" if lam is None else f" at λ = {regularization_text(lam)}"
        st.markdown(
            f"Each dot is a model retrained on a random share of {context.alpha:.6g} of the training data. To the "
            f"right: models that should do better on this query, by {plain(context.chosen.variant_title)}{at}. Up: "
            "models that really do. A perfect attribution orders the dots from bottom left to top right."
        )
        st.caption(LDS_HELP)
    table = pd.DataFrame(
        {
            "subset": range(len(points.actual)),
            "predicted": points.predicted,
            "goodness after retraining": points.actual,
        }
    )
    show_data(table, "points")


def _has_subsets(context: Context) -> bool:
    return bool(context.facts.num_subsets) and context.opened.has_retrained(context.alpha)


@dataclass(frozen=True)
class _Near:
    """The LDS at the stored λ nearest to another one, and where that is; empty where it is the same λ."""

    text: str
    at: str = ""


def _lds_near(curve: Sequence[LdsPoint], lam: float | None) -> _Near:
    """Return the LDS at the stored λ nearest to λ; none outside what is stored."""
    if not curve:
        return _Near(MISSING)
    if lam is None:
        return _Near(signed(curve[0].mean, 2))
    positive = sorted(point.regularization for point in curve if point.regularization)
    if lam > 0 and not (positive and positive[0] * 0.999 <= lam <= positive[-1] * 1.001):
        return _Near(MISSING)
    at = math.log10(max(lam, 1e-12))
    nearest = min(curve, key=lambda point: abs(math.log10(max(point.regularization or 0.0, 1e-12)) - at))
    found = nearest.regularization or 0.0
    same = math.isclose(found, lam, rel_tol=1e-4)
    return _Near(signed(nearest.mean, 2), "" if same else f", λ = {regularization_text(found)}")
