"""The small version of a study: the same methods on few examples, well under a minute."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from tda_backend.methods import METHODS, MethodSpec
from tda_backend.methods.spec import NONE
from tda_backend.runs.counterfactual_study import quick_sections
from tda_backend.runs.study import DEFAULTS, check_study
from tda_backend.runs.trajectory_study import quick_trajectory

QUICK_COUNTS = {"train": 600, "validation": 100, "queries": 100}
QUICK_SUBSETS, QUICK_EPOCHS, QUICK_DIM = 12, [1, 5], 64
QUICK_LIMITS = {
    "max_iter": 5, "depth": 50, "rank": 16, "num_iterations": 60, "num_eigenvalues": 60, "half_subset_models": 3,
    "subsets": 24,
}  # fmt: skip
"""Largest value of a number that decides what a method costs."""
HEAVY_MODEL, HEAVY_LAMBDAS = 200_000, 10
HEAVY_COUNTS = {"train": 300, "validation": 40, "queries": 40}
"""For models of more than so many parameters."""
QUICK_SEEDS = 2
QUICK_REPETITIONS = {
    ("", "half_subset_models"): 3, ("empirical-influence", "subsets"): 24, ("if-lissa-run", "depth"): 50,
    ("", "seeds"): 1,
}  # fmt: skip
"""(method, or any; name) → largest value where a study's grids are kept."""


