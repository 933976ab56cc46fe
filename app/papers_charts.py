"""Figures beside the claims of papers: curves with the λ compared, points, rules, and what a verdict rests on.

Pure functions. Names stand above their rows, not beside them: they are long, and telephones are narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.charts import LAMBDA_TITLE, ZERO_GAP, comparison_figure, on_grid, transparent, zero_position
from app.formats import lds_text, regularization_text, signed
from app.method_style import BLUE, DASHES, GRAY, GREEN, TEAL, VIOLET

PALETTE = (BLUE, GREEN, VIOLET, TEAL, "#8f9a2b", "#cc4058", GRAY)
RULE_MARKS = {
    "λ*": ("circle", BLUE, 13), "best λ": ("diamond-open", GRAY, 13), "λ = 0": ("x-thin-open", "#cc4058", 11),
}  # fmt: skip
ROW = 48  # pixels of a row with its name above it
RULE_NAMES = {"selected": "λ*", "best": "best λ", "zero": "λ = 0", "default": "papers' default λ"}


def short_labels(labels: Sequence[str]) -> dict[str, str]:
    """Return each configuration's label without the parts that all of them share; whole where nothing is left."""
    parts = {label: label.split(" · ") for label in dict.fromkeys(labels)}
    if len(parts) < 2:
        return {label: label for label in parts}
    shared = set.intersection(*(set(each) for each in parts.values()))
    kept = {label: " · ".join(part for part in each if part not in shared) for label, each in parts.items()}
    return {label: text or label for label, text in kept.items()}


def rule_text(rule: str, regularization: float | None = None) -> str:
    """Return how λ was chosen, for a person: ``best λ = 0.086``."""
    name = RULE_NAMES.get(rule, rule if rule.startswith("quantile") else "λ")
    if name == "λ = 0" or regularization is None or np.isnan(regularization):
        return name if rule else ""
    return f"{name} = {regularization_text(regularization)}"


def style(number: int) -> tuple[str, str]:
    """Return colour and dash of the n-th curve: the left side of a claim is blue and solid."""
    return PALETTE[number % len(PALETTE)], DASHES[number % len(DASHES)]


def claim_curves_figure(
    curves: Sequence[tuple[str, str, pd.DataFrame]], points: pd.DataFrame, title: str = LAMBDA_TITLE,
    marks_range: bool = False,
) -> go.Figure:  # fmt: skip
    """Return LDS(λ) of the configurations that a claim compares, the λ it compares them at marked.

    Args:
        curves: (configuration_id, legend entry, frame with regularization, mean, ci_low, ci_high, is_selected), the
            left side of the claim first.
        points: From :func:`~tda_backend.runs.claim_figures.claim_points`.
        title: What λ is.
        marks_range: Mark highest and lowest LDS over λ > 0 of each curve, instead of the points.
    """
    styled = [(name, *style(number), frame) for number, (_, name, frame) in enumerate(curves)]
    figure = comparison_figure(styled, title, 320)
    shown = {identity: on_grid(frame) for identity, _, frame in curves}
    zero = zero_position(pd.concat(list(shown.values()))["regularization"])
    for number, (identity, name, frame) in enumerate(curves):
        color, _ = style(number)
        if marks_range:
            rows = frame[(frame["regularization"] > 0) & ~frame["is_selected"].astype(bool)].dropna(subset="mean")
            marked = rows.loc[[rows["mean"].idxmax(), rows["mean"].idxmin()]] if len(rows) else rows
            texts = [f"{name}: {word}" for word in ("highest", "lowest")][: len(marked)]
        else:
            marked = points[(points["configuration_id"] == identity) & points["mean"].notna()]
            texts = [
                f"{name}: {rule_text(rule, lam)}"
                for rule, lam in zip(marked["rule"], marked["regularization"], strict=True)
            ]
        figure.add_scatter(
            x=[_on_axis(value, zero) for value in marked["regularization"]], y=marked["mean"], mode="markers",
            showlegend=False, name=f"{name}, compared", text=texts, hovertemplate="%{text}: %{y:.3f}<extra></extra>",
            marker={"color": color, "size": 13, "symbol": "diamond", "line": {"width": 1.6, "color": "white"}},
        )  # fmt: skip
    return figure


def _on_axis(regularization: float, zero: float) -> float:
    """Return where a λ is drawn: λ = 0 at its tick, what is smaller than the grid between that and the grid."""
    return zero if regularization <= 0 else max(regularization, zero * 10 ** (ZERO_GAP / 2))


def points_figure(frame: pd.DataFrame, title: str = "LDS, 95 % interval") -> go.Figure:
    """Return a dot with its interval for each row, the name above it.

    Args:
        frame: name, mean, low, high (missing: no interval), the first row on top.
        title: Of the axis.
    """
    figure = go.Figure()
    for number, row in enumerate(frame.to_dict("records")):
        color, _ = style(number)
        has_interval = not np.isnan(row["low"])
        figure.add_scatter(
            x=[row["mean"]], y=[-number], mode="markers", marker={"color": color, "size": 11}, showlegend=False,
            name=row["name"], text=[lds_text(row["mean"], row["low"], row["high"])],
            hovertemplate="%{text}<extra></extra>",
            error_x={
                "type": "data", "symmetric": False, "array": [row["high"] - row["mean"] if has_interval else 0],
                "arrayminus": [row["mean"] - row["low"] if has_interval else 0], "color": transparent(color, 0.75),
                "thickness": 2.4, "width": 0,
            },
        )  # fmt: skip
        _name_above(figure, f"{row['name']}: {signed(row['mean'], 3)}", -number)
    return _rows(figure, len(frame), title)


