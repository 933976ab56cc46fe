"""What the figures beside a paper's claim are drawn from: what a study, computed here or shipped, holds about it.

Everything is read from small tables; nothing is computed again. A claim names configurations by selectors
(:mod:`~tda_backend.studies.config.selector`); here they become configurations and values of λ, so that a page can mark
them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from tda_backend.errors import StudyError
from tda_backend.interfaces.papers.evidence import ClaimEvidence
from tda_backend.interfaces.papers.verdicts import PaperClaim
from tda_backend.interfaces.reading.records.evidence import ComparedConfiguration, ComparedLds, ComparedSelection
from tda_backend.interfaces.reading.records.grouping import grouped
from tda_backend.studies.claims import CLAIM_KINDS
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.config.selector import SELECTED, Selector
from tda_backend.studies.contract.choosing import RANDOM, choose
from tda_backend.studies.contract.claim import ClaimKind, FigureKind
from tda_backend.studies.steps.choice import Known, regularization_of


@dataclass(frozen=True)
class ClaimFigure:
    """How a kind of claim is shown.

    Attributes:
        kind: Which figure.
        axis: What its comparisons are, with their unit: title of their axis.
        above: Whether they must lie above their bound (else below).
    """

    kind: FigureKind
    axis: str
    above: bool = True


def figure_of(claim: PaperClaim) -> ClaimFigure:
    """Return how a claim is shown; of a kind that another version shipped, what it compares."""
    kind = CLAIM_KINDS.get(claim.check_name)
    if kind is None:
        return ClaimFigure(FigureKind.COMPARED, ClaimKind.AXIS)
    return ClaimFigure(kind.FIGURE, kind.AXIS, kind.ABOVE)


@dataclass(frozen=True)
class ClaimPoint:
    """An LDS that a claim compares.

    Attributes:
        configuration_id: Which configuration.
        label: In words.
        side: ``left`` or ``right``.
        rule: How λ was chosen; ``""`` without λ.
        alpha: Share of the training set in a subset.
        regularization: λ, or ``None``.
        mean: ``None`` where a selector takes the first models of an ensemble alone, whose LDS is no row of ``lds``.
        ci_low: 95 %.
        ci_high: Likewise.
        seeds: Models of the ensemble; 0: all.
    """

    configuration_id: str
    label: str
    side: str
    rule: str
    alpha: float
    regularization: float | None
    mean: float | None
    ci_low: float | None
    ci_high: float | None
    seeds: int


def claim_points(evidence: ClaimEvidence) -> list[ClaimPoint]:
    """Return the points of LDS that a claim compares, the left side first."""
    known = {row.configuration_id: row for row in evidence.configurations}
    rows = [_configuration(row) for row in evidence.configurations]
    found: list[ClaimPoint] = []
    for side, selector in _selectors(evidence):
        try:
            chosen = choose(rows, selector)
        except StudyError:
            continue  # shipped by a version that resolved it otherwise: the numbers are shown, no mark
        found.append(_point(evidence, known[chosen.configuration_id], side, selector))
    return found


def _configuration(row: ComparedConfiguration) -> Configuration:
    return Configuration.from_json({**asdict(row), "parameters": json.loads(row.parameters)})


def _selectors(evidence: ClaimEvidence) -> Iterator[tuple[str, Selector]]:
    for side in ("left", "right"):
        for content in evidence.rule.get(side, []) if evidence.configurations else []:
            if isinstance(content, Mapping) and content != RANDOM.to_json():
                yield side, Selector(content)


def _point(evidence: ClaimEvidence, row: ComparedConfiguration, side: str, selector: Selector) -> ClaimPoint:
    alpha, seeds = selector.alpha or evidence.alphas[0], selector.seeds or 0
    curve, rule = evidence.curve(row.configuration_id, alpha), ""
    at = curve[0] if curve else None
    if curve and row.has_regularization:
        rule = str(selector.regularization)
        at = _nearest(curve, _regularization(evidence, row, alpha, selector), rule)
    shown = None if seeds else at
    return ClaimPoint(
        configuration_id=row.configuration_id,
        label=row.label,
        side=side,
        rule=rule,
        alpha=alpha,
        regularization=at.regularization if at is not None and row.has_regularization else None,
        mean=None if shown is None else shown.mean,
        ci_low=None if shown is None else shown.ci_low,
        ci_high=None if shown is None else shown.ci_high,
        seeds=seeds,
    )


def _regularization(evidence: ClaimEvidence, row: ComparedConfiguration, alpha: float, selector: Selector) -> float:
    """Return the λ that a selector means for a configuration."""
    selection = evidence.selection(row.configuration_id, alpha)
    values = {} if selection is None else {name: value for name, value, _ in quantiles_of(selection)}
    curve = evidence.curve(row.configuration_id, alpha)
    lds = [(point.regularization, point.mean) for point in curve if point.regularization is not None]
    chosen = None if selection is None else selection.lambda_selected
    wanted = regularization_of(selector, Known(chosen, lds, values))
    return float(wanted or 0.0)


def quantiles_of(selection: ComparedSelection) -> list[tuple[str, float, float | None]]:
    """Return (quantile, λ, LDS there) of the spectrum's quantiles."""
    entries = json.loads(selection.quantiles or "{}").items()
    return [(name, entry["lambda"], entry["lds"]) for name, entry in entries]


