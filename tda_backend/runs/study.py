"""The study file: what is computed. Read from TOML, checked key by key, and resolved so that equal studies are equal.

::

    name = "mnist-mlp"
    task = "mnist-mlp"
    seed = 0
    [data]              # how many examples of the task's train and test sets take part
    train = 5000
    validation = 500    # for ξ; disjoint from the queries
    queries = 500
    flip_labels = 0.1   # optional: this share of the training rows gets another class before anything is trained
    [training]
    epochs = [1, 5, 10, 20, 50]     # saved checkpoints: where features may be taken
    seeds = 1                       # training runs of the attributed model
    [ground_truth]
    subsets = 50        # 0: no retraining, no LDS
    alphas = [0.5]      # shares of the training rows; "1-1/n" leaves one out
    repeats = 1
    [projection]
    kind = "gaussian"   # gaussian (drawn from the Gram matrix), sparse, kronecker, gaussian-dense or rademacher
    seed = 0
    [regularization]    # the λ grid, in units of the mean Gram
    include_zero = true
    low = 1e-7
    high = 10.0
    count = 32
    [methods.iffim]     # and any other of `tda methods`, with its hyper-parameters
    epochs = [1, 5]
    projection_dim = [512, "none"]
    unprojected_epochs = [5]
    [evaluation]
    bootstrap = 1000
    threshold = 0.5
    quantiles = [0.1, 0.3, 0.5, 0.7, 0.9]
    top = 100

and, optional, [quick], largest numbers of examples in the quick size of a costly task (train, validation,
queries, removed);
[removal] and [loo]: see :mod:`tda_backend.runs.counterfactual_study`; [trajectory] and [lookahead]: see
:mod:`tda_backend.runs.trajectory_study`; and [[claims]], what a paper says that the study tests: see
:mod:`tda_backend.runs.claim_rules`.
"""

from __future__ import annotations

import copy
import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tda_backend.errors import StudyError
from tda_backend.features.projection import PROJECTION_KINDS
from tda_backend.methods import METHODS, MethodSpec, method
from tda_backend.methods.spec import NONE
from tda_backend.runs.claim_rules import check_claims, with_alpha
from tda_backend.runs.counterfactual_study import SECTION_RULES, fill_sections
from tda_backend.runs.study_rules import Rule, all_but_one
from tda_backend.runs.study_rules import many as _many
from tda_backend.runs.study_rules import one_of as _one_of
from tda_backend.runs.study_rules import real as _real
from tda_backend.runs.study_rules import share as _share
from tda_backend.runs.study_rules import text as _text
from tda_backend.runs.study_rules import whole as _whole
from tda_backend.runs.trajectory_study import TRAJECTORY_RULES, fill_trajectory


def _method_rules(spec: MethodSpec) -> dict[str, Rule]:
    """Return the rules of a method's table in a study file, from its row of the method table."""
    return {
        item.name: _many(item.check, allow_one=True, may_be_empty=item.name == "unprojected_epochs")
        if item.sweep or item.kind == "epochs"
        else item.check
        for item in spec.hyperparameters
    }


RULES: dict[str, Any] = {
    "name": _text,
    "task": _text,
    "seed": _whole(0),
    "data": {"train": _whole(2), "validation": _whole(1), "queries": _whole(1), "flip_labels": _real(0.0, 1.0)},
    "training": {"epochs": _many(_whole(1), allow_one=True), "seeds": _whole(1)},
    "ground_truth": {
        "subsets": _whole(0),
        "alphas": _many(_share, allow_one=True),
        "repeats": _whole(1),
    },
    "projection": {"kind": _one_of(*PROJECTION_KINDS), "max_dim": _whole(1), "seed": _whole(0)},
    "regularization": {
        "include_zero": _one_of(True, False),
        "low": _real(0.0, np.inf),
        "high": _real(0.0, np.inf),
        "count": _whole(2),
    },
    "methods": {name: _method_rules(spec) for name, spec in METHODS.items()},
    "evaluation": {
        "bootstrap": _whole(1),
        "threshold": _real(0.0, 1.0),
        "quantiles": _many(_real(0.0, 1.0), allow_one=True),
        "top": _whole(1),
    },
    "quick": {"train": _whole(2), "validation": _whole(1), "queries": _whole(1), "removed": _whole(3)},
    **SECTION_RULES,
    **TRAJECTORY_RULES,
    "claims": check_claims,
}
DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "data": {"train": 5000, "validation": 500, "queries": 500},
    "training": {"seeds": 1},
    "ground_truth": {"subsets": 50, "alphas": [0.5], "repeats": 1},
    "projection": {"kind": "gaussian", "seed": 0},
    "regularization": {"include_zero": True, "low": 1e-7, "high": 10.0, "count": 32},
    "evaluation": {"bootstrap": 1000, "threshold": 0.5, "quantiles": [0.1, 0.3, 0.5, 0.7, 0.9], "top": 100},
}


