"""The form of claims about unrolled runs and look-ahead selection.

A claim of these kinds names learning rates, or strategies of selection, instead of configurations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tda_backend.errors import StudyError
from tda_backend.runs.trajectory_study import ALL_STEPS, LOOKING_AHEAD, STRATEGIES

TRAJECTORY_CHECKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "matched": ("Spearman with the true effects: optimizer as trained / SGD assumed lies above `bound` at each of "
                "`learning_rates`", ("learning_rates",)),
    "error-grows": ("relative error of the prediction rises by more than `bound` from each learning rate to the next "
                    "larger one, or from the first steps to the last", ("along", "learning_rates")),
    "proxy": ("Spearman's and Pearson's correlation of the error proxy with the real error lie above `bound` at each "
              "of `learning_rates`", ("learning_rates",)),
    "selection": ("test loss after training on what each `right` selects − what `left` selects lies above `bound`, "
                  "each with K and learning rate chosen on the tuning set", ("left", "right")),
}  # fmt: skip
"""Kind of comparison → (what it asks for, the keys it needs)."""
SECTIONS = {"matched": "trajectory", "error-grows": "trajectory", "proxy": "trajectory", "selection": "lookahead"}
"""Kind of comparison → the section of the study it reads."""
_ALONG = ("learning rate", "length")


def check_trajectory_claim(key: str, claim: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that a claim of one of ``TRAJECTORY_CHECKS`` needs, checked.

    Raises:
        StudyError: A value is not allowed.
    """
    if claim["check"] == "selection":
        sides = {side: _strategies(f"{key}.{side}", claim[side]) for side in ("left", "right")}
        if len(sides["left"]) != 1:
            raise StudyError(f"{key}.left has {len(sides['left'])} entries.", "left has one, right at least one.")
        return sides
    checked: dict[str, Any] = {}
    if "along" in TRAJECTORY_CHECKS[claim["check"]][1]:
        if claim["along"] not in _ALONG:
            raise StudyError(f"{key}.along = {claim['along']!r} is not allowed.", f"Allowed: {', '.join(_ALONG)}.")
        checked["along"] = claim["along"]
    rates = claim["learning_rates"] if isinstance(claim["learning_rates"], list) else [claim["learning_rates"]]
    if not rates or not all(isinstance(rate, float | int) and rate > 0 for rate in rates):
        raise StudyError(f"{key}.learning_rates = {rates!r} is not allowed.", "Give learning rates above 0.")
    if checked.get("along") == _ALONG[0] and len(rates) < 2:
        raise StudyError(f"{key} compares learning rates, but names {rates}.", "Give at least two learning_rates.")
    checked["learning_rates"] = [float(rate) for rate in rates]
    return checked


def _strategies(key: str, value: Any) -> list[dict[str, Any]]:
    given = value if isinstance(value, list) else [value]
    for item in given:
        if (
            not isinstance(item, Mapping)
            or set(item) - {"strategy", "horizon"}
            or item.get("strategy") not in STRATEGIES
        ):
            raise StudyError(
                f"{key} has {item!r}.",
                'Write {strategy = "…", horizon = K or "all"}, horizon optional; strategies: '
                f"{', '.join(STRATEGIES)}.",
            )
        horizon = item.get("horizon", ALL_STEPS)
        if "horizon" in item and item["strategy"] not in LOOKING_AHEAD:
            raise StudyError(f"{key}: {item['strategy']} looks nowhere ahead.", "Leave its horizon out.")
        if horizon != ALL_STEPS and (isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1):
            raise StudyError(f"{key}: horizon {horizon!r} is not allowed.", 'Give steps K ≥ 1, or "all".')
    return [dict(item) for item in given]


def check_against_sections(
    claim: Mapping[str, Any], study: Mapping[str, Any], rates: Mapping[str, list[float]]
) -> None:
    """Raise a StudyError where a claim reads what its study does not compute.

    Args:
        claim: Of one of ``TRAJECTORY_CHECKS``.
        study: The resolved study.
        rates: Learning rates by section.
    """
    section = SECTIONS[claim["check"]]
    if section not in study:
        raise StudyError(f"Claim {claim['id']} needs the section [{section}].", "Add it to the study.")
    missing = sorted(set(claim.get("learning_rates", [])) - set(rates[section]))
    if missing:
        raise StudyError(
            f"Claim {claim['id']} names the learning rate {missing[0]:g}.",
            f"{section}.learning_rates has {', '.join(f'{rate:g}' for rate in rates[section])}.",
        )
    if claim["check"] in ("proxy", "error-grows") and not study["trajectory"]["proxy"]:
        raise StudyError(f"Claim {claim['id']} needs what comes with the error proxy.", "Set trajectory.proxy = true.")
    if claim.get("along") == _ALONG[1] and study["trajectory"]["horizons"] < 2:
        raise StudyError(f"Claim {claim['id']} compares horizons.", "Set trajectory.horizons to at least 2.")
    for item in [*claim.get("left", []), *claim.get("right", [])] if section == "lookahead" else []:
        known = study["lookahead"]
        if (
            item["strategy"] not in known["strategies"]
            or item.get("horizon", known["horizons"][0]) not in known["horizons"]
        ):
            raise StudyError(
                f"Claim {claim['id']} names {item}, which the study does not run.",
                f"lookahead has strategies {known['strategies']} and horizons {known['horizons']}.",
            )
