"""Study sections of counterfactual retraining, all optional: a study without them has the plan that it always had.

::

    [removal]            # remove the k most helpful examples of a query, retrain, and see whether it flips
    queries = 20         # correct under every base seed, drawn at random
    sizes = [20, 40, 60, 80, 100, 120]
    seeds = 5            # retrainings of each removal; the full training set is retrained with the same seeds
    of = [{method = "iffim", epoch = 5, regularization = "selected"}, {method = "iffim", epoch = 5,
          regularization = "zero"}]
    random = true        # the baseline: random training examples of the query's class
    bisections = 0       # rounds that narrow down the size at which a query flips
    [loo]                # leave single training examples out
    examples = 20
    seeds = 5
    choice = "top"       # the most influential examples of the selectors in turn, or "random"
    of = [{method = "iffim", epoch = 5}]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from tda_backend.errors import StudyError
from tda_backend.runs.selectors import check_selector
from tda_backend.runs.study_rules import many, one_of, whole

SECTION_RULES: dict[str, dict[str, Any]] = {
    "removal": {
        "queries": whole(1),
        "sizes": many(whole(1), allow_one=True),
        "seeds": whole(1),
        "of": many(check_selector, allow_one=True, may_be_empty=True),
        "random": one_of(True, False),
        "bisections": whole(0),
    },
    "loo": {
        "examples": whole(2),
        "seeds": whole(1),
        "of": many(check_selector, allow_one=True, may_be_empty=True),
        "choice": one_of("top", "random"),
    },
}
SECTION_DEFAULTS: dict[str, dict[str, Any]] = {
    "removal": {"queries": 20, "seeds": 5, "of": [], "random": True, "bisections": 0},
    "loo": {"examples": 20, "seeds": 5, "of": [], "choice": "top"},
}
QUICK_LIMITS = {"removal": {"queries": 4, "seeds": 2, "bisections": 0}, "loo": {"examples": 5, "seeds": 2}}
"""Largest numbers of a quick study."""
NUM_QUICK_SIZES = 2


def fill_sections(study: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sections that a checked study has, with every default filled in.

    Raises:
        StudyError: Values that contradict each other.
    """
    filled = {name: {**copy.deepcopy(SECTION_DEFAULTS[name]), **study[name]} for name in SECTION_RULES if name in study}
    if "removal" in filled:
        _check_removal(filled["removal"], study)
    loo = filled.get("loo")
    if loo is not None:
        if loo["choice"] == "top" and not loo["of"]:
            raise StudyError(
                'loo.choice = "top" needs methods whose most influential examples are left out, but loo.of is empty.',
                'Name some, e.g. of = [{method = "iffim"}], or set choice = "random".',
            )
        num_train = study["data"]["train"]
        if loo["examples"] > num_train:
            raise StudyError(f"loo.examples = {loo['examples']} is too many.", f"data.train is {num_train}.")
    return filled


def _check_removal(removal: Mapping[str, Any], study: Mapping[str, Any]) -> None:
    sizes, num_train = removal.get("sizes"), study["data"]["train"]
    if not sizes:
        raise StudyError("The study has [removal] without sizes.", "Say how many to remove, e.g. sizes = [20, 40, 80].")
    if sizes != sorted(sizes):
        raise StudyError(f"removal.sizes = {sizes} is not ascending.", f"Write sizes = {sorted(sizes)}.")
    if sizes[-1] >= num_train:
        raise StudyError(
            f"removal.sizes has {sizes[-1]}, which leaves nothing of {num_train} training examples.",
            f"Remove at most {num_train - 1}.",
        )
    if not removal["of"] and not removal["random"]:
        raise StudyError(
            "[removal] has nothing to remove: of is empty and random = false.",
            'Name methods, e.g. of = [{method = "iffim"}], or set random = true.',
        )
    if removal["queries"] > study["data"]["queries"]:
        raise StudyError(
            f"removal.queries = {removal['queries']} is too many.", f"data.queries is {study['data']['queries']}."
        )


def quick_sections(
    content: Mapping[str, Any],
    num_train_before: int,
    num_train: int,
    quick_selector: Callable[[Mapping[str, Any]], dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Return the sections of a quick study: small numbers, and a few sizes that are the same shares of its data."""
    result: dict[str, dict[str, Any]] = {}
    for name, limits in QUICK_LIMITS.items():
        if name in content:
            section = {**SECTION_DEFAULTS[name], **copy.deepcopy(content[name])}
            result[name] = {**section, **{key: min(section[key], limit) for key, limit in limits.items()}}
            selectors = [quick_selector(selector) for selector in section["of"]]
            result[name]["of"] = [item for number, item in enumerate(selectors) if item not in selectors[:number]]
    removal = result.get("removal")
    if removal is not None and removal.get("sizes"):
        shares = [size * num_train / num_train_before for size in removal["sizes"]]
        sizes = sorted({min(num_train - 1, max(1, round(value))) for value in shares})
        step = max(1, -(-len(sizes) // NUM_QUICK_SIZES))
        removal["sizes"] = sizes[::-1][::step][::-1]
    return result
