"""Selectors against the method table and a study's configurations.

A selector is an inline table such as ``{method = "iffim", epoch = 5, regularization = "selected"}``, for claims and
counterfactual retraining; ``alpha`` names the ground truth, ``seeds`` takes the first so many models of an ensemble
alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from tda_backend.errors import StudyError
from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.config.hyperparameter import NONE
from tda_backend.studies.config.selector import OWN_KEYS, QUANTILE, WORDS, Selector
from tda_backend.studies.config.values import share
from tda_backend.studies.contract.method import Method, method

RANDOM = Selector({"method": "random same class"})
"""Stands for the baseline of subset removal, which is no configuration."""
_EXAMPLE = 'E.g. {method = "iffim", epoch = 5, regularization = "selected"}.'


def check_selector(key: str, value: Any) -> Selector:
    """Return a selector after checking its form.

    Args:
        key: Where the study file has it, for messages.
        value: What it has there.

    Raises:
        StudyError: It names an unknown key, method or hyper-parameter, or a value that is not allowed.
        UsageError: Unknown method.
    """
    if not isinstance(value, Mapping) or "method" not in value:
        raise StudyError(f"{key} = {value!r} names no configuration.", _EXAMPLE)
    content = dict(value)
    spec = method(str(content.pop("method")))
    checked = {name: _check_value(key, name, given, spec) for name, given in content.items()}
    return Selector({"method": spec.name, **checked})


def _check_value(key: str, name: str, given: Any, spec: Method) -> Any:
    """Return the value of one key of a selector, beside the method, after checking it."""
    own: dict[str, Callable[[], Any]] = {
        "regularization": lambda: check_regularization(key, spec, given),
        "epoch": lambda: _whole(f"{key}.epoch", given),
        "seeds": lambda: _whole(f"{key}.seeds", given),
        "alpha": lambda: share(f"{key}.alpha", given),
    }
    if name in own:
        return own[name]()
    item = spec.hyperparameter(name)
    if item is None:
        names = ", ".join(item.name for item in spec.hyperparameters if item.kind != "epochs")
        raise StudyError(
            f"{key} has {name!r}, which method {spec.name} lacks.", f"Allowed: {', '.join(OWN_KEYS)}, {names}."
        )
    return item.check(f"{key}.{name}", given)


def _whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise StudyError(f"{key} = {value!r} is not allowed.", "Give a whole number ≥ 1.")
    return value


def check_regularization(key: str, spec: Method, value: Any) -> str | float:
    """Return a λ, or a word for it, after checking it.

    Args:
        key: Where the selector stands, for messages.
        spec: Its method.
        value: What it has there.

    Raises:
        StudyError: The method has no λ, or the value is not allowed.
    """
    if not spec.has_regularization:
        raise StudyError(f"{key} gives regularization to {spec.name}, which has none.", "Leave it out.")
    number = isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < math.inf
    quantile = isinstance(value, str) and value.startswith(QUANTILE) and _is_share(value.removeprefix(QUANTILE))
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


def choose(configurations: Sequence[Configuration], selector: Selector) -> Configuration:
    """Return the configuration that a selector means: the latest epoch and the defaults where it is silent.

    Args:
        configurations: Of a study.
        selector: From :func:`check_selector`.

    Raises:
        StudyError: None fits, or several do; lists those there are.
    """
    spec = method(selector.method)
    found = _fitting(configurations, selector, spec)
    if found and selector.epoch is None:
        latest = max(each.training_epoch for each in found)
        found = [each for each in found if each.training_epoch == latest]
    if len(found) > 1:
        found = [each for each in found if _is_usual(spec, each, found)] or found
    if len(found) > 1 and selector.projection_dim is None:
        found = [each for each in found if each.projection_dim is None] or found
    if len(found) != 1:
        there = [each.label for each in (found or configurations) if each.method == spec.name]
        state = "no configuration" if not found else f"{len(found)} configurations"
        raise StudyError(
            f"The study has {state} for {selector}.",
            f"It has: {'; '.join(there) or f'nothing of method {spec.name}: add [methods.{spec.name}]'}.",
        )
    return found[0]


def _fitting(configurations: Sequence[Configuration], selector: Selector, spec: Method) -> list[Configuration]:
    """Return the configurations that contradict nothing that a selector says."""
    found = [each for each in configurations if each.method == spec.name]
    if selector.epoch is not None:
        found = [each for each in found if each.training_epoch == selector.epoch]
    if selector.projection_dim is not None:
        wanted = None if selector.projection_dim == NONE else selector.projection_dim
        found = [each for each in found if each.projection_dim == wanted]
    for name, value in selector.parameters.items():
        found = [each for each in found if each.parameters.get(name, spec.usual(name)) == value]
    return found


def _is_usual(spec: Method, configuration: Configuration, found: Sequence[Configuration]) -> bool:
    """Return whether a configuration has the default of every hyper-parameter in which those found differ."""
    for item in spec.swept:
        values = [each.parameters.get(item.name, item.usual) for each in found]
        own = configuration.parameters.get(item.name, item.usual)
        if any(value != values[0] for value in values) and own != item.usual:
            return False
    return True
