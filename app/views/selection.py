"""λ selection: how good each rule for choosing λ is, against the LDS that retraining shows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import session
from app.charts import LDS_HELP, XI_HELP, indicator_figure, lds_figure, method_color, spectrum_figure, spectrum_table
from app.components import no_study
from app.components.errors import shows_errors
from app.components.progress import follow
from app.components.sidebar import show_notes
from app.components.tables import show_data
from app.formats import MISSING, is_missing, joined, lds_text, projection_text, regularization_text, signed
from app.session import Context, control
from app.state import at_configuration, nearest

CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("λ selection", anchor=False)
    st.markdown(
        "λ* is chosen **without retraining**: where the mean surrogate indicator ξ̄(λ) crosses the threshold. "
        "LDS, which needs many retrained models, shows how good that choice is."
    )
    st.caption(LDS_HELP)
    notes = st.container()
    context = session.context()
    if context is None or context.configuration is None:
        no_study.show_waiting(context)
        return
    with notes:
        show_notes(context)
    _show_controls(context)
    shown = _beside(context)
    if not shown:
        st.info(f"{context.configuration['variant_title']} has no λ. Choose IFFIM or TRAK in the side bar.")
        return
    span = _span(context, shown)
    for column, row in zip(st.columns(len(shown), gap="large"), shown, strict=True):
        with column:
            _show_method(context, row, span)
    _show_regret(context, shown)
    follow()


def _show_controls(context: Context) -> None:
    left, right = st.columns([2, 1], gap="large")
    with left:
        control(
            st.slider, "Threshold of ξ̄", "threshold", context.view.xi, lambda value: session.update(xi=value),
            min_value=0.3, max_value=0.7, step=0.05, help="0.4 to 0.6 work alike; the paper takes 0.5",
        )  # fmt: skip
    alphas = context.opened.alphas
    if len(alphas) > 1:
        with right:
            control(
                st.segmented_control, "Share of the training set in a subset, α", "alpha", context.alpha,
                lambda value: session.update(alpha=value), options=alphas, required=True,
            )  # fmt: skip


def _beside(context: Context) -> list[pd.Series]:
    """Return the configurations drawn side by side: each method with λ, at the present epoch and k or nearest."""
    known = context.configurations[context.configurations["has_regularization"]]
    rows = []
    for variant in dict.fromkeys(known["variant"]):
        row, _ = nearest(known[known["variant"] == variant], context.view)
        rows.append(row)
    return rows


def crossing(curve: pd.DataFrame, threshold: float) -> float | None:
    """Return the λ of the last upward crossing of ``threshold`` on the stored ξ̄ curve, log-interpolated.

    The same rule as Algorithm 1 on the grid's resolution: no crossing because ξ̄ stays above gives the low end.
    """
    rows = curve[curve["regularization"] > 0].sort_values("regularization")
    lam, mean = rows["regularization"].to_numpy(), rows["mean"].to_numpy()
    upward = np.flatnonzero((mean[:-1] < threshold) & (mean[1:] >= threshold))
    if len(upward):
        at = int(upward[-1])
        share = (threshold - mean[at]) / (mean[at + 1] - mean[at])
        return float(10 ** (math.log10(lam[at]) + share * math.log10(lam[at + 1] / lam[at])))
    return float(lam[0]) if len(lam) and mean[0] >= threshold else None


def value_at(curve: pd.DataFrame, lam: float | None, column: str = "mean") -> float | None:
    """Return a curve's value at λ, log-interpolated between stored λ; ``None`` where it is not known."""
    if is_missing(lam) or not len(curve):
        return None
    rows = curve.sort_values("regularization")
    if lam <= 0:
        zero = rows.loc[rows["regularization"] == 0, column]
        return float(zero.iloc[0]) if len(zero) else None
    rows = rows[rows["regularization"] > 0]
    return float(np.interp(math.log10(lam), np.log10(rows["regularization"]), rows[column]))


