"""``[[claims]]`` of a study file: what a paper says, and how the study's figures are to be compared with it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from tda_backend.errors import StudyError
from tda_backend.methods import METHODS
from tda_backend.runs.selectors import check_selector, choose
from tda_backend.runs.trajectory_claim_rules import TRAJECTORY_CHECKS, check_trajectory_claim

NOT_RUN = "not run"
"""Verdict on a claim without figures: its study was not run, or a configuration that it needs could not be computed."""
PAPERS = {
    "taming": "Taming Hyperparameter Sensitivity in Data Attribution (arXiv 2505.24261)",
    "source": "Training Data Attribution via Approximate Unrolling (arXiv 2405.12186)",
    "trajectory": "AdamW-influence and trajectory error (arXiv 2605.18814)",
}
SHORT_NAMES = {"taming": "Taming", "source": "SOURCE", "trajectory": "AdamW-influence"}
"""How a table calls them."""
CHECKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "greater": ("LDS of left − LDS of each right lies above `bound`", ("left", "right")),
    "differs": ("LDS of left and of each right differ by more than `bound`, either way", ("left", "right")),
    "ratio": ("LDS of left / LDS of each right lies above `bound`", ("left", "right")),
    "level": ("LDS of each left lies above `bound`", ("left",)),
    "wider": ("range of LDS over λ of left − that of each right lies above `bound`", ("left", "right")),
    "rule": ("mean over the configurations of `methods`: LDS at λ `left` − LDS at each λ `right` lies above `bound`",
             ("methods", "left", "right")),
    "regret": ("mean over the configurations of `methods`: best LDS − LDS at λ `left` lies below `bound`",
               ("methods", "left")),
    "rising": ("share of the configurations of `methods` whose ξ never falls by more than .01 lies above `bound`",
               ("methods",)),
    "same-shape": ("correlation of LDS(λ) between the first α and each other lies above `bound`", ("methods",)),
    "flips": ("area under the subset-removal curve of left − that of each right lies above `bound`",
              ("left", "right")),
    **TRAJECTORY_CHECKS,
}  # fmt: skip
"""Kind of comparison → (what it asks for, the keys it needs)."""
_TEXTS = ("id", "paper", "place", "statement", "check")
_ALLOWED = (*_TEXTS, "left", "right", "methods", "learning_rates", "along", "bound", "note")
DEFAULT_BOUNDS = {
    "differs": 0.02, "ratio": 1.0, "level": 0.0, "regret": 0.02, "rising": 0.9, "same-shape": 0.8, "matched": 1.1,
    "proxy": 0.5,
}  # fmt: skip
RANDOM = {"method": "random same class"}
"""Stands for the baseline of subset removal in a ``flips`` comparison."""


def check_claims(key: str, value: Any) -> list[dict[str, Any]]:
    """Return the claims of a study after checking their form.

    Raises:
        StudyError: A claim lacks a key, has an unknown one, or a value that is not allowed.
    """
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise StudyError(f"{key} is not a list of tables.", "Write each claim as [[claims]] with its keys below.")
    checked = [_check_claim(f"{key}[{number}]", item) for number, item in enumerate(value)]
    names = [claim["id"] for claim in checked]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise StudyError(f"{key} has the id {twice[0]!r} twice.", "Give every claim its own id.")
    return checked


def _check_claim(key: str, claim: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(claim) - set(_ALLOWED))
    if unknown:
        raise StudyError(f"Unknown key {key}.{unknown[0]}.", f"Allowed: {', '.join(_ALLOWED)}.")
    for name in _TEXTS:
        if not isinstance(claim.get(name), str) or not claim[name].strip():
            raise StudyError(f"{key}.{name} is missing or no text.", f"Every claim has {', '.join(_TEXTS)}.")
    if claim["paper"] not in PAPERS:
        raise StudyError(f"{key}.paper = {claim['paper']!r} is not known.", f"Allowed: {', '.join(PAPERS)}.")
    if claim["check"] not in CHECKS:
        kinds = "; ".join(f"{name}: {text}" for name, (text, _) in CHECKS.items())
        raise StudyError(f"{key}.check = {claim['check']!r} is not known.", f"Allowed: {kinds}.")
    needs = CHECKS[claim["check"]][1]
    for name in needs:
        if name not in claim:
            raise StudyError(f"{key} lacks {name}, which check {claim['check']} needs.", CHECKS[claim["check"]][0])
    bound = claim.get("bound", DEFAULT_BOUNDS.get(claim["check"], 0.0))
    if not isinstance(bound, Real) or isinstance(bound, bool) or not math.isfinite(float(bound)):
        raise StudyError(f"{key}.bound = {bound!r} is not allowed.", "Give a number.")
    checked: dict[str, Any] = {name: claim[name].strip() for name in _TEXTS}
    checked["bound"] = float(bound)
    if "note" in claim:
        checked["note"] = str(claim["note"])
    if claim["check"] in TRAJECTORY_CHECKS:
        return checked | check_trajectory_claim(key, claim)
    if "methods" in needs:
        checked["methods"] = _methods(f"{key}.methods", claim["methods"])
        for name in ("left", "right"):
            if name in needs:
                checked[name] = [
                    check_selector(f"{key}.{name}", {"method": checked["methods"][0], "regularization": rule})[
                        "regularization"
                    ]
                    for rule in (claim[name] if isinstance(claim[name], list) else [claim[name]])
                ]
    else:
        for name in needs:
            given = claim[name] if isinstance(claim[name], list) else [claim[name]]
            checked[name] = [_selector(f"{key}.{name}", claim["check"], item) for item in given]
            if not given or (name == "left" and "right" in needs and len(given) > 1):
                raise StudyError(f"{key}.{name} has {len(given)} entries.", "left has one, right at least one.")
    return checked


def _selector(key: str, check: str, value: Any) -> dict[str, Any]:
    if check == "flips" and isinstance(value, Mapping) and dict(value) == RANDOM:
        return dict(RANDOM)
    return check_selector(key, value)


def _methods(key: str, value: Any) -> list[str]:
    names = value if isinstance(value, list) else [value]
    able = [name for name, spec in METHODS.items() if spec.has_regularization]
    for name in names:
        if name not in able:
            raise StudyError(f"{key} has {name!r}.", f"Methods with λ: {', '.join(able)}.")
    if not names:
        raise StudyError(f"{key} is empty.", "Name at least one method.")
    return list(names)


def selectors_of(claim: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the selectors that a claim names, the random baseline of subset removal left out."""
    if claim["check"] in TRAJECTORY_CHECKS:
        return []
    named = [item for name in ("left", "right") for item in claim.get(name, [])]
    return [dict(item) for item in named if isinstance(item, Mapping) and item != RANDOM]


def with_alpha(claim: Mapping[str, Any], all_but_one: float) -> dict[str, Any]:
    """Return a claim whose selectors name α = 1 − 1/n as the number that it is in this study."""
    result = dict(claim)
    for name in ("left", "right"):
        if name in claim:
            result[name] = [
                {**item, "alpha": all_but_one}
                if isinstance(item, Mapping) and isinstance(item.get("alpha"), str)
                else item
                for item in claim[name]
            ]
    return result


def rows_of(claim: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the configurations that a claim needs."""
    named = [choose(rows, selector) for selector in selectors_of(claim)]
    return named + [row for row in rows if row["method"] in claim.get("methods", [])]


def check_against_rows(claims: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise a StudyError where a claim names a configuration that the study does not have."""
    for claim in claims:
        for selector in selectors_of(claim):
            try:
                choose(rows, selector)
            except StudyError as error:
                raise StudyError(f"Claim {claim['id']}: {error.message}", error.hint) from error
        missing = set(claim.get("methods", [])) - {row["method"] for row in rows}
        if missing:
            raise StudyError(f"Claim {claim['id']}: the study has no {sorted(missing)[0]}.", "Add it to [methods].")
