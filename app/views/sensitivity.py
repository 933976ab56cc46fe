"""Sensitivity: LDS over any two hyper-parameters of a method; a click makes a cell the present setting everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import streamlit as st

from app import services, session
from app.charts import lambda_title
from app.components import page
from app.components.beside import beside_box, methods_beside
from app.components.errors import shows_errors
from app.components.progress import follow
from app.components.tables import show_data
from app.formats import lds_text, projection_text, regularization_text
from app.heatmaps import (
    SETTING,
    Grid,
    axes_of,
    axis_column,
    axis_label,
    axis_title,
    data_table,
    flatness,
    grid_of,
    heatmap_figure,
    line_of,
    nearest_regularization,
    with_axes,
)
from app.method_charts import line_figure
from app.method_style import method_color, method_dash
from app.navigation import open_page
from app.session import Context, control
from app.state import k_text

CHART = {"modeBarButtons": [["toImage"]], "displaylogo": False, "scrollZoom": False, "doubleClick": False}
BEST, PRESENT, NOTHING = "best", "present", ""
TREATMENTS = {BEST: "the best of them in each cell", PRESENT: "as chosen in the side bar"}
MAX_MULTIPLES = 4


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
    table = services.lds_table(context.opened, context.alpha)
    if not len(table):
        st.info("The heatmaps appear once subsets have been retrained.")
        follow()
        return
    _show_present(context)
    known = context.configurations[context.configurations["configuration_id"].isin(table["configuration_id"])]
    beside_box(context, known, "sensitivity")
    rows = methods_beside(context, known)
    every = with_axes(table)
    frames = {row["method"]: every[every["method"] == row["method"]] for row in rows}
    present = {row["method"]: _values(row, frames[row["method"]], context.view.lam) for row in rows}
    # Axes of the present method go first, unless it has too few for a heatmap.
    own = {method: axes_of(frame) for method, frame in frames.items()}
    order = sorted(own, key=lambda method: (len(own[method]) < 2, method != context.view.method))
    axes = list(dict.fromkeys(axis for method in order for axis in own[method]))
    treatment = BEST
    if len(axes) > 1:
        treatment = _show_heatmaps(context, frames, present, axes)
    elif axes:
        st.caption("Only one hyper-parameter differs here; heatmaps need two.")
    if axes:
        _show_line(context, frames, present, axes, treatment)
    else:
        st.info("Every hyper-parameter of this method has one value in this study: there is nothing to compare.")
    _show_without(table[~table["has_regularization"].astype(bool)])
    follow()


def _values(row: Any, frame: pd.DataFrame, lam: float | None) -> dict[str, Any]:
    """Return a configuration's value on every axis, with the stored λ nearest to the present one."""
    grid = frame["regularization"].dropna().unique()
    return {
        "lam": nearest_regularization(grid, lam or 0.0) if len(grid) else None,
        "k": k_text(row["projection_dim"]),
        "epoch": row["training_epoch"],
        **{f"{SETTING}{name}": value for name, value in row["settings"].items()},
    }


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


def _choose_axes(context: Context, axes: list[str]) -> tuple[str, str, str]:
    """Draw the choice of axes; return along, up and small multiples by (empty: none)."""
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

    columns = st.columns(3)
    for place, (title, value, options) in enumerate(
        [("Along", x, axes), ("Up", y, axes), ("Small multiples by", third, [NOTHING, *_others(axes, x, y)])]
    ):
        with columns[place]:
            control(
                st.selectbox, title, f"axis-{place}", value, lambda chosen, place=place: change(place, chosen),
                options=options, format_func=lambda axis: axis_title(axis) if axis else "none",
            )  # fmt: skip
    return x, y, third


def _others(axes: list[str], *taken: str) -> list[str]:
    return [axis for axis in axes if axis not in taken]


def _show_heatmaps(
    context: Context, frames: Mapping[str, pd.DataFrame], present: Mapping[str, dict[str, Any]], axes: list[str]
) -> str:
    st.subheader("Two hyper-parameters", anchor=False)
    x, y, third = _choose_axes(context, axes)
    rest = _others(axes, x, y, third)
    treatment = BEST
    if rest:
        names = ", ".join(axis_title(axis) for axis in rest)
        treatment = st.radio(f"Others ({names})", list(TREATMENTS), format_func=TREATMENTS.get, horizontal=True)
    # One colour scale for the whole page, so that colours compare between heatmaps and methods.
    every = pd.concat(frames.values())["mean"]
    span = float(every.min()), float(every.max())
    multiples: list[Any] = [None]
    if third:
        values = list(dict.fromkeys(v for frame in frames.values() for v in sorted(frame[axis_column(third)].dropna())))
        multiples = values if third != "lam" else _spread(values)
    for value in multiples[:MAX_MULTIPLES]:
        for column, (method, frame) in zip(st.columns(len(frames), gap="medium"), frames.items(), strict=True):
            fixed = {axis: present[method].get(axis) for axis in rest} if treatment == PRESENT else {}
            fixed |= {third: value} if third else {}
            with column:
                _show_heatmap(context, frame, x, y, fixed, span, (third, value))
    if len(multiples) > MAX_MULTIPLES:
        st.caption(f"The first {MAX_MULTIPLES} of {len(multiples)} values of {axis_title(third)}.")
    return treatment