def chosen_regularization(
    record: dict[str, Any], curve: pd.DataFrame, threshold: float
) -> tuple[float | None, list[str]]:
    """Return λ* at a threshold and its warnings: stored and bisected at the study's own, else from the stored curve."""
    if _is_own(record, threshold):
        return record["lambda_selected"], list(record.get("warnings", []))
    lam, lowest = crossing(curve, threshold), curve.loc[curve["regularization"] > 0, "regularization"].min()
    if lam is not None and lam <= lowest:
        return lam, [f"ξ̄ is at least {threshold:g} on the whole grid; its low end was taken. No damping may be needed."]
    if lam is None and len(curve):
        return None, [f"ξ̄ stays below {threshold:g} on the whole grid, so no λ* is shown at this threshold."]
    return lam, []


def _is_own(record: dict[str, Any], threshold: float) -> bool:
    return bool(record) and math.isclose(threshold, record["threshold"])


def _span(context: Context, shown: list[pd.Series]) -> tuple[float, float] | None:
    """Return one range of LDS for all figures, so that heights compare."""
    curves = [context.opened.curve(str(row["configuration_id"]), context.alpha) for row in shown]
    curves = [curve for curve in curves if len(curve)]
    if not curves:
        return None
    frame = pd.concat(curves)
    low, high = float(frame["ci_low"].min()), float(frame["ci_high"].max())
    margin = 0.05 * max(high - low, 0.05)
    return low - margin, high + margin


def _show_method(context: Context, row: pd.Series, span: tuple[float, float] | None) -> None:
    opened, identity = context.opened, str(row["configuration_id"])
    color = method_color(row["variant"])
    record = opened.selection(identity, context.alpha)
    curve, indicator = opened.curve(identity, context.alpha), opened.indicator_curve(identity)
    lam, warnings = chosen_regularization(record, indicator, context.view.xi)
    st.subheader(row["variant_title"], anchor=False)
    st.caption(f"epoch {row['training_epoch']} · {projection_text(row['projection_dim'])}")
    own = _is_own(record, context.view.xi)
    at_lam, best = record["lds_selected"] if own else value_at(curve, lam), record.get("lds_best")
    with st.container(horizontal=True, gap="large"):
        st.metric("λ*", regularization_text(lam), width="content")
        name = "LDS at λ*" if own else "LDS at λ*, between stored λ"
        st.metric(name, MISSING if is_missing(at_lam) else signed(at_lam, 3), width="content")
        st.metric("best LDS", MISSING if is_missing(best) else signed(best, 3), width="content")
    for warning in warnings:
        st.warning(warning)
    if len(curve):
        figure = lds_figure(
            curve, name=row["variant_title"], color=color, current=context.view.lam, selected=lam,
            best=record.get("lambda_best"), quantiles=record.get("quantiles"), span=span,
        )  # fmt: skip
        alt = f"LDS against λ for {row['variant_title']}; best {lds_text(best)} at λ {record.get('lambda_best')}"
        st.plotly_chart(figure, width="stretch", config=CHART, key=f"lds-{row['variant']}", alt=alt)
        num, planned = int(curve["num_subsets"].max()), int(opened.info["num_subsets"])
        early = f" so far {num} of {planned} subsets." if num < planned else f" {num} subsets."
        st.caption(
            f"LDS with its 95 % band;{early} Grey lines: quantiles of the eigenvalues as λ; dots: the best λ; dashes: "
            "the present λ."
        )
        show_data(curve.drop(columns=["is_selected"]).rename(columns={"regularization": "λ", "mean": "LDS"}),
                  f"lds-{row['variant']}")  # fmt: skip
    else:
        st.info("LDS appears here once subsets have been retrained.")
    if len(indicator):
        figure = indicator_figure(
            indicator, name=row["variant_title"], color=color, threshold=context.view.xi, current=context.view.lam,
            selected=lam,
        )  # fmt: skip
        alt = f"Mean surrogate indicator against λ for {row['variant_title']}; crosses {context.view.xi:g} at λ {lam}"
        st.plotly_chart(figure, width="stretch", config=CHART, key=f"xi-{row['variant']}", alt=alt)
        st.caption(f"{XI_HELP} Bands: middle half, and 5 to 95 %, of the validation points.")
        show_data(indicator.drop(columns=["is_selected"]).rename(columns={"regularization": "λ", "mean": "ξ̄"}),
                  f"xi-{row['variant']}")  # fmt: skip
    _show_spectrum(context, row, color)


