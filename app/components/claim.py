"""One claim of a paper, opened: our figure, every number behind the verdict, and the way to the configuration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app import claims_data, services, session
from app.charts import comparison_figure, lambda_title
from app.claim_text import axis_text, check_text, number, point_name, side_values, single_model_value
from app.claims_data import COMPUTED, NOT_RUN
from app.components.tables import show_data
from app.formats import is_missing, plain, projection_text, regularization_text
from app.method_style import DASHES
from app.navigation import open_page
from app.papers_charts import (
    claim_curves_figure,
    comparisons_figure,
    points_figure,
    removal_figure,
    rules_figure,
    short_labels,
    style,
)
from app.state import View, at_configuration
from tda_backend.runs.trajectory_claim_rules import TRAJECTORY_CHECKS

CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}


def show_claim(claim: dict[str, Any], facts: dict[str, Any]) -> None:
    """Draw an open claim.

    Args:
        claim: A row of :func:`app.claims_data.claims`.
        facts: Of its study.
    """
    paper = claims_data.titles()[claim["paper"]]
    st.caption(
        f"{plain(paper)}, {plain(claim['place'])}. Checked: {plain(check_text(claim['check_name'], claim['bound']))}."
    )
    if claim["note"]:
        st.markdown(f"**Note.** {plain(claim['note'])}")
    if claim["origin"] == NOT_RUN:
        st.info("No figure yet: this study was not run here, and no result of it is shipped.")
        st.code(f"tda run {claim['study']}", language="bash")
        return
    if claim["check_name"] in TRAJECTORY_CHECKS:
        _show_numbers(claim)
        _link_trajectory(claim)
        return
    found = claims_data.evidence(claim["key"])
    left, right = st.columns([3, 2], gap="large")
    with left:
        _show_figure(claim, found)
    with right:
        _show_numbers(claim)
    if claim["origin"] == COMPUTED:
        _show_links(claim, found)
    else:
        st.caption("To open its configurations on the other pages, compute it here:")
        st.code(f"tda run {claim['study']}", language="bash")


def _show_figure(claim: dict[str, Any], found: Any) -> None:
    kind = claim["check_name"]
    if kind in ("rule", "regret"):
        _show_rules(claim, found)
    elif kind == "rising":
        _show_indicator(claim, found)
    elif kind == "same-shape":
        _show_shapes(claim, found)
    elif kind == "flips":
        _show_removals(claim, found)
    else:
        _show_compared(claim, found)


def _curves(found: Any, alpha: float | None = None) -> list[tuple[str, str, pd.DataFrame]]:
    """Return (configuration_id, short label, LDS(λ) at one α) of the claim's configurations with λ."""
    lds, known = found.tables["lds"], found.tables["configurations"]
    known = known[known["has_regularization"].astype(bool)]
    names = short_labels(known["label"].tolist())
    wanted = found.alphas[0] if alpha is None else alpha
    curves = []
    for identity, label in zip(known["configuration_id"], known["label"], strict=True):
        frame = lds[(lds["configuration_id"] == identity) & np.isclose(lds["alpha"], wanted)]
        if len(frame):
            curves.append((identity, names[label], frame))
    return curves


def _title(found: Any) -> str:
    return lambda_title(["relative" if '"relative"' in text else None for text in
                         found.tables["configurations"]["parameters"]])  # fmt: skip


def _show_compared(claim: dict[str, Any], found: Any) -> None:
    """Draw curves of λ where every configuration has one; the points compared otherwise."""
    points, curves = claims_data.points(found), _curves(found)
    alone = bool(len(points)) and bool((points["seeds"] > 0).any())
    if curves and len(curves) == len(found.tables["configurations"]) and not alone and points["alpha"].nunique() < 2:
        wide = claim["check_name"] == "wider"
        figure = claim_curves_figure(curves, points, _title(found), marks_range=wide)
        marks = "highest and lowest LDS over λ > 0" if wide else "the λ compared"
        _draw(figure, claim, f"LDS against λ of {', '.join(name for _, name, _ in curves)}",
              f"LDS with its 95 % band; diamonds: {marks}. Intervals of a difference are paired, and narrower than the "
              "bands suggest.")  # fmt: skip
        frame = pd.concat([frame.assign(configuration=name) for _, name, frame in curves])
        show_data(_curve_table(frame), f"{claim['key']}-curves")
        return
    rows = _point_rows(claim, points)
    if not len(rows):
        st.info("The study holds no LDS of these configurations; the numbers beside this are what is known.")
        return
    some = " Where a few models of an ensemble count alone, only the value is stored." if alone else ""
    _draw(points_figure(rows), claim, "LDS of " + "; ".join(rows["name"]),
          f"LDS of what is compared, with its 95 % interval over subsets.{some}")  # fmt: skip
    show_data(rows.round(4), f"{claim['key']}-points")


