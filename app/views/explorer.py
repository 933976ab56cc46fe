"""Explorer: one query, the training examples that helped and hurt, and λ under the thumb."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from app import explorer_data, session
from app.components import page
from app.components.errors import shows_errors
from app.components.explorer import show_explorer
from app.components.gallery import offered, show_gallery
from app.components.layers import show_layers
from app.components.method_controls import method_buttons, setting_boxes
from app.components.progress import follow
from app.components.tables import show_data
from app.formats import is_missing, plain, signed
from app.session import Context, control
from app.state import UNPROJECTED, describe, k_text
from tda_backend.errors import NumericalError

PICK_NAMES = {"all": "All", "wrong": "Misclassified", "margin": "Lowest margin"}
RIGHT_NAMES = {"": "all", "right": "predicted right", "wrong": "predicted wrong"}


@shows_errors
def render() -> None:
    """Draw the page."""
    st.title("Explorer", anchor=False)
    context = page.opened()
    if context is None:
        return
    _show_query(context)
    _show_switches(context)
    show_explorer(context)
    _show_tables(context)
    show_layers(context)
    follow()


def _show_query(context: Context) -> None:
    queries = context.opened.examples("queries")
    query = queries.set_index("position", drop=False).loc[context.view.query]
    left, right = st.columns([6, 11], gap="medium", vertical_alignment="center")
    with left:
        _show_chosen(context, query)
    with right:
        with st.container(horizontal=True, vertical_alignment="bottom"):
            control(
                st.segmented_control, "Pick a query", "pick", context.view.pick, _pick, options=list(PICK_NAMES),
                format_func=PICK_NAMES.get, required=True,
            )  # fmt: skip
            labels = sorted(queries["label"].dropna().astype(str).unique())
            control(
                st.selectbox, "of class", "pick-class", context.view.pick_class, _pick_class,
                options=["", *labels], format_func=lambda text: text or "any", width=110,
            )  # fmt: skip
            control(
                st.number_input, "or by number", "pick-number", int(query["position"]), _pick_number, min_value=0,
                max_value=context.opened.num_queries - 1, step=1, width=140,
            )  # fmt: skip
        show_gallery(context, offered(queries, context.view))


def _pick(value: str) -> None:
    session.update(pick=value or "all")


def _pick_class(value: str) -> None:
    session.update(pick_class=value)


def _pick_number(value: int) -> None:
    session.update(query=int(value))


def _show_chosen(context: Context, query: pd.Series) -> None:
    box = st.container(horizontal=True, vertical_alignment="center", gap="medium")
    with box:
        if query["kind"] == "image":
            st.image(query["payload"], width=112, alt=explorer_data.alt_text(query, "query, test example"))
        else:
            st.text(str(query["payload"]))
    right = explorer_data.is_right(query)
    verdict = {True: ":green[right]", False: ":red[wrong]", None: ""}[right]
    measurement = str(context.opened.info["measurement"]).removeprefix("classification ")
    own, mean = _lds_at(context)
    box.markdown(
        f"**Query {query['position']}**  \n"
        f"label **{plain(query['label'])}**"
        + (f", predicted **{plain(query['prediction'])}** {verdict}" if right is not None else "")
        + f"  \n{plain(measurement)} **{signed(query['goodness'], 2)}**"
        + (f"  \nown LDS **{signed(own, 2)}** (mean {signed(mean, 2)})" if not is_missing(own) else ""),
        width=180,
    )


def _lds_at(context: Context) -> tuple[float | None, float | None]:
    """Return the query's own LDS and the mean, at the stored λ nearest to the present one."""
    curve = context.opened.curve(context.configuration_id, context.alpha)
    own = context.opened.query_curve(context.configuration_id, context.view.query or 0, context.alpha)
    if not len(curve) or not len(own):
        return None, None
    lam = context.view.lam
    if curve["regularization"].isna().all() or lam is None:
        return float(own["lds"].iloc[0]), float(curve["mean"].iloc[0])
    at = _nearest(own["regularization"], lam)
    return float(own["lds"].iloc[at]), float(curve["mean"].iloc[_nearest(curve["regularization"], lam)])


