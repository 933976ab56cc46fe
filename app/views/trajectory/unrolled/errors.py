"""How wrong is a prediction, and can one know without retraining? Error proxy against real error, growing errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import streamlit as st

from app.formats import MISSING, is_missing, joined, lds_text, signed
from app.shared.plots import show_figure
from app.shared.tables import show_data
from app.views.trajectory.charts import rate_text
from app.views.trajectory.results import Results, is_same
from app.views.trajectory.unrolled.choice import Run
from app.views.trajectory.unrolled.data import Effect, effects_of
from app.views.trajectory.unrolled.effects_charts import proxy_figure
from app.views.trajectory.unrolled.error_charts import correlation_figure, final_error_figure, growth_figure
from app.views.trajectory.unrolled.estimates import ESTIMATES, Estimate
from tda_backend.interfaces.reading.records.frames import frame_of
from tda_backend.interfaces.reading.records.grouping import grouped
from tda_backend.interfaces.reading.records.trajectory import RunError


def show_errors(results: Results, run: Run) -> None:
    """Draw the section for a run."""
    rows = results.read(RunError)
    effects = effects_of(run.rows, None, "fixed", run.labels)
    if not rows or all(math.isnan(effect.true) for effect in effects):
        st.info("The real errors of this run are not there yet.")
        return
    own = [row for row in rows if row.learning_rate == run.learning_rate and row.seed_index == run.seed_index]
    _show_proxies(own, effects, run)
    _show_growth([row for row in rows if not row.is_sound], run)


def _show_proxies(own: Sequence[RunError], effects: Sequence[Effect], run: Run) -> None:
    present = [each for each in ESTIMATES if not all(math.isnan(each.of(effect)) for effect in effects)]
    if not present:
        st.info("This study estimates no errors: `proxy = false`. What follows are the real ones.")
        return
    sound = {} if run.paths is None else dict(zip(run.paths.positions, run.paths.sound, strict=True))
    for estimate, place in zip(present, st.columns(len(present), gap="large"), strict=True):
        with place:
            _show_proxy(estimate, [row for row in own if row.estimator == estimate.name], effects, sound)
    _show_sound([row for row in own if row.is_sound], len(effects))
    st.caption(
        f"Run with η = {rate_text(run.learning_rate)}, seed {run.seed_index}; effects on the mean loss of all queries "
        "at its end. Each dot is a removed example. A hollow dot: the estimate is more than half of the prediction, "
        "and may lie beyond the edge where the dot stands. Dashed: the estimate equals the error. Intervals: 95 % "
        "bootstrap over the removed examples. Slope: of the estimate against the error, 1 is the right size. **The "
        "proxy is no bound**: it says which predictions are likely to be wrong and about how much, and a small "
        "estimate does not promise a small error."
    )
    table = pd.DataFrame(
        {
            "training position": [effect.position for effect in effects],
            "label": [effect.label for effect in effects],
            "true": [effect.true for effect in effects],
            "predicted": [effect.predicted for effect in effects],
            "error": [effect.error for effect in effects],
            **{estimate.name: [estimate.of(effect) for effect in effects] for estimate in present},
            "sound": [sound.get(effect.position, True) for effect in effects],
        }
    )
    show_data(table, "trajectory-errors")


def _show_proxy(
    estimate: Estimate, rows: Sequence[RunError], effects: Sequence[Effect], sound: Mapping[int, bool]
) -> None:
    last = max(rows, key=lambda row: row.step, default=None)
    known = [e for e in effects if not math.isnan(estimate.of(e)) and not math.isnan(e.error)]
    st.markdown(f"**{estimate.title.capitalize()}**")
    st.caption(f"Spearman {_spearman(last)} · Pearson {_pearson(last)} · slope {_slope(last)}")
    show_figure(
        proxy_figure(known, estimate, sound),
        f"errors-{estimate.name}",
        f"Real errors of {len(known)} predictions by {estimate.title}; Pearson {_pearson(last)}",
    )


def _spearman(row: RunError | None) -> str:
    return MISSING if row is None else lds_text(row.spearman, row.spearman_low, row.spearman_high)


def _pearson(row: RunError | None) -> str:
    return MISSING if row is None else lds_text(row.pearson, row.pearson_low, row.pearson_high)


def _slope(row: RunError | None) -> str:
    return MISSING if row is None or row.slope is None else signed(row.slope, 2)


def _show_sound(rows: Sequence[RunError], num_removed: int) -> None:
    """Say how the proxy does where the second order is a correction of the first: that can be told beforehand."""
    if not rows:
        st.warning(
            "For fewer than three examples the estimated error is at most half of the prediction: here the second "
            "order is no correction of the first, and neither should be trusted."
        )
        return
    row = rows[0]
    error = MISSING if row.relative_error is None else f"{row.relative_error:.1%}"
    st.markdown(
        f"The full estimate is at most half of the prediction for **{row.num_removed} of {num_removed}** examples, "
        f"which needs no retraining to know. Among these: Spearman {_spearman(row)}, Pearson {_pearson(row)}, relative "
        f"error of the prediction {error}. For the others the second order is no correction of the first, and neither "
        "should be trusted."
    )


def _show_growth(rows: Sequence[RunError], run: Run) -> None:
    """Draw how errors grow with steps and learning rate: means over seeds, or one seed while there is no mean."""
    st.markdown("##### Errors by learning rate and by steps")
    means, of_seed = averaged(rows)
    once = [group[0] for group in grouped(means, lambda row: (row.learning_rate, row.step)).values()]
    last = [max(group, key=lambda row: row.step) for group in grouped(once, lambda row: row.learning_rate).values()]
    last.sort(key=lambda row: row.learning_rate)
    words = joined([f"η = {rate_text(row.learning_rate)}: {row.relative_error or math.nan:.1%}" for row in last])
    left, middle, right = st.columns(3, gap="medium")
    with left:
        st.markdown("**Over the steps**")
        show_figure(
            growth_figure(once),
            "error-growth",
            f"Relative error of the prediction over the steps; at the end {words}",
        )
    with middle:
        st.markdown("**At the end of the run**")
        show_figure(
            final_error_figure(last),
            "error-rates",
            f"Relative error at the end of the run against learning rate: {words}",
        )
    with right:
        st.markdown(f"**How well the estimate follows it, η = {rate_text(run.learning_rate)}**")
        _show_correlation([row for row in means if is_same(row.learning_rate, run.learning_rate)])
    whose = f"Seed {of_seed} so far" if of_seed is not None else "Means over seeds"
    st.caption(
        f"{whose}. Relative error: mean size of (true − predicted) divided by the mean size of the true effect, over "
        "removed examples that a batch has held by then; bands and bars: 95 % over removed examples, given these "
        "seeds. The prediction is linear: it should be closer at small learning rates and in short runs, and here one "
        "sees how close."
    )
    table = frame_of(means, RunError).drop(columns="seed_index").rename(columns={"learning_rate": "η"})
    show_data(table, "trajectory-growth")


def _show_correlation(rows: Sequence[RunError]) -> None:
    if all(is_missing(row.spearman) for row in rows):
        st.info("No correlation is defined here.")
        return
    show_figure(
        correlation_figure(rows),
        "error-correlation",
        "Spearman correlation of estimated and real errors over the steps",
    )


def averaged(rows: Sequence[RunError]) -> tuple[list[RunError], int | None]:
    """Return the rows of means over seeds; where there are none yet, the first seed's and its number."""
    means = [row for row in rows if row.seed_index is None]
    if means:
        return means, None
    first = min((row.seed_index for row in rows if row.seed_index is not None), default=0)
    return [row for row in rows if row.seed_index == first], first