def _point_rows(claim: dict[str, Any], points: pd.DataFrame) -> pd.DataFrame:
    """Return name, mean, low, high of the points; those of single models from the sentences behind the verdict."""
    values = side_values(claims_data.comparisons(claim))
    several = points["alpha"].nunique() > 1
    rows = []
    for row in points.to_dict("records"):
        mean = single_model_value(row, values) if row["seeds"] else row["mean"]
        if not is_missing(mean):
            name = point_name(row) + (f" · α = {row['alpha']:g}" if several else "")
            rows.append({"name": name, "mean": mean, "low": row["ci_low"], "high": row["ci_high"]})
    return pd.DataFrame(rows, columns=["name", "mean", "low", "high"]).drop_duplicates("name")


def _show_rules(claim: dict[str, Any], found: Any) -> None:
    frame = claims_data.rule_points(found)
    if not len(frame):
        st.info("The study holds no selected λ of these configurations.")
        return
    _draw(rules_figure(frame), claim, "LDS of every rule for λ, by configuration",
          "LDS of each rule for λ, one row a configuration. The best λ needs retraining to be known.")  # fmt: skip
    table = frame.rename(columns={"regularization": "λ", "mean": "LDS"}).round(4)
    table["λ"] = [regularization_text(value) for value in frame["regularization"]]
    show_data(table[["label", "rule", "λ", "LDS", "regret"]], f"{claim['key']}-rules")


def _show_indicator(claim: dict[str, Any], found: Any) -> None:
    frame, known = found.tables["indicator"], found.tables["configurations"]
    names = short_labels(known["label"].tolist())
    curves, rows = [], []
    for place, (identity, label) in enumerate(zip(known["configuration_id"], known["label"], strict=True)):
        mine = frame[frame["configuration_id"] == identity].rename(columns={"q25": "ci_low", "q75": "ci_high"})
        if len(mine):
            curves.append((names[label], *style(place), mine))
            rows.append(mine.assign(configuration=label))
    if not curves:
        st.info("The study holds no ξ of these configurations.")
        return
    figure = comparison_figure(curves, _title(found), 320, "ξ̄ (mean over validation points)")
    _draw(figure, claim, f"Mean surrogate indicator against λ of {len(curves)} configurations",
          "ξ̄ over λ; bands: the middle half of the validation points. No retraining is involved.")  # fmt: skip
    table = pd.concat(rows)[["configuration", "regularization", "mean", "ci_low", "ci_high"]]
    show_data(table.rename(columns={"regularization": "λ", "mean": "ξ̄", "ci_low": "25 %", "ci_high": "75 %"}).round(5),
              f"{claim['key']}-xi")  # fmt: skip


def _show_shapes(claim: dict[str, Any], found: Any) -> None:
    curves, rows = [], []
    for share, alpha in enumerate(found.alphas):
        for place, (_, name, frame) in enumerate(_curves(found, alpha)):
            text = f"{name} · α = {alpha:g}"
            curves.append((text, style(place)[0], DASHES[share % len(DASHES)], frame))
            rows.append(frame.assign(configuration=text))
    if not curves:
        st.info("The study holds no LDS of these configurations.")
        return
    _draw(comparison_figure(curves, _title(found), 340), claim, f"LDS against λ at {len(found.alphas)} subset shares",
          "LDS with its 95 % band; colour: configuration, dash: share α of the training set in a subset.")  # fmt: skip
    show_data(_curve_table(pd.concat(rows)), f"{claim['key']}-shapes")


