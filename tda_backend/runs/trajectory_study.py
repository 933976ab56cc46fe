"""Study sections about training runs that are unrolled, all optional.

::

    [trajectory]            # what leaving one example out changes in this very run, predicted and true
    learning_rates = [1e-3, 1e-4, 1e-5]   # default: the task's own
    seeds = 3               # runs at each learning rate
    removed = 200           # training examples left out, one at a time, drawn at random
    curvatures = ["hessian", "gauss-newton"]   # second derivative of a batch, the first one for the error proxy
    horizons = 12           # steps at which effects and errors are looked at, equally spaced, the last among them
    proxy = true            # the second-order error proxy
    budget_gib = 1.0        # of stored steps; what does not fit is recomputed
    [lookahead]             # selection while training, K steps looked ahead
    learning_rates = [3e-4, 1e-3, 3e-3]   # default: the task's own
    horizons = [1, 5, 20, "all"]          # K; "all": the whole run (offline)
    strategies = ["look-ahead", "look-ahead (sgd)", "alignment", "random", "full"]
    fraction = 0.5          # of every batch that is kept
    seeds = 5

The queries of the study are what effects are predicted for. For the selection, the validation examples give the
gradient that selects, the queries choose K and learning rate, and all other test examples judge.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tda_backend.errors import StudyError
from tda_backend.runs.study_rules import many, one_of, real, whole
from tda_backend.trajectory.unrolled.objective import BATCH_CURVATURES

ALL_STEPS = "all"
STRATEGIES = ("look-ahead", "look-ahead (sgd)", "alignment", "random", "full")
LOOKING_AHEAD = STRATEGIES[:2]
"""Strategies that have a K."""


def _horizon(key: str, value: Any) -> Any:
    return ALL_STEPS if value == ALL_STEPS else whole(1)(key, value)


TRAJECTORY_RULES: dict[str, dict[str, Any]] = {
    "trajectory": {
        "learning_rates": many(real(0.0, 10.0), allow_one=True),
        "seeds": whole(1),
        "removed": whole(3),
        "curvatures": many(one_of(*BATCH_CURVATURES), allow_one=True),
        "horizons": whole(1),
        "proxy": one_of(True, False),
        "budget_gib": real(0.0, 1e6),
    },
    "lookahead": {
        "learning_rates": many(real(0.0, 10.0), allow_one=True),
        "horizons": many(_horizon, allow_one=True),
        "strategies": many(one_of(*STRATEGIES), allow_one=True),
        "fraction": real(0.0, 1.0),
        "seeds": whole(1),
    },
}
TRAJECTORY_DEFAULTS: dict[str, dict[str, Any]] = {
    "trajectory": {
        "seeds": 3, "removed": 200, "curvatures": ["hessian", "gauss-newton"], "horizons": 12, "proxy": True,
        "budget_gib": 1.0,
    },
    "lookahead": {
        "horizons": [1, 5, 20, ALL_STEPS], "strategies": list(STRATEGIES), "fraction": 0.5, "seeds": 5,
    },
}  # fmt: skip
_QUICK = {"trajectory": {"seeds": 1, "removed": 12, "horizons": 4}, "lookahead": {"seeds": 2}}
"""Largest numbers of a quick study."""


def fill_trajectory(study: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sections that a checked study has, with every default but the learning rates filled in.

    Raises:
        StudyError: Values that contradict each other.
    """
    names = [name for name in TRAJECTORY_RULES if name in study]
    filled = {name: {**copy.deepcopy(TRAJECTORY_DEFAULTS[name]), **study[name]} for name in names}
    trajectory, num_train = filled.get("trajectory"), study["data"]["train"]
    if trajectory is not None and trajectory["removed"] > num_train:
        raise StudyError(f"trajectory.removed = {trajectory['removed']} is too many.", f"data.train is {num_train}.")
    if trajectory is not None and trajectory["proxy"] and trajectory["curvatures"][0] != "hessian":
        raise StudyError(
            f"The error proxy is of the exact Hessian, but trajectory.curvatures begins with "
            f'"{trajectory["curvatures"][0]}".',
            'Put "hessian" first, or set trajectory.proxy = false.',
        )
    return filled


def quick_trajectory(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sections of a quick study: few seeds, few examples left out."""
    result: dict[str, dict[str, Any]] = {}
    for name, limits in _QUICK.items():
        if name in content:
            section = {**copy.deepcopy(TRAJECTORY_DEFAULTS[name]), **copy.deepcopy(content[name])}
            own = content.get("quick", {})
            section |= {key: min(section[key], limit, own.get(key, limit)) for key, limit in limits.items()}
            result[name] = section
    return result
