"""By layer: how much each layer has to do with the scores on screen, and each example's influence on itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from app import explorer_data, services
from app.components.explorer import is_relative
from app.components.tables import show_rows
from app.formats import count_text, plain, regularization_text
from app.method_charts import layer_figure
from app.session import Context
from tda_backend.errors import NumericalError

NUM = 10  # examples on either side
CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}


def show_layers(context: Context) -> None:
    """Draw the expander with layers and self-influence; nothing for a method that has neither."""
    assert context.configuration is not None
    spec = services.methods()[context.view.method]
    layers = services.blocks(context.opened, context.configuration_id)
    has_self = spec.has_self_influence and bool(context.configuration["has_regularization"])
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


def _show(context: Context, layers: list[dict[str, Any]], has_self: bool) -> None:
    view = context.view
    top = explorer_data.top_examples(
        context.opened, context.configuration_id, view.query or 0, view.lam, view.classes, view.right
    )
    top = pd.concat([rows.head(NUM) for _, rows in top.groupby("side", sort=False)])
    frame = top.drop(columns=["prediction"]).rename(columns={"training example": "example"})
    positions = top["position"].tolist()
    if has_self:
        values = explorer_data.self_influence(context.opened, context.configuration_id, view.lam or 0.0)
        ranks = np.argsort(np.argsort(-values, kind="stable"), kind="stable") + 1
        frame["self-influence"] = values[positions].astype(float)
        frame["its rank"] = ranks[positions]
    if layers:
        parts = explorer_data.layer_scores(context.opened, context.configuration_id, view.query or 0, view.lam or 0.0)
        shares = {name: values[positions] for name, values in parts.items()}
        names = [f"{row.side} {row.rank} (no. {row.example}, label {row.label})" for row in frame.itertuples()]
        st.plotly_chart(
            layer_figure(names, shares), width="stretch", config=CHART, key="layer-chart",
            alt=f"Score of the {len(names)} top examples, split over {count_text(len(layers), 'layer')}",
        )  # fmt: skip
        for name, values in shares.items():
            frame[name] = values
        total = {name: float(np.abs(values).sum()) for name, values in parts.items()}
        st.caption(
            "Each bar is one example's score, split over layers; the parts add up to it. Over all training examples "
            "the layers' shares of the absolute scores are "
            + ", ".join(f"{plain(name)} {value / sum(total.values()):.0%}" for name, value in total.items())
            + "."
        )
        if is_relative(context):
            _show_damping(layers, view.lam or 0.0)
    if has_self:
        st.caption(
            "Self-influence: the example's influence on its own loss at this λ, ≥ 0; its rank is among all training "
            "examples. The largest are often mislabelled or odd."
        )
    digits = {name: frame[name].map(lambda value: float(f"{value:.4g}")) for name in frame.select_dtypes("float")}
    frame = frame.assign(**digits)
    st.caption(f"At λ = {regularization_text(view.lam)}, where the page rests.")
    show_rows(frame, f"layers-query{view.query}-{view.method}")


def _show_damping(layers: list[dict[str, Any]], lam: float) -> None:
    rows = [
        {
            "layer": row["name"],
            "coordinates": row["size"],
            "mean curvature": row["scale"],
            "absolute λ": lam * row["scale"],
        }
        for row in layers
    ]
    st.dataframe(pd.DataFrame(rows), width="stretch", hide_index=True)
