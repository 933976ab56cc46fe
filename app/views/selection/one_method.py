"""One method's λ*: LDS(λ), ξ̄(λ) and the spectrum with the filter over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from app import services
from app.configurations import Configuration
from app.formats import MISSING, lds_text, plain, projection_text, regularization_text, signed
from app.session import Context
from app.shared.charts import indicator_figure, lds_figure
from app.shared.curves import XI_HELP, IndicatorCurve, LdsCurve, lambda_title
from app.shared.method_style import method_color
from app.shared.tables import show_data
from app.views.selection.rules import chosen_regularization, is_own, value_at
from app.views.selection.spectrum_chart import spectrum_bins, spectrum_figure
from tda_backend.interfaces.reading.influence import filter_shape
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.curves import IndicatorPoint, LdsPoint
from tda_backend.interfaces.reading.records.selections import Selection

CHART = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}


@dataclass(frozen=True)
class Choice:
    """What is known of one configuration's λ.

    Attributes:
        row: The configuration.
        record: λ* of the study and its baselines; ``None`` where nothing was selected.
        curve: LDS(λ).
        indicator: ξ̄(λ).
        lam: λ* at the threshold in view.
        warnings: What is odd about it.
    """

    row: Configuration
    record: Selection | None
    curve: list[LdsPoint]
    indicator: list[IndicatorPoint]
    lam: float | None
    warnings: list[str]

    @property
    def best(self) -> float | None:
        """λ with the highest LDS."""
        return None if self.record is None else self.record.lambda_best


def choice_of(context: Context, row: Configuration) -> Choice:
    """Return what is known of a configuration's λ at the threshold and α in view."""
    record = context.selection(row.configuration_id)
    curve = records(context.opened.curve(row.configuration_id, context.alpha), LdsPoint)
    indicator = records(context.opened.indicator_curve(row.configuration_id), IndicatorPoint)
    lam, warnings = chosen_regularization(record, indicator, context.view.xi)
    return Choice(row, record, curve, indicator, lam, warnings)


def span_of(choices: Sequence[Choice]) -> tuple[float, float] | None:
    """Return one range of LDS for all figures, so that heights compare."""
    points = [point for choice in choices for point in choice.curve]
    if not points:
        return None
    low, high = min(point.ci_low for point in points), max(point.ci_high for point in points)
    margin = 0.05 * max(high - low, 0.05)
    return low - margin, high + margin


def show_method(context: Context, choice: Choice, span: tuple[float, float] | None) -> None:
    """Draw one method's numbers and figures.

    Args:
        context: What the page works with.
        choice: The method's configuration and its λ*.
        span: Range of the LDS axis.
    """
    row = choice.row
    st.subheader(plain(row.variant_title), anchor=False)
    kind = services.methods()[row.method].curve
    st.caption(f"epoch {row.training_epoch} · {projection_text(row.projection_dim)} · {kind}")
    _show_numbers(choice, context.view.xi)
    for warning in choice.warnings:
        st.warning(plain(warning))
    if choice.curve:
        _show_lds(context, choice, span)
    else:
        st.info("LDS appears here once subsets have been retrained.")
    if choice.indicator:
        _show_indicator(context, choice)
    _show_spectrum(context, row)


def _show_numbers(choice: Choice, threshold: float) -> None:
    record = choice.record
    own = record is not None and is_own(record, threshold)
    at_lam = record.lds_selected if record is not None and own else value_at(choice.curve, choice.lam)
    best = None if record is None else record.lds_best
    with st.container(horizontal=True, gap="large"):
        st.metric("λ*", regularization_text(choice.lam), width="content")
        name = "LDS at λ*" if own else "LDS at λ*, between stored λ"
        st.metric(name, MISSING if at_lam is None else signed(at_lam, 3), width="content")
        st.metric("best LDS", MISSING if best is None else signed(best, 3), width="content")


def _show_lds(context: Context, choice: Choice, span: tuple[float, float] | None) -> None:
    row, record = choice.row, choice.record
    figure = lds_figure(
        LdsCurve(
            row.variant_title,
            choice.curve,
            method_color(row.method),
            lambda_title([row.is_relative]),
            context.view.lam,
            choice.lam,
            choice.best,
            () if record is None else record.quantiles,
            span,
        )
    )
    best = None if record is None else record.lds_best
    alt = f"LDS against λ for {row.variant_title}; best {lds_text(best)} at λ {choice.best}"
    st.plotly_chart(figure, width="stretch", config=CHART, key=f"lds-{row.variant}", alt=alt)
    num, planned = max(point.num_subsets for point in choice.curve), context.facts.num_subsets
    early = f" so far {num} of {planned} subsets." if num < planned else f" {num} subsets."
    st.caption(
        f"LDS with its 95 % band;{early} Grey lines: quantiles of the eigenvalues as λ; dots: the best λ; dashes: "
        "the present λ."
    )
    show_data(_table(choice.curve, "LDS"), f"lds-{row.variant}")


def _show_indicator(context: Context, choice: Choice) -> None:
    row, threshold = choice.row, context.view.xi
    figure = indicator_figure(
        IndicatorCurve(
            row.variant_title,
            choice.indicator,
            method_color(row.method),
            lambda_title([row.is_relative]),
            threshold,
            context.view.lam,
            choice.lam,
        )
    )
    alt = f"Mean surrogate indicator against λ for {row.variant_title}; crosses {threshold:g} at λ {choice.lam}"
    st.plotly_chart(figure, width="stretch", config=CHART, key=f"xi-{row.variant}", alt=alt)
    st.caption(f"{XI_HELP} Bands: middle half, and 5 to 95 %, of the validation points.")
    show_data(_table(choice.indicator, "ξ̄"), f"xi-{row.variant}")


def _table(points: Sequence[LdsPoint] | Sequence[IndicatorPoint], mean: str) -> pd.DataFrame:
    """Return a curve as a table for people."""
    frame = pd.DataFrame([vars(point) for point in points]).drop(columns=["is_selected"])
    return frame.rename(columns={"regularization": "λ", "mean": mean})


def _show_spectrum(context: Context, row: Configuration) -> None:
    values = context.opened.eigenvalues(row.configuration_id)
    if not (values > 0).any():
        return
    lam = context.view.lam or 0.0
    shape = filter_shape(context.opened, row.configuration_id, lam)
    st.plotly_chart(
        spectrum_figure(values, lam, shape, method_color(row.method)),
        width="stretch",
        config=CHART,
        key=f"spectrum-{row.variant}",
        alt=f"Histogram of {len(values)} eigenvalues, and the filter at λ = {regularization_text(lam)}",
    )
    if shape is not None:
        st.caption(f"{plain(shape.formula)}. {plain(shape.remark)}")
    show_data(pd.DataFrame([vars(each) for each in spectrum_bins(values)]), f"spectrum-{row.variant}")