def _spread(values: list[float]) -> list[float]:
    """Return a few values of λ over its range."""
    positive = [value for value in values if value > 0]
    return [positive[round(share * (len(positive) - 1))] for share in (0.2, 0.4, 0.6, 0.8)]


def _show_heatmap(
    context: Context, frame: pd.DataFrame, x: str, y: str, fixed: dict[str, Any], span: tuple[float, float],
    multiple: tuple[str, Any],
) -> None:  # fmt: skip
    method, title = frame["method"].iloc[0], frame["method_title"].iloc[0]
    third, value = multiple
    st.markdown(f"**{title}**" + (f" · {axis_title(third)} {axis_label(value, third)}" if third else ""))
    grid = grid_of(frame, x, y, fixed)
    if not len(grid.cells):
        lacks = ["λ" if axis == "lam" else axis_title(axis) for axis in (x, y) if frame[axis_column(axis)].isna().all()]
        st.info(f"{title} has no {' and no '.join(lacks)}." if lacks else "Nothing was computed with these values.")
        return
    key = f"heatmap-{x}-{y}-{method}-{value}"

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
        heatmap_figure(
            grid, low=span[0], high=span[1], current=_current(context, grid, frame),
            titles={"lam": lambda_title(row.get("damping") for row in grid.cells["settings"])},
        ),
        width="stretch", config=CHART, key=key, on_select=clicked, selection_mode="points",
        alt=f"Heatmap of LDS, {axis_title(x)} against {axis_title(y)}, {title}; best {best['mean']:.3f}",
    )  # fmt: skip
    best_k = projection_text(None if best["k"] == "none" else int(best["k"]))
    lam = "" if pd.isna(best["regularization"]) else f"λ = {regularization_text(best['regularization'])}, "
    empty = count < len(grid.x_values) * len(grid.y_values)
    st.caption(
        f"Best {lds_text(best['mean'], best['ci_low'], best['ci_high'])} at {lam}{best_k}, epoch "
        f"{best['training_epoch']}. How flat is it? **{100 * share:.0f} %** of {count} cells lie within 5 % of it."
        + (" Empty cells were not computed, or the method diverges there." if empty else "")
    )
    show_data(data_table(grid), key)


def _current(context: Context, grid: Grid, frame: pd.DataFrame) -> tuple[object, object] | None:
    """Return the cell of the present view: the ring."""
    if context.view.method != frame["method"].iloc[0] or context.configuration is None:
        return None
    values = _values(context.configuration, frame, context.view.lam)
    return values.get(grid.x), values.get(grid.y)


def _show_line(
    context: Context, frames: Mapping[str, pd.DataFrame], present: Mapping[str, dict[str, Any]], axes: list[str],
    treatment: str,
) -> None:  # fmt: skip
    st.subheader("One hyper-parameter", anchor=False)
    first = frames.get(context.view.method, next(iter(frames.values())))
    own = [axis for axis in axes if axis != "lam" and axis in axes_of(first)]
    options = _others(axes, "lam") or axes
    start = options.index(next(iter([axis for axis in own if axis.startswith(SETTING)] or own or options)))
    axis = st.selectbox("LDS by", options, index=start, format_func=axis_title, key=f"line-{context.view.method}")
    lines, tables = [], []
    for method, frame in frames.items():
        others = {other: value for other, value in present[method].items() if other != axis}
        line = line_of(frame, axis, others if treatment == PRESENT else {})
        if len(line):
            title = frame["method_title"].iloc[0]
            lines.append((title, method_color(method), method_dash(method), line))
            tables.append(line.assign(method=title))
    if not lines:
        st.info("Nothing was computed with these values.")
        return
    logarithmic = all((line["number"] > 0).all() for *_, line in lines)
    st.plotly_chart(
        line_figure(lines, axis_title(axis), logarithmic), width="stretch", key="line-chart",
        config={"displaylogo": False}, alt=f"LDS against {axis_title(axis)} with 95 % intervals",
    )  # fmt: skip
    how = "the best of all others at each value" if treatment == BEST else "all others as chosen"
    st.caption(f"LDS with its 95 % interval; {how}.")
    names = {"value": axis_title(axis), "mean": "LDS", "ci_low": "95 % low", "ci_high": "95 % high",
             "regularization": "λ"}  # fmt: skip
    frame = pd.concat(tables)[["method", *names]].rename(columns=names)
    show_data(frame.round({"LDS": 4, "95 % low": 4, "95 % high": 4}), f"line-{axis_column(axis)}")


def _show_without(table: pd.DataFrame) -> None:
    if not len(table):
        return
    st.subheader("Methods without λ", anchor=False)
    rows = table.sort_values("mean", ascending=False)
    frame = pd.DataFrame(
        {
            "method": rows["variant_title"],
            "epoch": rows["training_epoch"],
            "LDS": rows["mean"].round(3),
            "95 % low": rows["ci_low"].round(3),
            "95 % high": rows["ci_high"].round(3),
        }
    )
    st.dataframe(frame, width="stretch", hide_index=True)
    st.caption("Each has one ranking: no curve over λ.")
