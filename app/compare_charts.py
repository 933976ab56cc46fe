"""Figures that set two configurations against each other. Pure functions."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from app.charts import transparent
from app.formats import lds_text
from app.method_style import BLUE, GREEN

SIDES = (("a", "A", BLUE, "circle", 0.16), ("b", "B", GREEN, "diamond", -0.16))
ROW = 34  # pixels of a class


def by_class_figure(frame: pd.DataFrame) -> go.Figure:
    """Return the LDS of A and of B with intervals for the queries of each class.

    Args:
        frame: class, queries, a, a_low, a_high, b, b_low, b_high.
    """
    figure = go.Figure()
    for side, name, color, symbol, shift in SIDES:
        rows = frame[frame[side].notna()]
        figure.add_scatter(
            x=rows[side], y=[-place + shift for place in rows.index], mode="markers", name=name,
            marker={"color": color, "size": 9, "symbol": symbol},
            text=[
                f"{name}, {label}: {lds_text(mean, low, high)}"
                for label, mean, low, high in zip(
                    rows["class"], rows[side], rows[f"{side}_low"], rows[f"{side}_high"], strict=True
                )
            ],
            hovertemplate="%{text}<extra></extra>",
            error_x={
                "type": "data", "symmetric": False, "array": rows[f"{side}_high"] - rows[side],
                "arrayminus": rows[side] - rows[f"{side}_low"], "color": transparent(color, 0.7), "thickness": 2,
                "width": 0,
            },
        )  # fmt: skip
    figure.update_yaxes(
        tickvals=[-place for place in frame.index], range=[0.6 - len(frame), 0.6], zeroline=False,
        ticktext=[f"{label} ({count})" for label, count in zip(frame["class"], frame["queries"], strict=True)],
        automargin=True, ticks="",
    )  # fmt: skip
    figure.update_xaxes(title="LDS of the queries of the class, 95 % interval", ticks="outside", automargin=True)
    figure.update_layout(
        height=92 + ROW * len(frame), margin={"l": 8, "r": 12, "t": 30, "b": 8}, hovermode="closest", dragmode=False,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "itemclick": False},
    )  # fmt: skip
    return figure


def overlap_figure(frame: pd.DataFrame) -> go.Figure:
    """Return the share of top examples that both configurations name, for both signs.

    Args:
        frame: top, helpful, harmful.
    """
    figure = go.Figure()
    for name, color, pattern in (("helpful", BLUE, ""), ("harmful", "#d9711f", "/")):
        figure.add_bar(
            x=[f"top {top}" for top in frame["top"]], y=frame[name], name=name, marker_color=color,
            marker_pattern_shape=pattern, marker_line_width=0, hovertemplate="%{x}: %{y:.0%}",
        )  # fmt: skip
    figure.update_layout(
        barmode="group", height=240, margin={"l": 8, "r": 12, "t": 30, "b": 8}, dragmode=False, hovermode="x unified",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "itemclick": False},
    )  # fmt: skip
    figure.update_yaxes(title="named by both", range=[0, 1], tickformat=".0%", zeroline=False, automargin=True)
    return figure
