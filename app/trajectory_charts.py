"""Figures of unrolled training runs: agreement, predicted against true, effects over the steps, errors. Pure functions.

Blue helps and orange harms, as everywhere; the optimizer assumed is told by colour and, once more, by the symbol.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from app.charts import transparent
from app.formats import lds_text
from app.health_charts import SCALE
from app.method_style import BLUE, GRAY, GREEN, ORANGE, VIOLET

MATCHED, MISMATCHED = BLUE, VIOLET
CURVATURES = {
    "hessian": ("exact Hessian", "circle", "solid"), "gauss-newton": ("Gauss–Newton", "diamond", "dash"),
    "fisher": ("Fisher", "square", "dot"), "none": ("no curvature", "x", "dashdot"),
}  # fmt: skip
"""Curvature of a batch → name, symbol, dash."""
ZERO = {"color": GRAY, "width": 1, "dash": "dot"}
IDENTITY = {"color": GRAY, "width": 1.3, "dash": "dash"}
_KEEP = {"marker": {"opacity": 1}}


def rate_text(rate: float) -> str:
    """Return a learning rate: ``0.001``, ``1e-5``."""
    mantissa, power = f"{rate:.3e}".split("e")
    return f"{rate:g}" if int(power) >= -3 else f"{float(mantissa):g}e{int(power)}".replace("e-", "e−")


def effect_text(value: float) -> str:
    """Return an effect on a loss with three digits and a true minus sign."""
    return f"{value:.3g}".replace("-", "−")


def layout(figure: go.Figure, height: int, num_entries: int = 0) -> go.Figure:
    """Give a figure the page's look; a legend of ``num_entries`` stands below, one line each, for phones are narrow."""
    figure.update_layout(
        height=height + 20 * num_entries, margin={"l": 8, "r": 12, "t": 12, "b": 8}, hovermode="closest",
        dragmode=False, showlegend=num_entries > 0,
        legend={"orientation": "v", "y": -70 / max(height - 70, 1), "yanchor": "top", "x": 0, "title": None},
    )  # fmt: skip
    figure.update_xaxes(showgrid=False, ticks="outside", automargin=True, zeroline=False)
    figure.update_yaxes(zeroline=False, automargin=True)
    return figure


def rate_axis(figure: go.Figure, rates: Sequence[float], title: str = "learning rate η") -> None:
    """Make x a logarithmic axis with a tick at each learning rate."""
    figure.update_xaxes(
        type="log", title=title, tickvals=list(rates), ticktext=[rate_text(rate) for rate in rates],
        range=[math.log10(min(rates)) - 0.35, math.log10(max(rates)) + 0.35], minor={"ticks": ""},
    )  # fmt: skip


def agreement_figure(rows: pd.DataFrame, optimizer: str, height: int = 360) -> go.Figure:
    """Return the agreement with the truth against learning rate, a line for each assumption.

    Args:
        rows: learning_rate, seed_index (NA: mean), assumed, curvature, mean, ci_low, ci_high.
        optimizer: As trained, in a word.
        height: Pixels.
    """
    figure = go.Figure()
    rates = sorted(set(rows["learning_rate"]))
    kinds = rows[["assumed", "curvature"]].drop_duplicates()
    order = [(a, c) for a in ("as trained", "sgd") for c in CURVATURES if ((kinds == [a, c]).all(axis=1)).any()]
    shifts = 10 ** (0.05 * (np.arange(len(order)) - (len(order) - 1) / 2))
    for (assumed, curvature), shift in zip(order, shifts, strict=True):
        mine = rows[(rows["assumed"] == assumed) & (rows["curvature"] == curvature)].sort_values("learning_rate")
        color = MATCHED if assumed == "as trained" else MISMATCHED
        words, symbol, dash = CURVATURES[curvature]
        name = f"{optimizer} assumed, {words}" if assumed == "as trained" else f"SGD assumed, {words}"
        seeds = mine[mine["seed_index"].notna()]
        figure.add_scatter(
            x=seeds["learning_rate"] * shift, y=seeds["mean"], mode="markers", showlegend=False, name=name,
            marker={"color": transparent(color, 0.45), "size": 5, "symbol": symbol},
            customdata=seeds[["seed_index", "ci_low", "ci_high"]].to_numpy(dtype=float).tolist(),
            hovertemplate="seed %{customdata[0]:d}: %{y:.3f} (%{customdata[1]:.3f} to %{customdata[2]:.3f})"
            f"<extra>{name}</extra>",
        )  # fmt: skip
        means = mine[mine["seed_index"].isna()]
        figure.add_scatter(
            x=means["learning_rate"] * shift, y=means["mean"], mode="lines+markers", name=name,
            line={"color": color, "width": 1.6, "dash": dash}, marker={"color": color, "size": 10, "symbol": symbol},
            error_y={
                "type": "data", "symmetric": False, "array": means["ci_high"] - means["mean"],
                "arrayminus": means["mean"] - means["ci_low"], "color": transparent(color, 0.7), "width": 4,
            },
            text=[f"η = {rate_text(row['learning_rate'])}: {lds_text(row['mean'], row['ci_low'], row['ci_high'])}"
                  for row in means.to_dict("records")],
            hovertemplate="%{text}<extra>" + name + "</extra>",
        )  # fmt: skip
    rate_axis(figure, rates)
    top = max(1.0, float(rows["ci_high"].max())) + 0.03
    figure.update_yaxes(title="rank correlation with the truth", range=[min(0.0, float(rows["ci_low"].min())), top])
    return layout(figure, height, len(order))


