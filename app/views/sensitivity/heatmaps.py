"""LDS over two settings as a heatmap whose cells can be clicked. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from app import settings
from app.formats import lds_text, projection_text, regularization_text
from app.settings import value_of
from app.state import k_text
from app.views.sensitivity.grid import LAM, Cell, Grid, Value, axis_label, axis_title

MARK = "#e8590c"


def heatmap_figure(
    grid: Grid,
    span: tuple[float, float],
    current: tuple[Value | None, Value | None] | None = None,
    titles: Mapping[str, str] | None = None,
    height: int = 300,
) -> go.Figure:
    """Return the heatmap. Clicks land on transparent squares, for a heatmap itself reports none.

    Args:
        grid: At least one cell.
        span: LDS at the bottom and at the top of the colour scale; the same for figures that stand side by side.
        current: Axis values (x, y) of the present view: marked if it is a cell.
        titles: Axis → title, where it is another than usual.
        height: Pixels.
    """
    columns, rows = {v: i for i, v in enumerate(grid.x_values)}, {v: i for i, v in enumerate(grid.y_values)}
    values: list[list[float | None]] = [[None] * len(columns) for _ in rows]
    for (x, y), cell in grid.cells.items():
        values[rows[y]][columns[x]] = cell.mean
    figure = go.Figure()
    figure.add_heatmap(
        z=values,
        zmin=span[0],
        zmax=span[1],
        hoverinfo="skip",
        xgap=1,
        ygap=1,
        colorbar={"title": {"text": "LDS", "side": "top"}, "thickness": 10, "len": 0.9, "outlinewidth": 0},
    )
    _add_squares(figure, grid, columns, rows)
    _add_mark(figure, columns[grid.best[0]], rows[grid.best[1]], "star", "best")
    if current and current[0] in columns and current[1] in rows:
        _add_mark(figure, columns[current[0]], rows[current[1]], "circle-open", "current")
    _finish(figure, grid, titles or {}, height)
    return figure


def _add_squares(figure: go.Figure, grid: Grid, columns: Mapping[Value, int], rows: Mapping[Value, int]) -> None:
    """Draw what is clicked: one point per cell, with its configuration and λ."""
    figure.add_scatter(
        x=[columns[x] for x, _ in grid.cells],
        y=[rows[y] for _, y in grid.cells],
        mode="markers",
        # Within its own radius Plotly calls every point equally near, so squares as large as the cells would make it
        # choose the wrong one; small ones with a long reach give the nearest centre, which is the cell under the mouse.
        marker={"symbol": "square", "size": 6, "color": "rgba(0,0,0,0)", "opacity": 0.01},
        customdata=[[cell.row.configuration_id, cell.regularization] for cell in grid.cells.values()],
        text=[_text(cell) for cell in grid.cells.values()],
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
        selected={"marker": {"opacity": 0.01}},
        unselected={"marker": {"opacity": 0.01}},
    )


def _text(cell: Cell) -> str:
    """Return what the mouse shows of a cell."""
    row, point = cell.row, cell.point
    return (
        f"LDS {lds_text(point.mean, point.ci_low, point.ci_high)}<br>λ = {regularization_text(point.regularization)}, "
        f"{projection_text(row.projection_dim)}, epoch {row.training_epoch}"
        + "".join(f"<br>{settings.words(name, value)}" for name, value in row.choices)
    )


def _add_mark(figure: go.Figure, x: int, y: int, symbol: str, name: str) -> None:
    figure.add_scatter(
        x=[x],
        y=[y],
        mode="markers",
        name=name,
        hoverinfo="skip",
        marker={"symbol": symbol, "size": 13, "color": MARK, "line": {"width": 2.4, "color": MARK}},
    )


def _finish(figure: go.Figure, grid: Grid, titles: Mapping[str, str], height: int) -> None:
    places, names = _ticks(grid)
    figure.update_xaxes(
        title=titles.get(grid.x, axis_title(grid.x)),
        tickvals=places,
        ticktext=names,
        showgrid=False,
        zeroline=False,
        tickangle=0,
    )
    figure.update_yaxes(
        title=titles.get(grid.y, axis_title(grid.y)),
        tickvals=list(range(len(grid.y_values))),
        ticktext=[axis_label(value, grid.y) for value in grid.y_values],
        showgrid=False,
        zeroline=False,
    )
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 30, "b": 8},
        dragmode=False,
        clickmode="event+select",
        hoverdistance=60,
        hovermode="closest",
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )


def _ticks(grid: Grid) -> tuple[list[float], list[str]]:
    """Return where the horizontal axis has ticks, in columns, and their texts: powers of ten for λ."""
    if grid.x != LAM:
        return [float(at) for at in range(len(grid.x_values))], [axis_label(value, grid.x) for value in grid.x_values]
    known = [float(value) for value in grid.x_values]
    first = sum(value <= 0 for value in known)
    logs = np.log10([value for value in known if value > 0])
    powers = range(math.ceil(logs[0] - 1e-9), math.floor(logs[-1] + 1e-9) + 1, 2)
    places = [first + float(np.interp(power, logs, np.arange(len(logs)))) for power in powers]
    names = [f"10<sup>{power}</sup>".replace("-", "−") for power in powers]
    if first and places and places[0] < 3:  # its text would touch that of λ = 0
        places, names = places[1:], names[1:]
    return [*([0.0] if first else []), *places], [*(["0"] if first else []), *names]


def data_table(grid: Grid) -> pd.DataFrame:
    """Return the figure's data as a table for people."""
    cells = list(grid.cells.values())
    names = dict.fromkeys(name for cell in cells for name, _ in cell.row.choices)
    return pd.DataFrame(
        {
            "λ": [regularization_text(cell.regularization) for cell in cells],
            "k": [k_text(cell.row.projection_dim) for cell in cells],
            "epoch": [cell.row.training_epoch for cell in cells],
            **{settings.label(name): [value_of(cell.row.choices, name) for cell in cells] for name in names},
            "LDS": [round(cell.mean, 4) for cell in cells],
            "95 % low": [round(cell.point.ci_low, 4) for cell in cells],
            "95 % high": [round(cell.point.ci_high, 4) for cell in cells],
            "subsets": [cell.point.num_subsets for cell in cells],
        }
    )
