"""Counterfactuals: what retraining without some examples really did, beside what the scores foretold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app import retrained_data, session
from app.charts import LDS_HELP, comparison_figure, lambda_title
from app.components import page
from app.components.errors import shows_errors
from app.components.gallery import show_gallery
from app.components.progress import follow
from app.components.sections import show_missing_section
from app.components.tables import csv_button, show_data
from app.counterfactual_charts import effects_figure, goodness_figure, points_figure, removal_figure
from app.formats import MISSING, count_text, is_missing, lds_text, regularization_text, signed
from app.method_style import method_color, method_dash
from app.session import Context, control

CHART = {"displaylogo": False, "modeBarButtons": [["toImage"]], "scrollZoom": False, "doubleClick": False}
REMOVAL = """[removal]
queries = 20
sizes = [20, 40, 80, 160]
seeds = 5
of = [{method = "iffim", regularization = "selected"}, {method = "iffim", regularization = "zero"}]"""
LOO = """[loo]
examples = 20
seeds = 5
of = [{method = "iffim"}]"""
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
    known = retrained_data.brittleness(context.opened)
    _show_queries(context, known)
    st.subheader("Predicted against actual", anchor=False)
    _show_points(context)
    st.subheader("Removing what helped most", anchor=False)
    _show_removal(context, known)
    st.subheader("Leaving one example out", anchor=False)
    _show_loo(context)
    follow()


def _show_queries(context: Context, known: pd.DataFrame) -> None:
    queries = context.opened.examples("queries")
    removed = set(known["query"])
    first = queries[queries["position"].isin(removed)]
    show_gallery(context, pd.concat([first, queries[~queries["position"].isin(removed)]]), "counterfactual-gallery")
    if removed:
        st.caption(f"The first {len(removed)} have been put to the test of subset removal.")


# ---------------------------------------------------------------- the points behind an LDS


def _show_points(context: Context) -> None:
    opened, view = context.opened, context.view
    if not len(opened.curve(context.configuration_id, context.alpha)) and not _has_subsets(context):
        show_missing_section(
            context, "Subsets of the training data are retrained with", TRUTH, bool(context.opened.info["num_subsets"])
        )
        return
    if len(opened.alphas) > 1:
        control(
            st.segmented_control, "Share of the training set in a subset, α", "counterfactual-alpha", context.alpha,
            lambda value: session.update(alpha=value), options=opened.alphas, required=True,
        )  # fmt: skip
    lam = view.lam if _has_regularization(context) else None
    points = retrained_data.subset_points(opened, context.configuration_id, view.query or 0, lam, context.alpha)
    own = retrained_data.rank_correlation(points)
    everyone = _lds_near(context, lam)
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.plotly_chart(
            points_figure(points, method_color(context.view.method)), width="stretch", config=CHART, key="points",
            alt=f"Goodness of query {view.query} in {len(points)} retrained models against what the scores predict; "
            f"rank correlation {lds_text(own)}",
        )  # fmt: skip
    with right:
        with st.container(horizontal=True, gap="large"):
            st.metric("LDS of this query", MISSING if is_missing(own) else signed(own, 2), width="content")
            st.metric("mean of all queries", everyone, width="content")
        at = "" if lam is None else f" at λ = {regularization_text(lam)}"
        title = "" if context.configuration is None else context.configuration["variant_title"]
        st.markdown(
            f"Each dot is a model retrained on a random share of {context.alpha:.6g} of the training data. To the "
            f"right: models whose data {title}{at} thinks good for this query. Up: models that really do better on it. "
            "A perfect attribution orders the dots from bottom left to top right."
        )
        st.caption(LDS_HELP)
    show_data(points.rename(columns={"actual": "goodness after retraining"}), "points")


def _has_regularization(context: Context) -> bool:
    return context.configuration is not None and bool(context.configuration["has_regularization"])


def _has_subsets(context: Context) -> bool:
    return bool(context.opened.info["num_subsets"]) and bool(
        (context.opened.timings()["step"] == "retrain").to_numpy().any()
    )


def _lds_near(context: Context, lam: float | None) -> str:
    curve = context.opened.curve(context.configuration_id, context.alpha)
    if not len(curve):
        return MISSING
    if lam is None:
        return signed(float(curve["mean"].iloc[0]), 2)
    distance = np.abs(np.log10(curve["regularization"].clip(lower=1e-12)) - np.log10(max(lam, 1e-12)))
    return signed(float(curve["mean"].iloc[int(distance.argmin())]), 2)


# ---------------------------------------------------------------- subset removal


def _show_removal(context: Context, known: pd.DataFrame) -> None:
    if not len(known):
        show_missing_section(
            context,
            "The most helpful examples of some queries are removed with",
            REMOVAL,
            "removal" in context.opened.config,
        )
        return
    curves = retrained_data.removal_curves(context.opened)
    if not len(curves):
        st.info("The curves appear once the first size has been retrained.")
    else:
        st.plotly_chart(
            removal_figure(curves), width="stretch", config=CHART, key="removal",
            alt="Share of queries whose prediction flips, against the number of training examples removed; "
            + "; ".join(_curve_words(curves)),
        )  # fmt: skip
        seeds = int(context.opened.removals()["num_seeds"].max())
        st.caption(
            f"{count_text(int(curves['num_queries'].max()), 'query', 'queries')} that models trained on everything "
            f"predict right. A query has flipped when fewer than half of {count_text(seeds, 'retrained model')} still "
            "predict it right; it then stays flipped. Bands: 95 % bootstrap over queries. A curve that rises early "
            "found what the prediction hangs on; compare with the random baseline (SOURCE, arXiv 2405.12186, B.3)."
        )
        columns = ["label", "regularization", "size", "fraction", "ci_low", "ci_high", "num_queries"]
        names = {"label": "curve", "regularization": "λ", "fraction": "share flipped"}
        show_data(curves[columns].rename(columns=names), "removal")
    _show_query_curve(context)
    _show_brittleness(context, known)


def _curve_words(curves: pd.DataFrame) -> list[str]:
    last = curves.groupby("label", sort=False).last()
    return [f"{label}: {row['fraction']:.0%} at {row['size']}" for label, row in last.iterrows()]


def _show_query_curve(context: Context) -> None:
    rows = context.opened.removals()
    own = rows[rows["query"] == context.view.query]
    st.markdown("##### This query")
    if not len(own):
        st.info("This query was not among those tested; the table below lists them, and a click picks one.")
        return
    st.plotly_chart(
        goodness_figure(own), width="stretch", config=CHART, key="query-removal",
        alt=f"Goodness of query {context.view.query} after removing ever more of its most helpful examples",
    )  # fmt: skip
    st.caption("Mean goodness over the retrained models; an open ring: the prediction has flipped.")
    columns = ["label", "size", "mean_goodness", "mean_correct", "flipped"]
    show_data(own[columns].rename(columns={"label": "curve", "mean_correct": "share right"}), "query-removal")


def _show_brittleness(context: Context, known: pd.DataFrame) -> None:
    st.markdown("##### How many examples each prediction hangs on")
    queries = context.opened.examples("queries").set_index("position")
    positions = tuple(dict.fromkeys(int(value) for value in known["query"]))
    labels = list(dict.fromkeys(known["label"]))
    frame = pd.DataFrame({"query": positions})
    pictures = retrained_data.query_pictures(context.opened, positions)
    if any(pictures):
        frame.insert(0, "picture", pictures)
    frame["label"] = queries.loc[list(positions), "label"].to_numpy()
    keyed = known.set_index(["label", "query"])
    for label in labels:
        frame[label] = [_flip_words(keyed.loc[(label, query)]) if (label, query) in keyed.index else MISSING
                        for query in positions]  # fmt: skip

    def picked() -> None:
        chosen = st.session_state["brittleness"].selection.rows
        if chosen:
            session.update(query=int(frame["query"].iloc[chosen[0]]))

    st.dataframe(
        frame, width="stretch", hide_index=True, key="brittleness", on_select=picked, selection_mode="single-row",
        column_config={"picture": st.column_config.ImageColumn("picture", width="small")}, row_height=44,
    )  # fmt: skip
    st.caption(
        "The smallest number of removed examples that flipped the query, up to the sizes tried: “≤ 40, > 20” means "
        "that 20 did not and 40 did. No more than those with a positive score (random: of the class) can be removed. "
        "**A click on a row** picks the query."
    )
    table = frame.drop(columns=["picture"], errors="ignore")
    csv_button(table, "brittleness")


def _flip_words(row: pd.Series) -> str:
    flips_at, holds_at = row["flips_at"], int(row["holds_at"])
    if is_missing(flips_at):
        if holds_at:
            return f"> {holds_at}"
        return "none helps" if bool(row["done"]) else "not tried yet"
    if int(flips_at) - holds_at == 1:
        return str(int(flips_at))
    return f"≤ {int(flips_at)}, > {holds_at}" if holds_at else f"≤ {int(flips_at)}"


# ---------------------------------------------------------------- leave-one-out


def _show_loo(context: Context) -> None:
    frame = context.opened.loo()
    if not len(frame):
        show_missing_section(context, "Single examples are left out with", LOO, "loo" in context.opened.config)
        return
    mine = frame[frame["configuration_id"] == context.configuration_id]
    ceiling = float(frame["ceiling"].iloc[0])
    left, right = st.columns(2, gap="large")
    with left:
        _show_loo_curve(context, mine)
    with right:
        _show_effects(context)
    limit = "" if is_missing(ceiling) else f" With this noise between seeds perfect scores would reach {ceiling:.2f}."
    st.caption(
        f"{count_text(int(frame['num_examples'].max()), 'training example')} were left out one at a time and the model "
        "retrained with the same seeds. Correlation: Spearman over those examples, mean over queries; band: 95 % "
        f"bootstrap over examples.{limit} The effect of one example is small and training noise large, so low numbers "
        "are usual; LDS asks about many examples at once."
    )
    known = frame.dropna(subset="mean")  # constant scores have no correlation
    best = known.loc[known.groupby("configuration_id", sort=False)["mean"].idxmax()]
    table = pd.DataFrame(
        {
            "configuration": best["label"].to_numpy(),
            "correlation": best["mean"].round(3).to_numpy(),
            "95 % low": best["ci_low"].round(3).to_numpy(),
            "95 % high": best["ci_high"].round(3).to_numpy(),
            "at λ": [regularization_text(value) for value in best["regularization"]],
        }
    ).sort_values("correlation", ascending=False)
    show_data(table, "loo", "Every configuration at its best λ, table and CSV")


def _show_loo_curve(context: Context, mine: pd.DataFrame) -> None:
    if not len(mine):
        st.info("The present configuration has not been compared with the effects yet.")
        return
    assert context.configuration is not None
    title = str(context.configuration["variant_title"])
    if mine["regularization"].isna().all():
        row = mine.iloc[0]
        st.metric(f"Correlation of {title}", lds_text(row["mean"], row["ci_low"], row["ci_high"]))
        return
    selected = mine[mine["is_selected"].astype(bool)]
    variant = str(context.configuration["variant"])
    figure = comparison_figure(
        [(title, method_color(variant), method_dash(variant), mine)],
        lambda_title([context.configuration["settings"].get("damping")]), 340, "correlation with leave-one-out",
    )  # fmt: skip
    at_selected = lds_text(*selected.iloc[0][["mean", "ci_low", "ci_high"]]) if len(selected) else MISSING
    st.plotly_chart(
        figure, width="stretch", config=CHART, key="loo-curve",
        alt=f"Correlation of {title} with leave-one-out effects against λ; at λ* {at_selected}",
    )  # fmt: skip
    columns = ["regularization", "mean", "ci_low", "ci_high", "per_example", "is_selected"]
    show_data(mine[columns].rename(columns={"regularization": "λ", "mean": "correlation"}), "loo-curve")


def _show_effects(context: Context) -> None:
    effects, query = context.opened.loo_effects(), context.view.query or 0
    lam = context.view.lam if _has_regularization(context) else None
    train = context.opened.examples("train").set_index("position")
    positions = effects["position"].astype(int).tolist()
    scores = [
        retrained_data.scores_of_example(context.opened, context.configuration_id, position, lam)[query]
        for position in positions
    ]
    points = pd.DataFrame(
        {
            "position": positions,
            "label": train.loc[positions, "label"].to_numpy(),
            "score": np.asarray(scores) / context.opened.num_train,
            "effect": [float(row[query]) for row in effects["effects"]],
            "standard_error": [float(row[query]) for row in effects["standard_errors"]],
        }
    )
    st.plotly_chart(
        effects_figure(points, method_color(context.view.method)), width="stretch", config=CHART, key="effects",
        alt=f"Goodness that query {query} loses without each of {len(points)} training examples against their scores",
    )  # fmt: skip
    show_data(points, "effects")