def effects_figure(points: pd.DataFrame, column: str, selected: int | None, identity: bool, title: str) -> go.Figure:
    """Return true against predicted effects, a dot for each removed example.

    Args:
        points: position, label, true and ``column``.
        column: What was predicted.
        selected: Position of the example with a ring.
        identity: Whether both axes have the same scale: draw the line of equality.
        title: Of the horizontal axis.
    """
    figure = go.Figure()
    if identity:
        values = points[["true", column]].to_numpy()
        ends = [float(np.nanmin(values)), float(np.nanmax(values))]
        figure.add_scatter(x=ends, y=ends, mode="lines", line=IDENTITY, hoverinfo="skip", showlegend=False)
    figure.add_hline(y=0, line=ZERO)
    figure.add_vline(x=0, line=ZERO)
    chosen = points["position"] == selected
    figure.add_scatter(
        x=points[column], y=points["true"], mode="markers", showlegend=False, name="removed example",
        customdata=[[int(position)] for position in points["position"]], selected=_KEEP, unselected=_KEEP,
        text=[f"training example {position}, label {label}" for position, label in
              zip(points["position"], points["label"], strict=True)],
        hovertemplate="%{text}<br>predicted %{x:.3g}<br>true %{y:.3g}<extra></extra>",
        marker={
            "size": [14 if flag else 8 for flag in chosen], "symbol": "circle",
            "color": [transparent(BLUE if value >= 0 else ORANGE, 0.8) for value in points["true"]],
            "line": {"width": [2.6 if flag else 0 for flag in chosen], "color": "#cc4058"},
        },
    )  # fmt: skip
    figure.update_xaxes(title=title, exponentformat="power", nticks=6)
    figure.update_yaxes(title="true change of the loss", exponentformat="power", nticks=7)
    return layout(figure, 340)


