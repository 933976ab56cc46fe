"""Figures of training on selected data: tuned strategies, loss by K, curves, cost. Pure functions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.charts import transparent
from app.formats import lds_text, signed
from app.method_style import BLUE, GRAY, GREEN, TEAL, VIOLET
from app.papers_charts import comparisons_figure
from app.trajectory_charts import layout, rate_text
from app.trajectory_lines import add_line, line_style, log_ticks

STRATEGIES = {
    "look-ahead": ("look-ahead", BLUE, "solid", "circle"),
    "look-ahead (sgd)": ("look-ahead (SGD assumed)", VIOLET, "dash", "diamond"),
    "alignment": ("gradient alignment", GREEN, "dot", "square"), "random": ("random", GRAY, "dashdot", "x"),
    "full": ("all data", TEAL, "longdash", "triangle-up"),
}  # fmt: skip
"""Strategy → name, colour, dash, symbol."""
ROW = 48  # pixels of a row with its name above it


def strategy_name(strategy: str) -> str:
    """Return a strategy's name for people."""
    return STRATEGIES[strategy][0] if strategy in STRATEGIES else strategy


def ordered(strategies: list[str]) -> list[str]:
    """Return strategies in the order of the page; unknown ones last."""
    known = list(STRATEGIES)
    return sorted(dict.fromkeys(strategies), key=lambda name: known.index(name) if name in known else len(known))


def horizon_text(horizon: float | None, num_steps: int | None = None) -> str:
    """Return K: ``K = 5``; ``K = 94 (the whole run)``; nothing where the strategy has none."""
    if horizon is None or pd.isna(horizon):
        return ""
    whole = num_steps is not None and int(horizon) >= num_steps
    return f"K = {int(horizon)}{' (the whole run)' if whole else ''}"


def setting_text(row: dict, num_steps: int | None = None) -> str:
    """Return K and learning rate of a tuned strategy."""
    return ", ".join(filter(None, [horizon_text(row["horizon"], num_steps), f"η = {rate_text(row['learning_rate'])}"]))


def tuned_figure(rows: pd.DataFrame, value: str, low: str, high: str, title: str, digits: int = 3) -> go.Figure:
    """Return each tuned strategy as a dot with its interval, a row each, its name and number above it.

    Args:
        rows: strategy, setting (text) and the three columns; in the order from the top.
        value: Column of the dot.
        low: Of the interval's low end.
        high: Of its high end.
        title: Of the axis.
        digits: Of the numbers.
    """
    figure = go.Figure()
    for number, row in enumerate(rows.to_dict("records")):
        name, color, _, symbol = STRATEGIES.get(row["strategy"], (row["strategy"], GRAY, "solid", "circle"))
        known = not (np.isnan(row[low]) or np.isnan(row[high]))
        figure.add_scatter(
            x=[row[value]], y=[-number], mode="markers", showlegend=False, name=name,
            marker={"color": color, "size": 11, "symbol": symbol},
            text=[lds_text(row[value], row[low], row[high])], hovertemplate="%{text}<extra>" + name + "</extra>",
            error_x={
                "type": "data", "symmetric": False, "array": [row[high] - row[value] if known else 0],
                "arrayminus": [row[value] - row[low] if known else 0], "color": transparent(color, 0.75),
                "thickness": 2.4, "width": 5,
            },
        )  # fmt: skip
        text = f"<b>{name}</b>: {signed(row[value], digits)} · {row['setting']}"
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", y=-number, yanchor="bottom", yshift=7, text=text, showarrow=False,
            align="left", font={"size": 12},
        )  # fmt: skip
    figure.update_layout(
        height=72 + ROW * len(rows), margin={"l": 8, "r": 12, "t": 10, "b": 8}, hovermode="closest", dragmode=False
    )
    figure.update_yaxes(visible=False, range=[0.35 - len(rows), 0.75], fixedrange=True)
    figure.update_xaxes(title=title, showgrid=True, ticks="outside", automargin=True)
    return figure


def gains_figure(rows: pd.DataFrame, value: str, low: str, high: str, title: str) -> go.Figure:
    """Return the gains of strategies over others, in pairs of seeds, against 0.

    Args:
        rows: strategy, against and the three columns.
        value: Column of the gain.
        low: Of the interval's low end.
        high: Of its high end.
        title: Of the axis.
    """
    frame = pd.DataFrame({
        "name": [f"{strategy_name(left)} over {strategy_name(right)}: {signed(gain, 4)}" for left, right, gain in
                 zip(rows["strategy"], rows["against"], rows[value], strict=True)],
        "value": rows[value], "low": rows[low], "high": rows[high],
    })  # fmt: skip
    return comparisons_figure(frame, 0.0, True, title)


