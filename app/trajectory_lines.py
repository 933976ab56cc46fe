"""Curves over steps and learning rates: growing errors, losses of recorded runs, SOURCE's filter. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.charts import transparent
from app.method_style import BLUE, DASHES, GRAY, GREEN, TEAL, VIOLET
from app.trajectory_charts import layout, rate_axis, rate_text

LINE_COLORS = (BLUE, GREEN, VIOLET, TEAL, "#8f9a2b", "#cc4058")


def line_style(number: int) -> tuple[str, str]:
    """Return colour and dash of the n-th line."""
    return LINE_COLORS[number % len(LINE_COLORS)], DASHES[number % len(DASHES)]


def add_line(
    figure: go.Figure, frame: pd.DataFrame, name: str, color: str, dash: str, axes: tuple[str, str, str, str],
    value: str = ".3g",
) -> None:  # fmt: skip
    """Add a line with its band.

    Args:
        figure: Where to.
        frame: With the columns of ``axes``, in order.
        name: Legend entry.
        color: ``#rrggbb``.
        dash: Of the line.
        axes: Columns of x, y, and the band's low and high end.
        value: How y is written.
    """
    x, y, low, high = axes
    frame = frame[frame[y].notna()]
    known = frame[frame[low].notna() & frame[high].notna()]
    if len(known) > 1:
        figure.add_scatter(
            x=[*known[x], *known[x][::-1]], y=[*known[high], *known[low][::-1]], fill="toself", mode="lines",
            fillcolor=transparent(color, 0.14), line={"width": 0}, hoverinfo="skip", showlegend=False,
        )  # fmt: skip
    band = f"(%{{customdata[0]:{value}}} to %{{customdata[1]:{value}}})"
    figure.add_scatter(
        x=frame[x], y=frame[y], mode="lines+markers", name=name, line={"color": color, "width": 2.2, "dash": dash},
        marker={"size": 6, "color": color}, customdata=frame[[low, high]].to_numpy(dtype=float).tolist(),
        hovertemplate=f"%{{x}}: %{{y:{value}}} {band}<extra>{name}</extra>",
    )  # fmt: skip


def log_ticks(values: Any) -> dict[str, list]:
    """Return ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, in plain figures."""
    positive = np.asarray(values, dtype=np.float64).ravel()
    positive = positive[positive > 0]
    if not len(positive):
        return {}
    powers = range(math.floor(math.log10(positive.min())) - 1, math.ceil(math.log10(positive.max())) + 1)
    steps = (1, 2, 5) if math.log10(positive.max() / positive.min()) < 2.5 else (1,)
    ticks = [float(f"{step}e{power}") for power in powers for step in steps]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def growth_figure(rows: pd.DataFrame, height: int = 300) -> go.Figure:
    """Return the relative error of the prediction over the steps, a line for each learning rate.

    Args:
        rows: learning_rate, step, relative_error, error_low, error_high; one row for each rate and step.
        height: Pixels.
    """
    figure = go.Figure()
    rates = sorted(set(rows["learning_rate"]), reverse=True)
    for number, rate in enumerate(rates):
        mine = rows[rows["learning_rate"] == rate].sort_values("step")
        axes = ("step", "relative_error", "error_low", "error_high")
        add_line(figure, mine, f"η = {rate_text(rate)}", *line_style(number), axes, ".1%")
    figure.update_xaxes(title="steps trained")
    figure.update_yaxes(title="mean |error| / mean |true effect|", tickformat=".2~%", rangemode="tozero")
    return layout(figure, height, len(rates))


def final_error_figure(rows: pd.DataFrame, height: int = 300) -> go.Figure:
    """Return the relative error at the end of the run against the learning rate.

    Args:
        rows: learning_rate, relative_error, error_low, error_high; one row for each rate.
        height: Pixels.
    """
    figure = go.Figure()
    mine = rows.sort_values("learning_rate")
    figure.add_scatter(
        x=mine["learning_rate"], y=mine["relative_error"], mode="lines+markers", showlegend=False,
        line={"color": BLUE, "width": 1.6}, marker={"size": 10, "color": BLUE},
        error_y={
            "type": "data", "symmetric": False, "array": mine["error_high"] - mine["relative_error"],
            "arrayminus": mine["relative_error"] - mine["error_low"], "color": transparent(BLUE, 0.7), "width": 4,
        },
        customdata=mine[["error_low", "error_high"]].to_numpy(dtype=float).tolist(),
        hovertemplate="%{y:.1%} (%{customdata[0]:.1%} to %{customdata[1]:.1%})<extra></extra>",
    )  # fmt: skip
    rate_axis(figure, sorted(set(mine["learning_rate"])))
    figure.update_yaxes(title="mean |error| / mean |true effect|", tickformat=".2~%", rangemode="tozero")
    return layout(figure, height)


def correlation_figure(rows: pd.DataFrame, names: Mapping[str, str], height: int = 300) -> go.Figure:
    """Return how well each estimate follows the real error over the steps.

    Args:
        rows: estimator, step, spearman, spearman_low, spearman_high of one learning rate.
        names: Estimator → legend entry.
        height: Pixels.
    """
    figure = go.Figure()
    present = [name for name in names if (rows["estimator"] == name).any()]
    for name in present:
        mine = rows[rows["estimator"] == name].sort_values("step")
        color, dash = (GREEN, "solid") if name == "proxy" else (GRAY, "dash")
        add_line(figure, mine, names[name], color, dash, ("step", "spearman", "spearman_low", "spearman_high"), ".2f")
    figure.update_xaxes(title="steps trained")
    figure.update_yaxes(title="Spearman with the real error", range=[min(0.0, _lowest(rows)), 1.04])
    return layout(figure, height, len(present))


def _lowest(rows: pd.DataFrame) -> float:
    values = rows[["spearman", "spearman_low"]].to_numpy(dtype=float)
    return float(np.nanmin(values)) - 0.05 if np.isfinite(values).any() else 0.0


def runs_figure(frame: pd.DataFrame, height: int = 280) -> go.Figure:
    """Return the loss of the recorded runs over the steps; bands from the lowest to the highest seed.

    Args:
        frame: learning_rate, step, mean, low, high.
        height: Pixels.
    """
    figure = go.Figure()
    rates = sorted(set(frame["learning_rate"]), reverse=True)
    for number, rate in enumerate(rates):
        mine = frame[frame["learning_rate"] == rate]
        add_line(figure, mine, f"η = {rate_text(rate)}", *line_style(number), ("step", "mean", "low", "high"))
    figure.update_xaxes(title="steps trained")
    figure.update_yaxes(title="mean loss of the queries")
    return layout(figure, height, len(rates))


def schedule_figure(rates: Mapping[float, Sequence[float]], height: int = 280) -> go.Figure:
    """Return the learning rate of every step, a line for each run, relative to its η.

    Args:
        rates: η of the run → learning rate of every step.
        height: Pixels.
    """
    figure = go.Figure()
    for number, (rate, values) in enumerate(rates.items()):
        color, dash = line_style(number)
        figure.add_scatter(
            x=list(range(1, len(values) + 1)), y=list(values), mode="lines", name=f"η = {rate_text(rate)}",
            line={"color": color, "width": 2.2, "dash": dash},
            hovertemplate="step %{x}: %{y:.3g}<extra>η = " + rate_text(rate) + "</extra>",
        )  # fmt: skip
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="learning rate of the step", type="log", exponentformat="power", dtick=1)
    return layout(figure, height, len(rates))


def filter_figure(products: np.ndarray, source: np.ndarray, damped: np.ndarray, height: int = 300) -> go.Figure:
    """Return SOURCE's filter beside the damped inverse, both relative to their value at σ = 0.

    Args:
        products: Eigenvalue times length of the run, cσ.
        source: F(σ)/c.
        damped: 1/(σ + 1/c), relative to c.
        height: Pixels.
    """
    figure = go.Figure()
    for name, values, color, dash in (
        ("SOURCE: (1 − e^(−cσ))/σ", source, GREEN, "solid"),
        ("damped inverse: 1/(σ + λ) with λ = 1/c", damped, BLUE, "dash"),
        ("plain inverse: 1/σ", np.minimum(1 / products, 2.0), GRAY, "dot"),
    ):  # fmt: skip
        figure.add_scatter(
            x=products, y=values, mode="lines", name=name, line={"color": color, "width": 2.2, "dash": dash},
            hovertemplate="cσ = %{x:.2g}: %{y:.3f}<extra>" + name + "</extra>",
        )  # fmt: skip
    figure.update_xaxes(type="log", title="cσ: eigenvalue × sum of the learning rates", exponentformat="power", dtick=1)
    figure.update_yaxes(title="weight, relative to c", range=[0, 1.3])
    return layout(figure, height, 3)
