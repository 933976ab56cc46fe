"""Predicted against true effects of one run, and one example's effect over the steps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app import session, trajectory_data
from app.components.gallery import show_training_strip
from app.components.tables import show_data
from app.components.trajectory_agreement import CHART
from app.components.trajectory_run import Run, example_words, show_payload
from app.formats import MISSING, count_text, is_missing, joined, lds_text, signed
from app.trajectory_charts import effect_text, effects_figure, path_figure, paths_figure
from app.trajectory_data import Results

NUM_ROWS = 20  # of the heatmap over steps


def pick(key: str) -> None:
    """Open the example that was clicked in a figure."""
    points = st.session_state[key].selection.points
    if points and points[0].get("customdata"):
        session.update(train=int(points[0]["customdata"][0]))


# ---------------------------------------------------------------- predicted against true


def show_effects(run: Run, optimizer: str) -> None:
    """Draw predicted against true effects, once with the optimizer as trained and once with SGD assumed."""
    points = run.effects
    if not len(points) or points["true"].isna().all():
        st.info("The true effects of this run are not there yet.")
        return
    shown = [("predicted", f"{optimizer} assumed, as trained", True)]
    if points["predicted_sgd"].notna().any():
        shown.append(("predicted_sgd", "SGD assumed", False))
    for place, (column, title, identity) in zip(st.columns(len(shown), gap="large"), shown, strict=True):
        known = points[points[column].notna() & points["true"].notna()]
        found = trajectory_data.agreement(tuple(known[column]), tuple(known["true"]))
        with place:
            st.metric(title, MISSING if is_missing(found[0]) else signed(found[0], 2), width="content")
            st.caption(f"rank correlation; 95 %: {signed(found[1], 2)} to {signed(found[2], 2)}"
                       if not is_missing(found[1]) else "rank correlation; not defined here")  # fmt: skip
            key = f"effects-{column}"
            st.plotly_chart(
                effects_figure(known, column, run.selected, identity, "predicted change of the loss"), width="stretch",
                config=CHART, key=key, on_select=lambda key=key: pick(key), selection_mode="points",
                alt=f"{title}: true against predicted effects of {len(known)} removed examples; rank correlation "
                f"{lds_text(*found)}",
            )  # fmt: skip
    own = "mean loss of all queries" if run.query is None else f"loss of query {run.query}"
    scale = (
        f" With SGD assumed the scale differs, often by orders of magnitude, because {optimizer} rescales every "
        "gradient: only the **order** of the dots can be compared, so there is no such line."
        if len(shown) > 1 and not optimizer.lower().startswith("sgd")
        else ""
    )
    st.caption(
        f"Each dot: a training example whose removal changes the {own} at the end of the run. To the right and up, "
        f"blue: it **helps**, the loss rises without it; orange: it hurts. Dashed: prediction equals truth.{scale} "
        "**Click a dot** to follow it over the steps."
    )
    names = {"position": "training position", "predicted_sgd": "predicted, SGD assumed"}
    show_data(points[["position", "label", "true", "predicted", "predicted_sgd"]].rename(columns=names),
              "trajectory-effects")  # fmt: skip


# ---------------------------------------------------------------- one example over the steps


def show_example(results: Results, run: Run) -> None:
    """Draw one example's effect over the steps, and the examples with the largest effects."""
    paths = run.paths
    if paths is None or run.selected not in paths.positions:
        st.info("The effects over the steps of this run are not there yet.")
        return
    wrong = results.wrong_labels()
    _show_strip(results, run, wrong)
    place = paths.positions.index(run.selected)
    left, right = st.columns([1, 4], gap="large")
    with left:
        _show_card(run, wrong, paths.seen[place])
        sound = paths.sound[place]
        final = {"true": paths.truth, "predicted": paths.predicted, "error proxy": paths.proxy}
        lines = [f"{name} **{effect_text(values[place, -1])}**" for name, values in final.items()
                 if np.isfinite(values[place, -1])]  # fmt: skip
        st.markdown("At the end of the run:  \n" + "  \n".join(lines))
        if not sound:
            st.caption("The error proxy is more than half of the prediction: neither should be trusted here.")
    with right:
        st.plotly_chart(
            path_figure(
                paths.steps, paths.truth[place], paths.predicted[place],
                paths.proxy[place] if sound else np.full(len(paths.steps), np.nan), paths.seen[place],
            ),
            width="stretch", config=CHART, key="trajectory-path",
            alt=f"Effect of training example {run.selected} on the mean loss of the queries over the steps: true "
            f"{effect_text(paths.truth[place, -1])}, predicted {effect_text(paths.predicted[place, -1])} at the end",
        )  # fmt: skip
    st.caption(
        "How much the mean loss of the queries, after so many steps, would be higher without the example (blue: it "
        "helps) or lower (orange: it hurts). There is one truth and one prediction, so no interval; the spread over "
        "examples is in the figure above. Colour goes with the root, so that small effects show."
    )
    table = pd.DataFrame({"step": paths.steps, "true": paths.truth[place], "predicted": paths.predicted[place],
                          "error proxy": paths.proxy[place]})  # fmt: skip
    show_data(table, "trajectory-path")
    _show_heatmaps(run)


