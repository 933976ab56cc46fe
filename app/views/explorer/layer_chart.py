"""Each example's score as a bar split over layers. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

LAYER_COLORS = ("#2f7fd1", "#2a9d80", "#9a63cf", "#1596b5", "#8f9a2b", "#cc4058", "#7d8795")


def layer_figure(names: Sequence[str], shares: Mapping[str, np.ndarray]) -> go.Figure:
    """Return each example's score as a bar split over layers.

    Args:
        names: c examples.
        shares: Layer → scores ``[c]``.
    """
    figure = go.Figure()
    for number, (layer, values) in enumerate(shares.items()):
        figure.add_bar(
            y=list(names),
            x=values,
            name=layer,
            orientation="h",
            marker_line_width=0,
            marker_color=LAYER_COLORS[number % len(LAYER_COLORS)],
            marker_pattern_shape="" if number < len(LAYER_COLORS) else "/",
            hovertemplate="%{y}<br>" + layer.replace("{", "(") + ": %{x:.3g}<extra></extra>",
        )
    figure.update_layout(
        barmode="relative",
        bargap=0.25,
        height=90 + 19 * len(names),
        margin={"l": 8, "r": 12, "t": 34, "b": 8},
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        dragmode=False,
    )
    figure.update_xaxes(title="score, split over layers (positive helps)", zeroline=True, zerolinewidth=1)
    figure.update_yaxes(autorange="reversed", automargin=True, ticks="", tickfont={"size": 11})
    return figure
