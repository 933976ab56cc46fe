"""Predicted effects against true ones, and errors against estimates of them. Pure functions.

Blue helps and orange harms, as everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from app.shared.charts import transparent
from app.shared.method_style import BLUE, GREEN, ORANGE
from app.views.trajectory.charts import CHOSEN, IDENTITY, ZERO, layout
from app.views.trajectory.unrolled.data import Effect, Prediction
from app.views.trajectory.unrolled.estimates import Estimate

_KEEP = {"marker": {"opacity": 1}}


def effects_figure(effects: Sequence[Effect], prediction: Prediction, selected: int | None) -> go.Figure:
    """Return true against predicted effects, a dot for each removed example.

    Args:
        effects: Whose true and predicted numbers are known.
        prediction: What was predicted; if it has the scale of the truth, the line of equality is drawn.
        selected: Position of the example with a ring.
    """
    figure = go.Figure()
    predicted, true = [prediction.of(effect) for effect in effects], [effect.true for effect in effects]
    if prediction.has_scale:
        values = [*predicted, *true]
        ends = [float(np.nanmin(values)), float(np.nanmax(values))] if values else []
        figure.add_scatter(x=ends, y=ends, mode="lines", line=IDENTITY, hoverinfo="skip", showlegend=False)
    figure.add_hline(y=0, line=ZERO)
    figure.add_vline(x=0, line=ZERO)
    chosen = [effect.position == selected for effect in effects]
    figure.add_scatter(
        x=predicted,
        y=true,
        mode="markers",
        showlegend=False,
        name="removed example",
        customdata=[[effect.position] for effect in effects],
        selected=_KEEP,
        unselected=_KEEP,
        text=[f"training example {effect.position}, label {effect.label}" for effect in effects],
        hovertemplate="%{text}<br>predicted %{x:.3g}<br>true %{y:.3g}<extra></extra>",
        marker={
            "size": [14 if flag else 8 for flag in chosen],
            "symbol": "circle",
            "color": [transparent(BLUE if value >= 0 else ORANGE, 0.8) for value in true],
            "line": {"width": [2.6 if flag else 0 for flag in chosen], "color": CHOSEN},
        },
    )
    figure.update_xaxes(title="predicted change of the loss", exponentformat="power", nticks=6)
    figure.update_yaxes(title="true change of the loss", exponentformat="power", nticks=7)
    return layout(figure, 340)


def proxy_figure(effects: Sequence[Effect], estimate: Estimate, sound: Mapping[int, bool]) -> go.Figure:
    """Return the real error of every prediction against an estimate of it, with the line of equality.

    Args:
        effects: Whose errors and estimates are known.
        estimate: Which estimate.
        sound: Training position → whether the estimate is small beside the prediction. The axes are those of the sound
            ones: an estimate that is not may lie orders of magnitude outside; it stands at the edge, hollow.
    """
    figure = go.Figure()
    is_sound = [sound.get(effect.position, True) for effect in effects]
    inside = [effect for effect, flag in zip(effects, is_sound, strict=True) if flag] or effects
    values = [*(estimate.of(effect) for effect in inside), *(effect.error for effect in effects)]
    ends = [float(np.nanmin(values)), float(np.nanmax(values))] if values else [0.0, 0.0]
    figure.add_scatter(x=ends, y=ends, mode="lines", line=IDENTITY, hoverinfo="skip", showlegend=False)
    figure.add_hline(y=0, line=ZERO)
    figure.add_vline(x=0, line=ZERO)
    figure.add_scatter(
        x=np.clip([estimate.of(effect) for effect in effects], *ends),
        y=[effect.error for effect in effects],
        mode="markers",
        showlegend=False,
        marker={
            "color": transparent(GREEN, 0.8),
            "size": 8,
            "symbol": ["circle" if flag else "circle-open" for flag in is_sound],
        },
        customdata=[[effect.position, effect.label, estimate.of(effect)] for effect in effects],
        hovertemplate="training example %{customdata[0]}, label %{customdata[1]}<br>estimated %{customdata[2]:.3g}<br>"
        "real %{y:.3g}<extra></extra>",
    )
    figure.update_xaxes(title="estimated error, no retraining", exponentformat="power", nticks=6)
    figure.update_yaxes(title="real error: true − predicted", exponentformat="power", nticks=7)
    return layout(figure, 330)
