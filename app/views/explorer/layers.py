"""By layer: how much each layer has to do with the scores on screen, and each example's influence on itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import streamlit as st

from app import services
from app.formats import MISSING, count_text, plain, regularization_text
from app.services import Layer
from app.session import Context
from app.shared.tables import show_rows
from app.views.explorer.data import TopExample, layer_scores, self_influence, top_examples
from app.views.explorer.element import candidates_of
from app.views.explorer.layer_chart import layer_figure
from tda_backend.errors import NumericalError

NUM = 10  # examples on either side
CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}


def show_layers(context: Context) -> None:
    """Draw the expander with layers and self-influence; nothing for a method that has neither."""
    layers = services.layers(context.opened, context.configuration_id)
    has_self = services.methods()[context.view.method].has_self_influence and context.chosen.has_regularization
    if not layers and not has_self:
        return
    title = "By layer, and self-influence" if layers and has_self else "By layer" if layers else "Self-influence"
    # Scores by layer read all coordinates: only for who opens it.
    opened = st.expander(title, key="layers-open", on_change="rerun")
    if not opened.open:
        return
    with opened:
        try:
            _show(context, layers, has_self)
        except NumericalError as error:
            st.info(plain(error.message))


def _show(context: Context, layers: Sequence[Layer], has_self: bool) -> None:
    view = context.view
    top = [row for row in top_examples(context.opened, candidates_of(context), view.lam) if row.rank <= NUM]
    columns: dict[str, list] = {
        "side": [row.side for row in top],
        "rank": [row.rank for row in top],
        "example": [row.example for row in top],
        "position": [row.position for row in top],
        "label": [row.label for row in top],
        "score": [_rounded(row.score) for row in top],
    }
    if has_self:
        columns |= _self_columns(context, top)
    if layers:
        columns |= _show_parts(context, layers, top)
        if context.chosen.is_relative:
            _show_damping(layers, view.lam or 0.0)
    if has_self:
        st.caption(
            "Self-influence: the example's influence on its own loss at this λ, ≥ 0; its rank is among all training "
            "examples. The largest are often mislabelled or odd."
        )
    st.caption(f"At λ = {regularization_text(view.lam)}, where the page rests.")
    show_rows(pd.DataFrame(columns), f"layers-query{view.query}-{view.method}")


def _rounded(value: float) -> float:
    """Return a number with four significant digits."""
    return float(f"{value:.4g}")


def _self_columns(context: Context, top: Sequence[TopExample]) -> dict[str, list]:
    """Return the columns on the examples' influence on themselves."""
    values = self_influence(context.opened, context.configuration_id, context.view.lam or 0.0)
    ranks = np.argsort(np.argsort(-values, kind="stable"), kind="stable") + 1
    return {
        "self-influence": [_rounded(float(values[row.position])) for row in top],
        "its rank": [int(ranks[row.position]) for row in top],
    }


def _show_parts(context: Context, layers: Sequence[Layer], top: Sequence[TopExample]) -> dict[str, list]:
    """Draw each score split over layers; return the parts as columns."""
    parts = layer_scores(context.opened, context.configuration_id, context.query, context.view.lam or 0.0)
    positions = [row.position for row in top]
    shares = {name: values[positions] for name, values in parts.items()}
    names = [f"{row.side} {row.rank} (no. {row.example}, label {row.label})" for row in top]
    st.plotly_chart(
        layer_figure(names, shares),
        width="stretch",
        config=CHART,
        key="layer-chart",
        alt=f"Score of the {len(names)} top examples, split over {count_text(len(layers), 'layer')}",
    )
    total = {name: float(np.abs(values).sum()) for name, values in parts.items()}
    st.caption(
        "Each bar is one example's score, split over layers; the parts add up to it. Over all training examples "
        "the layers' shares of the absolute scores are "
        + ", ".join(f"{plain(name)} {value / sum(total.values()):.0%}" for name, value in total.items())
        + "."
    )
    return {name: [_rounded(float(value)) for value in values] for name, values in shares.items()}


def _show_damping(layers: Sequence[Layer], lam: float) -> None:
    table = pd.DataFrame(
        {
            "layer": [layer.name for layer in layers],
            "coordinates": [layer.size for layer in layers],
            "mean curvature": [layer.scale for layer in layers],
            "absolute λ": [lam * layer.scale for layer in layers],
        }
    )
    st.dataframe(table, width="stretch", hide_index=True, placeholder=MISSING)
