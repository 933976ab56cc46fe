"""Rules for choosing λ, judged by the LDS that retraining shows. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from app.formats import is_missing, regularization_text


def crossing(curve: pd.DataFrame, threshold: float) -> float | None:
    """Return the λ of the last upward crossing of ``threshold`` on the stored ξ̄ curve, log-interpolated.

    The same rule as Algorithm 1 on the grid's resolution: no crossing because ξ̄ stays above gives the low end.
    """
    rows = curve[curve["regularization"] > 0].sort_values("regularization")
    lam, mean = rows["regularization"].to_numpy(), rows["mean"].to_numpy()
    upward = np.flatnonzero((mean[:-1] < threshold) & (mean[1:] >= threshold))
    if len(upward):
        at = int(upward[-1])
        share = (threshold - mean[at]) / (mean[at + 1] - mean[at])
        return float(10 ** (math.log10(lam[at]) + share * math.log10(lam[at + 1] / lam[at])))
    return float(lam[0]) if len(lam) and mean[0] >= threshold else None


def value_at(curve: pd.DataFrame, lam: float | None, column: str = "mean") -> float | None:
    """Return a curve's value at λ, log-interpolated between stored λ; ``None`` where it is not known."""
    if is_missing(lam) or not len(curve):
        return None
    rows = curve.sort_values("regularization")
    if lam <= 0:
        zero = rows.loc[rows["regularization"] == 0, column]
        return float(zero.iloc[0]) if len(zero) else None
    rows = rows[rows["regularization"] > 0]
    return float(np.interp(math.log10(lam), np.log10(rows["regularization"]), rows[column]))


def chosen_regularization(
    record: dict[str, Any], curve: pd.DataFrame, threshold: float
) -> tuple[float | None, list[str]]:
    """Return λ* at a threshold and its warnings: stored and bisected at the study's own, else from the stored curve."""
    if is_own(record, threshold):
        return record["lambda_selected"], list(record.get("warnings", []))
    lam, lowest = crossing(curve, threshold), curve.loc[curve["regularization"] > 0, "regularization"].min()
    if lam is not None and lam <= lowest:
        return lam, [f"ξ̄ is at least {threshold:g} on the whole grid; its low end was taken. No damping may be needed."]
    if lam is None and len(curve):
        return None, [f"ξ̄ stays below {threshold:g} on the whole grid, so no λ* is shown at this threshold."]
    return lam, []


def is_own(record: dict[str, Any], threshold: float) -> bool:
    """Return whether a threshold is the one that the study itself used."""
    return bool(record) and math.isclose(threshold, record["threshold"])


def rules(record: dict[str, Any], curve: pd.DataFrame, lam: float | None, threshold: float) -> list[dict[str, Any]]:
    """Return each rule for choosing λ with its LDS and regret (best LDS minus the rule's)."""
    entries = [(f"λ* where ξ̄ = {threshold:g}", lam, value_at(curve, lam))]
    if is_own(record, threshold):
        entries = [(f"λ* where ξ̄ = {threshold:g}", record["lambda_selected"], record["lds_selected"])]
    for key, entry in record.get("quantiles", {}).items():
        entries.append(
            (f"{float(key):.0%} quantile of the eigenvalues".replace("%", " %"), entry["lambda"], entry["lds"])
        )
    entries.append(("λ = 0 (pseudo-inverse)", 0.0, record.get("lds_at_zero")))
    known = [(record.get("lds_best"), record.get("lambda_best")), *((lds, lam) for _, lam, lds in entries)]
    best, at = max(((lds, lam) for lds, lam in known if not is_missing(lds)), default=(None, None), key=lambda p: p[0])
    entries.append(("best of the grid and these rules (needs retraining)", at, best))
    return [
        {
            "rule": name,
            "λ": regularization_text(value),
            "LDS": None if is_missing(lds) else round(float(lds), 3),
            "regret": None if is_missing(lds) or is_missing(best) else round(float(best) - float(lds), 3) + 0.0,
        }
        for name, value, lds in entries
    ]


def rule_name(rule: str) -> str:
    """Return a rule of :meth:`tda_backend.Study.rules` in words."""
    fixed = {
        "zero": "λ = 0 (pseudo-inverse)", "default": "default of the papers", "racing": "racing: retrain until decided",
        "oracle": "best λ, after all retrainings",
    }  # fmt: skip
    if rule.startswith("q"):
        return f"{float(rule[1:]):.0%} quantile of the eigenvalues".replace("%", " %")
    if rule.startswith("xi"):
        threshold, *rest = rule[2:].split(" ")
        each = "one λ per layer" if rest else "λ*"
        return f"{each} where ξ̄ = {float(threshold):g}"
    return fixed.get(rule, rule)


def judged_rules(frame: pd.DataFrame, shown: Mapping[str, str], tolerance: float = 0.01) -> pd.DataFrame:
    """Return every rule with its regret in some configurations and over all, and what it costs.

    Args:
        frame: From :meth:`tda_backend.Study.rules`.
        shown: configuration_id → name of those that get columns of their own.
        tolerance: Regret that does not matter.

    Returns:
        One row a rule, in the order in which rules come: ``rule``; for each name ``λ, name`` and ``regret, name``;
        ``mean regret``, ``worst regret``, ``within .01``, ``retrainings`` (means over configurations) and
        ``configurations`` (where the rule has an answer).
    """
    records = []
    for rule, rows in frame.groupby("rule", sort=False):
        record: dict[str, Any] = {"rule": rule_name(str(rule))}
        for identity, name in shown.items():
            mine = rows[rows["configuration_id"] == identity]
            record[f"λ, {name}"] = regularization_text(mine["regularization"].iloc[0] if len(mine) else None)
            record[f"regret, {name}"] = float(mine["regret"].iloc[0]) if len(mine) else None
        records.append(record | {
            "mean regret": float(rows["regret"].mean()), "worst regret": float(rows["regret"].max()),
            f"within {tolerance:g}".replace("0.", "."): f"{100 * (rows['regret'] <= tolerance).mean():.0f} %",
            "retrainings": round(float(rows["num_retrainings"].mean()), 1), "configurations": len(rows),
        })  # fmt: skip
    return pd.DataFrame(records)
