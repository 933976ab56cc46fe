"""Selecting data while training: tuned strategies on the test set, the choice of K, cost, and what is kept."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from app.formats import count_text, lds_text
from app.shared.plots import show_figure
from app.shared.tables import show_data
from app.views.trajectory.results import Results
from app.views.trajectory.selection.charts import (
    cost_figure,
    curves_figure,
    gains_figure,
    horizons_figure,
    tuned_figure,
)
from app.views.trajectory.selection.kept import show_kept
from app.views.trajectory.selection.tuned import (
    Cost,
    Judged,
    LossCurve,
    Measure,
    chosen_setting,
    costs,
    gain_intervals,
    judged_strategies,
    loss_curves,
    measures_of,
    pair_name,
    pairs,
)
from tda_backend.interfaces.reading.records.frames import frame_of
from tda_backend.interfaces.reading.records.grouping import grouped
from tda_backend.interfaces.reading.records.lookahead import SelectionCurve, SelectionRun, StrategyGain, TunedStrategy
from tda_backend.studies.config.strategies import ordered


def show_selection(results: Results) -> None:
    """Draw the section."""
    runs = results.read(SelectionRun)
    num_steps = max((run.num_steps for run in runs), default=None)
    judged = judged_strategies(results.read(TunedStrategy), num_steps)
    if judged:
        _show_tuned(results, judged)
    else:
        st.info("Strategies are compared once all runs are done; until then: the runs so far.")
    if num_steps is not None:
        _show_horizons(runs, num_steps)
        if judged:
            _show_training(results, runs, judged)
    if judged:
        show_kept(results, judged)


# ---------------------------------------------------------------- tuned strategies


def _show_tuned(results: Results, judged: Sequence[Judged]) -> None:
    measures = measures_of(judged)
    for place, measure in zip(st.columns(len(measures), gap="large"), measures, strict=True):
        words = [f"{each.strategy.title} {lds_text(*measure.of(each.row))}" for each in judged]
        with place:
            show_figure(
                tuned_figure(judged, measure),
                f"tuned-{measure.name}",
                f"{measure.title} of each tuned strategy: {'; '.join(words)}",
            )
    seeds = count_text(max(each.row.num_seeds for each in judged), "seed")
    fraction = float(results.config.get("lookahead", {}).get("fraction", 0.5))
    st.caption(
        f"At each step a strategy keeps {fraction:.0%} of the batch. Its K and η are those with the lowest loss on the "
        f"tuning set; neither selection nor tuning has seen the test set, which judges here. Bars: 95 % over {seeds} "
        "and over the test examples."
    )
    table = frame_of([each.row for each in judged], TunedStrategy)
    show_data(table.rename(columns={"horizon": "K", "learning_rate": "η"}), "lookahead-tuned")
    gains = pairs(results.read(StrategyGain))
    if gains:
        _show_gains(gains, measures)


def _show_gains(gains: Sequence[StrategyGain], measures: Sequence[Measure]) -> None:
    st.markdown("##### Gains, seed by seed")
    for place, measure in zip(st.columns(len(measures), gap="large"), measures, strict=True):
        known = gain_intervals(gains, measure)
        if not known:
            place.info(f"The gain in {measure.name} needs two seeds.")
            continue
        with place:
            show_figure(
                gains_figure(known, f"gain in test {measure.name} (right: better)"),
                f"gains-{measure.name}",
                f"Gain in test {measure.name}: {'; '.join(f'{row.name} {row.text}' for row in known)}",
            )
    sure = [pair_name(row) for row in gains if row.loss_low is not None and row.loss_low > 0]
    verdict = f"Certain in the loss: {'; '.join(sure)}." if sure else "No gain in the loss is certain."
    st.caption(
        f"Pairs share seed, start and data order, so their noise is shared. Bars: 95 % over seeds and test "
        f"examples. {verdict}"
    )
    show_data(frame_of(gains, StrategyGain), "lookahead-gains")


# ---------------------------------------------------------------- K and learning rate


def _show_horizons(runs: Sequence[SelectionRun], num_steps: int) -> None:
    tuning = [run for run in runs if run.split == "tuning" and run.horizon is not None]
    by_name = grouped(tuning, lambda run: run.strategy)
    present = [strategy for strategy in ordered(by_name) if strategy.looks_ahead]
    if not present:
        return
    st.markdown("##### How far to look ahead")
    for place, strategy in zip(st.columns(len(present), gap="large"), present, strict=True):
        mine = by_name[strategy.name]
        best = chosen_setting(mine)
        where = "" if best is None else f"; lowest at K = {best.horizon}, η = {best.learning_rate:g}"
        with place:
            st.markdown(f"**{strategy.heading}**")
            show_figure(
                horizons_figure(mine, best, num_steps),
                f"horizons-{strategy.name}",
                f"Loss on the tuning set of {strategy.title} against K, by learning rate{where}",
            )
    st.caption(
        "K = 1 is online selection: one step ahead. K = all looks to the end of the run (offline). Each line: mean "
        "over seeds at one learning rate; small marks: single seeds, whose spread is the uncertainty. The ring marks "
        "what the tuning set chooses."
    )
    show_data(_horizon_table(tuning), "lookahead-horizons")


def _horizon_table(tuning: Sequence[SelectionRun]) -> pd.DataFrame:
    known = [run for run in tuning if run.loss is not None]
    groups = grouped(known, lambda run: (run.strategy, run.horizon or 0, run.learning_rate))
    rows = [(*key, [run.loss or 0.0 for run in groups[key]]) for key in sorted(groups)]
    return pd.DataFrame(
        {
            "strategy": [strategy for strategy, *_ in rows],
            "K": [horizon for _, horizon, *_ in rows],
            "η": [rate for *_, rate, _ in rows],
            "tuning loss": [sum(losses) / len(losses) for *_, losses in rows],
            "lowest seed": [min(losses) for *_, losses in rows],
            "highest seed": [max(losses) for *_, losses in rows],
            "seeds": [len(losses) for *_, losses in rows],
        }
    )


# ---------------------------------------------------------------- curves and cost


def _show_training(results: Results, runs: Sequence[SelectionRun], judged: Sequence[Judged]) -> None:
    left, right = st.columns(2, gap="large")
    with left:
        st.markdown("**Test loss while training**")
        _show_curves(loss_curves(results.read(SelectionCurve), judged))
    with right:
        st.markdown("**What it costs**")
        _show_costs(costs(runs, judged))


def _show_curves(curves: Sequence[LossCurve]) -> None:
    if not curves:
        st.info("The curves are not there yet.")
        return
    words = [f"{curve.strategy.title} {curve.points[-1].y:.4f}" for curve in curves]
    show_figure(
        curves_figure(curves),
        "lookahead-curves",
        f"Test loss of tuned strategies over the steps; at the end {'; '.join(words)}",
    )
    st.caption("Tuned strategies, means over seeds; bands: from the lowest to the highest seed.")
    rows = [(curve, point) for curve in curves for point in curve.points]
    table = pd.DataFrame(
        {
            "strategy": [curve.strategy.name for curve, _ in rows],
            "step": [point.x for _, point in rows],
            "mean": [point.y for _, point in rows],
            "low": [point.low for _, point in rows],
            "high": [point.high for _, point in rows],
            "seeds": [curve.num_seeds for curve, _ in rows],
        }
    )
    show_data(table, "lookahead-curves")


def _show_costs(found: Sequence[Cost]) -> None:
    if not found:
        st.info("The cost is given relative to training on all data, which this study does not have.")
        return
    words = [f"{cost.judged.strategy.title} {cost.relative:.2g}" for cost in found]
    show_figure(
        cost_figure(found),
        "lookahead-cost",
        f"Test loss against work, relative to training on all data: {'; '.join(words)}",
    )
    st.caption(
        "What a run computes, selection included (gradients of examples, and products with curvatures), "
        "relative to training on all data (dotted). The table counts them apart."
    )
    table = pd.DataFrame(
        {
            "strategy": [cost.judged.strategy.name for cost in found],
            "setting": [cost.judged.setting for cost in found],
            "work, 1: all data": [cost.relative for cost in found],
            "gradient_evaluations": [cost.gradient_evaluations for cost in found],
            "hessian_products": [cost.hessian_products for cost in found],
            "seconds": [cost.seconds for cost in found],
            "test_loss": [cost.judged.row.test_loss for cost in found],
            "loss_low": [cost.judged.row.loss_low for cost in found],
            "loss_high": [cost.judged.row.loss_high for cost in found],
        }
    )
    show_data(table, "lookahead-cost")
