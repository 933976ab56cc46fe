"""Rules for choosing λ, judged by the LDS that retraining shows. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from app.formats import is_missing, regularization_text
from tda_backend.interfaces.reading.records.curves import IndicatorPoint, LdsPoint
from tda_backend.interfaces.reading.records.selections import RuleRow, Selection

Curve = Sequence[IndicatorPoint] | Sequence[LdsPoint]


def _positive(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """Return λ > 0 and the mean there, ascending."""
    rows = sorted((row.regularization, row.mean) for row in curve if row.regularization)
    return np.array([lam for lam, _ in rows]), np.array([mean for _, mean in rows])


def crossing(curve: Sequence[IndicatorPoint], threshold: float) -> float | None:
    """Return the λ of the last upward crossing of ``threshold`` on the stored ξ̄ curve, log-interpolated.

    The same rule as Algorithm 1 on the grid's resolution: no crossing because ξ̄ stays above gives the low end.
    """
    lam, mean = _positive(curve)
    upward = np.flatnonzero((mean[:-1] < threshold) & (mean[1:] >= threshold))
    if len(upward):
        at = int(upward[-1])
        share = (threshold - mean[at]) / (mean[at + 1] - mean[at])
        return float(10 ** (math.log10(lam[at]) + share * math.log10(lam[at + 1] / lam[at])))
    return float(lam[0]) if len(lam) and mean[0] >= threshold else None


def value_at(curve: Curve, lam: float | None) -> float | None:
    """Return a curve's mean at λ, log-interpolated between stored λ; ``None`` where it is not known."""
    if lam is None or is_missing(lam) or not curve:
        return None
    if lam <= 0:
        return next((row.mean for row in curve if row.regularization == 0), None)
    values, means = _positive(curve)
    return float(np.interp(math.log10(lam), np.log10(values), means))


def chosen_regularization(
    record: Selection | None, curve: Sequence[IndicatorPoint], threshold: float
) -> tuple[float | None, list[str]]:
    """Return λ* at a threshold and its warnings: stored and bisected at the study's own, else from the stored curve."""
    if record is not None and is_own(record, threshold):
        return record.lambda_selected, list(record.warnings)
    lam = crossing(curve, threshold)
    lowest = min((row.regularization for row in curve if row.regularization > 0), default=-math.inf)
    if lam is not None and lam <= lowest:
        return lam, [f"ξ̄ is at least {threshold:g} on the whole grid; its low end was taken. No damping may be needed."]
    if lam is None and curve:
        return None, [f"ξ̄ stays below {threshold:g} on the whole grid, so no λ* is shown at this threshold."]
    return lam, []


def is_own(record: Selection | None, threshold: float) -> bool:
    """Return whether a threshold is the one that the study itself used."""
    return record is not None and math.isclose(threshold, record.threshold)


@dataclass(frozen=True)
class Choice:
    """What one rule chooses.

    Attributes:
        rule: In words.
        regularization: λ.
        lds: LDS there.
        regret: Best LDS minus this one.
    """

    rule: str
    regularization: float | None
    lds: float | None
    regret: float | None = None


def rules(record: Selection, curve: Sequence[LdsPoint], lam: float | None, threshold: float) -> list[Choice]:
    """Return each rule for choosing λ with its LDS and regret (best LDS minus the rule's).

    Args:
        record: λ* of the study and its baselines.
        curve: LDS(λ).
        lam: λ* at the threshold.
        threshold: Of ξ̄.
    """
    name = f"λ* where ξ̄ = {threshold:g}"
    own = Choice(name, record.lambda_selected, record.lds_selected)
    entries = [own if is_own(record, threshold) else Choice(name, lam, value_at(curve, lam))]
    entries += [
        Choice(f"{_percent(each.share)} quantile of the eigenvalues", each.regularization, each.lds)
        for each in record.quantiles
    ]
    entries.append(Choice("λ = 0 (pseudo-inverse)", 0.0, record.lds_at_zero))
    known = [Choice("", record.lambda_best, record.lds_best), *entries]
    best = max((each for each in known if not is_missing(each.lds)), key=_height, default=Choice("", None, None))
    entries.append(Choice("best of the grid and these rules (needs retraining)", best.regularization, best.lds))
    return [
        Choice(each.rule, each.regularization, each.lds, None if each.lds is None else _height(best) - each.lds)
        for each in entries
    ]


def _height(choice: Choice) -> float:
    return -math.inf if choice.lds is None else choice.lds


def _percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def rules_table(choices: Sequence[Choice], method: str) -> pd.DataFrame:
    """Return the rules of one method as a table for people."""
    return pd.DataFrame(
        {
            "method": [method] * len(choices),
            "rule": [each.rule for each in choices],
            "λ": [regularization_text(each.regularization) for each in choices],
            "LDS": [None if each.lds is None else round(each.lds, 3) for each in choices],
            "regret": [None if each.regret is None else round(each.regret, 3) + 0.0 for each in choices],
        }
    )


RULE_NAMES = {
    "zero": "λ = 0 (pseudo-inverse)",
    "default": "default of the papers",
    "racing": "racing: retrain until decided",
    "oracle": "best λ, after all retrainings",
}


def rule_name(rule: str) -> str:
    """Return a rule of :meth:`tda_backend.Study.rules` in words."""
    if rule.startswith("q"):
        return f"{_percent(float(rule[1:]))} quantile of the eigenvalues"
    if rule.startswith("xi"):
        threshold, *rest = rule[2:].split(" ")
        each = "one λ per layer" if rest else "λ*"
        return f"{each} where ξ̄ = {float(threshold):g}"
    return RULE_NAMES.get(rule, rule)


def judged_rules(rows: Sequence[RuleRow], shown: Mapping[str, str], tolerance: float = 0.01) -> pd.DataFrame:
    """Return every rule with its regret in some configurations and over all, and what it costs.

    Args:
        rows: From :meth:`tda_backend.Study.rules`.
        shown: configuration_id → name of those that get columns of their own.
        tolerance: Regret that does not matter.

    Returns:
        One row per rule, in the order in which rules come: ``rule``; for each name ``λ, name`` and ``regret, name``;
        ``mean regret``, ``worst regret``, ``within .01``, ``retrainings`` (means over configurations) and
        ``configurations`` (where the rule has an answer).
    """
    groups: dict[str, list[RuleRow]] = {}
    for row in rows:
        groups.setdefault(row.rule, []).append(row)
    columns: dict[str, list] = {"rule": [rule_name(rule) for rule in groups]}
    for identity, name in shown.items():
        own = [next((row for row in mine if row.configuration_id == identity), None) for mine in groups.values()]
        columns[f"λ, {name}"] = [regularization_text(None if row is None else row.regularization) for row in own]
        columns[f"regret, {name}"] = [None if row is None else row.regret for row in own]
    regrets = [np.array([row.regret for row in mine]) for mine in groups.values()]
    within = f"within {tolerance:g}".replace("0.", ".")
    return pd.DataFrame(
        {
            **columns,
            "mean regret": [float(np.nanmean(values)) for values in regrets],
            "worst regret": [float(np.nanmax(values)) for values in regrets],
            within: [f"{100 * (values <= tolerance).mean():.0f} %" for values in regrets],
            "retrainings": [
                round(float(np.mean([row.num_retrainings for row in mine])), 1) for mine in groups.values()
            ],
            "configurations": [len(mine) for mine in groups.values()],
        }
    )