def _nearest(grid: pd.Series, lam: float) -> int:
    if lam <= 0:
        return int((grid - lam).abs().to_numpy().argmin())
    return int(np.abs(np.log(grid.clip(lower=1e-300).to_numpy(dtype=float) / lam)).argmin())


def _show_switches(context: Context) -> None:
    view, known = context.view, context.configurations
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        method_buttons(context, "switch")
        setting_boxes(context, "switch", width=150)
        epochs = session.options(known, view.method, "training_epoch")
        if len(epochs) > 1:
            control(
                st.segmented_control, "Epoch", "switch-epoch", view.epoch,
                lambda value: session.choose(known, epoch=value), options=epochs, required=True,
            )  # fmt: skip
        dims = [k_text(value) for value in session.options(known, view.method, "projection_dim")]
        if len(dims) > 1:
            control(
                st.segmented_control, "Projection k", "switch-k", view.k, lambda value: session.choose(known, k=value),
                options=dims, format_func=lambda text: "none" if text == UNPROJECTED else text, required=True,
            )  # fmt: skip
        filtered = bool(view.classes or view.right)
        with st.popover("Filter examples" + (" (on)" if filtered else "")):
            labels = sorted(context.opened.examples("train")["label"].dropna().astype(str).unique())
            control(
                st.pills, "Classes of training examples", "filter-classes", list(view.classes), _filter_classes,
                options=labels, selection_mode="multi",
            )  # fmt: skip
            control(
                st.segmented_control, "Keep", "filter-right", view.right, _filter_right, options=list(RIGHT_NAMES),
                format_func=RIGHT_NAMES.get, required=True,
            )  # fmt: skip
            st.caption("Within the filter the ranking is exact: it is computed anew over all that pass.")


def _filter_classes(values: list[str]) -> None:
    session.update(classes=tuple(values))


def _filter_right(value: str) -> None:
    session.update(right=value or "")


def _show_tables(context: Context) -> None:
    st.caption(
        "Score: first-order change of this query's goodness when the example's weight is raised, on the mean-Gram "
        "scale; compare ranks, not sizes, between methods. Green frame: the query's own class. ✗: the model gets that "
        "training example wrong (label → prediction). Arrow keys move λ, Shift finer, Page keys by a decade."
    )
    left, right = st.columns(2)
    view = context.view
    with left:
        try:
            frame = explorer_data.top_examples(
                context.opened, context.configuration_id, view.query or 0, view.lam, view.classes, view.right
            )
        except NumericalError:  # why, the element above says live
            st.caption("No table: the method has no scores at this λ.")
        else:
            show_data(frame, f"examples-query{view.query}-{view.method}", f"Top examples at {describe(view)}")
    with right:
        curve = context.opened.curve(context.configuration_id, context.alpha)
        own = context.opened.query_curve(context.configuration_id, view.query or 0, context.alpha)
        frame = curve.merge(own, on="regularization", how="left")
        xi = context.opened.indicator_curve(context.configuration_id)
        if len(xi):
            frame = frame.merge(xi[["regularization", "mean", "q05", "q95"]], on="regularization", how="outer",
                                suffixes=("", "_xi"))  # fmt: skip
        names = {
            "regularization": "λ", "mean": "LDS", "ci_low": "95 % low", "ci_high": "95 % high", "lds": "this query",
            "num_subsets": "subsets", "mean_xi": "ξ̄", "q05": "ξ 5 %", "q95": "ξ 95 %",
        }  # fmt: skip
        shown = frame[[name for name in names if name in frame]].rename(columns=names)
        show_data(shown.round(6), "curves", "The two curves")
