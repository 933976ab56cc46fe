"""The figure beside a claim, by kind of figure, with its table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from app.formats import regularization_text
from app.shared.charts import comparison_figure
from app.shared.curves import CurvePoint, NamedCurve, lambda_title
from app.shared.intervals import NamedInterval
from app.shared.method_style import DASHES
from app.shared.plots import ZOOMABLE, show_figure
from app.shared.tables import show_data
from app.views.papers.charts import (
    Mark,
    claim_curves_figure,
    highest_and_lowest,
    points_figure,
    removal_figure,
    rules_figure,
    style,
)
from app.views.papers.claim_text import point_name, rule_text, short_labels, side_values, single_model_value
from tda_backend.interfaces.papers.evidence import ClaimEvidence, comparisons_of
from tda_backend.interfaces.papers.figures import (
    ClaimPoint,
    claim_points,
    removal_shares,
    rule_points,
)
from tda_backend.interfaces.papers.verdicts import PaperClaim
from tda_backend.interfaces.reading.records.evidence import ComparedConfiguration, ComparedLds
from tda_backend.studies.contract.claim import FigureKind


@dataclass(frozen=True)
class LdsCurve:
    """LDS(λ) of one configuration of a claim at one α, under a short name."""

    configuration: ComparedConfiguration
    name: str
    rows: list[ComparedLds]

    @property
    def points(self) -> list[CurvePoint]:
        """Points of a figure; gaps where there is no LDS."""
        return [
            CurvePoint(
                row.regularization, _number(row.mean), _number(row.ci_low), _number(row.ci_high), row.is_selected
            )
            for row in self.rows
        ]


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def show_claim_figure(claim: PaperClaim, kind: FigureKind, found: ClaimEvidence) -> None:
    """Draw the figure of a claim, and its numbers as a table."""
    _DRAWN[kind](claim, found)


def _draw(figure: go.Figure, claim: PaperClaim, alt: str, caption: str) -> None:
    show_figure(figure, f"figure-{claim.key}", alt, config=ZOOMABLE)
    st.caption(caption)


def _title(found: ClaimEvidence) -> str:
    return lambda_title([row.is_relative for row in found.configurations])


def _curves(found: ClaimEvidence, alpha: float) -> list[LdsCurve]:
    """Return LDS(λ) at one α of the claim's configurations with λ."""
    known = [row for row in found.configurations if row.has_regularization]
    names = short_labels(row.label for row in known)
    curves = [LdsCurve(row, names[row.label], found.curve(row.configuration_id, alpha)) for row in known]
    return [curve for curve in curves if curve.rows]


def _curve_table(curves: Sequence[tuple[str, LdsCurve]]) -> pd.DataFrame:
    rows = [(name, row) for name, curve in curves for row in curve.rows]
    return pd.DataFrame(
        {
            "configuration": [name for name, _ in rows],
            "α": [row.alpha for _, row in rows],
            "λ": [row.regularization for _, row in rows],
            "LDS": [row.mean for _, row in rows],
            "ci_low": [row.ci_low for _, row in rows],
            "ci_high": [row.ci_high for _, row in rows],
            "num_subsets": [row.num_subsets for _, row in rows],
            "λ*": [row.is_selected for _, row in rows],
        }
    )


# ---------------------------------------------------------------- curves of λ, or points


def _show_compared(claim: PaperClaim, found: ClaimEvidence) -> None:
    """Draw the λ compared on curves where every configuration has one; the points compared otherwise."""
    points = claim_points(found)
    marks = {
        row.configuration_id: [
            Mark(rule_text(point.rule, point.regularization), point.regularization, point.mean)
            for point in points
            if point.configuration_id == row.configuration_id
            and point.mean is not None
            and point.regularization is not None
        ]
        for row in found.configurations
    }
    if not _show_curves(claim, found, points, marks, "the λ compared"):
        _show_points(claim, points)


def _show_ranges(claim: PaperClaim, found: ClaimEvidence) -> None:
    """Draw highest and lowest LDS on curves where every configuration has one; the points compared otherwise."""
    points = claim_points(found)
    marks = {
        curve.configuration.configuration_id: highest_and_lowest(curve.points)
        for curve in _curves(found, found.alphas[0])
    }
    if not _show_curves(claim, found, points, marks, "highest and lowest LDS over λ > 0"):
        _show_points(claim, points)


def _show_curves(
    claim: PaperClaim,
    found: ClaimEvidence,
    points: Sequence[ClaimPoint],
    marks: dict[str, list[Mark]],
    marked: str,
) -> bool:
    """Draw curves with marks, if every configuration has a curve and all is about one α and whole ensembles."""
    curves = _curves(found, found.alphas[0])
    one_alpha = len({point.alpha for point in points}) < 2 and not any(point.seeds for point in points)
    if not curves or len(curves) < len(found.configurations) or not one_alpha:
        return False
    named = [NamedCurve(curve.name, *style(number), curve.points) for number, curve in enumerate(curves)]
    by_name = {curve.name: marks.get(curve.configuration.configuration_id, []) for curve in curves}
    _draw(
        claim_curves_figure(named, by_name, _title(found)),
        claim,
        f"LDS against λ of {', '.join(curve.name for curve in curves)}",
        f"LDS with its 95 % band; diamonds: {marked}. Intervals of a difference are paired, and narrower than the "
        "bands suggest.",
    )
    show_data(_curve_table([(curve.name, curve) for curve in curves]), f"{claim.key}-curves")
    return True


