"""Sensitivity: LDS over any two hyper-parameters of a method; a click makes a cell the present setting everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from app import session
from app.formats import MISSING, joined, lds_text, plain, projection_text, regularization_text
from app.navigation import open_page
from app.session import Context, control
from app.shared import page
from app.shared.beside import beside_box, methods_beside
from app.shared.curves import lambda_title
from app.shared.errors import shows_errors
from app.shared.progress import follow
from app.shared.tables import show_data
from app.views.sensitivity.grid import (
    ALL,
    BEST,
    LAM,
    PRESENT,
    Cell,
    Grid,
    Value,
    axes_of,
    axis_label,
    axis_title,
    axis_value,
    flatness,
    grid_of,
    like_text,
    values_of,
)
from app.views.sensitivity.heatmaps import data_table, heatmap_figure
from app.views.sensitivity.lines import show_line
from app.views.sensitivity.shown import Shown, cells_of, shown_of

CHART = {"modeBarButtons": [["toImage"]], "displaylogo": False, "scrollZoom": False, "doubleClick": False}
NOTHING = ""
TREATMENTS = {
    BEST: "the best of those that every cell has",
    ALL: "the best in each cell, wherever computed",
    PRESENT: "as chosen in the side bar",
}
MAX_MULTIPLES = 4


@dataclass(frozen=True)
class Axes:
    """What the heatmaps are over.

    Attributes:
        x: Along.
        y: Up.
        third: Small multiples by; empty: none.
        rest: Those that differ too.
    """

    x: str
    y: str
    third: str
    rest: list[str]


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Sensitivity", anchor=False)
    st.markdown(
        "How much the quality of an attribution depends on its settings. **Click a cell**: it becomes the present "
        "setting on every page. The star is the best cell, the ring where you are."
    )
    context = page.opened()
    if context is None:
        return
    cells = cells_of(context)
    if not cells:
        st.info("The heatmaps appear once subsets have been retrained.")
        follow()
        return
    _show_present(context)
    known = context.configurations.among(cell.row.configuration_id for cell in cells)
    beside_box(context, known, "sensitivity")
    shown = [shown_of(context, row, cells) for row in methods_beside(context, known)]
    axes = _axes(context, shown)
    treatment = BEST
    if len(axes) > 1:
        treatment = _show_heatmaps(context, shown, axes)
    elif axes:
        st.caption("Only one hyper-parameter differs here; heatmaps need two.")
    if axes:
        show_line(context, shown, axes, treatment)
    else:
        st.info("Every hyper-parameter of this method has one value in this study: there is nothing to compare.")
    _show_without([cell for cell in cells if not cell.row.has_regularization])
    follow()


def _axes(context: Context, shown: Sequence[Shown]) -> list[str]:
    """Return all axes; those of the present method go first, unless it has too few for a heatmap."""
    own = [(each.row.method, axes_of(each.cells)) for each in shown]
    own.sort(key=lambda pair: (len(pair[1]) < 2, pair[0] != context.view.method))
    return list(dict.fromkeys(axis for _, axes in own for axis in axes))


def _show_present(context: Context) -> None:
    row = context.chosen
    text, button = st.columns([4, 1], vertical_alignment="center")
    lam = f", λ = {regularization_text(context.view.lam)}" if row.has_regularization else ""
    text.markdown(
        f"Present setting: **{plain(row.variant_title)}, epoch {row.training_epoch}, "
        f"{projection_text(row.projection_dim)}{lam}**"
    )
    if button.button("Open in the Explorer", type="primary", width="stretch"):
        open_page("explorer")


def _choose_axes(context: Context, axes: Sequence[str]) -> Axes:
    """Draw the choice of axes."""
    asked = [axis for axis in context.view.axes if axis in axes]
    x = asked[0] if asked else axes[0]
    y = asked[1] if len(asked) > 1 and asked[1] != x else next(axis for axis in axes if axis != x)
    third = asked[2] if len(asked) > 2 and asked[2] not in (x, y) else NOTHING

    def change(place: int, value: str) -> None:
        chosen = [x, y, third]
        if value in chosen:  # what stood there changes places with it
            chosen[chosen.index(value)] = chosen[place]
        chosen[place] = value
        session.update(axes=tuple(axis for axis in chosen if axis))

    boxes = (("Along", x, axes), ("Up", y, axes), ("Small multiples by", third, [NOTHING, *_others(axes, x, y)]))
    for place, (column, (title, value, options)) in enumerate(zip(st.columns(3), boxes, strict=True)):
        with column:
            control(
                st.selectbox,
                title,
                f"axis-{place}",
                value,
                lambda chosen, place=place: change(place, chosen),
                options=options,
                format_func=lambda axis: axis_title(axis) if axis else "none",
            )
    return Axes(x, y, third, _others(axes, x, y, third))


def _others(axes: Sequence[str], *taken: str) -> list[str]:
    return [axis for axis in axes if axis not in taken]


def _show_heatmaps(context: Context, shown: Sequence[Shown], axes: Sequence[str]) -> str:
    """Draw the heatmaps of all methods; return what becomes of the other hyper-parameters."""
    st.subheader("Two hyper-parameters", anchor=False)
    chosen = _choose_axes(context, axes)
    treatment = BEST
    if chosen.rest:
        names = ", ".join(axis_title(axis) for axis in chosen.rest)
        treatment = st.radio(f"Others ({names})", list(TREATMENTS), format_func=TREATMENTS.get, horizontal=True)
        if treatment == PRESENT and LAM in chosen.rest:
            _say_stored(context, shown)
    # One colour scale for the whole page, so that colours compare between heatmaps and methods.
    every = [cell.mean for each in shown for cell in each.cells if cell.mean == cell.mean]
    span = min(every, default=0.0), max(every, default=1.0)
    multiples = _multiples(shown, chosen.third)
    for value in multiples[:MAX_MULTIPLES]:
        for column, each in zip(st.columns(len(shown), gap="medium"), shown, strict=True):
            fixed = {axis: each.present(axis) for axis in chosen.rest} if treatment == PRESENT else {}
            fixed |= {chosen.third: value} if chosen.third else {}
            with column:
                _show_heatmap(context, each, chosen, (treatment, fixed), span)
    if len(multiples) > MAX_MULTIPLES:
        st.caption(f"The first {MAX_MULTIPLES} of {len(multiples)} values of {axis_title(chosen.third)}.")
    return treatment


def _say_stored(context: Context, shown: Sequence[Shown]) -> None:
    """Say at which stored λ the figures are, where it is not the present one."""
    lam = context.view.lam or 0.0
    stored = {each.lam for each in shown if each.lam is not None and not math.isclose(each.lam, lam, rel_tol=1e-4)}
    if stored:
        st.caption(
            f"At λ = {joined([regularization_text(value) for value in sorted(stored)])}, the stored value nearest to "
            f"{regularization_text(lam)}."
        )


def _multiples(shown: Sequence[Shown], third: str) -> list[Value | None]:
    """Return the values of the third axis that get a heatmap each; one ``None`` without a third axis."""
    if not third:
        return [None]
    values = list(dict.fromkeys(value for each in shown for value in values_of(each.cells, third)))
    return [*(_spread([float(value) for value in values]) if third == LAM else values)]


def _spread(values: Sequence[float]) -> list[float]:
    """Return a few values of λ over its range."""
    positive = [value for value in values if value > 0]
    return [positive[round(share * (len(positive) - 1))] for share in (0.2, 0.4, 0.6, 0.8)]


def _show_heatmap(
    context: Context,
    shown: Shown,
    axes: Axes,
    others: tuple[str, Mapping[str, Value | None]],
    span: tuple[float, float],
) -> None:
    """Draw one method's heatmap; ``others``: what becomes of the other axes, and the values that some are fixed at."""
    treatment, fixed = others
    x, y, value = axes.x, axes.y, fixed.get(axes.third)
    found = shown.compared([axis for axis in (x, y, axes.third) if axis], treatment)
    title = shown.row.method_title
    st.markdown(f"**{title}**" + (f" · {axis_title(axes.third)} {_label(value, axes.third)}" if axes.third else ""))
    grid = grid_of(found.cells, x, y, fixed)
    if not grid.cells:
        lacks = ["λ" if axis == LAM else axis_title(axis) for axis in (x, y) if not values_of(shown.cells, axis)]
        st.info(f"{title} has no {' and no '.join(lacks)}." if lacks else "Nothing was computed with these values.")
        return
    key = f"heatmap-{x}-{y}-{shown.row.method}-{value}"

    def clicked() -> None:
        points = st.session_state[key].selection.points
        data = points[0].get("customdata") if points else None
        if data:
            session.go_to(context.configurations.by_id(data[0]), data[1])

    is_present = context.view.method == shown.row.method
    dampings = lambda_title(cell.row.is_relative for cell in grid.cells.values())
    st.plotly_chart(
        heatmap_figure(grid, span, _ring(context, shown, grid) if is_present else None, {LAM: dampings}),
        width="stretch",
        config=CHART,
        key=key,
        on_select=clicked,
        selection_mode="points",
        alt=f"Heatmap of LDS, {axis_title(x)} against {axis_title(y)}, {title}; best {grid.cells[grid.best].mean:.3f}",
    )
    st.caption(" ".join(filter(None, [_best_text(grid), like_text(title, found, treatment)])))
    show_data(data_table(grid), key)


