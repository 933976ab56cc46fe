"""Words about a paper's claim: what is checked, what is expected, what a point is called. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from app.formats import regularization_text
from tda_backend.interfaces.papers.figures import ClaimPoint, figure_of
from tda_backend.interfaces.papers.verdicts import PaperClaim
from tda_backend.numerics.evaluation.claims import Comparison
from tda_backend.studies.claims import CLAIM_KINDS

RULE_NAMES = {"selected": "λ*", "best": "best λ", "zero": "λ = 0", "default": "papers' default λ"}


def number(value: float) -> str:
    """Return a bound as short as it is."""
    return f"{value:g}".replace("-", "−")


def short_labels(labels: Iterable[str]) -> dict[str, str]:
    """Return each configuration's label without the parts that all of them share; whole where nothing is left."""
    parts = {label: label.split(" · ") for label in dict.fromkeys(labels)}
    if len(parts) < 2:
        return {label: label for label in parts}
    shared = set.intersection(*(set(each) for each in parts.values()))
    kept = {label: " · ".join(part for part in each if part not in shared) for label, each in parts.items()}
    return {label: text or label for label, text in kept.items()}


def check_text(claim: PaperClaim) -> str:
    """Return what a claim's kind of comparison asks for, with its bound where known."""
    text = CLAIM_KINDS[claim.check_name].WORDS if claim.check_name in CLAIM_KINDS else claim.check_name
    return (text if claim.bound is None else text.replace("`bound`", number(claim.bound))).replace("`", "")


def expected_text(claim: PaperClaim) -> str:
    """Return the side and the bound that is expected: ``above 0.05``; empty where nothing was run."""
    side = "above" if figure_of(claim).above else "below"
    return "" if claim.bound is None else f"{side} {number(claim.bound)}"


def rule_text(rule: str, regularization: float | None = None) -> str:
    """Return how λ was chosen, for a person: ``best λ = 0.086``."""
    name = RULE_NAMES.get(rule, rule if rule.startswith("quantile") else "λ")
    if name == "λ = 0" or regularization is None:
        return name if rule else ""
    return f"{name} = {regularization_text(regularization)}"


def point_name(point: ClaimPoint) -> str:
    """Return what a compared point is called: configuration, λ, α and models as far as they are chosen."""
    words = [point.label, rule_text(point.rule, point.regularization), models_text(point)]
    return " · ".join(filter(None, words))


def models_text(point: ClaimPoint) -> str:
    """Return how many models of an ensemble are meant; empty for all."""
    return "" if not point.seeds else "1 model" if point.seeds == 1 else f"{point.seeds} models"


def side_values(comparisons: Sequence[Comparison]) -> dict[str, float]:
    """Return name → value of everything that stands on a side of a comparison."""
    values: dict[str, float] = {}
    for row in comparisons:
        if not math.isnan(row.value):
            values |= {row.left: row.left_value} | ({row.right: row.right_value} if row.right else {})
    return values


def single_model_value(point: ClaimPoint, values: Mapping[str, float]) -> float | None:
    """Return the LDS of an ensemble's first models, which only the sentences behind a verdict hold."""
    for name, value in values.items():
        if name.startswith(f"{point.label} ·") and name.endswith(models_text(point)):
            return value
    return None
