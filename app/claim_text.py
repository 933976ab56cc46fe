"""Words about a paper's claim: what is checked, what is expected, what a point is called. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from app.formats import is_missing
from app.papers_charts import rule_text
from tda_backend.runs.claim_rules import CHECKS

_AXES = {
    "greater": "difference of LDS, 95 % interval", "ratio": "ratio of LDS, 95 % interval",
    "level": "LDS, 95 % interval", "wider": "difference of the ranges of LDS over λ, 95 % interval",
    "rule": "difference of mean LDS, 95 % interval", "regret": "best LDS − LDS at the rule's λ, 95 % interval",
    "rising": "share of configurations", "same-shape": "rank correlation over λ, 95 % interval",
    "flips": "difference of the areas, 95 % interval", "matched": "ratio of correlations, 95 % interval",
    "error-grows": "difference of relative errors, 95 % interval", "proxy": "rank correlation, 95 % interval",
    "selection": "difference of test losses, 95 % interval",
}  # fmt: skip


def number(value: float) -> str:
    """Return a bound as short as it is."""
    return f"{value:g}".replace("-", "−")


def check_text(check: str, bound: Any) -> str:
    """Return what a kind of comparison asks for, with its bound where known."""
    text = CHECKS[check][0] if check in CHECKS else check
    return text.replace("`", "") if is_missing(bound) else text.replace("`bound`", number(bound)).replace("`", "")


def expected_text(check: str, bound: Any) -> str:
    """Return the side and the bound that is expected: ``above 0.05``; empty where nothing was run."""
    return "" if is_missing(bound) else f"{'below' if check == 'regret' else 'above'} {number(bound)}"


def axis_text(check: str) -> str:
    """Return the title of the axis of a claim's comparisons."""
    return _AXES.get(check, "value, 95 % interval")


def point_name(row: Mapping[str, Any]) -> str:
    """Return what a compared point is called: configuration, λ, α and models as far as they are chosen."""
    words = [row["label"], rule_text(row["rule"], row["regularization"])]
    if row["seeds"]:
        words.append("1 model" if row["seeds"] == 1 else f"{row['seeds']} models")
    return " · ".join(filter(None, words))


def side_values(comparisons: pd.DataFrame) -> dict[str, float]:
    """Return name → value of everything that stands on a side of a comparison."""
    values: dict[str, float] = {}
    for row in comparisons[comparisons["value"].notna()].to_dict("records"):
        values[row["left"]] = row["left_value"]
        if row["right"]:
            values[row["right"]] = row["right_value"]
    return values


def single_model_value(row: Mapping[str, Any], values: Mapping[str, float]) -> float | None:
    """Return the LDS of an ensemble's first models, which only the sentences behind a verdict hold."""
    models = "1 model" if row["seeds"] == 1 else f"{row['seeds']} models"
    for name, value in values.items():
        if name.startswith(f"{row['label']} ·") and name.endswith(models):
            return value
    return None