def horizons_figure(
    runs: pd.DataFrame, chosen: tuple[int, float] | None, num_steps: int, height: int = 330
) -> go.Figure:
    """Return the loss on the tuning set by K, a line for each learning rate; the chosen one has a ring.

    Args:
        runs: horizon, learning_rate, seed_index, loss of one strategy on the tuning split.
        chosen: K and learning rate of the lowest mean.
        num_steps: Of a run: K at which the whole run is looked ahead.
    """
    figure = go.Figure()
    rates = sorted(set(runs["learning_rate"]), reverse=True)
    horizons = sorted({int(value) for value in runs["horizon"]})
    ring: tuple[float, float] | None = None
    shifts = 10 ** (0.018 * (np.arange(len(rates)) - (len(rates) - 1) / 2))
    for number, (rate, shift) in enumerate(zip(rates, shifts, strict=True)):
        color, dash = line_style(number)
        mine = runs[runs["learning_rate"] == rate]
        figure.add_scatter(
            x=mine["horizon"].astype(float) * shift, y=mine["loss"], mode="markers", showlegend=False,
            marker={"color": transparent(color, 0.45), "size": 5},
            customdata=mine[["seed_index"]].astype(int).to_numpy().tolist(),
            hovertemplate="seed %{customdata[0]}: %{y:.4f}<extra>η = " + rate_text(rate) + "</extra>",
        )  # fmt: skip
        means = mine.groupby("horizon")["loss"].mean().sort_index()
        figure.add_scatter(
            x=means.index.to_numpy(dtype=float) * shift, y=means, mode="lines+markers", name=f"η = {rate_text(rate)}",
            line={"color": color, "width": 1.8, "dash": dash}, marker={"color": color, "size": 9},
            hovertemplate="mean over seeds: %{y:.4f}<extra>η = " + rate_text(rate) + "</extra>",
        )  # fmt: skip
        if chosen is not None and np.isclose(chosen[1], rate) and chosen[0] in means.index:
            ring = (chosen[0] * shift, means[chosen[0]])
    if ring is not None:
        figure.add_scatter(
            x=[ring[0]], y=[ring[1]], mode="markers", name="chosen: lowest mean", hoverinfo="skip",
            marker={"symbol": "circle-open", "size": 19, "color": "#cc4058", "line": {"width": 2.6}},
        )  # fmt: skip
    figure.update_xaxes(
        type="log", title="K: steps looked ahead", tickvals=horizons,
        ticktext=["all" if value >= num_steps else str(value) for value in horizons],
        range=[np.log10(min(horizons)) - 0.12, np.log10(max(horizons)) + 0.12],
    )  # fmt: skip
    figure.update_yaxes(title="loss on the tuning set", nticks=7)
    return layout(figure, 330, len(rates) + (ring is not None))


def curves_figure(frame: pd.DataFrame, height: int = 330) -> go.Figure:
    """Return the losses of tuned strategies while they train; bands from the lowest to the highest seed.

    Args:
        frame: strategy, step, mean, low, high.
        height: Pixels.
    """
    figure = go.Figure()
    present = ordered(frame["strategy"].tolist())
    for strategy in present:
        name, color, dash, _ = STRATEGIES.get(strategy, (strategy, GRAY, "solid", "circle"))
        add_line(
            figure, frame[frame["strategy"] == strategy], name, color, dash, ("step", "mean", "low", "high"), ".4f"
        )
    figure.update_xaxes(title="steps trained")
    wide = float(frame["high"].max()) > 4 * float(frame["low"].min()) > 0
    axis = {"type": "log", **log_ticks(frame[["low", "high"]].to_numpy())} if wide else {"nticks": 7}
    figure.update_yaxes(title="test loss", **axis)
    return layout(figure, height, len(present))


def cost_figure(rows: pd.DataFrame, height: int = 300) -> go.Figure:
    """Return the test loss of tuned strategies against their cost.

    Args:
        rows: strategy, cost (relative to training on all data), test_loss, loss_low, loss_high.
        height: Pixels.
    """
    figure = go.Figure()
    for row in rows.to_dict("records"):
        name, color, _, symbol = STRATEGIES.get(row["strategy"], (row["strategy"], GRAY, "solid", "circle"))
        text = f"{row['cost']:.2g} × the work; loss {lds_text(row['test_loss'], row['loss_low'], row['loss_high'])}"
        figure.add_scatter(
            x=[row["cost"]], y=[row["test_loss"]], mode="markers", name=name, text=[text],
            marker={"color": color, "size": 12, "symbol": symbol}, hovertemplate="%{text}<extra>" + name + "</extra>",
            error_y={
                "type": "data", "symmetric": False, "array": [row["loss_high"] - row["test_loss"]],
                "arrayminus": [row["test_loss"] - row["loss_low"]], "color": transparent(color, 0.7), "width": 4,
            },
        )  # fmt: skip
    costs = rows["cost"]
    figure.add_vline(x=1.0, line={"color": GRAY, "width": 1, "dash": "dot"})
    figure.update_xaxes(
        type="log", title="work, 1: training on all data", **log_ticks(costs),
        range=[np.log10(costs.min()) - 0.15, np.log10(costs.max()) + 0.15],
    )  # fmt: skip
    figure.update_yaxes(title="test loss", nticks=6)
    return layout(figure, height, len(rows))
