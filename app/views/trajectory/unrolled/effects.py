"""Predicted against true effects of one run."""

from __future__ import annotations

import math

import pandas as pd
import streamlit as st

from app import session
from app.formats import MISSING, is_missing, lds_text, signed
from app.shared.plots import picked_value, show_figure
from app.shared.tables import show_data
from app.views.trajectory.unrolled.choice import Run
from app.views.trajectory.unrolled.data import Prediction, correlation, predictions
from app.views.trajectory.unrolled.effects_charts import effects_figure


def open_clicked(key: str) -> None:
    """Open the example that was clicked in a figure."""
    position = picked_value(key)
    if position is not None:
        session.update(train=int(str(position)))


def show_effects(run: Run, optimizer: str) -> None:
    """Draw predicted against true effects, once with the optimizer as trained and once with SGD assumed."""
    if all(math.isnan(effect.true) for effect in run.effects):
        st.info("The true effects of this run are not there yet.")
        return
    shown = predictions(run.effects, optimizer)
    for place, prediction in zip(st.columns(len(shown), gap="large"), shown, strict=True):
        with place:
            _show_prediction(run, prediction)
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
    table = pd.DataFrame(
        {
            "training position": [effect.position for effect in run.effects],
            "label": [effect.label for effect in run.effects],
            "true": [effect.true for effect in run.effects],
            "predicted": [effect.predicted for effect in run.effects],
            "predicted, SGD assumed": [effect.predicted_sgd for effect in run.effects],
        }
    )
    show_data(table, "trajectory-effects")


def _show_prediction(run: Run, prediction: Prediction) -> None:
    known = [effect for effect in run.effects if not math.isnan(prediction.of(effect)) and not math.isnan(effect.true)]
    found = correlation(tuple(map(prediction.of, known)), tuple(effect.true for effect in known))
    st.metric(prediction.title, MISSING if is_missing(found.value) else signed(found.value, 2), width="content")
    st.caption(
        f"rank correlation; 95 %: {signed(found.low, 2)} to {signed(found.high, 2)}"
        if not is_missing(found.low)
        else "rank correlation; not defined here"
    )
    show_figure(
        effects_figure(known, prediction, run.selected),
        prediction.key,
        f"{prediction.title}: true against predicted effects of {len(known)} removed examples; rank correlation "
        f"{lds_text(found.value, found.low, found.high)}",
        lambda: open_clicked(prediction.key),
    )
