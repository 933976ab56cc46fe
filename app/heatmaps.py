"""LDS over any two settings, as heatmaps whose cells can be clicked. Pure functions.

An *axis* is ``lam``, ``k``, ``epoch``, or ``set:`` and the name of a hyper-parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app import settings
from app.formats import MISSING, lds_text, projection_text, regularization_text
from app.state import k_text

AXES = {
    "lam": ("regularization", "λ (units of the mean Gram)"),
    "k": ("k", "projection dimension k"),
    "epoch": ("training_epoch", "training epoch of the features"),
}
SETTING = "set:"


def axis_column(axis: str) -> str:
    """Return the column of :func:`with_axes` that holds an axis."""
    return AXES[axis][0] if axis in AXES else axis


def axis_title(axis: str) -> str:
    """Return what an axis is, for people."""
    return AXES[axis][1] if axis in AXES else settings.label(axis.removeprefix(SETTING))


def with_axes(table: pd.DataFrame) -> pd.DataFrame:
    """Return LDS rows with one column for each axis; ``settings`` is a dict in each row, if it is there."""
    frame = table.assign(k=table["projection_dim"].map(k_text))
    for name in dict.fromkeys(name for row in table.get("settings", []) for name in row):
        frame[f"{SETTING}{name}"] = [row.get(name) for row in table["settings"]]
    return frame


def axes_of(frame: pd.DataFrame) -> list[str]:
    """Return the axes on which rows of :func:`with_axes` differ."""
    axes = [*AXES, *(column for column in frame if str(column).startswith(SETTING))]
    return [axis for axis in axes if frame[axis_column(axis)].dropna().nunique() > 1]


@dataclass(frozen=True)
class Grid:
    """LDS over two settings.

    Attributes:
        cells: One row per cell: x, y (axis values), mean, ci_low, ci_high, and the full setting behind the cell:
            configuration_id, regularization, training_epoch, k.
        x: Axis along.
        y: Axis up.
        x_values: In the order of the axis.
        y_values: Likewise.
    """

    cells: pd.DataFrame
    x: str
    y: str
    x_values: list
    y_values: list


def held(frame: pd.DataFrame, fixed: Mapping[str, object]) -> pd.DataFrame:
    """Return the rows that have the fixed values; an axis whose value is ``None`` or NaN is left alone."""
    for axis, value in fixed.items():
        if value is not None and value == value:
            frame = frame[frame[axis_column(axis)] == value]
    return frame


def grid_of(frame: pd.DataFrame, x: str, y: str, fixed: Mapping[str, object] | None = None) -> Grid:
    """Return LDS over two axes; others are fixed, or the best of them is taken in each cell.

    Args:
        frame: Rows of one method from :func:`with_axes`: configuration_id, training_epoch, k, regularization, mean,
            ci_low, ci_high.
        x: Axis along.
        y: Axis up.
        fixed: Other axes with their values (k and hyper-parameters as text).

    The axes show every value of the table, so that figures side by side line up; what was not computed stays empty.
    """
    columns = [axis_column(x), axis_column(y)]
    rows = held(frame, fixed or {})
    rows = rows[rows["mean"].notna()]
    best = rows.loc[rows.groupby(columns)["mean"].idxmax()]
    cells = best.assign(x=best[columns[0]], y=best[columns[1]])
    return Grid(cells.reset_index(drop=True), x, y, _ordered(frame[columns[0]], x), _ordered(frame[columns[1]], y))


def line_of(frame: pd.DataFrame, axis: str, fixed: Mapping[str, object] | None = None) -> pd.DataFrame:
    """Return LDS against one axis: value (text), number (NaN for words), mean, ci_low, ci_high, regularization.

    Others are fixed, or the best of them is taken at each value.
    """
    rows = held(frame, fixed or {})
    rows = rows[rows["mean"].notna() & rows[axis_column(axis)].notna()]
    best = rows.loc[rows.groupby(axis_column(axis))["mean"].idxmax()].set_index(axis_column(axis))
    best = best.loc[_ordered(best.index.to_series(), axis)]
    texts = [axis_label(value, axis) for value in best.index]
    return pd.DataFrame(
        {
            "value": texts,
            "number": [settings.number(str(value)) for value in best.index],
            "mean": best["mean"].to_numpy(),
            "ci_low": best["ci_low"].to_numpy(),
            "ci_high": best["ci_high"].to_numpy(),
            "regularization": best["regularization"].to_numpy() if "regularization" in best else np.nan,
        }
    )


def nearest_regularization(values: Iterable[float], lam: float) -> float:
    """Return the value of a grid that is nearest to λ in ratio; 0 only for λ = 0."""
    positive = [value for value in values if value > 0]
    return 0.0 if lam <= 0 or not positive else min(positive, key=lambda value: abs(math.log(value / lam)))


def _ordered(values: pd.Series, axis: str) -> list:
    known = set(values.dropna())
    if axis.startswith(SETTING):
        return settings.ordered(list(values.dropna()))
    if axis == "k":
        return sorted(known, key=lambda text: (text == "none", int(text) if text.isdecimal() else 0))
    return sorted(known)


def axis_label(value: float | str, axis: str) -> str:
    """Return the tick of a value."""
    if axis == "lam":
        return regularization_text(float(value))
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
    grid: Grid,
    *,
    low: float,
    high: float,
    current: tuple[object, object] | None = None,
    titles: Mapping[str, str] | None = None,
    height: int = 300,
) -> go.Figure:
    """Return the heatmap. Clicks land on transparent squares, for a heatmap itself reports none.

    Args:
        grid: What :func:`grid_of` returns.
        low: LDS at the bottom of the colour scale.
        high: LDS at its top; the same for figures that stand side by side.
        current: Axis values (x, y) of the present view: marked if it is a cell.
        titles: Axis → title, where it is another than usual.
        height: Pixels.
    """
    columns, rows = {v: i for i, v in enumerate(grid.x_values)}, {v: i for i, v in enumerate(grid.y_values)}
    values: list[list[float | None]] = [[None] * len(columns) for _ in rows]
    for x, y, mean in zip(grid.cells["x"], grid.cells["y"], grid.cells["mean"].astype(float), strict=True):
        values[rows[y]][columns[x]] = mean
    figure = go.Figure()
    figure.add_heatmap(
        z=values, zmin=low, zmax=high, hoverinfo="skip", xgap=1, ygap=1,
        colorbar={"title": {"text": "LDS", "side": "top"}, "thickness": 10, "len": 0.9, "outlinewidth": 0},
    )  # fmt: skip
    texts = [
        f"LDS {lds_text(c['mean'], c['ci_low'], c['ci_high'])}<br>λ = {regularization_text(c['regularization'])}, "
        f"{projection_text(None if c['k'] == 'none' else int(c['k']))}, epoch {c['training_epoch']}"
        + "".join(f"<br>{settings.words(*pair)}" for pair in c.get("choices", {}).items())
        for c in grid.cells.to_dict("records")
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
    named = titles or {}
    figure.update_xaxes(
        title=named.get(grid.x, axis_title(grid.x)),
        tickvals=places,
        ticktext=names,
        showgrid=False,
        zeroline=False,
        tickangle=0,
    )
    figure.update_yaxes(
        title=named.get(grid.y, axis_title(grid.y)), tickvals=list(rows.values()),
        ticktext=[axis_label(v, grid.y) for v in rows], showgrid=False, zeroline=False,
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
    chosen = grid.cells.get("choices", pd.Series([{}] * len(grid.cells))).tolist()
    names = list(dict.fromkeys(name for row in chosen for name in row))
    return pd.DataFrame(
        {
            "λ": [
                regularization_text(value) if not pd.isna(value) else MISSING for value in grid.cells["regularization"]
            ],
            "k": grid.cells["k"],
            "epoch": grid.cells["training_epoch"],
            **{settings.label(name): [row.get(name) for row in chosen] for name in names},
            "LDS": grid.cells["mean"].round(4),
            "95 % low": grid.cells["ci_low"].round(4),
            "95 % high": grid.cells["ci_high"].round(4),
            "subsets": grid.cells["num_subsets"],
        }
    )
