"""Sensitivity: LDS over any two of λ, k and epoch; a click makes a cell the present setting everywhere."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from app import services, session
from app.components import no_study
from app.components.errors import shows_errors
from app.components.progress import follow
from app.components.sidebar import show_notes
from app.components.tables import show_data
from app.formats import lds_text, projection_text, regularization_text
from app.heatmaps import (
    AXES,
    PAIRS,
    Grid,
    axis_label,
    data_table,
    flatness,
    grid_of,
    heatmap_figure,
    nearest_regularization,
    other_axis,
)
from app.navigation import open_page
from app.session import Context

CHART = {"modeBarButtons": [["toImage"]], "displaylogo": False, "scrollZoom": False, "doubleClick": False}
BEST = "best"


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Sensitivity", anchor=False)
    st.markdown(
        "How much the quality of an attribution depends on its settings. **Click a cell**: it becomes the present "
        "setting on every page. The star is the best cell, the ring where you are."
    )
    notes = st.container()
    context = session.context()
    if context is None or context.configuration is None:
        no_study.show_waiting(context)
        return
    with notes:
        show_notes(context)
    table = services.lds_table(context.opened, context.alpha)
    if not len(table):
        st.info("The heatmaps appear once subsets have been retrained.")
        follow()
        return
    _show_present(context)
    with_lambda = table[table["has_regularization"]]
    if len(with_lambda):
        _show_pairs(context, with_lambda)
    _show_without(table[~table["has_regularization"].astype(bool)])
    follow()


def _show_present(context: Context) -> None:
    row, view = context.configuration, context.view
    assert row is not None
    text, button = st.columns([4, 1], vertical_alignment="center")
    lam = f", λ = {regularization_text(view.lam)}" if row["has_regularization"] else ""
    text.markdown(
        f"Present setting: **{row['variant_title']}, epoch {row['training_epoch']}, "
        f"{projection_text(row['projection_dim'])}{lam}**"
    )
    if button.button("Open in the Explorer", type="primary", width="stretch"):
        open_page("explorer")


def _show_pairs(context: Context, table: pd.DataFrame) -> None:
    variants = list(dict.fromkeys(table["variant"]))
    # One colour scale for the whole page, so that colours compare between heatmaps and methods.
    low, high = float(table["mean"].min()), float(table["mean"].max())
    for name, (x, y) in PAIRS.items():
        st.subheader(name, anchor=False)
        third = other_axis(x, y)
        fixed = _third_control(context, table, third)
        for column, variant in zip(st.columns(len(variants), gap="medium"), variants, strict=True):
            with column:
                mine = table[table["variant"] == variant]
                grid = grid_of(mine, x, y, fixed)
                _show_heatmap(context, grid, variant, mine["variant_title"].iloc[0], low, high, third, fixed)


def _third_control(context: Context, table: pd.DataFrame, third: str) -> object:
    """Draw how the third setting is treated; return its fixed value, or ``None`` for the best in each cell."""
    label = AXES[third][1]
    present = {"lam": context.view.lam, "k": context.view.k, "epoch": context.view.epoch}[third]
    if third == "lam":
        nearest = nearest_regularization(table["regularization"].unique(), context.view.lam or 0.0)
        options = {
            BEST: "the best λ in each cell",
            "present": f"the grid's λ nearest to here, {axis_label(nearest, third)}",
        }
        value: object = nearest
    else:
        options = {
            BEST: f"the best {third} in each cell",
            "present": f"{third} = {axis_label(present, third)}, as chosen",
        }
        value = present
    choice = st.radio(
        f"Third setting ({label})", list(options), format_func=options.get, horizontal=True, key=f"third-{third}"
    )
    return None if choice == BEST else value


def _show_heatmap(
    context: Context, grid: Grid, variant: str, title: str, low: float, high: float, third: str, fixed: object
) -> None:
    st.markdown(f"**{title}**")
    if not len(grid.cells):
        st.info(f"{title} was not computed with {third} = {axis_label(fixed, third)}.")
        return
    key = f"heatmap-{grid.x}-{grid.y}-{variant}"

    def clicked() -> None:
        points = st.session_state[key].selection.points
        data = points[0].get("customdata") if points else None
        if not data:
            return
        row = context.configurations.set_index("configuration_id", drop=False).loc[data[0]]
        session.go_to(row, data[1])

    best = grid.cells.loc[grid.cells["mean"].idxmax()]
    share, count = flatness(grid.cells)
    st.plotly_chart(
        heatmap_figure(grid, low=low, high=high, current=_current(context, grid, variant)), width="stretch",
        config=CHART, key=key, on_select=clicked, selection_mode="points",
        alt=f"Heatmap of LDS, {AXES[grid.x][1]} against {AXES[grid.y][1]}, {title}; best {best['mean']:.3f}",
    )  # fmt: skip
    best_k = projection_text(None if best["k"] == "none" else int(best["k"]))
    st.caption(
        f"Best {lds_text(best['mean'], best['ci_low'], best['ci_high'])} at λ = "
        f"{regularization_text(best['regularization'])}, {best_k}, epoch {best['training_epoch']}. "
        f"How flat is it? **{100 * share:.0f} %** of {count} cells are within 5 % of the best."
        + (" Empty cells were not computed." if count < len(grid.x_values) * len(grid.y_values) else "")
    )
    show_data(data_table(grid), key)


def _current(context: Context, grid: Grid, variant: str) -> tuple[object, object] | None:
    """Return the cell of the present view: the ring."""
    if context.view.method != variant:
        return None
    at_lam = nearest_regularization(grid.x_values, context.view.lam or 0.0) if grid.x == "lam" else None
    values = {"lam": at_lam, "k": context.view.k, "epoch": context.view.epoch}
    return values[grid.x], values[grid.y]


def _show_without(table: pd.DataFrame) -> None:
    if not len(table):
        return
    st.subheader("Methods without λ", anchor=False)
    rows = table.sort_values(["variant", "training_epoch"])
    frame = pd.DataFrame(
        {
            "method": rows["variant_title"],
            "up to epoch": rows["training_epoch"],
            "LDS": rows["mean"].round(3),
            "95 % low": rows["ci_low"].round(3),
            "95 % high": rows["ci_high"].round(3),
        }
    )
    st.dataframe(frame, width="stretch", hide_index=True)
    st.caption("TracIn sums over the checkpoints up to an epoch and has neither λ nor curvature.")
