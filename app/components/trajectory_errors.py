"""How wrong is a prediction, and can one know without retraining? Error proxy against real error, growing errors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app.components.tables import show_data
from app.components.trajectory_agreement import CHART
from app.components.trajectory_run import Run
from app.formats import MISSING, is_missing, joined, lds_text, signed
from app.trajectory_charts import proxy_figure, rate_text
from app.trajectory_data import Results, effects_of
from app.trajectory_lines import correlation_figure, final_error_figure, growth_figure

ESTIMATES = {"proxy": "full second order", "cheap": "its first term alone"}
SOUND = "sound"
"""Rows about the proxy where it is small beside the prediction."""


def show_errors(results: Results, run: Run) -> None:
    """Draw the section for a run."""
    rows = results.rows("trajectory_errors")
    frame = effects_of(results.rows("trajectory_effects", run.learning_rate, run.seed_index), None, "fixed")
    if not len(rows) or not len(frame) or frame["true"].isna().all():
        st.info("The real errors of this run are not there yet.")
        return
    frame = frame.assign(error=frame["true"] - frame["predicted"])
    labels = dict(zip(run.effects["position"], run.effects["label"], strict=True))
    frame["label"] = [labels.get(position, "unknown") for position in frame["position"]]
    sound = {} if run.paths is None else dict(zip(run.paths.positions, run.paths.sound, strict=True))
    frame["sound"] = [sound.get(position, True) for position in frame["position"]]
    _show_proxies(rows, frame, run)
    _show_growth(rows[rows["estimator"].isin(list(ESTIMATES))], run)


def _show_proxies(rows: pd.DataFrame, frame: pd.DataFrame, run: Run) -> None:
    present = [name for name in ESTIMATES if frame[name].notna().any()]
    if not present:
        st.info("This study estimates no errors: `proxy = false`. What follows are the real ones.")
        return
    own = rows[(rows["learning_rate"] == run.learning_rate) & (rows["seed_index"] == run.seed_index)]
    for name, place in zip(present, st.columns(len(present), gap="large"), strict=True):
        mine = own[own["estimator"] == name].sort_values("step")
        last = mine.iloc[-1].to_dict() if len(mine) else {}
        pearson = lds_text(*(last.get(key) for key in ("pearson", "pearson_low", "pearson_high")))
        known = frame[frame[name].notna() & frame["error"].notna()]
        with place:
            st.markdown(f"**{ESTIMATES[name].capitalize()}**")
            spearman = lds_text(*(last.get(key) for key in ("spearman", "spearman_low", "spearman_high")))
            st.caption(f"Spearman {spearman} · Pearson {pearson} · slope {_number(last.get('slope'))}")
            st.plotly_chart(
                proxy_figure(known, name, "estimated error, no retraining"), width="stretch", config=CHART,
                key=f"errors-{name}",
                alt=f"Real errors of {len(known)} predictions by {ESTIMATES[name]}; Pearson {pearson}",
            )  # fmt: skip
    _show_sound(own, len(frame))
    st.caption(
        f"Run with η = {rate_text(run.learning_rate)}, seed {run.seed_index}; effects on the mean loss of all queries "
        "at its end. A dot is a removed example; hollow: the estimate is more than half of the prediction, and may lie "
        "beyond the edge where it stands. Dashed: the estimate equals the error. Intervals: 95 % bootstrap over "
        "the removed examples. Slope: of the estimate against the error, 1 is the right size. **The proxy is no "
        "bound**: it says which predictions are likely to be wrong and about how much, and a small estimate does not "
        "promise a small error."
    )
    columns = ["position", "label", "true", "predicted", "error", *present, "sound"]
    show_data(frame[columns].rename(columns={"position": "training position"}), "trajectory-errors")


def _show_sound(own: pd.DataFrame, num_removed: int) -> None:
    """Say how the proxy does where the second order is a correction of the first: that can be told beforehand."""
    mine = own[own["estimator"] == SOUND]
    if not len(mine):
        st.warning(
            "For fewer than three examples the estimated error is at most half of the prediction: here the second "
            "order is no correction of the first, and neither should be trusted."
        )
        return
    row = mine.iloc[0].to_dict()
    pearson, spearman = (
        lds_text(*(row.get(f"{name}{end}") for end in ("", "_low", "_high"))) for name in ("pearson", "spearman")
    )
    st.markdown(
        f"The full estimate is at most half of the prediction for **{int(row['num_removed'])} of {num_removed}** "
        f"examples, which needs no retraining to know. Among these: Spearman {spearman}, Pearson {pearson}, relative "
        f"error of the prediction {row['relative_error']:.1%}. For the others the second order is no correction of the "
        "first, and neither should be trusted."
    )


def _number(value: float | None) -> str:
    return MISSING if is_missing(value) else signed(float(value), 2)  # type: ignore[arg-type]


def _show_growth(rows: pd.DataFrame, run: Run) -> None:
    """Draw how errors grow with steps and learning rate: means over seeds, or one seed while there is no mean."""
    st.markdown("##### Errors by learning rate and by steps")
    means, of_seed = averaged(rows)
    once = means.drop_duplicates(["learning_rate", "step"])
    last = once.loc[once.groupby("learning_rate")["step"].idxmax()]
    left, middle, right = st.columns(3, gap="medium")
    with left:
        st.markdown("**Over the steps**")
        ends = zip(last["learning_rate"], last["relative_error"], strict=True)
        words = [f"η = {rate_text(rate)}: {error:.1%}" for rate, error in ends]
        st.plotly_chart(
            growth_figure(once), width="stretch", config=CHART, key="error-growth",
            alt=f"Relative error of the prediction over the steps; at the end {joined(words)}",
        )  # fmt: skip
    with middle:
        st.markdown("**At the end of the run**")
        st.plotly_chart(
            final_error_figure(last), width="stretch", config=CHART, key="error-rates",
            alt=f"Relative error at the end of the run against learning rate: {joined(words)}",
        )  # fmt: skip
    with right:
        st.markdown(f"**How well the estimate follows it, η = {rate_text(run.learning_rate)}**")
        mine = means[np.isclose(means["learning_rate"], run.learning_rate)]
        if mine["spearman"].notna().any():
            st.plotly_chart(
                correlation_figure(mine, ESTIMATES), width="stretch", config=CHART, key="error-correlation",
                alt="Spearman correlation of estimated and real errors over the steps",
            )  # fmt: skip
        else:
            st.info("No correlation is defined here.")
    whose = f"Seed {of_seed} so far" if of_seed is not None else "Means over seeds"
    st.caption(
        f"{whose}. Relative error: mean size of (true − predicted) divided by the mean size of the true effect, over "
        "removed examples that a batch has held by then; bands and bars: 95 % over removed examples, given these "
        "seeds. The prediction is linear: it should be closer at small learning rates and in short runs, and here one "
        "sees how close."
    )
    table = means.drop(columns=["seed_index"], errors="ignore").rename(columns={"learning_rate": "η"})
    show_data(table, "trajectory-growth")


def averaged(rows: pd.DataFrame) -> tuple[pd.DataFrame, int | None]:
    """Return the rows of means over seeds; where there are none yet, the first seed's and its number."""
    means = rows[rows["seed_index"].isna()]
    if len(means):
        return means, None
    first = int(rows["seed_index"].min())
    return rows[rows["seed_index"] == first], first
