"""Methods: every method of the study at its best, with its cost beside it, and a form for the next study."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from app import services, session
from app.charts import LDS_HELP
from app.components import no_study
from app.components.compare import show_compare
from app.components.errors import shows_errors
from app.components.progress import follow
from app.components.sidebar import show_notes
from app.components.study_form import show_study_form
from app.components.tables import csv_button
from app.formats import MISSING, duration_text, is_missing, lds_text, projection_text, regularization_text
from app.method_charts import methods_figure
from app.navigation import open_page
from app.session import Context

CHART = {"modeBarButtons": [["toImage"]], "displaylogo": False, "scrollZoom": False, "doubleClick": False}


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Methods", anchor=False)
    st.markdown(
        "Which method can be trusted most here, and what did it cost? **Click a dot or a row**: that configuration "
        "becomes the present one on every page."
    )
    notes = st.container()
    context = session.context()
    if context is None or context.configuration is None:
        no_study.show_waiting(context)
    else:
        with notes:
            show_notes(context)
        _show_comparison(context)
        st.divider()
        show_compare(context)
        follow()
    st.divider()
    show_study_form(context)


def best_of_each(context: Context) -> pd.DataFrame:
    """Return each method at the configuration and λ* with the best LDS (λ of the grid where no λ* is known).

    Columns: configuration_id, method, method_title, variant_title, lds, low, high, regularization, seconds,
    num_configurations, curve, details; best LDS first, then the methods whose LDS is not there yet.
    """
    opened, known = context.opened, context.configurations
    costs = services.costs(opened).set_index("configuration_id")["seconds"]
    selections = opened.selections(context.alpha).set_index("configuration_id")
    table = opened.lds_table(context.alpha)
    without = table[~table["has_regularization"].astype(bool)].set_index("configuration_id")
    records = []
    for method, rows in known.groupby("method", sort=False):
        candidates = [_at_its_lambda(row, selections, without) for row in rows.to_dict("records")]
        best = max(candidates, key=lambda record: -2.0 if is_missing(record["lds"]) else record["lds"])
        spec = services.methods()[str(method)]
        best |= {"num_configurations": len(rows), "curve": spec.curve, "cost": spec.cost}
        best["seconds"] = float(costs.get(best["configuration_id"], float("nan")))
        records.append(best)
    frame = pd.DataFrame(records)
    return frame.sort_values("lds", ascending=False, na_position="last", kind="stable").reset_index(drop=True)


def _at_its_lambda(row: dict[str, Any], selections: pd.DataFrame, without: pd.DataFrame) -> dict[str, Any]:
    """Return one configuration with the LDS at its λ*, or the LDS where there is no λ."""
    identity, lds, low, high, lam = row["configuration_id"], None, None, None, None
    if row["has_regularization"] and identity in selections.index:
        chosen = selections.loc[identity]
        lam, lds = chosen["lambda_selected"], chosen["lds_selected"]
        low, high = chosen["lds_selected_low"], chosen["lds_selected_high"]
    elif identity in without.index:
        found = without.loc[identity]
        lds, low, high = found["mean"], found["ci_low"], found["ci_high"]
    details = [f"epoch {row['training_epoch']}", projection_text(row["projection_dim"])]
    relative = " relative to each layer" if row["settings"].get("damping") == "relative" else ""
    details += [] if lam is None else [f"λ* = {regularization_text(lam)}{relative}"]
    return {
        "configuration_id": identity, "method": row["method"], "method_title": row["method_title"],
        "variant_title": row["variant_title"], "lds": _number(lds), "low": _number(low), "high": _number(high),
        "is_relative": bool(relative), "regularization": None if is_missing(lam) else float(lam),
        "epoch": row["training_epoch"],
        "k": projection_text(row["projection_dim"]), "details": f"{row['variant_title']}<br>{', '.join(details)}",
    }  # fmt: skip


def _number(value: Any) -> float:
    return float("nan") if is_missing(value) else float(value)


def _show_comparison(context: Context) -> None:
    frame = best_of_each(context)
    missing = frame[frame["lds"].isna()]
    if len(missing) == len(frame):
        st.info("LDS appears here once subsets have been retrained; the cost of each method is known already.")

    def go(identity: str) -> None:
        row = context.configurations.set_index("configuration_id", drop=False).loc[identity]
        found = frame.set_index("configuration_id").loc[identity, "regularization"]
        session.go_to(row, None if is_missing(found) else float(found))

    def clicked() -> None:
        points = st.session_state["methods-chart"].selection.points
        if points and points[0].get("customdata"):
            go(points[0]["customdata"][0])

    best = frame.iloc[0]
    st.plotly_chart(
        methods_figure(frame, context.configuration_id), width="stretch", config=CHART, key="methods-chart",
        on_select=clicked, selection_mode="points",
        alt=f"LDS of {len(frame)} methods with 95 % intervals; best {best['method_title']} {lds_text(best['lds'])}",
    )  # fmt: skip
    st.caption(
        f"{LDS_HELP} Each method at the configuration whose λ* (chosen without retraining) gives the highest LDS; "
        "methods without λ at their best setting. The best of many settings flatters: a method with more "
        "configurations had more chances. Cost: seconds of the steps behind those scores on this machine, shared steps "
        "counted in full; training and retraining of models belong to all. Ring: where you are."
    )
    _show_table(frame, go)
    if st.button("Open in the Explorer", key="methods-open"):
        open_page("explorer")


def _show_table(frame: pd.DataFrame, go: Any) -> None:
    shown = pd.DataFrame(
        {
            "method": frame["variant_title"],
            "LDS": frame["lds"].round(3),
            "95 % low": frame["low"].round(3),
            "95 % high": frame["high"].round(3),
            "λ*": [
                regularization_text(value) + (" relative" if relative else "")
                for value, relative in zip(frame["regularization"], frame["is_relative"], strict=True)
            ],
            "seconds": [None if is_missing(value) else float(f"{value:.3g}") for value in frame["seconds"]],
            "epoch": frame["epoch"],
            "k": [text.removeprefix("k = ") for text in frame["k"]],
            "configurations": frame["num_configurations"],
            "curve over λ": frame["curve"],
            "cost model": frame["cost"],
        }
    )

    def picked() -> None:
        rows = st.session_state["methods-table"].selection.rows
        if rows:
            go(frame["configuration_id"].iloc[rows[0]])

    st.dataframe(
        shown, width="stretch", hide_index=True, key="methods-table", on_select=picked, selection_mode="single-row",
        height="content",
    )  # fmt: skip
    total = frame["seconds"].sum()
    left, right = st.columns([1, 3], vertical_alignment="center")
    with left:
        csv_button(shown, "methods")
    right.caption(f"All of them together: {duration_text(total) if total else MISSING}.")