def _show_strip(results: Results, run: Run, wrong: dict[int, str]) -> None:
    """Draw the removed examples, those with the largest effects first; one is picked from them."""
    paths = run.paths
    assert paths is not None
    if len(run.train):
        rows = run.train.loc[paths.positions]
        notes = [f"effect {effect_text(value)}" for value in paths.truth[:, -1]]
        marks = [f"({wrong[position]})" if position in wrong else "" for position in paths.positions]
        show_training_strip(
            results.opened, rows, marks, notes, run.selected, "trajectory-strip",
            lambda position: session.update(train=position),
        )  # fmt: skip
        st.caption(f"{count_text(len(rows), 'removed example')}, those with the largest true effects first.")
        return
    session.control(
        st.selectbox, "Removed example, largest true effects first", "trajectory-position", run.selected,
        lambda value: session.update(train=int(value)), options=paths.positions, width=360,
        format_func=lambda position: f"position {position}: "
        f"{effect_text(paths.truth[paths.positions.index(position), -1])}",
    )  # fmt: skip


def _show_card(run: Run, wrong: dict[int, str], seen: list[int]) -> None:
    position = run.selected
    assert position is not None
    if position in run.train.index:
        show_payload(run.train.loc[position])
    few = [*map(str, seen[:6]), *([f"{len(seen) - 6} more"] if len(seen) > 6 else [])]
    steps = f"in the batch of step{'s' * (len(seen) > 1)} {joined(few)}" if seen else "in no batch"
    st.markdown(f"{example_words(run, position, wrong)}, {steps}.".replace("$", r"\$"))


def _show_heatmaps(run: Run) -> None:
    paths = run.paths
    assert paths is not None
    num = min(NUM_ROWS, len(paths.positions))
    positions = paths.positions[:num]
    labels = dict(zip(run.effects["position"], run.effects["label"], strict=True))
    names = [_row_name(position, labels.get(position, "unknown")) for position in positions]
    st.markdown(f"##### The {num} most influential examples over the steps")
    for place, (title, values) in zip(
        st.columns(2, gap="large"), (("true", paths.truth), ("predicted", paths.predicted)), strict=True
    ):
        with place:
            st.markdown(f"**{title.capitalize()}**")
            key = f"paths-{title}"
            st.plotly_chart(
                paths_figure(values[:num], paths.steps, positions, names, run.selected), width="stretch", config=CHART,
                key=key, on_select=lambda key=key: pick(key), selection_mode="points",
                alt=f"{title} effects of the {num} most influential examples over the steps of the run",
            )  # fmt: skip
    st.caption("A row an example, a column a step; blue helps, orange hurts. **Click a row** to open the example.")
    frames = [
        pd.DataFrame({"training position": position, "step": paths.steps, "true": paths.truth[number],
                      "predicted": paths.predicted[number], "error proxy": paths.proxy[number]})
        for number, position in enumerate(paths.positions)
    ]  # fmt: skip
    show_data(pd.concat(frames), "trajectory-paths", "All removed examples over the steps, table and CSV")


def _row_name(position: int, label: str) -> str:
    short = label if len(label) <= 10 else f"{label[:9]}…"
    return f"#{position}" if label == "unknown" else f"#{position}: {short}"