def _show_removals(claim: dict[str, Any], found: Any) -> None:
    shares = claims_data.removal_shares(found)
    if not shares:
        st.info("The study holds no removal curves.")
        return
    _draw(removal_figure(shares), claim, "Share of queries not flipped against the number of examples removed",
          "Queries whose prediction still stands after retraining without their most helpful examples: the lower a "
          "curve, the better its ranking.")  # fmt: skip
    show_data(pd.concat([frame.assign(curve=name) for name, frame in shares.items()]), f"{claim['key']}-removals")


def _draw(figure: go.Figure, claim: dict[str, Any], alt: str, caption: str) -> None:
    st.plotly_chart(figure, width="stretch", config=CHART, key=f"figure-{claim['key']}", alt=alt)
    st.caption(caption)


def _curve_table(frame: pd.DataFrame) -> pd.DataFrame:
    kept = ["configuration", "alpha", "regularization", "mean", "ci_low", "ci_high", "num_subsets", "is_selected"]
    return frame[kept].rename(columns={"alpha": "α", "regularization": "λ", "mean": "LDS", "is_selected": "λ*"})


def _show_numbers(claim: dict[str, Any]) -> None:
    """Draw what the verdict rests on: every comparison against its bound, and the sentences."""
    frame = claims_data.comparisons(claim)
    known = frame[frame["value"].notna()]
    st.markdown(f"**What the verdict rests on** ({plain(claim['verdict'])})")
    if len(known):
        names = short_labels([*known["right"][known["right"] != ""]])
        rows = known.assign(name=[
            f"against {names[right]}" if right else left
            for left, right in zip(known["left"], known["right"], strict=True)
        ])  # fmt: skip
        bound, above = float(known["bound"].iloc[0]), bool(known["above"].iloc[0])
        title = axis_text(claim["check_name"])
        figure = comparisons_figure(rows, bound, above, title)
        alt = "; ".join(f"{row.name}: {row.value:.3f} ({row.low:.3f} to {row.high:.3f})" for row in rows.itertuples())
        st.plotly_chart(figure, width="stretch", config=CHART, key=f"numbers-{claim['key']}", alt=alt)
        side = "right of" if above else "left of"
        st.caption(f"Each must lie, with its whole 95 % interval, {side} {number(bound)}.")
    st.caption("\n".join(f"- {plain(sentence)}" for sentence in frame["sentence"]))


def _link_trajectory(claim: dict[str, Any]) -> None:
    """Draw the way to the page that shows what such a claim compares."""
    if st.button("See it on Training trajectory", key=f"trajectory-{claim['key']}"):
        if claim["origin"] == COMPUTED:
            session.update(study=claim["study"])
        else:
            session.update(results=(claim["study"],))
        open_page("trajectory")


def _show_links(claim: dict[str, Any], found: Any) -> None:
    """Draw the way to one of the claim's configurations on the other pages."""
    opened = claims_data.opened(claim["study"])
    known = services.configurations(opened).set_index("configuration_id", drop=False)
    there = [identity for identity in claim["configuration_ids"] if identity in known.index]
    if not there:
        return
    points = claims_data.points(found)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        chosen = st.selectbox(
            "Look at a configuration", there, key=f"look-{claim['key']}", width=420,
            format_func=lambda identity: known.loc[identity, "label"],
        )  # fmt: skip
        row = known.loc[chosen]
        mine = points[(points["configuration_id"] == chosen) & points["regularization"].notna()]
        lam = float(mine["regularization"].iloc[0]) if len(mine) else None
        for page, title in (("explorer", "Explorer"), ("selection", "λ selection"), ("sensitivity", "Sensitivity")):
            if page == "selection" and not row["has_regularization"]:
                continue
            if st.button(title, key=f"{page}-{claim['key']}"):
                here = session.view()
                there_too = View(study=claim["study"], lam=lam, claims=here.claims, paper=here.paper,
                                 verdict=here.verdict)  # fmt: skip
                session.write(at_configuration(there_too, row))
                open_page(page)
    at = "" if lam is None else f", λ = {regularization_text(lam)}"
    st.caption(f"Opens study {plain(claim['study'])}: {plain(row['variant_title'])}, epoch {row['training_epoch']}, "
               f"{projection_text(row['projection_dim'])}{at}.")  # fmt: skip