def quick(content: Mapping[str, Any], num_parameters: int = 100_000) -> dict[str, Any]:
    """Return a version of a study that takes well under a minute, named ``…-quick``.

    Args:
        content: The study, not resolved.
        num_parameters: p of the model: no projection is larger.
    """
    if content.get("claims"):
        return quick_claims(content, num_parameters > HEAVY_MODEL)
    dim = max(1, min(QUICK_DIM, num_parameters // 2))
    result = copy.deepcopy(check_study(content))  # names what is wrong, and makes lists of single values
    result["name"] = f"{result.get('name', 'study')}-quick"
    data = {**DEFAULTS["data"], **result.get("data", {})}
    result["data"] = _counts(data, QUICK_COUNTS, result)
    truth = {**DEFAULTS["ground_truth"], **result.get("ground_truth", {})}
    result["ground_truth"] = {**truth, "subsets": min(truth["subsets"], QUICK_SUBSETS), "alphas": truth["alphas"][:1]}
    named = sorted({epoch for settings in result.get("methods", {}).values() for epoch in settings.get("epochs", [])})
    wanted = sorted(result.get("training", {}).get("epochs") or named or QUICK_EPOCHS)
    epochs = [epoch for epoch in QUICK_EPOCHS if epoch in wanted] or wanted[:2]
    result["training"] = {**result.get("training", {}), "epochs": epochs}
    result.get("projection", {}).pop("max_dim", None)
    result |= quick_sections(
        result, data["train"], result["data"]["train"], lambda selector: quick_selector(selector, epochs, dim)
    )
    result |= quick_trajectory(result)
    for name, settings in result.get("methods", {}).items():
        result["methods"][name] = _quick_method(METHODS[name], settings, epochs, dim, num_parameters)
    return result


def quick_claims(content: Mapping[str, Any], heavy: bool = False) -> dict[str, Any]:
    """Return the small version of a study that tests claims: few examples and subsets, but its grids whole.

    The claims are about the grids, and with few examples a large grid costs little; only what is retrained or measured
    by repetition is shortened.

    Args:
        content: The study, not resolved.
        heavy: The model is large: fewer examples and values of λ still.
    """
    result = copy.deepcopy(check_study(content))
    result["name"] = f"{result.get('name', 'study')}-quick"
    before = {**DEFAULTS["data"], **result.get("data", {})}
    counts = HEAVY_COUNTS if heavy else QUICK_COUNTS
    result["data"] = _counts(before, counts, result)
    truth = {**DEFAULTS["ground_truth"], **result.get("ground_truth", {})}
    result["ground_truth"] = {**truth, "subsets": min(truth["subsets"], QUICK_SUBSETS), "repeats": 1}
    if heavy:
        grid = {**DEFAULTS["regularization"], **result.get("regularization", {})}
        result["regularization"] = {**grid, "count": min(grid["count"], HEAVY_LAMBDAS)}
    training = result.setdefault("training", {})
    training["seeds"] = min(training.get("seeds", 1), QUICK_SEEDS)
    for name, settings in result.get("methods", {}).items():
        for item in METHODS[name].hyperparameters:
            if item.name in settings:
                value = settings[item.name]
                small = [_shortened(name, item.name, entry) for entry in value] if item.sweep else None
                settings[item.name] = (
                    list(dict.fromkeys(small)) if small is not None else _shortened(name, item.name, value)
                )
    for claim in result["claims"]:
        for side in ("left", "right"):
            if side in claim:
                claim[side] = [_shortened_selector(item) if isinstance(item, Mapping) else item for item in claim[side]]
    result |= quick_trajectory(result)
    return result | quick_sections(result, before["train"], result["data"]["train"], _shortened_selector)


def _counts(data: Mapping[str, Any], counts: Mapping[str, int], study: Mapping[str, Any]) -> dict[str, Any]:
    """Return [data] with no more examples than a quick study has; the study's own [quick] may ask for fewer."""
    limits = {key: min(value, study.get("quick", {}).get(key, value)) for key, value in counts.items()}
    return {key: min(value, limits.get(key, value)) for key, value in data.items()}


def _shortened(method: str, name: str, value: Any) -> Any:
    limit = QUICK_REPETITIONS.get((method, name), QUICK_REPETITIONS.get(("", name)))
    return value if limit is None else min(value, limit)


def _shortened_selector(selector: Mapping[str, Any]) -> dict[str, Any]:
    method = selector.get("method", "")  # selections while training have a strategy instead
    return {name: _shortened(method, name, value) for name, value in selector.items()}


def quick_selector(selector: Mapping[str, Any], epochs: Sequence[int], dim: int) -> dict[str, Any]:
    """Return a selector of the quick study's configuration that comes nearest."""
    result = dict(selector)
    if "epoch" in result:
        result["epoch"] = min(epochs, key=lambda epoch: abs(epoch - selector["epoch"]))
    if result.get("projection_dim", NONE) != NONE:
        result["projection_dim"] = dim
    for name, limit in QUICK_LIMITS.items():
        if name in result:
            result[name] = min(result[name], limit)
    return result


def _quick_method(
    spec: MethodSpec, settings: Mapping[str, Any], epochs: Sequence[int], dim: int, num_parameters: int
) -> dict[str, Any]:
    """Return a method's settings with small numbers: one saved epoch list, one k, short runs."""
    result = dict(settings)
    if spec.hyperparameter("epochs") is not None:
        result["epochs"] = list(epochs) if spec.recipe == "spectrum" or spec.name == "tracin" else [epochs[-1]]
    curvatures = result.get("curvature", getattr(spec.hyperparameter("curvature"), "default", ()))
    explicit = spec.name == "if-explicit" or (spec.recipe == "spectrum" and set(curvatures) - {"empirical-fisher"})
    if explicit and num_parameters > 2000:  # a whole Hessian takes long to decompose
        curvatures = ["ggn" if name == "hessian" else name for name in curvatures]
        result |= {"projection_dim": [dim], "curvature": list(dict.fromkeys(curvatures))}
    elif spec.recipe == "spectrum":
        result |= {"projection_dim": [NONE] if "hessian" in curvatures else [dim, NONE]}
    if spec.hyperparameter("unprojected_epochs") is not None:
        result["unprojected_epochs"] = list(epochs)
    for item in spec.hyperparameters:
        limit = QUICK_LIMITS.get(item.name)
        if limit is None:
            continue
        value = result.get(item.name, item.default)
        if item.sweep:
            result[item.name] = list(dict.fromkeys(min(entry, limit) for entry in value))
        else:
            result[item.name] = min(value, limit)
    if spec.reduction == "segment chain":
        # A short run has few epochs to choose checkpoints from.
        few = min(3, epochs[-1])
        result |= {"num_segments": [few], "num_checkpoints": [few]} if epochs[-1] < 6 else {}
    return result