def _show_spectrum(context: Context, row: pd.Series, color: str) -> None:
    values = context.opened.eigenvalues(str(row["configuration_id"]))
    if not len(values) or not (values > 0).any():
        return
    lam = context.view.lam or 0.0
    alt = f"Histogram of {len(values)} eigenvalues, and the filter at λ = {regularization_text(lam)}"
    st.plotly_chart(
        spectrum_figure(values, lam, color=color),
        width="stretch",
        config=CHART,
        key=f"spectrum-{row['variant']}",
        alt=alt,
    )
    if lam > 0:
        strong = int((values > lam).sum())
        st.caption(
            f"φ(σ) = 1/(σ+λ). Directions right of λ ({strong} of {len(values)}) are weighted by 1/σ, those left of it "
            "all by about 1/λ: λ says where the curvature stops being believed."
        )
    else:
        st.caption("λ = 0: every direction is weighted by 1/σ, the weakest most; no filter to draw.")
    show_data(spectrum_table(values), f"spectrum-{row['variant']}")


def rules(record: dict[str, Any], curve: pd.DataFrame, lam: float | None, threshold: float) -> list[dict[str, Any]]:
    """Return each rule for choosing λ with its LDS and regret (best LDS minus the rule's)."""
    entries = [(f"λ* where ξ̄ = {threshold:g}", lam, value_at(curve, lam))]
    if _is_own(record, threshold):
        entries = [(f"λ* where ξ̄ = {threshold:g}", record["lambda_selected"], record["lds_selected"])]
    for key, entry in record.get("quantiles", {}).items():
        entries.append(
            (f"{float(key):.0%} quantile of the eigenvalues".replace("%", " %"), entry["lambda"], entry["lds"])
        )
    entries.append(("λ = 0 (pseudo-inverse)", 0.0, record.get("lds_at_zero")))
    known = [(record.get("lds_best"), record.get("lambda_best")), *((lds, lam) for _, lam, lds in entries)]
    best, at = max(((lds, lam) for lds, lam in known if not is_missing(lds)), default=(None, None), key=lambda p: p[0])
    entries.append(("best of the grid and these rules (needs retraining)", at, best))
    return [
        {
            "rule": name,
            "λ": regularization_text(value),
            "LDS": None if is_missing(lds) else round(float(lds), 3),
            "regret": None if is_missing(lds) or is_missing(best) else round(float(best) - float(lds), 3) + 0.0,
        }
        for name, value, lds in entries
    ]


def _show_regret(context: Context, shown: list[pd.Series]) -> None:
    st.subheader("Regret of each rule", anchor=False)
    parts = []
    for row in shown:
        identity = str(row["configuration_id"])
        record = context.opened.selection(identity, context.alpha)
        if not record:
            continue
        curve, indicator = context.opened.curve(identity, context.alpha), context.opened.indicator_curve(identity)
        lam, _ = chosen_regularization(record, indicator, context.view.xi)
        parts.append(pd.DataFrame(rules(record, curve, lam, context.view.xi)).assign(method=row["variant_title"]))
    if not parts:
        st.info("The table appears with the first LDS.")
        return
    frame = pd.concat(parts)[["method", "rule", "λ", "LDS", "regret"]]
    st.dataframe(frame, width="stretch", hide_index=True)
    st.caption(
        "Regret: how much LDS a rule gives away against the best λ known, which only retraining can find. "
        f"Compared for {joined([row['variant_title'] for row in shown])} at the epoch and k chosen in the side bar."
    )
    st.download_button("Download CSV", frame.to_csv(index=False).encode(), "regret.csv", "text/csv")
    with st.container(horizontal=True):
        for row in shown:
            lam = context.opened.selection(str(row["configuration_id"]), context.alpha).get("lambda_selected")
            if lam is not None and st.button(f"Use λ* of {row['variant_title']}", key=f"use-{row['variant']}"):
                session.write(at_configuration(session.view(), row))
                session.update(lam=lam)
                st.rerun()
