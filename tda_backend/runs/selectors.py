"""Selectors: how a study file names one of its configurations and a λ, for claims and counterfactual retraining.

A selector is an inline table such as ``{method = "iffim", epoch = 5, regularization = "selected"}``; ``alpha`` names
the ground truth, ``seeds`` takes the first so many models of an ensemble alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from tda_backend.errors import StudyError
from tda_backend.methods import METHODS, MethodSpec, method
from tda_backend.methods.spec import NONE
from tda_backend.runs.study_rules import share

Row = Mapping[str, Any]
WORDS = ("selected", "best", "zero", "default")
_KEYS = ("method", "epoch", "projection_dim", "regularization", "alpha", "seeds")


def check_selector(key: str, value: Any) -> dict[str, Any]:
    """Return a selector after checking its form.

    Raises:
        StudyError: It names an unknown key, method or hyper-parameter, or a value that is not allowed.
        UsageError: Unknown method.
    """
    example = 'E.g. {method = "iffim", epoch = 5, regularization = "selected"}.'
    if not isinstance(value, Mapping) or "method" not in value:
        raise StudyError(f"{key} = {value!r} names no configuration.", example)
    spec = method(str(value["method"]))
    checked: dict[str, Any] = {"method": spec.name}
    for name, given in value.items():
        if name == "method":
            continue
        if name == "regularization":
            checked[name] = _check_regularization(key, spec, given)
        elif name in ("epoch", "seeds"):
            if isinstance(given, bool) or not isinstance(given, int) or given < 1:
                raise StudyError(f"{key}.{name} = {given!r} is not allowed.", "Give a whole number ≥ 1.")
            checked[name] = given
        elif name == "alpha":
            checked[name] = share(f"{key}.alpha", given)
        else:
            item = spec.hyperparameter(name)
            if item is None:
                own = ", ".join(item.name for item in spec.hyperparameters if item.kind != "epochs")
                raise StudyError(
                    f"{key} has {name!r}, which method {spec.name} lacks.", f"Allowed: {', '.join(_KEYS)}, {own}."
                )
            checked[name] = item.check(f"{key}.{name}", given)
    return checked


def _check_regularization(key: str, spec: MethodSpec, value: Any) -> str | float:
    if not spec.has_regularization:
        raise StudyError(f"{key} gives regularization to {spec.name}, which has none.", "Leave it out.")
    number = isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf
    quantile = isinstance(value, str) and value.startswith("quantile ") and _is_share(value.removeprefix("quantile "))
    if not (number or quantile or value in WORDS):
        raise StudyError(
            f"{key}.regularization = {value!r} is not allowed.",
            f'Give a number ≥ 0, {", ".join(WORDS)}, or "quantile 0.5" (one of evaluation.quantiles).',
        )
    return value if isinstance(value, str) else float(value)


def _is_share(text: str) -> bool:
    try:
        return 0.0 <= float(text) <= 1.0
    except ValueError:
        return False


def choose(rows: Sequence[Row], selector: Mapping[str, Any]) -> Row:
    """Return the configuration that a selector means: the latest epoch and the defaults where it is silent.

    Args:
        rows: The configurations of a study (``runs.configurations``).
        selector: From :func:`check_selector`.

    Raises:
        StudyError: None fits, or several do; lists those there are.
    """
    spec = METHODS[selector["method"]]
    found = [row for row in rows if row["method"] == spec.name]
    if "epoch" in selector:
        found = [row for row in found if row["training_epoch"] == selector["epoch"]]
    if "projection_dim" in selector:
        wanted = None if selector["projection_dim"] == NONE else selector["projection_dim"]
        found = [row for row in found if row["projection_dim"] == wanted]
    for name in selector:
        if name not in _KEYS:
            found = [row for row in found if row["parameters"].get(name, _default(spec, name)) == selector[name]]
    if found and "epoch" not in selector:
        latest = max(row["training_epoch"] for row in found)
        found = [row for row in found if row["training_epoch"] == latest]
    if len(found) > 1:
        found = [row for row in found if _is_usual(spec, row, found)] or found
    if len(found) > 1 and "projection_dim" not in selector:
        unprojected = [row for row in found if row["projection_dim"] is None]
        found = unprojected or found
    if len(found) != 1:
        there = [row["label"] for row in (found or rows) if row["method"] == spec.name]
        state = "no configuration" if not found else f"{len(found)} configurations"
        raise StudyError(
            f"The study has {state} for {dict(selector)}.",
            f"It has: {'; '.join(there) or f'nothing of method {spec.name}: add [methods.{spec.name}]'}.",
        )
    return found[0]


def _default(spec: MethodSpec, name: str) -> Any:
    item = spec.hyperparameter(name)
    if item is None:
        return None
    return item.default[0] if item.sweep and item.default else item.default


def _is_usual(spec: MethodSpec, row: Row, found: Sequence[Row]) -> bool:
    """Return whether a configuration has the default of every hyper-parameter in which those found differ."""
    for item in spec.swept:
        default = _default(spec, item.name)
        values = [each["parameters"].get(item.name, default) for each in found]
        if any(value != values[0] for value in values) and row["parameters"].get(item.name, default) != default:
            return False
    return True


def regularization_of(
    selector: Mapping[str, Any],
    selection: Row | None,
    lds: Sequence[Row] = (),
    quantiles: Mapping[str, float] | None = None,
) -> float | None:
    """Return the λ that a selector means for a configuration, or ``None`` if the method has none.

    Args:
        selector: From :func:`check_selector`; without a word on λ it means ``selected``.
        selection: The configuration's row of ``selections`` (``lambda_selected``, ``lambda_best``).
        lds: Its rows of ``lds`` at one α, for ``best`` (``regularization``, ``mean``).
        quantiles: Quantile (as ``0.5``) → λ of the spectrum.

    Raises:
        StudyError: ``best`` without ground truth, or a quantile the study does not evaluate.
    """
    spec = METHODS[selector["method"]]
    if not spec.has_regularization:
        return None
    wanted = selector.get("regularization", "selected")
    if isinstance(wanted, float):
        return wanted
    if wanted == "zero":
        return 0.0
    if wanted == "default":
        default = spec.default_for({"damping": _default(spec, "damping"), **selector})
        if default is None:
            raise StudyError(f"The papers give no λ for {dict(selector)}.", "Give regularization as a number.")
        return default
    if wanted == "selected":
        if selection is None:
            raise StudyError(f"No λ was selected for {dict(selector)}.", "Give regularization as a number.")
        return float(selection["lambda_selected"])
    if wanted == "best":
        known = [row for row in lds if row["mean"] is not None and math.isfinite(row["mean"])]
        if not known:
            raise StudyError(f'"best" needs an LDS for {dict(selector)}.', "Set ground_truth.subsets, or another λ.")
        return float(max(known, key=lambda row: row["mean"])["regularization"])
    share = wanted.removeprefix("quantile ")
    found = {f"{float(name):g}": value for name, value in (quantiles or {}).items()}.get(f"{float(share):g}")
    if found is None:
        raise StudyError(f"The study does not evaluate {wanted}.", f"It has: {', '.join(quantiles or {}) or 'none'}.")
    return float(found)
