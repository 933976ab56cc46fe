"""LDS over two settings at a time, as heatmaps whose cells can be clicked. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app.formats import MISSING, lds_text, projection_text, regularization_text
from app.state import k_text

AXES = {
    "lam": ("regularization", "λ (units of the mean Gram)"),
    "k": ("k", "projection dimension k"),
    "epoch": ("training_epoch", "training epoch of the features"),
}
PAIRS = {"λ × k": ("lam", "k"), "λ × epoch": ("lam", "epoch"), "k × epoch": ("k", "epoch")}


@dataclass(frozen=True)
class Grid:
    """LDS over two settings.

    Attributes:
        cells: One row per cell: x, y (axis values), mean, ci_low, ci_high, and the full setting behind the cell:
            configuration_id, regularization, training_epoch, k.
        x: Axis along, a key of :data:`AXES`.
        y: Axis up.
        x_values: In the order of the axis.
        y_values: Likewise.
    """

    cells: pd.DataFrame
    x: str
    y: str
    x_values: list
    y_values: list


def other_axis(x: str, y: str) -> str:
    """Return the third setting."""
    return next(name for name in AXES if name not in (x, y))


def grid_of(table: pd.DataFrame, x: str, y: str, fixed: object = None) -> Grid:
    """Return LDS over ``x`` and ``y``; the third setting is fixed, or the best of it is taken in each cell.

    Args:
        table: Rows of one method: configuration_id, training_epoch, projection_dim, regularization, mean, ci_low,
            ci_high.
        x: Axis along: lam, k or epoch.
        y: Axis up.
        fixed: Value of the third setting (k as URL text); ``None``: the best in each cell.

    The axes show every value of the table, so that figures side by side line up; what was not computed stays empty.
    """
    frame = every = table.assign(k=table["projection_dim"].map(k_text))
    if fixed is not None:
        column = AXES[other_axis(x, y)][0]
        frame = frame[frame[column] == fixed]
    columns = [AXES[x][0], AXES[y][0]]
    best = frame.loc[frame.groupby(columns)["mean"].idxmax()]
    cells = best.assign(x=best[columns[0]], y=best[columns[1]])
    return Grid(cells.reset_index(drop=True), x, y, _ordered(every[columns[0]], x), _ordered(every[columns[1]], y))


def nearest_regularization(values: Iterable[float], lam: float) -> float:
    """Return the value of a grid that is nearest to λ in ratio; 0 only for λ = 0."""
    positive = [value for value in values if value > 0]
    return 0.0 if lam <= 0 or not positive else min(positive, key=lambda value: abs(math.log(value / lam)))


def _ordered(values: pd.Series, axis: str) -> list:
    known = set(values)
    if axis == "k":
        return sorted(known, key=lambda text: (text == "none", int(text) if text.isdecimal() else 0))
    return sorted(known)


def axis_label(value: object, axis: str) -> str:
    """Return the tick of a value."""
    if axis == "lam":
        return regularization_text(float(value))  # type: ignore[arg-type]
    if axis == "k":
        return "none" if value == "none" else str(value)
    return str(value)


def flatness(cells: pd.DataFrame, share: float = 0.05) -> tuple[float, int]:
    """Return the share of cells whose LDS is within ``share`` of the best, and how many cells there are."""
    values = cells["mean"].dropna()
    if not len(values) or values.max() <= 0:
        return float("nan"), len(values)
    return float((values >= (1 - share) * values.max()).mean()), len(values)


def heatmap_figure(
    grid: Grid, *, low: float, high: float, current: tuple[object, object] | None = None, height: int = 300
) -> go.Figure:
    """Return the heatmap. Clicks land on transparent squares, for a heatmap itself reports none.

    Args:
        grid: What :func:`grid_of` returns.
        low: LDS at the bottom of the colour scale.
        high: LDS at its top; the same for figures that stand side by side.
        current: Axis values (x, y) of the present view: marked if it is a cell.
        height: Pixels.
    """
    columns, rows = {v: i for i, v in enumerate(grid.x_values)}, {v: i for i, v in enumerate(grid.y_values)}
    values: list[list[float | None]] = [[None] * len(columns) for _ in rows]
    for cell in grid.cells.itertuples():
        values[rows[cell.y]][columns[cell.x]] = float(cell.mean)  # type: ignore[arg-type]
    figure = go.Figure()
    figure.add_heatmap(
        z=values, zmin=low, zmax=high, hoverinfo="skip", xgap=1, ygap=1,
        colorbar={"title": {"text": "LDS", "side": "top"}, "thickness": 10, "len": 0.9, "outlinewidth": 0},
    )  # fmt: skip
    texts = [
        f"LDS {lds_text(c.mean, c.ci_low, c.ci_high)}<br>λ = {regularization_text(c.regularization)}, "
        f"{projection_text(None if c.k == 'none' else int(c.k))}, epoch {c.training_epoch}"
        for c in grid.cells.itertuples()
    ]
    figure.add_scatter(
        x=[columns[value] for value in grid.cells["x"]], y=[rows[value] for value in grid.cells["y"]], mode="markers",
        # Within its own radius Plotly calls every point equally near, so squares as large as the cells would make it
        # choose the wrong one; small ones with a long reach give the nearest centre, which is the cell under the mouse.
        marker={"symbol": "square", "size": 6, "color": "rgba(0,0,0,0)", "opacity": 0.01},
        customdata=[
            [str(c.configuration_id), None if pd.isna(c.regularization) else float(c.regularization)]
            for c in grid.cells.itertuples()
        ],
        text=texts, hovertemplate="%{text}<extra></extra>", showlegend=False,
        selected={"marker": {"opacity": 0.01}}, unselected={"marker": {"opacity": 0.01}},
    )  # fmt: skip
    best = grid.cells.loc[grid.cells["mean"].idxmax()]
    marks = [(best["x"], best["y"], "star", "best")]
    if current and current[0] in columns and current[1] in rows:
        marks.append((*current, "circle-open", "current"))
    for x, y, symbol, name in marks:
        figure.add_scatter(
            x=[columns[x]], y=[rows[y]], mode="markers", name=name, hoverinfo="skip",
            marker={"symbol": symbol, "size": 13, "color": "#e8590c", "line": {"width": 2.4, "color": "#e8590c"}},
        )  # fmt: skip
    places, names = _ticks(grid)
    figure.update_xaxes(
        title=AXES[grid.x][1], tickvals=places, ticktext=names, showgrid=False, zeroline=False, tickangle=0
    )
    figure.update_yaxes(
        title=AXES[grid.y][1], tickvals=list(rows.values()), ticktext=[axis_label(v, grid.y) for v in rows],
        showgrid=False, zeroline=False,
    )  # fmt: skip
    figure.update_layout(
        height=height, margin={"l": 8, "r": 8, "t": 30, "b": 8}, dragmode=False, clickmode="event+select",
        hoverdistance=60, hovermode="closest",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )  # fmt: skip
    return figure


def _ticks(grid: Grid) -> tuple[list[float], list[str]]:
    """Return where the horizontal axis has ticks, in columns, and their texts: powers of ten for λ."""
    if grid.x != "lam":
        return [float(at) for at in range(len(grid.x_values))], [axis_label(value, grid.x) for value in grid.x_values]
    first = sum(1 for value in grid.x_values if value <= 0)
    logs = np.log10([value for value in grid.x_values if value > 0])
    powers = range(math.ceil(logs[0] - 1e-9), math.floor(logs[-1] + 1e-9) + 1, 2)
    places = [first + float(np.interp(power, logs, np.arange(len(logs)))) for power in powers]
    names = [f"10<sup>{power}</sup>".replace("-", "−") for power in powers]
    if first and places and places[0] < 3:  # its text would touch that of λ = 0
        places, names = places[1:], names[1:]
    return [*([0.0] if first else []), *places], [*(["0"] if first else []), *names]


def data_table(grid: Grid) -> pd.DataFrame:
    """Return the figure's data with readable columns."""
    return pd.DataFrame(
        {
            "λ": [
                regularization_text(value) if not pd.isna(value) else MISSING for value in grid.cells["regularization"]
            ],
            "k": grid.cells["k"],
            "epoch": grid.cells["training_epoch"],
            "LDS": grid.cells["mean"].round(4),
            "95 % low": grid.cells["ci_low"].round(4),
            "95 % high": grid.cells["ci_high"].round(4),
            "subsets": grid.cells["num_subsets"],
        }
    )