def _check(section: Mapping[str, Any], rules: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return ``section`` with every value checked; an unknown key raises with the allowed ones and a guess."""
    result: dict[str, Any] = {}
    for key, value in section.items():
        if path == "methods.":
            method(key)
        if key not in rules:
            guess = difflib.get_close_matches(key, list(rules), n=1)
            meant = f" Did you mean {path}{guess[0]}?" if guess else ""
            raise StudyError(f"Unknown key {path}{key} in the study.{meant}", f"Allowed here: {', '.join(rules)}.")
        rule = rules[key]
        if isinstance(rule, Mapping):
            if not isinstance(value, Mapping):
                raise StudyError(f"{path}{key} = {value!r} is not allowed.", f"It is a table: [{path}{key}].")
            result[key] = _check(value, rule, f"{path}{key}.")
        else:
            result[key] = rule(f"{path}{key}", value)
    return result


def check_study(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study with every value checked, and lists made of single values; nothing is filled in.

    Raises:
        StudyError: An unknown key or a value that is not allowed; says which, and what is.
        UsageError: An unknown method.
    """
    return _check(content, RULES, "")


def read_study_file(path: Path) -> dict[str, Any]:
    """Return the content of a TOML study file, unchecked but for its syntax; a relative task file is made absolute."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StudyError(f"The study file {path} cannot be read ({error.strerror}).", "Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"The study file {path} is not valid TOML: {error}.", "Correct that place.") from error
    content.setdefault("name", path.stem)
    task = content.get("task")
    if isinstance(task, str) and ".py:" in task:
        file, _, factory = task.rpartition(":")
        content["task"] = f"{(path.parent / Path(file).expanduser()).resolve()}:{factory}"
    return content


def override(content: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return ``content`` with ``dotted.key=value`` assignments applied; values are TOML, bare words are texts."""
    result = copy.deepcopy(dict(content))
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise StudyError(
                f"--set {assignment!r} is not of the form key=value.", "E.g. --set ground_truth.subsets=20."
            )
        try:
            value = tomllib.loads(f"value = {text.strip()}")["value"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        place = result
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise StudyError(f"--set {assignment!r}: {part} is not a table.", "See `tda run --help`.")
        place[parts[-1]] = value
    return result


def default_study(
    task_name: str, spec: str, num_train: int, num_test: int, num_epochs: int, num_parameters: int = 100_000
) -> dict[str, Any]:
    """Return a sensible study for a person's own task: sizes that exist, three checkpoints, two projections."""
    held_out = max(1, min(500, num_test // 2))
    epochs = sorted({1, max(1, num_epochs // 4), num_epochs})
    num_train = min(5000, num_train)
    dims: list[Any] = [dim for dim in (128, 512) if dim < min(num_train, num_parameters)]
    dims = dims or [max(1, min(num_train, num_parameters) // 2)]
    grid = {"epochs": epochs, "projection_dim": [*dims, NONE], "unprojected_epochs": [epochs[-1]]}
    return {
        "name": task_name,
        "task": spec,
        "data": {"train": num_train, "validation": held_out, "queries": held_out},
        "training": {"epochs": epochs},
        "methods": {"iffim": grid, "trak": copy.deepcopy(grid), "tracin": {"epochs": epochs}},
    }


def resolve(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a study with every value checked and every default filled in.

    Raises:
        StudyError: An unknown key, a value that is not allowed, or values that contradict each other.
        UsageError: An unknown method.
    """
    checked = check_study(content)
    for required in ("name", "task"):
        if required not in checked:
            raise StudyError(f"The study has no {required}.", f'Add a line such as {required} = "mnist-mlp".')
    study = {**copy.deepcopy(DEFAULTS), **checked}
    for section, defaults in DEFAULTS.items():
        if isinstance(defaults, dict):
            study[section] = {**defaults, **checked.get(section, {})}
    truth = study["ground_truth"]
    loo = all_but_one(study["data"]["train"])
    truth["alphas"] = list(dict.fromkeys(loo if isinstance(alpha, str) else alpha for alpha in truth["alphas"]))
    if study["regularization"]["low"] >= study["regularization"]["high"]:
        raise StudyError("regularization.low is not below regularization.high.", "E.g. low = 1e-7, high = 10.")
    methods = checked.get("methods") or {"iffim": {}}
    named = {epoch for settings in methods.values() for epoch in settings.get("epochs", [])}
    epochs = sorted(study["training"].get("epochs") or named)
    if not epochs:
        raise StudyError("The study names no epochs.", "Add epochs to [training], e.g. epochs = [1, 5].")
    study["training"]["epochs"] = epochs
    study["methods"] = {
        name: _method(name, settings, epochs) for name in METHODS if (settings := methods.get(name)) is not None
    }
    dims = [dim for s in study["methods"].values() for dim in s.get("projection_dim", []) if dim != NONE]
    largest = max(dims, default=1)
    study["projection"].setdefault("max_dim", largest)
    if study["projection"]["max_dim"] < largest:
        raise StudyError(
            f"projection.max_dim = {study['projection']['max_dim']} is below projection_dim {largest}.",
            "Raise it, or leave it out.",
        )
    study |= fill_sections(study) | fill_trajectory(study)
    if "claims" in study:
        study["claims"] = [with_alpha(claim, loo) for claim in study["claims"]]
    return {key: study[key] for key in RULES if key in study and key != "quick"}


def _method(name: str, settings: Mapping[str, Any], epochs: Sequence[int]) -> dict[str, Any]:
    """Return a method's settings with every hyper-parameter filled in."""
    spec = METHODS[name]
    filled: dict[str, Any] = {}
    for item in spec.hyperparameters:
        if item.name in settings:
            filled[item.name] = settings[item.name]
        elif item.kind != "epochs":
            filled[item.name] = list(item.default) if item.sweep else item.default
        elif item.name == "epochs":
            filled["epochs"] = list(epochs)
    if "epochs" in filled:
        filled["epochs"] = sorted(set(filled["epochs"]))  # "the last checkpoints" means the latest
        unknown = sorted(set(filled["epochs"]) - set(epochs))
        if unknown:
            raise StudyError(
                f"methods.{name}.epochs has {unknown}, where no checkpoint is saved.",
                f"training.epochs is {list(epochs)}.",
            )
    if "maximum_epochs" in settings:
        filled["maximum_epochs"] = sorted(settings["maximum_epochs"])
        unknown = sorted(set(filled["maximum_epochs"]) - set(filled["epochs"]))
        if unknown:
            raise StudyError(f"methods.{name}.maximum_epochs has {unknown}.", f"Choose among {filled['epochs']}.")
    if spec.hyperparameter("unprojected_epochs") is not None:
        filled["unprojected_epochs"] = _unprojected_epochs(name, filled)
    return filled


def _unprojected_epochs(name: str, filled: Mapping[str, Any]) -> list[int]:
    if NONE not in filled["projection_dim"]:
        return []
    wanted = sorted(set(filled.get("unprojected_epochs", filled["epochs"])))
    if not wanted and set(filled["projection_dim"]) == {NONE}:
        raise StudyError(
            f'methods.{name} has nothing to compute: projection_dim is "none" alone and unprojected_epochs is empty.',
            f"Choose unprojected_epochs among {filled['epochs']}, or give projection_dim a number.",
        )
    unknown = sorted(set(wanted) - set(filled["epochs"]))
    if unknown:
        raise StudyError(
            f"methods.{name}.unprojected_epochs has {unknown}, which methods.{name}.epochs lacks.",
            f"Choose among {filled['epochs']}.",
        )
    return wanted


def regularizations(study: Mapping[str, Any]) -> list[float]:
    """Return the λ grid of a resolved study, ascending."""
    settings = study["regularization"]
    grid = np.logspace(np.log10(settings["low"]), np.log10(settings["high"]), settings["count"])
    return ([0.0] if settings["include_zero"] else []) + [float(value) for value in grid]
