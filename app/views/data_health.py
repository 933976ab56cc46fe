"""Data health: which training examples the model had to learn by heart, which labels look wrong, who is used at all."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app import retrained_data, session
from app.charts import comparison_figure, lambda_title
from app.components import page
from app.components.errors import shows_errors
from app.components.gallery import show_training_strip
from app.components.progress import follow
from app.components.sections import show_missing_section
from app.components.tables import show_data
from app.explorer_data import is_right
from app.formats import count_text, is_missing, lds_text, plain, regularization_text
from app.health_charts import auc_figure, class_figure, recall_figure, usage_figure
from app.method_style import method_color, method_dash
from app.navigation import open_page
from app.session import Context

CHART = {"displaylogo": False, "modeBarButtons": [["toImage"]], "scrollZoom": False, "doubleClick": False}
FLIPS = """[data]
flip_labels = 0.1"""
SHOWN = 200


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Data health", anchor=False)
    st.markdown(
        "Which training examples deserve a second look? First come those that the model could only learn **by heart**: "
        "wrong labels, and the truly unusual. **Click one** to see whom it helps and whom it hurts."
    )
    context = page.opened()
    if context is None:
        return
    _show_self_influence(context)
    st.subheader("Finding wrong labels", anchor=False)
    _show_detection(context)
    st.subheader("Influence by class", anchor=False)
    _show_classes(context)
    st.subheader("Examples that many queries use, and none", anchor=False)
    _show_usage(context)
    follow()


def _lam(context: Context) -> float | None:
    assert context.configuration is not None
    return context.view.lam if context.configuration["has_regularization"] else None


def _originals(context: Context) -> dict[int, str]:
    """Return training position → what is known of its right label, where the label is known to be wrong."""
    rows = context.opened.noisy_rows()
    return {
        int(row["position"]): "wrong label" if is_missing(row["original_label"]) else f"was {row['original_label']}"
        for row in rows.to_dict("records")
    }


# ---------------------------------------------------------------- self-influence


def _show_self_influence(context: Context) -> None:
    values = retrained_data.own_influence(context.opened, context.configuration_id, _lam(context))
    st.subheader("Highest self-influence", anchor=False)
    if values is None:
        assert context.configuration is not None
        st.info(
            f"{context.configuration['variant_title']} has no self-influence stored; choose another method in the side "
            "bar, e.g. an influence function."
        )
        return
    train, wrong = context.opened.examples("train"), _originals(context)
    order = np.argsort(-values, kind="stable")[:SHOWN]
    rows = train.iloc[order]
    _strip(context, rows, [f"self-influence {values[place]:.3g}" for place in order], "self-influence")
    misread = sum(is_right(row) is False for row in rows.to_dict("records"))
    known = f" {sum(int(place) in wrong for place in order)} of them carry a label known to be wrong." if wrong else ""
    at = "" if _lam(context) is None else f" at λ = {regularization_text(_lam(context))}"
    st.caption(
        f"Training examples by their influence on their own loss{at}, the {len(rows)} highest of {len(train)}. The "
        f"model still predicts {misread} of them differently from their label (red).{known}"
    )
    _show_open(context, train, values)
    table = pd.DataFrame(
        {
            "rank": np.arange(1, len(rows) + 1), "training example": rows["index"].to_numpy(),
            "position": rows["position"].to_numpy(), "label": rows["label"].to_numpy(),
            "prediction": rows["prediction"].to_numpy(), "self-influence": values[order],
            "known": [wrong.get(int(place), "") for place in order],
        }
    )  # fmt: skip
    show_data(table, "self-influence")


def _strip(context: Context, rows: pd.DataFrame, notes: list[str], key: str) -> None:
    wrong = _originals(context)
    marks = [f"({wrong[int(place)]})" if int(place) in wrong else "" for place in rows["position"]]

    show_training_strip(
        context.opened, rows, marks, notes, context.view.train, f"strip-{key}",
        lambda position: session.update(train=position),
    )  # fmt: skip


def _show_open(context: Context, train: pd.DataFrame, values: np.ndarray | None) -> None:
    position = context.view.train
    if position is None:
        st.caption("Click a picture: it opens here.")
        return
    row = train.iloc[position]
    scores = retrained_data.scores_of_example(context.opened, context.configuration_id, position, _lam(context))
    queries = context.opened.examples("queries")
    with st.container(border=True):
        left, right = st.columns([1, 3], gap="medium")
        with left:
            if row["kind"] == "image":
                st.image(row["payload"], width=112, caption=f"training example {row['index']}")
            else:
                st.text(str(row["payload"])[:400])
        with right:
            known = _originals(context).get(position)
            words = [f"label **{plain(str(row['label']))}**", f"predicted **{plain(str(row['prediction']))}**"]
            words += [f"known: {known}"] if known else []
            if values is not None:
                rank = int((values > values[position]).sum()) + 1
                words.append(f"self-influence rank {rank} of {len(values)}")
            st.markdown(", ".join(words).replace("$", r"\$"))
            helped, hurt = np.argsort(-scores)[:5], np.argsort(scores)[:5]
            table = pd.DataFrame(
                {
                    "effect": ["helps"] * len(helped) + ["hurts"] * len(hurt),
                    "query": [*helped, *hurt],
                    "label": queries["label"].iloc[[*helped, *hurt]].to_numpy(),
                    "prediction": queries["prediction"].iloc[[*helped, *hurt]].to_numpy(),
                    "score": scores[[*helped, *hurt]],
                }
            )
            table = table[((table["effect"] == "helps") & (table["score"] > 0)) |
                          ((table["effect"] == "hurts") & (table["score"] < 0))]  # fmt: skip

            def chosen() -> None:
                picked = st.session_state["health-queries"].selection.rows
                if picked:
                    session.update(query=int(table["query"].iloc[picked[0]]))

            st.dataframe(
                table, width="stretch", hide_index=True, key="health-queries", on_select=chosen,
                selection_mode="single-row",
            )  # fmt: skip
            if st.button("Open the chosen query in the Explorer", key="health-explorer"):
                open_page("explorer")


# ---------------------------------------------------------------- wrong labels


def _show_detection(context: Context) -> None:
    frame = context.opened.noisy_labels()
    if not len(frame):
        if not len(context.opened.noisy_rows()):
            what = "No label of this study is known to be wrong. A share is flipped on purpose, before training, with"
            show_missing_section(context, what, FLIPS, "flip_labels" in context.opened.config["data"])
        else:
            st.info("Detection appears with the first configuration that has self-influence.")
        return
    num_wrong = int(frame["num_flipped"].max())
    at = frame[frame["is_selected"].astype(bool) | frame["regularization"].isna()].sort_values("auc", ascending=False)
    at = at.assign(details=[_details(row) for row in at.to_dict("records")])

    def clicked() -> None:
        points = st.session_state["auc"].selection.points
        if points and points[0].get("customdata"):
            known = context.configurations.set_index("configuration_id", drop=False)
            identity = points[0]["customdata"][0]
            if identity in known.index:
                lam = at.set_index("configuration_id").loc[identity, "regularization"]
                session.go_to(known.loc[identity], None if is_missing(lam) else float(lam))

    best = at.iloc[0]
    st.plotly_chart(
        auc_figure(at, context.configuration_id), width="stretch", config=CHART, key="auc", on_select=clicked,
        selection_mode="points",
        alt=f"AUC of finding {num_wrong} wrong labels by {len(at)} configurations; best {best['label']} "
        f"{lds_text(best['auc'], best['auc_low'], best['auc_high'])}",
    )  # fmt: skip
    st.caption(
        f"{num_wrong} of {context.opened.num_train} labels are wrong on purpose. AUC: how often a wrong label has "
        "higher self-influence than a right one, at λ* where the method has λ. **A click on a dot** makes it the "
        "present configuration."
    )
    columns = ["label", "regularization", "auc", "auc_low", "auc_high"]
    show_data(at[columns].rename(columns={"label": "configuration", "regularization": "λ*"}), "auc")
    left, right = st.columns(2, gap="large")
    with left:
        _show_recall(context, at)
    with right:
        _show_auc_curve(context, frame)


def _details(row: dict) -> str:
    at = "" if is_missing(row["regularization"]) else f"<br>λ* = {regularization_text(row['regularization'])}"
    return f"<b>{row['label']}</b><br>AUC {lds_text(row['auc'], row['auc_low'], row['auc_high'])}{at}"


def _show_recall(context: Context, at: pd.DataFrame) -> None:
    mine = at[at["configuration_id"] == context.configuration_id]
    rows = mine if len(mine) else at.head(1)
    shares = context.opened.recall_shares
    first = rows.iloc[0]
    at_tenth = float(first["recall"][0])
    st.plotly_chart(
        recall_figure(rows, shares), width="stretch", config=CHART, key="recall",
        alt=f"Share of wrong labels found against the share inspected; {first['label']} finds {at_tenth:.0%} among the "
        "first 10 %",
    )  # fmt: skip
    st.caption(f"Looking through the first 10 % of the data finds {at_tenth:.0%} of the wrong labels.")
    table = pd.DataFrame({"share inspected": shares, "found": first["recall"], "95 % low": first["recall_low"],
                          "95 % high": first["recall_high"]})  # fmt: skip
    show_data(table, "recall")


def _show_auc_curve(context: Context, frame: pd.DataFrame) -> None:
    mine = frame[(frame["configuration_id"] == context.configuration_id) & frame["regularization"].notna()]
    if not len(mine):
        st.info("The present configuration has no λ, or no self-influence.")
        return
    assert context.configuration is not None
    curve = mine.rename(columns={"auc": "mean", "auc_low": "ci_low", "auc_high": "ci_high"})
    variant = str(context.configuration["variant"])
    selected = mine[mine["is_selected"].astype(bool)]
    figure = comparison_figure(
        [(str(context.configuration["variant_title"]), method_color(variant), method_dash(variant), curve)],
        lambda_title([context.configuration["settings"].get("damping")]), 340, "AUC (0.5: chance)",
    )  # fmt: skip
    if len(selected):
        value = float(selected["regularization"].iloc[0])
        if value > 0:
            figure.add_vline(x=value, line={"color": method_color(variant), "width": 1.3}, annotation_text="λ*")
    st.plotly_chart(
        figure, width="stretch", config=CHART, key="auc-curve",
        alt=f"AUC against λ; highest {mine['auc'].max():.3f} at λ "
        f"{regularization_text(mine.loc[mine['auc'].idxmax(), 'regularization'])}",
    )  # fmt: skip
    st.caption("Line: λ*, chosen without knowing which labels are wrong.")
    show_data(mine[["regularization", "auc", "auc_low", "auc_high", "is_selected"]], "auc-curve")


# ---------------------------------------------------------------- classes and use


def _show_classes(context: Context) -> None:
    if not context.opened.info["num_classes"]:
        st.info("The task has no classes.")
        return
    queries, train, means = retrained_data.class_influence(context.opened, context.configuration_id, _lam(context))
    worst = _class_words(queries, train, means)
    st.plotly_chart(
        class_figure(queries, train, means), width="stretch", config=CHART, key="classes",
        alt=f"Mean score of {len(train)} training classes for {len(queries)} query classes: {worst}",
    )  # fmt: skip
    st.caption(
        "Mean score of a training example of one class for a query of another. Blue helps, orange hurts; colour goes "
        "with the root, so that small values show. Off the diagonal, strong orange names classes that are confused."
    )
    table = pd.DataFrame(means, columns=train)
    table.insert(0, "query class", queries)
    show_data(table, "classes")


def _class_words(queries: list[str], train: list[str], means: np.ndarray) -> str:
    row, column = np.unravel_index(int(means.argmin()), means.shape)
    return f"{train[column]} hurts {queries[row]} most"


def _show_usage(context: Context) -> None:
    found = retrained_data.usage(context.opened, context.configuration_id, _lam(context))
    train, num_queries = context.opened.examples("train"), context.opened.num_queries
    never = int((found.num_top == 0).sum())
    st.plotly_chart(
        usage_figure(found.num_top, found.top, num_queries), width="stretch", config=CHART, key="usage",
        alt=f"{never} of {len(train)} training examples are among the top {found.top} of no query",
    )  # fmt: skip
    st.caption(
        f"{count_text(never, 'training example')} of {len(train)} {'is' if never == 1 else 'are'} among the "
        f"{found.top} largest scores of none of the {num_queries} queries: removing them should change little. A "
        "few that are in very many lists dominate: near-duplicates, outliers, or wrong labels."
    )
    order = np.argsort(-(found.num_top + found.share / (found.share.max() + 1)), kind="stable")
    for title, key, chosen in (("Used most", "used", order[:SHOWN]), ("Used least", "unused", order[::-1][:SHOWN])):
        st.markdown(f"##### {title}")
        notes = [f"in the top {found.top} of {found.num_top[place]} queries" for place in chosen]
        _strip(context, train.iloc[chosen], notes, key)
    table = pd.DataFrame(
        {
            "position": train["position"].to_numpy()[order], "label": train["label"].to_numpy()[order],
            "prediction": train["prediction"].to_numpy()[order], f"top {found.top} of queries": found.num_top[order],
            "share of all scores, 1 is average": found.share[order].round(3),
        }
    )  # fmt: skip
    show_data(table, "usage")
