"""λ selection: how good each rule for choosing λ is, against the LDS that retraining shows."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import services, session
from app.charts import (
    LDS_HELP,
    XI_HELP,
    indicator_figure,
    lambda_title,
    lds_figure,
    spectrum_figure,
    spectrum_table,
)
from app.components import page, tuning
from app.components.beside import beside_box, methods_beside
from app.components.errors import shows_errors
from app.components.progress import follow
from app.components.tables import csv_button, show_data
from app.filters import FORMULAS, filter_shape
from app.formats import MISSING, is_missing, joined, lds_text, plain, projection_text, regularization_text, signed
from app.method_style import method_color
from app.selection_rules import chosen_regularization, is_own, judged_rules, rules, value_at
from app.session import Context, control
from app.state import at_configuration

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
    context = page.opened()
    if context is None:
        return
    _show_controls(context)
    with_lambda = context.configurations[context.configurations["has_regularization"]]
    if not len(with_lambda):
        st.info("No method of this study has a λ to select; Methods compares them.")
        _show_without(context)
        return
    beside_box(context, with_lambda, "selection")
    shown = methods_beside(context, with_lambda)
    if not context.configuration["has_regularization"]:
        st.info(f"{context.configuration['variant_title']} has no λ to select; these methods have one.")
    span = _span(context, shown)
    for column, row in zip(st.columns(len(shown), gap="large"), shown, strict=True):
        with column:
            _show_method(context, row, span)
    _show_regret(context, shown)
    _show_judged(context, shown)
    tuning.show(context)
    _show_all(context)
    _show_without(context)
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
    title = lambda_title([row["settings"].get("damping")])
    record = opened.selection(identity, context.alpha)
    curve, indicator = opened.curve(identity, context.alpha), opened.indicator_curve(identity)
    lam, warnings = chosen_regularization(record, indicator, context.view.xi)
    st.subheader(row["variant_title"], anchor=False)
    spec = services.methods()[row["method"]]
    st.caption(f"epoch {row['training_epoch']} · {projection_text(row['projection_dim'])} · {spec.curve}")
    own = is_own(record, context.view.xi)
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
            best=record.get("lambda_best"), quantiles=record.get("quantiles"), span=span, title=title,
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
            selected=lam, title=title,
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
    name = services.methods()[row["method"]].filter_name
    shape = filter_shape(name, row["settings"], values, lam)
    st.plotly_chart(
        spectrum_figure(values, lam, shape, color=color),
        width="stretch",
        config=CHART,
        key=f"spectrum-{row['variant']}",
        alt=alt,
    )
    if name == "krylov":
        st.caption("Conjugate gradients weight the eigenvalues by a polynomial that differs from query to query.")
    elif not len(shape) and lam > 0:
        st.caption("At this λ the method diverges on this spectrum: there is no filter to draw.")
    elif name == "lissa_mean":
        st.caption(
            f"{FORMULAS[name]}. LiSSA stops early: where (σ+λ)·T/s is below 1 the weight is (T+1)/s, whatever σ."
        )
    elif lam > 0:
        strong = int((values > lam).sum())
        st.caption(
            f"φ(σ) = 1/(σ+λ). Directions right of λ ({strong} of {len(values)}) are weighted by 1/σ, those left of it "
            "all by about 1/λ: λ says where the curvature stops being believed."
        )
    else:
        st.caption("λ = 0: every direction is weighted by 1/σ, the weakest most; no filter to draw.")
    show_data(spectrum_table(values), f"spectrum-{row['variant']}")


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
    csv_button(frame, "regret")
    with st.container(horizontal=True):
        for row in shown:
            lam = context.opened.selection(str(row["configuration_id"]), context.alpha).get("lambda_selected")
            if lam is not None and st.button(f"Use λ* of {row['variant_title']}", key=f"use-{row['variant']}"):
                session.write(at_configuration(session.view(), row))
                session.update(lam=lam)
                st.rerun()


def _show_judged(context: Context, shown: list[pd.Series]) -> None:
    """Draw every rule with its cost in retrainings: for the methods shown, and over all configurations."""
    frame = context.opened.rules(context.alpha)
    st.subheader("What each rule costs, over all configurations", anchor=False)
    if not len(frame):
        st.info("The table appears once every configuration is evaluated on all retrained subsets.")
        return
    table = judged_rules(frame, {str(row["configuration_id"]): row["variant_title"] for row in shown})
    rounded = {name: 4 for name in table.columns if "regret" in name}
    st.dataframe(table.round(rounded), width="stretch", hide_index=True, height="content")
    num = int(frame["configuration_id"].nunique())
    st.caption(
        f"Means over the {num} configurations with λ of this study; a rule without an answer somewhere has fewer. "
        "Retrainings: how many retrained subsets the choice needs, beside the attributed model. Racing adds one subset "
        "at a time and stops once the leader is within .01 of the best at 95 % confidence; racing and the best λ are "
        "judged by the subsets that chose them, so their regret is a little too good."
    )
    csv_button(table, "rules")
    race = context.opened.race(context.alpha)
    if race:
        at = "" if is_missing(race["regularization"]) else f", λ = {regularization_text(race['regularization'])}"
        st.markdown(
            f"**All configurations raced against each other** ({race['num_candidates']} candidates: method, epoch, k "
            f"and λ together): {plain(race['sentence'])} Winner: {plain(race['label'])}{at}, LDS "
            f"{signed(race['lds'], 3)}, {signed(race['regret'], 4)} below the best after all "
            f"{race['num_subsets']} subsets."
        )


def _show_all(context: Context) -> None:
    """Draw one row for each method with λ: the configuration whose λ* does best."""
    frame = context.opened.selections(context.alpha).set_index("configuration_id")
    known = context.configurations[context.configurations["configuration_id"].isin(frame.index)]
    if known["method"].nunique() < 2:
        return
    known = known.assign(selected=known["configuration_id"].map(frame["lds_selected"]))
    best = known.loc[known.dropna(subset="selected").groupby("method", sort=False)["selected"].idxmax()]
    rows = frame.loc[best["configuration_id"]]
    st.subheader("All methods with λ", anchor=False)
    table = pd.DataFrame(
        {
            "method": best["variant_title"].to_numpy(),
            "epoch": best["training_epoch"].to_numpy(),
            "k": [projection_text(value).removeprefix("k = ") for value in best["projection_dim"]],
            "λ*": [regularization_text(value) for value in rows["lambda_selected"]],
            "LDS at λ*": rows["lds_selected"].round(3).to_numpy(),
            "best λ": [regularization_text(value) for value in rows["lambda_best"]],
            "best LDS": rows["lds_best"].round(3).to_numpy(),
            "regret": rows["regret"].round(3).to_numpy(),
            "λ counts": [
                "relative to each layer" if settings.get("damping") == "relative" else "absolute"
                for settings in best["settings"]
            ],
            "curve": [services.methods()[name].curve for name in best["method"]],
        }
    )
    st.dataframe(table.sort_values("regret"), width="stretch", hide_index=True)
    st.caption("Each at the configuration whose λ* gives its highest LDS, at the study's own threshold of ξ̄.")


def _show_without(context: Context) -> None:
    names = context.configurations.loc[~context.configurations["has_regularization"].astype(bool), "method_title"]
    if len(names):
        st.caption(f"Without a λ to select: {joined(list(dict.fromkeys(names)))}. Methods shows their LDS.")
