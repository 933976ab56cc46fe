"""From data frames to figures: curves of λ, and the spectrum with its filter. Pure functions.

λ is drawn on a logarithmic axis; λ = 0 stands one and a half decades left of the smallest positive value, as a point
of its own that no line joins, with the tick "0".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.formats import regularization_text
from app.method_style import BLUE, GRAY, ORANGE, VIOLET

ZERO_GAP = 1.5  # decades between the point for λ = 0 and the smallest positive λ
LDS_HELP = (
    "LDS is the rank correlation between what the attribution predicts for a model retrained on a random subset of the "
    "training data and what that model does. The band is a 95 % bootstrap interval over subsets; higher is better."
)
XI_HELP = (
    "ξ̄ needs no retraining: near 0 the ranking is ruled by tiny eigenvalues, near 1 the curvature no longer counts. "
    "λ* stands where it crosses the threshold."
)


def transparent(color: str, opacity: float) -> str:
    """Return a ``#rrggbb`` colour with an opacity."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def zero_position(regularizations: Sequence[float] | pd.Series) -> float:
    """Return where on the logarithmic axis λ = 0 is drawn."""
    positive = [value for value in regularizations if value > 0]
    return min(positive) / 10**ZERO_GAP if positive else 1e-9


def on_grid(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a curve that lie within the study's grid of λ, ascending.

    The row of λ* may lie decades below it; it gets a line of its own and must not stretch the axis.
    """
    frame = frame.sort_values("regularization")
    if "is_selected" not in frame or frame["is_selected"].all():
        return frame
    grid = frame.loc[~frame["is_selected"].astype(bool), "regularization"]
    positive = grid[grid > 0]
    within = frame["regularization"].between(positive.min(), positive.max()) | (frame["regularization"] == 0)
    return frame[within]


LAMBDA_TITLE = "λ (units of the mean Gram)"
RELATIVE_TITLE = "λ relative to each layer's mean curvature"
BOTH_TITLE = "λ (absolute or relative, by damping)"


def lambda_title(dampings: Iterable[str | None]) -> str:
    """Return what λ is for configurations with these dampings (``None``: absolute)."""
    known = {damping == "relative" for damping in dampings}
    return BOTH_TITLE if len(known) > 1 else RELATIVE_TITLE if known == {True} else LAMBDA_TITLE


def _regularization_axis(figure: go.Figure, regularizations: pd.Series, zero: float, title: str = LAMBDA_TITLE) -> None:
    positive = regularizations[regularizations > 0]
    powers = range(math.ceil(math.log10(positive.min()) - 1e-9), math.floor(math.log10(positive.max()) + 1e-9) + 1)
    powers = powers[:: 1 if len(powers) < 7 else 2]
    ticks, names = [10.0**power for power in powers], [f"10<sup>{power}</sup>".replace("-", "−") for power in powers]
    if (regularizations == 0).any():
        ticks, names = [zero, *ticks], ["0", *names]
    figure.update_xaxes(
        type="log", title=title, tickvals=ticks, ticktext=names,
        range=[math.log10(min(zero, positive.min())) - 0.2, math.log10(positive.max()) + 0.1],
    )  # fmt: skip


def _finish(figure: go.Figure, height: int, legend: bool = True) -> go.Figure:
    figure.update_layout(
        height=height, margin={"l": 8, "r": 12, "t": 34, "b": 8}, hovermode="x unified" if legend else "closest",
        showlegend=legend, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "title": None},
    )  # fmt: skip
    figure.update_xaxes(showgrid=False, ticks="outside", automargin=True)
    figure.update_yaxes(zeroline=False, automargin=True)
    return figure


def _band(figure: go.Figure, frame: pd.DataFrame, low: str, high: str, color: str, name: str) -> None:
    lines = frame[frame["regularization"] > 0]
    figure.add_scatter(
        x=[*lines["regularization"], *lines["regularization"][::-1]], y=[*lines[high], *lines[low][::-1]],
        fill="toself", fillcolor=transparent(color, 0.16), line={"width": 0}, hoverinfo="skip", showlegend=False,
        name=name, mode="lines",
    )  # fmt: skip


def _curve(
    figure: go.Figure, frame: pd.DataFrame, low: str, high: str, color: str, name: str, zero: float, dash: str = "solid"
) -> None:
    lines, point = frame[frame["regularization"] > 0], frame[frame["regularization"] == 0]
    _band(figure, frame, low, high, color, f"{name}, band")
    template = "%{y:.3f} (%{customdata[0]:.3f} to %{customdata[1]:.3f})"
    figure.add_scatter(
        x=lines["regularization"], y=lines["mean"], name=name, mode="lines",
        line={"color": color, "width": 2.2, "dash": dash},
        customdata=lines[[low, high]].to_numpy().tolist(), hovertemplate=template,
    )  # fmt: skip
    if len(point):
        first = point.iloc[0]
        figure.add_scatter(
            x=[zero], y=[first["mean"]], name=f"{name}, λ = 0", mode="markers", showlegend=False,
            marker={"color": color, "size": 7}, customdata=[[first[low], first[high]]], hovertemplate=template,
            error_y={
                "type": "data", "symmetric": False, "array": [first[high] - first["mean"]],
                "arrayminus": [first["mean"] - first[low]], "color": transparent(color, 0.5), "width": 3,
            },
        )  # fmt: skip


def add_marker(
    figure: go.Figure, value: float | None, text: str, color: str, dash: str, zero: float, anchor: str = "center"
) -> None:
    """Add a vertical line at a λ; its label stands above the plot. Below the axis it stands at its low end."""
    if value is None or math.isnan(value):
        return
    lowest = zero * 10 ** (ZERO_GAP / 2)
    at = zero if value <= 0 else max(value, lowest)
    text = f"← {text} = {regularization_text(value)}" if text and 0 < value < lowest else text
    figure.add_shape(
        type="line", x0=at, x1=at, y0=0, y1=1, yref="paper", line={"color": color, "width": 1.3, "dash": dash}
    )
    if text:
        figure.add_annotation(
            x=math.log10(at), y=1, yref="paper", text=text, showarrow=False, xanchor=anchor, yanchor="bottom",
            font={"color": color, "size": 12},
        )  # fmt: skip


def _quantile_lines(figure: go.Figure, quantiles: Mapping[str, Mapping[str, float]], highest: float) -> None:
    for key, entry in quantiles.items():
        value = entry.get("lambda")
        if value and value <= highest:
            figure.add_vline(x=value, line={"color": transparent(GRAY, 0.55), "width": 1})
            figure.add_annotation(
                x=math.log10(value), y=0.98, yref="paper", text=f"{float(key):.0%}".replace("%", " %"), showarrow=False,
                textangle=-90, yanchor="top", xanchor="right", font={"size": 10, "color": GRAY},
            )  # fmt: skip


def lds_figure(
    frame: pd.DataFrame,
    *,
    name: str,
    color: str = BLUE,
    current: float | None = None,
    selected: float | None = None,
    best: float | None = None,
    quantiles: Mapping[str, Mapping[str, float]] | None = None,
    span: tuple[float, float] | None = None,
    title: str = LAMBDA_TITLE,
    height: int = 300,
) -> go.Figure:
    """Return LDS(λ) with its 95 % band.

    Args:
        frame: regularization, mean, ci_low, ci_high.
        name: Legend entry.
        color: ``#rrggbb``.
        current: λ being looked at.
        selected: λ*.
        best: λ with the highest LDS.
        quantiles: quantile → {"lambda": …}: spectrum baselines, grey lines.
        span: Range of the LDS axis; the same for figures that stand side by side.
        title: What λ is.
        height: Pixels.
    """
    frame = on_grid(frame)
    zero = zero_position(frame["regularization"])
    figure = go.Figure()
    _quantile_lines(figure, quantiles or {}, float(frame["regularization"].max()) * 1.2)
    _curve(figure, frame, "ci_low", "ci_high", color, name, zero)
    # The two labels turn away from each other, for the lines are often close.
    left = selected is not None and best is not None and best < selected
    add_marker(figure, best, "best", GRAY, "dot", zero, "right" if left else "left")
    add_marker(figure, selected, "λ*", color, "solid", zero, "left" if left else "right")
    add_marker(figure, current, "", GRAY, "dash", zero)
    _regularization_axis(figure, frame["regularization"], zero, title)
    figure.update_yaxes(title="LDS (mean over queries)", range=span)
    return _finish(figure, height, legend=False)


def comparison_figure(
    curves: Sequence[tuple[str, str, str, pd.DataFrame]],
    title: str = LAMBDA_TITLE,
    height: int = 260,
    y_title: str = "LDS (mean over queries)",
) -> go.Figure:
    """Return several LDS(λ) curves with their bands in one figure.

    Args:
        curves: (legend entry, colour ``#rrggbb``, dash, frame with regularization, mean, ci_low, ci_high).
        title: What λ is.
        height: Pixels.
        y_title: What the curves are.
    """
    curves = [(name, color, dash, on_grid(frame)) for name, color, dash, frame in curves]
    every = pd.concat([frame["regularization"] for *_, frame in curves])
    zero = zero_position(every)
    figure = go.Figure()
    for name, color, dash, frame in curves:
        _curve(figure, frame, "ci_low", "ci_high", color, name, zero, dash)
    _regularization_axis(figure, every, zero, title)
    figure.update_yaxes(title=y_title)
    return _finish(figure, height)


def indicator_figure(
    frame: pd.DataFrame,
    *,
    name: str,
    color: str = VIOLET,
    threshold: float = 0.5,
    current: float | None = None,
    selected: float | None = None,
    title: str = LAMBDA_TITLE,
    height: int = 300,
) -> go.Figure:
    """Return ξ̄(λ) with the spread q05 to q95 over validation points and the threshold.

    Args:
        frame: regularization, mean, q05, q25, q75, q95.
        name: Legend entry.
        color: ``#rrggbb``.
        threshold: Drawn as a level.
        current: λ being looked at.
        selected: λ where ξ̄ crosses the threshold.
        title: What λ is.
        height: Pixels.
    """
    frame = on_grid(frame)
    zero = zero_position(frame["regularization"])
    figure = go.Figure()
    _band(figure, frame, "q25", "q75", color, "middle half")
    _curve(figure, frame, "q05", "q95", color, name, zero)
    figure.add_hline(y=threshold, line={"color": GRAY, "width": 1, "dash": "dot"})
    add_marker(figure, selected, "λ*", color, "solid", zero)
    add_marker(figure, current, "", GRAY, "dash", zero)
    _regularization_axis(figure, frame["regularization"], zero, title)
    figure.update_yaxes(title="ξ̄ (mean over validation points)", range=[-0.02, 1.05])
    return _finish(figure, height, legend=False)


def spectrum_table(eigenvalues: np.ndarray, num_bins: int = 60) -> pd.DataFrame:
    """Return the histogram of log10 of the positive eigenvalues: low, high, count."""
    positive = eigenvalues[eigenvalues > 0]
    largest = float(positive.max()) if len(positive) else 1.0
    shown = positive[positive > largest * 1e-14]  # below that, rounding of the eigendecomposition
    edges = np.histogram_bin_edges(np.log10(shown) if len(shown) else np.zeros(1), num_bins)
    counts, _ = np.histogram(np.log10(shown), edges)
    return pd.DataFrame({"low": 10 ** edges[:-1], "high": 10 ** edges[1:], "count": counts})


def spectrum_figure(
    eigenvalues: np.ndarray, regularization: float, shape: pd.DataFrame, *, color: str = BLUE,
    height: int = 300,
) -> go.Figure:  # fmt: skip
    """Return the histogram of eigenvalues with the method's filter over it.

    Args:
        eigenvalues: ``[R]``, of the mean curvature.
        regularization: λ of the filter.
        shape: The filter relative to its largest value: sigma, relative; may be empty.
        color: ``#rrggbb``.
        height: Pixels.
    """
    table = spectrum_table(eigenvalues)
    centers = np.sqrt(table["low"] * table["high"])
    figure = go.Figure()
    figure.add_bar(
        x=centers, y=table["count"], width=table["high"] - table["low"], name="eigenvalues σ", marker_line_width=0,
        marker_color=transparent(color, 0.55), hovertemplate="σ ≈ %{x:.2e}: %{y} eigenvalues<extra></extra>",
    )  # fmt: skip
    figure.add_scatter(
        x=shape["sigma"], y=shape["relative"], yaxis="y2", mode="lines", name="filter",
        line={"color": ORANGE, "width": 2.2}, hovertemplate="σ = %{x:.2e}: %{y:.2f}<extra></extra>",
    )  # fmt: skip
    if regularization > 0:
        label = f"λ = {regularization_text(regularization)}"
        add_marker(figure, max(regularization, float(table["low"].min())), label, ORANGE, "dash", 0.0)
    figure.update_layout(
        yaxis2={
            "overlaying": "y", "side": "right", "range": [0, 1.05], "showgrid": False, "title": "filter, relative",
            "zeroline": False, "tickmode": "array", "tickvals": [0, 0.5, 1],
        },
        bargap=0,
    )  # fmt: skip
    figure.update_xaxes(type="log", title="eigenvalue σ of the mean curvature", exponentformat="power", dtick=2)
    figure.update_yaxes(title="number of eigenvalues", selector={"overlaying": None})
    return _finish(figure, height)
