"""LDS(λ) of each method's best configuration: the first true thing to see of a study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from app import services
from app.configurations import Configuration, Configurations
from app.formats import projection_text
from app.shared.charts import comparison_figure
from app.shared.curves import LDS_HELP, NamedCurve, lambda_title, lds_points
from app.shared.method_style import method_color, method_dash
from app.shared.tables import show_data
from tda_backend.interfaces.reading.records.base import records
from tda_backend.interfaces.reading.records.curves import LdsPoint
from tda_backend.interfaces.reading.records.studies import facts_of

MAX_CURVES = 6


def best_of_each(known: Configurations) -> list[Configuration]:
    """Return each method's configuration with the best LDS, of those with λ whose LDS is known."""
    found = []
    for mine in known.with_lambda().by_method().values():
        rows = [row for row in mine if row.best_lds is not None]
        if rows:
            found.append(max(rows, key=_height))
    return found


def _height(row: Configuration) -> float:
    return -1.0 if row.best_lds is None else row.best_lds


@dataclass(frozen=True)
class _Shown:
    """One curve with its name in the legend."""

    configuration: Configuration
    name: str
    points: list[LdsPoint]


def _name(row: Configuration) -> str:
    relative = ", λ relative to layers" if row.is_relative else ""
    return f"{row.variant_title}{relative}, epoch {row.training_epoch}, {projection_text(row.projection_dim)}"


def show_curves(study_id: str) -> None:
    """Draw the curves of the best methods, what they are of, and their table."""
    opened = services.study(study_id)
    best = best_of_each(services.configurations(opened))
    if not best:
        st.info("The first LDS(λ) curve appears here once some subsets have been retrained.")
        return
    few = sorted(best, key=_height, reverse=True)[:MAX_CURVES] if len(best) > MAX_CURVES else best
    shown = [_Shown(row, _name(row), records(opened.curve(row.configuration_id), LdsPoint)) for row in few]
    curves = [
        NamedCurve(
            each.name,
            method_color(each.configuration.method),
            method_dash(each.configuration.method),
            lds_points(each.points),
        )
        for each in shown
    ]
    st.plotly_chart(
        comparison_figure(curves, lambda_title(row.is_relative for row in few)),
        width="stretch",
        config={"displaylogo": False},
        key=f"curves-{study_id}",
        alt="LDS against λ of each method's best configuration, with 95 % bands",
    )
    num = max(point.num_subsets for each in shown for point in each.points)
    planned = facts_of(opened.info).num_subsets
    count = f"So far {num} of {planned} subsets." if num < planned else f"{num} retrained subsets."
    some = f"The {len(few)} best of {len(best)} methods with λ. " if len(best) > len(few) else ""
    st.caption(f"{some}{LDS_HELP} {count} The peak is where λ should be; how wide it is says how much that matters.")
    show_data(_table(shown), f"curves-{study_id}")


def _table(shown: Sequence[_Shown]) -> pd.DataFrame:
    """Return the curves' points as a table for people."""
    rows = [(each.name, point) for each in shown for point in each.points]
    return pd.DataFrame(
        {
            "λ": [point.regularization for _, point in rows],
            "LDS": [point.mean for _, point in rows],
            "ci_low": [point.ci_low for _, point in rows],
            "ci_high": [point.ci_high for _, point in rows],
            "num_subsets": [point.num_subsets for _, point in rows],
            "num_undefined": [point.num_undefined for _, point in rows],
            "configuration": [name for name, _ in rows],
        }
    )
