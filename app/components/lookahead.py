"""Selecting data while training: tuned strategies on the test set, the choice of K, cost, and what is kept."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app.components.lookahead_examples import show_examples
from app.components.tables import show_data
from app.components.trajectory_agreement import CHART
from app.formats import count_text, is_missing, lds_text
from app.lookahead_charts import (
    STRATEGIES,
    cost_figure,
    curves_figure,
    gains_figure,
    horizons_figure,
    ordered,
    setting_text,
    strategy_name,
    tuned_figure,
)
from app.trajectory_data import Results

LOOKING_AHEAD = ("look-ahead", "look-ahead (sgd)")


def show_lookahead(results: Results) -> None:
    """Draw the section."""
    runs, tuned = results.rows("lookahead_runs"), results.rows("lookahead_tuned")
    num_steps = int(runs["num_steps"].max()) if len(runs) else None
    if len(tuned):
        tuned = _in_order(tuned, num_steps)
        _show_tuned(results, tuned)
    else:
        st.info("Strategies are compared once all runs are done; until then: the runs so far.")
    if len(runs) and num_steps is not None:
        _show_horizons(runs, num_steps)
        _show_training(results, runs, tuned)
    if len(tuned):
        show_examples(results, tuned)


def _in_order(tuned: pd.DataFrame, num_steps: int | None) -> pd.DataFrame:
    frame = tuned.set_index("strategy", drop=False).loc[ordered(tuned["strategy"].tolist())].reset_index(drop=True)
    return frame.assign(setting=[setting_text(row, num_steps) for row in frame.to_dict("records")])


# ---------------------------------------------------------------- tuned strategies


def _show_tuned(results: Results, tuned: pd.DataFrame) -> None:
    gains = results.rows("lookahead_gains")
    columns = [("loss", "test_loss", "loss_low", "loss_high", "test loss (lower is better)", 4)]
    if tuned["test_accuracy"].notna().any():
        columns.append(
            ("accuracy", "test_accuracy", "accuracy_low", "accuracy_high", "test accuracy (higher is better)", 3)
        )
    for place, (name, value, low, high, title, digits) in zip(
        st.columns(len(columns), gap="large"), columns, strict=True
    ):
        words = [f"{strategy_name(row['strategy'])} {lds_text(row[value], row[low], row[high])}"
                 for row in tuned.to_dict("records")]  # fmt: skip
        with place:
            st.plotly_chart(
                tuned_figure(tuned, value, low, high, title, digits), width="stretch", config=CHART,
                key=f"tuned-{name}", alt=f"{title} of each tuned strategy: {'; '.join(words)}",
            )  # fmt: skip
    seeds = count_text(int(tuned["num_seeds"].max()), "seed")
    fraction = float(results.config.get("lookahead", {}).get("fraction", 0.5))
    st.caption(
        f"At each step a strategy keeps {fraction:.0%} of the batch. Its K and η are those with the lowest loss on the "
        f"tuning set; the test set, here, was seen by neither selection nor tuning. Bars: 95 % over {seeds} and over "
        "the test examples."
    )
    table = tuned[["strategy", "horizon", "learning_rate", "tuning_loss", "test_loss", "loss_low", "loss_high",
                   "test_accuracy", "accuracy_low", "accuracy_high", "num_seeds"]]  # fmt: skip
    show_data(table.rename(columns={"horizon": "K", "learning_rate": "η"}), "lookahead-tuned")
    if len(gains):
        _show_gains(gains, columns)


def _show_gains(gains: pd.DataFrame, columns: list) -> None:
    st.markdown("##### Gains, seed by seed")
    rank = {name: place for place, name in enumerate(ordered([*STRATEGIES, *gains["strategy"], *gains["against"]]))}
    once = gains["strategy"].map(rank) < gains["against"].map(rank)  # the other direction is the same with its sign
    gains = gains[once].sort_values(["strategy", "against"], key=lambda column: column.map(rank), kind="stable")
    for place, (name, *_) in zip(st.columns(len(columns), gap="large"), columns, strict=True):
        parts = (f"{name}_gain", f"{name}_low", f"{name}_high")
        known = gains[gains[parts[0]].notna()]
        if not len(known):
            place.info(f"The gain in {name} needs two seeds.")
            continue
        words = [f"{strategy_name(row['strategy'])} over {strategy_name(row['against'])} "
                 f"{lds_text(*(row[key] for key in parts))}" for row in known.to_dict("records")]  # fmt: skip
        with place:
            st.plotly_chart(
                gains_figure(known, *parts, f"gain in test {name} (right: better)"), width="stretch", config=CHART,
                key=f"gains-{name}", alt=f"Gain in test {name}: {'; '.join(words)}",
            )  # fmt: skip
    sure = [strategy_name(row["strategy"]) + " over " + strategy_name(row["against"])
            for row in gains.to_dict("records") if not is_missing(row["loss_low"]) and row["loss_low"] > 0]  # fmt: skip
    verdict = f"Certain in the loss: {'; '.join(sure)}." if sure else "No gain in the loss is certain."
    st.caption(
        f"Pairs share seed, start and data order, so their noise is shared. Bars: 95 % over seeds and test "
        f"examples. {verdict}"
    )
    show_data(gains, "lookahead-gains")


# ---------------------------------------------------------------- K and learning rate


def _show_horizons(runs: pd.DataFrame, num_steps: int) -> None:
    tuning = runs[(runs["split"] == "tuning") & runs["horizon"].notna()]
    present = [name for name in LOOKING_AHEAD if (tuning["strategy"] == name).any()]
    if not present:
        return
    st.markdown("##### How far to look ahead")
    for place, strategy in zip(st.columns(len(present), gap="large"), present, strict=True):
        mine = tuning[tuning["strategy"] == strategy]
        best = chosen_setting(mine)
        where = "" if best is None else f"; lowest at K = {best[0]}, η = {best[1]:g}"
        with place:
            st.markdown(f"**{strategy_name(strategy).capitalize().replace('sgd', 'SGD')}**")
            st.plotly_chart(
                horizons_figure(mine, best, num_steps), width="stretch", config=CHART, key=f"horizons-{strategy}",
                alt=f"Loss on the tuning set of {strategy_name(strategy)} against K, by learning rate{where}",
            )  # fmt: skip
    st.caption(
        "K = 1 is online selection: one step ahead. K = all looks to the end of the run (offline). Each line: mean "
        "over seeds at one learning rate; small marks: single seeds, whose spread is the uncertainty. The ring marks "
        "what the tuning set chooses."
    )
    means = tuning.groupby(["strategy", "horizon", "learning_rate"])["loss"].agg(["mean", "min", "max", "count"])
    names = {"horizon": "K", "learning_rate": "η", "mean": "tuning loss", "min": "lowest seed", "max": "highest seed",
             "count": "seeds"}  # fmt: skip
    show_data(means.reset_index().rename(columns=names), "lookahead-horizons")


def chosen_setting(runs: pd.DataFrame) -> tuple[int, float] | None:
    """Return K and learning rate with the lowest mean loss over seeds, of those that every seed finished."""
    groups = runs.groupby(["horizon", "learning_rate"])["loss"].agg(["mean", "count"])
    means = groups.loc[groups["count"] == groups["count"].max(), "mean"].dropna()
    if not len(means):
        return None
    horizon, rate = means.idxmin()  # type: ignore[misc]  # a pair: the index has two levels
    return int(horizon), float(rate)


# ---------------------------------------------------------------- curves and cost


def _show_training(results: Results, runs: pd.DataFrame, tuned: pd.DataFrame) -> None:
    if not len(tuned):
        return
    left, right = st.columns(2, gap="large")
    curves = _curves(results.rows("lookahead_curves"), tuned)
    with left:
        st.markdown("**Test loss while training**")
        if len(curves):
            ends = curves.groupby("strategy", sort=False).last()
            words = [f"{strategy_name(str(name))} {row['mean']:.4f}" for name, row in ends.iterrows()]
            st.plotly_chart(
                curves_figure(curves), width="stretch", config=CHART, key="lookahead-curves",
                alt=f"Test loss of tuned strategies over the steps; at the end {'; '.join(words)}",
            )  # fmt: skip
            st.caption("Tuned strategies, means over seeds; bands: from the lowest to the highest seed.")
            show_data(curves, "lookahead-curves")
        else:
            st.info("The curves are not there yet.")
    with right:
        st.markdown("**What it costs**")
        cost = costs(runs, tuned)
        if len(cost):
            words = [f"{strategy_name(row['strategy'])} {row['cost']:.2g}" for row in cost.to_dict("records")]
            st.plotly_chart(
                cost_figure(cost), width="stretch", config=CHART, key="lookahead-cost",
                alt=f"Test loss against work, relative to training on all data: {'; '.join(words)}",
            )  # fmt: skip
            st.caption(
                "What a run computes, selection included (gradients of examples, and products with curvatures), "
                "relative to training on all data (dotted). The table counts them apart."
            )
            show_data(cost.rename(columns={"cost": "work, 1: all data"}), "lookahead-cost")
        else:
            st.info("The cost is given relative to training on all data, which this study does not have.")


def _chosen(rows: pd.DataFrame, row: dict) -> pd.DataFrame:
    """Return the runs of one tuned strategy."""
    same = rows["horizon"].isna() if is_missing(row["horizon"]) else rows["horizon"] == row["horizon"]
    rate = np.isclose(rows["learning_rate"], row["learning_rate"])
    return rows[(rows["strategy"] == row["strategy"]) & same.fillna(False).to_numpy(dtype=bool) & rate]


def _curves(curves: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    frames = []
    for row in tuned.to_dict("records") if len(curves) else []:
        mine = _chosen(curves, row)
        if len(mine):
            values = np.stack([np.asarray(each, dtype=np.float64) for each in mine["test_losses"]])
            frames.append(pd.DataFrame({
                "strategy": row["strategy"], "step": np.asarray(mine["steps"].iloc[0], dtype=int),
                "mean": values.mean(0), "low": values.min(0), "high": values.max(0), "seeds": len(mine),
            }))  # fmt: skip
    return pd.concat(frames) if frames else pd.DataFrame()


def costs(runs: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """Return what each tuned strategy computes relative to training on all data; none without such a run.

    Returns:
        strategy, setting, cost, gradient_evaluations, hessian_products, seconds, test_loss, loss_low, loss_high.
    """
    once = runs[runs["split"] == "test"]
    full = once[once["strategy"] == "full"]
    if not len(full):
        return pd.DataFrame()
    has_work = "relative_cost" in once and bool(once["relative_cost"].notna().all())
    work = "relative_cost" if has_work else "gradient_evaluations"
    unit = float(full[work].astype(float).mean())
    rows = []
    for row in tuned.to_dict("records"):
        mine = _chosen(once, row)
        if len(mine):
            rows.append({
                "strategy": row["strategy"], "setting": row["setting"],
                "cost": float(mine[work].astype(float).mean()) / unit,
                "gradient_evaluations": round(float(mine["gradient_evaluations"].astype(float).mean())),
                "hessian_products": round(float(mine["hessian_products"].astype(float).mean())),
                "seconds": round(float(mine["seconds"].mean()), 2), "test_loss": row["test_loss"],
                "loss_low": row["loss_low"], "loss_high": row["loss_high"],
            })  # fmt: skip
    return pd.DataFrame(rows)