def _nearest(curve: Sequence[ComparedLds], wanted: float, rule: str) -> ComparedLds | None:
    """Return the point of LDS(λ) at a λ: that of λ* where it is meant, else the nearest of the grid."""
    selected = [point for point in curve if point.is_selected]
    if rule == SELECTED and selected:
        return selected[0]
    if wanted == 0.0:
        return next((point for point in curve if point.regularization == 0.0), None)
    positive = [(point.regularization, point) for point in curve if point.regularization]
    return min(positive, key=lambda pair: abs(math.log(pair[0] / wanted)))[1] if positive else None


@dataclass(frozen=True)
class RulePoint:
    """LDS of one rule for λ (``λ*``, ``λ = 0``, ``quantile 0.5`` …, ``best λ``) in one configuration."""

    configuration_id: str
    label: str
    rule: str
    regularization: float
    mean: float
    regret: float


def rule_points(evidence: ClaimEvidence) -> list[RulePoint]:
    """Return the LDS of each rule for λ in every configuration of a claim, at the first α."""
    found: list[RulePoint] = []
    for row in evidence.configurations:
        record = evidence.selection(row.configuration_id, evidence.alphas[0])
        if record is None or record.lds_best is None:
            continue
        entries = [("λ*", record.lambda_selected, record.lds_selected), ("λ = 0", 0.0, record.lds_at_zero)]
        entries += [(f"quantile {name}", value, mean) for name, value, mean in quantiles_of(record)]
        entries.append(("best λ", record.lambda_best, record.lds_best))
        found += [
            RulePoint(row.configuration_id, row.label, rule, value, mean, record.lds_best - mean)
            for rule, value, mean in entries
            if value is not None and mean is not None and not math.isnan(mean)
        ]
    return found


@dataclass(frozen=True)
class RemovalShares:
    """Share of queries that have not flipped, by how many of their examples were removed: one curve."""

    label: str
    sizes: list[int]
    shares: list[float]


def removal_shares(evidence: ClaimEvidence) -> list[RemovalShares]:
    """Return the removal curves of a study.

    A query that has flipped is not retrained again; it counts as flipped at every larger size.
    """
    sizes = sorted({row.size for row in evidence.removals})
    curves = []
    for label, rows in grouped(evidence.removals, lambda row: row.label).items():
        total = len({row.query for row in rows})
        flipped = grouped((row for row in rows if row.flipped), lambda row: row.query)
        first = [min(row.size for row in mine) for mine in flipped.values()]
        curves.append(RemovalShares(label, sizes, [1 - sum(at <= size for at in first) / total for size in sizes]))
    return curves
