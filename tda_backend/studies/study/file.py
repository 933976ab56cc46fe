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
    until = 0.01        # optional: stop before that, once every LDS is known to ±0.01
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

and, optional, [gradients], the precision in which they are passed: see :mod:`tda_backend.studies.config.gradients`;
[quick], largest numbers of examples in the quick size of a costly task (train, validation,
queries, removed);
[removal] and [loo]: see :mod:`tda_backend.studies.config.counterfactual`; [trajectory] and [lookahead]: see
:mod:`tda_backend.studies.config.trajectory`; and [[claims]], what a paper says that the study tests: see
:mod:`tda_backend.studies.contract.claim`.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tda_backend.errors import StudyError
from tda_backend.models.tasks.data import data_folder
from tda_backend.studies.claims import check_claims
from tda_backend.studies.config.counterfactual import LeaveOneOut, Removal
from tda_backend.studies.config.hyperparameter import NONE
from tda_backend.studies.config.study import OPTIONAL, REQUIRED, QuickLimits, Study
from tda_backend.studies.config.values import Check, as_name, many, short, study_name, text, whole
from tda_backend.studies.contract.choosing import check_selector
from tda_backend.studies.methods import METHODS, Method, method
from tda_backend.studies.study.resolving import Resolving
from tda_backend.studies.study.toml_text import parse, read_text

METHODS_SECTION, CLAIMS_SECTION = "methods", "claims"


def _method_checks(spec: Method) -> dict[str, Check]:
    """Return the checks of a method's table in a study file, from its row of the method table."""
    return {
        item.name: many(item.check, allow_one=True, may_be_empty=item.may_be_empty)
        if item.sweep or item.kind == "epochs"
        else item.check
        for item in spec.hyperparameters
    }


def _selector(key: str, value: Any) -> dict[str, Any]:
    return check_selector(key, value).to_json()


_SELECTORS = {"of": many(_selector, allow_one=True, may_be_empty=True)}


def checks() -> dict[str, Any]:
    """Return the check of every key that a study file may have, in the order of a resolved study."""
    sections = {each.NAME: each.checks() for each in (*REQUIRED, *OPTIONAL, QuickLimits)}
    for each in (Removal, LeaveOneOut):
        sections[each.NAME] |= _SELECTORS
    of_methods = {name: _method_checks(spec) for name, spec in METHODS.items()}
    own = {"name": study_name, "task": text, "seed": whole(0, 2**63 - 1)}
    return {**own, **sections, METHODS_SECTION: of_methods, CLAIMS_SECTION: check_claims}


def _check(section: Mapping[str, Any], rules: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return ``section`` with every value checked; an unknown key raises with the allowed ones and a guess."""
    result: dict[str, Any] = {}
    for key, value in section.items():
        if path == f"{METHODS_SECTION}.":
            method(key)
        if key not in rules:
            guess = difflib.get_close_matches(key, list(rules), n=1)
            meant = f" Did you mean {path}{guess[0]}?" if guess else ""
            raise StudyError(f"Unknown key {path}{key} in the study.{meant}", f"Allowed here: {', '.join(rules)}.")
        rule = rules[key]
        if isinstance(rule, Mapping):
            if not isinstance(value, Mapping):
                raise StudyError(f"{path}{key} = {short(value)} is not allowed.", f"It is a table: [{path}{key}].")
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
    return _check(content, checks(), "")


def embedded_studies() -> dict[str, Path]:
    """Return the study files shipped in ``data/studies`` by name."""
    return {path.stem: path for path in sorted((data_folder() / "studies").glob("*.toml"))}


def read_study_file(path: Path) -> dict[str, Any]:
    """Return the content of a TOML study file, unchecked but for its syntax; a relative task file is made absolute."""
    content = parse(read_text(path), f"The study file {path}")
    content.setdefault("name", as_name(path.stem))
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
        value = _value(text.strip())
        place = result
        for part in parts[:-1]:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise StudyError(f"--set {assignment!r}: {part} is not a table.", "See `tda run --help`.")
        place[parts[-1]] = value
    return result


def _value(text: str) -> Any:
    """Return a TOML value; a text that is none stands for itself."""
    try:
        content = parse(f"value = {text}", "The value of --set")
    except StudyError:
        return text
    return content["value"] if len(content) == 1 else text


def default_study(
    task_name: str, spec: str, num_train: int, num_test: int, num_epochs: int, num_parameters: int = 100_000
) -> dict[str, Any]:
    """Return a sensible study for a person's own task: sizes that exist, three checkpoints, two projections."""
    held_out = max(1, min(500, num_test // 2))
    epochs = sorted({1, max(1, num_epochs // 4), num_epochs})
    num_train = min(5000, num_train)
    dims: list[Any] = [dim for dim in (128, 512) if dim < min(num_train, num_parameters)]
    dims = dims or [max(1, min(num_train, num_parameters) // 2)]
    usual = [spec for spec in METHODS.values() if spec.is_usual]
    return {
        "name": task_name,
        "task": spec,
        "data": {"train": num_train, "validation": held_out, "queries": held_out},
        "training": {"epochs": epochs},
        "methods": {spec.name: spec.beginning(epochs, [*dims, NONE]) for spec in usual},
    }


def resolve(content: Mapping[str, Any]) -> Study:
    """Return a study with every value checked and every default filled in.

    Raises:
        StudyError: An unknown key, a value that is not allowed, or values that contradict each other.
        UsageError: An unknown method.
    """
    return Resolving(check_study(content)).study()