def _show_points(claim: PaperClaim, points: Sequence[ClaimPoint]) -> None:
    rows = _point_rows(claim, points)
    if not rows:
        st.info("The study holds no LDS of these configurations; the numbers beside this are what is known.")
        return
    alone = any(point.seeds for point in points)
    some = " Where a few models of an ensemble count alone, only the value is stored." if alone else ""
    _draw(
        points_figure(rows),
        claim,
        "LDS of " + "; ".join(row.name for row in rows),
        f"LDS of what is compared, with its 95 % interval over subsets.{some}",
    )
    table = pd.DataFrame(
        {
            "name": [row.name for row in rows],
            "mean": [row.value for row in rows],
            "low": [row.low for row in rows],
            "high": [row.high for row in rows],
        }
    )
    show_data(table.round(4), f"{claim.key}-points")


def _point_rows(claim: PaperClaim, points: Sequence[ClaimPoint]) -> list[NamedInterval]:
    """Return the points, each name once; those of single models from the sentences behind the verdict."""
    values = side_values(comparisons_of(claim))
    several = len({point.alpha for point in points}) > 1
    rows: dict[str, NamedInterval] = {}
    for point in points:
        mean = single_model_value(point, values) if point.seeds else point.mean
        if mean is not None:
            name = point_name(point) + (f" · α = {point.alpha:g}" if several else "")
            rows.setdefault(name, NamedInterval(name, mean, point.ci_low, point.ci_high))
    return list(rows.values())


# ---------------------------------------------------------------- rules, ξ, shapes, removals


def _show_rules(claim: PaperClaim, found: ClaimEvidence) -> None:
    points = rule_points(found)
    if not points:
        st.info("The study holds no selected λ of these configurations.")
        return
    _draw(
        rules_figure(points),
        claim,
        "LDS of every rule for λ, by configuration",
        "LDS of each rule for λ; each row is a configuration. The best λ needs retraining to be known.",
    )
    table = pd.DataFrame(
        {
            "label": [point.label for point in points],
            "rule": [point.rule for point in points],
            "λ": [regularization_text(point.regularization) for point in points],
            "LDS": [round(point.mean, 4) for point in points],
            "regret": [round(point.regret, 4) for point in points],
        }
    )
    show_data(table, f"{claim.key}-rules")


def _show_indicator(claim: PaperClaim, found: ClaimEvidence) -> None:
    names = short_labels(row.label for row in found.configurations)
    curves, rows = [], []
    for place, configuration in enumerate(found.configurations):
        mine = [row for row in found.indicator if row.configuration_id == configuration.configuration_id]
        points = [CurvePoint(row.regularization, row.mean, row.q25, row.q75, row.is_selected) for row in mine]
        curves += [NamedCurve(names[configuration.label], *style(place), points)] if points else []
        rows += [(configuration.label, point) for point in points]
    if not curves:
        st.info("The study holds no ξ of these configurations.")
        return
    _draw(
        comparison_figure(curves, _title(found), 320, "ξ̄ (mean over validation points)"),
        claim,
        f"Mean surrogate indicator against λ of {len(curves)} configurations",
        "ξ̄ over λ; bands: the middle half of the validation points. No retraining is involved.",
    )
    table = pd.DataFrame(
        {
            "configuration": [label for label, _ in rows],
            "λ": [point.regularization for _, point in rows],
            "ξ̄": [point.mean for _, point in rows],
            "25 %": [point.low for _, point in rows],
            "75 %": [point.high for _, point in rows],
        }
    )
    show_data(table.round(5), f"{claim.key}-xi")


def _show_shapes(claim: PaperClaim, found: ClaimEvidence) -> None:
    named, curves = [], []
    for share, alpha in enumerate(found.alphas):
        for place, curve in enumerate(_curves(found, alpha)):
            name = f"{curve.name} · α = {alpha:g}"
            named.append((name, curve))
            curves.append(NamedCurve(name, style(place)[0], DASHES[share % len(DASHES)], curve.points))
    if not curves:
        st.info("The study holds no LDS of these configurations.")
        return
    _draw(
        comparison_figure(curves, _title(found), 340),
        claim,
        f"LDS against λ at {len(found.alphas)} subset shares",
        "LDS with its 95 % band; colour: configuration, dash: share α of the training set in a subset.",
    )
    show_data(_curve_table(named), f"{claim.key}-shapes")


def _show_removals(claim: PaperClaim, found: ClaimEvidence) -> None:
    curves = removal_shares(found)
    if not curves:
        st.info("The study holds no removal curves.")
        return
    _draw(
        removal_figure(curves),
        claim,
        "Share of queries not flipped against the number of examples removed",
        "Queries whose prediction still stands after retraining without their most helpful examples: the lower a "
        "curve, the better its ranking.",
    )
    rows = [(curve.label, *point) for curve in curves for point in zip(curve.sizes, curve.shares, strict=True)]
    table = pd.DataFrame(
        {
            "size": [size for _, size, _ in rows],
            "share": [share for *_, share in rows],
            "curve": [label for label, *_ in rows],
        }
    )
    show_data(table, f"{claim.key}-removals")


_DRAWN = {
    FigureKind.COMPARED: _show_compared,
    FigureKind.RANGES: _show_ranges,
    FigureKind.RULES: _show_rules,
    FigureKind.INDICATOR: _show_indicator,
    FigureKind.SHAPES: _show_shapes,
    FigureKind.REMOVALS: _show_removals,
}