def _label(value: Value | None, axis: str) -> str:
    return "" if value is None else axis_label(value, axis)


def _ring(context: Context, shown: Shown, grid: Grid) -> tuple[Value | None, Value | None]:
    """Return the cell of the present view."""
    row = context.chosen
    return axis_value(row, grid.x, shown.lam), axis_value(row, grid.y, shown.lam)


def _best_text(grid: Grid) -> str:
    """Return where a heatmap is best and how flat it is there."""
    best = grid.cells[grid.best]
    share, count = flatness(cell.mean for cell in grid.cells.values())
    lam = "" if best.regularization is None else f"λ = {regularization_text(best.regularization)}, "
    empty = count < len(grid.x_values) * len(grid.y_values)
    return (
        f"Best {lds_text(best.mean, best.point.ci_low, best.point.ci_high)} at {lam}"
        f"{projection_text(best.row.projection_dim)}, epoch {best.row.training_epoch}. How flat is it? "
        f"**{100 * share:.0f} %** of {count} cells lie within 5 % of it."
        + (" Empty cells were not computed, or the method diverges there." if empty else "")
    )


def _show_without(cells: Sequence[Cell]) -> None:
    if not cells:
        return
    st.subheader("Methods without λ", anchor=False)
    rows = sorted(cells, key=lambda cell: cell.mean, reverse=True)
    frame = pd.DataFrame(
        {
            "method": [cell.row.variant_title for cell in rows],
            "epoch": [cell.row.training_epoch for cell in rows],
            "LDS": [round(cell.mean, 3) for cell in rows],
            "95 % low": [round(cell.point.ci_low, 3) for cell in rows],
            "95 % high": [round(cell.point.ci_high, 3) for cell in rows],
        }
    )
    st.dataframe(frame, width="stretch", hide_index=True, placeholder=MISSING)
    st.caption("Each has one ranking: no curve over λ.")