def path_figure(
    steps: np.ndarray, truth: np.ndarray, predicted: np.ndarray, proxy: np.ndarray, seen: Sequence[int]
) -> go.Figure:
    """Return one example's effect over the steps: heat lines above, lines below, its batches marked.

    Args:
        steps: Steps trained, ``[s]``.
        truth: ``[s]``.
        predicted: ``[s]``.
        proxy: ``[s]``; NaN where there is none.
        seen: Steps whose batch holds the example.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.2, 0.8], vertical_spacing=0.05)
    figure.add_trace(heat(np.stack([predicted, truth]), steps, ["predicted", "true"]), row=1, col=1)
    corrected = predicted + proxy
    lines = [("true: retrained without it", truth, GRAY, "solid", 3.2), ("predicted", predicted, MATCHED, "solid", 2)]
    lines += [("predicted + error proxy", corrected, GREEN, "dash", 2)] if np.isfinite(corrected).any() else []
    for name, values, color, dash, width in lines:
        figure.add_scatter(
            x=steps, y=values, mode="lines+markers", name=name, line={"color": color, "dash": dash, "width": width},
            marker={"size": 5}, hovertemplate="after %{x} steps: %{y:.3g}<extra>" + name + "</extra>", row=2, col=1,
        )  # fmt: skip
    figure.add_hline(y=0, line=ZERO, row=2, col=1)
    figure.add_scatter(
        x=list(seen), y=[0.0] * len(seen), mode="markers", name="a step whose batch holds it",
        marker={"symbol": "triangle-up", "size": 12, "color": "#cc4058"},
        hovertemplate="its batch: step %{x}<extra></extra>", row=2, col=1,
    )  # fmt: skip
    figure = layout(figure, 360, len(lines) + 1)
    first = min([int(steps[0]), *seen])
    margin = max(1.0, 0.5 * (steps[-1] - first) / max(1, len(steps)))
    figure.update_xaxes(range=[first - margin, steps[-1] + margin])
    figure.update_xaxes(title="steps trained", row=2, col=1)
    figure.update_xaxes(ticks="", row=1, col=1)
    figure.update_yaxes(showgrid=False, ticks="", row=1, col=1)
    figure.update_yaxes(title="change of the loss", exponentformat="power", nticks=6, row=2, col=1)
    return figure


def heat(values: np.ndarray, steps: np.ndarray, names: Sequence[str]) -> go.Heatmap:
    """Return effects ``[rows, s]`` as colours by sign; colour goes with the root, so that small ones show."""
    shown = np.sign(values) * np.sqrt(np.abs(values))
    limit = float(np.nanmax(np.abs(shown), initial=0.0)) or 1.0
    return go.Heatmap(
        z=shown, x=list(steps), y=list(names), zmin=-limit, zmax=limit, colorscale=SCALE, showscale=False, ygap=1,
        customdata=values, hovertemplate="%{y} after %{x} steps: %{customdata:.3g}<extra></extra>",
    )  # fmt: skip


def paths_figure(
    values: np.ndarray, steps: np.ndarray, positions: Sequence[int], names: Sequence[str], selected: int | None
) -> go.Figure:
    """Return the effects of several examples over the steps, a row each; squares over the cells take the clicks.

    Args:
        values: ``[rows, s]``.
        steps: ``[s]``.
        positions: Training position of each row.
        names: Of the rows.
        selected: Position of the row with a frame.
    """
    places = list(range(len(positions)))
    trace = heat(values, np.arange(len(steps)), places)
    trace.update(
        text=[[f"{name} after {step} steps: {effect_text(value)}" for step, value in zip(steps, row, strict=True)]
              for name, row in zip(names, values, strict=True)],
        hovertemplate="%{text}<extra></extra>", xgap=1, hoverinfo="skip",
    )  # fmt: skip
    figure = go.Figure(trace)
    grid = [(column, row) for row in places for column in range(len(steps))]
    figure.add_scatter(
        x=[column for column, _ in grid], y=[row for _, row in grid], mode="markers", showlegend=False,
        marker={"symbol": "square", "size": 16, "color": "rgba(0,0,0,0)", "line": {"width": 0}},
        customdata=[[int(positions[row])] for _, row in grid],
        text=[text for row in trace.text for text in row], hovertemplate="%{text}<extra></extra>",
        selected={"marker": {"opacity": 0}}, unselected={"marker": {"opacity": 0}},
    )  # fmt: skip
    if selected in positions:
        row = list(positions).index(int(selected))  # type: ignore[arg-type]
        figure.add_shape(
            type="rect", x0=-0.5, x1=len(steps) - 0.5, y0=row - 0.5, y1=row + 0.5,
            line={"color": "#cc4058", "width": 2.4},
        )  # fmt: skip
    figure = layout(figure, 70 + 19 * len(positions))
    shown = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 6)).round().astype(int))
    figure.update_xaxes(
        title="steps trained", tickvals=list(shown), ticktext=[str(steps[place]) for place in shown],
        range=[-0.5, len(steps) - 0.5],
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=places, ticktext=list(names), range=[len(places) - 0.5, -0.5], showgrid=False, tickfont={"size": 11}
    )
    return figure


def proxy_figure(points: pd.DataFrame, column: str, title: str) -> go.Figure:
    """Return the real error of every prediction against an estimate of it, with the line of equality.

    Args:
        points: position, label, error (true − predicted), sound and ``column``. The axes are those of the sound ones:
            an estimate that is not may lie orders of magnitude outside; it stands at the edge, hollow.
        column: The estimate.
        title: Of the horizontal axis.
    """
    figure = go.Figure()
    sound = points["sound"].to_numpy(dtype=bool)
    inside = points[sound] if sound.any() else points
    values = np.concatenate([inside[column].to_numpy(), points["error"].to_numpy()])
    ends = [float(np.nanmin(values)), float(np.nanmax(values))]
    figure.add_scatter(x=ends, y=ends, mode="lines", line=IDENTITY, hoverinfo="skip", showlegend=False)
    figure.add_hline(y=0, line=ZERO)
    figure.add_vline(x=0, line=ZERO)
    figure.add_scatter(
        x=points[column].clip(*ends), y=points["error"], mode="markers", showlegend=False,
        marker={
            "color": transparent(GREEN, 0.8), "size": 8,
            "symbol": ["circle" if flag else "circle-open" for flag in sound],
        },
        customdata=points[["position", "label", column]].to_numpy().tolist(),
        hovertemplate="training example %{customdata[0]}, label %{customdata[1]}<br>estimated %{customdata[2]:.3g}<br>"
        "real %{y:.3g}<extra></extra>",
    )  # fmt: skip
    figure.update_xaxes(title=title, exponentformat="power", nticks=6)
    figure.update_yaxes(title="real error: true − predicted", exponentformat="power", nticks=7)
    return layout(figure, 330)