def comparisons_figure(frame: pd.DataFrame, bound: float, above: bool, title: str) -> go.Figure:
    """Return every comparison behind a verdict with its interval, against the bound that it must pass.

    Args:
        frame: name, value, low, high.
        bound: What each must pass.
        above: Whether they must lie above it.
        title: Of the axis.
    """
    figure = go.Figure()
    edges = [*frame["value"], *frame["low"].dropna(), *frame["high"].dropna(), bound]
    margin = 0.08 * (max(edges) - min(edges) or 0.1)
    low, high = min(edges) - margin, max(edges) + margin
    figure.add_shape(
        type="rect", x0=bound if above else low, x1=high if above else bound, y0=0, y1=1, yref="paper", layer="below",
        line={"width": 0}, fillcolor=transparent(GREEN, 0.10),
    )  # fmt: skip
    for number, row in enumerate(frame.to_dict("records")):
        figure.add_shape(  # a piece in each row: a whole line would cross the names
            type="line", x0=bound, x1=bound, y0=-number - 0.22, y1=-number + 0.14, line={"color": GREEN, "width": 2}
        )
        known = not np.isnan(row["low"]) and row["low"] != row["high"]
        figure.add_scatter(
            x=[row["value"]], y=[-number], mode="markers", marker={"color": BLUE, "size": 11, "symbol": "square"},
            showlegend=False, text=[lds_text(row["value"], row["low"], row["high"])],
            hovertemplate="%{text}<extra></extra>",
            error_x={
                "type": "data", "symmetric": False, "array": [row["high"] - row["value"] if known else 0],
                "arrayminus": [row["value"] - row["low"] if known else 0], "color": BLUE, "thickness": 2.4, "width": 5,
            },
        )  # fmt: skip
        _name_above(figure, row["name"], -number)
    figure = _rows(figure, len(frame), title)
    figure.update_xaxes(range=[low, high], zeroline=bound != 0)
    return figure


def rules_figure(frame: pd.DataFrame) -> go.Figure:
    """Return the LDS of every rule for λ in every configuration, one row each, the mean over them on top.

    Args:
        frame: label, rule, regularization, mean.
    """
    rules = list(dict.fromkeys(frame["rule"]))
    names = list(dict.fromkeys(frame["label"]))
    table = frame.pivot_table(index="label", columns="rule", values="mean", sort=False)
    figure = go.Figure()
    rows = ["mean", *names] if len(names) > 1 else names
    for rule in sorted(rules, key=lambda each: (each.startswith("quantile"), each == "best λ")):
        if rule not in table:
            continue
        is_quantile = rule.startswith("quantile")
        symbol, color, size = RULE_MARKS.get(rule, ("line-ns-open", GRAY, 15))
        known = frame[frame["rule"] == rule].set_index("label")["regularization"]
        x, y, texts = [], [], []
        for number, name in enumerate(rows):
            # A rule's mean counts only where every configuration has a value: else it is a mean over others.
            value = (table[rule].mean() if table[rule].notna().all() else np.nan) if name == "mean" else table.loc[
                name, rule]  # fmt: skip
            if not np.isnan(value):
                at = "" if name == "mean" or rule == "λ = 0" else f", λ = {regularization_text(known[name])}"
                x, y, texts = [*x, value], [*y, -number], [*texts, f"{rule}{at}: {signed(value, 3)}"]
        figure.add_scatter(
            x=x, y=y, mode="markers", name="quantiles of the spectrum" if is_quantile else rule, text=texts,
            hovertemplate="%{text}<extra></extra>", legendgroup="quantiles" if is_quantile else rule,
            showlegend=not is_quantile or rule == next(each for each in rules if each.startswith("quantile")),
            marker={"symbol": symbol, "color": color, "size": size, "line": {"width": 2, "color": color}},
        )  # fmt: skip
    for number, name in enumerate(rows):
        _name_above(figure, f"<b>mean of {len(names)} configurations</b>" if name == "mean" else name, -number)
    figure = _rows(figure, len(rows), "LDS (mean over queries)", top=44)
    figure.update_layout(
        showlegend=True, legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "title": None}
    )
    return figure


def removal_figure(shares: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Return the share of queries that are still predicted right after removing their most helpful examples.

    Args:
        shares: Curve's name → size, share.
    """
    figure = go.Figure()
    for number, (name, frame) in enumerate(shares.items()):
        color, dash = style(number)
        figure.add_scatter(
            x=frame["size"], y=frame["share"], mode="lines+markers", name=name, line={"color": color, "dash": dash},
            hovertemplate="%{y:.0%} after removing %{x}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        height=300, margin={"l": 8, "r": 12, "t": 34, "b": 8}, dragmode=False,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    figure.update_yaxes(title="queries not flipped", range=[0, 1.03], tickformat=".0%", zeroline=False)
    figure.update_xaxes(title="training examples removed", showgrid=False, ticks="outside")
    return figure


def _name_above(figure: go.Figure, text: str, y: float) -> None:
    text = text.replace("Influence function (", "IF (")
    figure.add_annotation(
        x=0, xref="paper", xanchor="left", y=y, yanchor="bottom", yshift=7, text=text, showarrow=False, align="left",
        font={"size": 12},
    )  # fmt: skip


def _rows(figure: go.Figure, num: int, title: str, top: int = 10) -> go.Figure:
    figure.update_layout(
        height=top + 62 + ROW * num, margin={"l": 8, "r": 12, "t": top, "b": 8}, hovermode="closest", dragmode=False
    )
    figure.update_yaxes(visible=False, range=[0.35 - num, 0.75], fixedrange=True)
    figure.update_xaxes(title=title, showgrid=True, ticks="outside", automargin=True)
    return figure
