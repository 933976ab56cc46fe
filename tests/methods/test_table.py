"""The method table: complete, consistent, and what study files, configurations and filters follow from."""

from __future__ import annotations

import itertools

import pytest

from tda_backend.errors import StudyError, UsageError
from tda_backend.numerics.spectral.filters.damped import StrictDampedInverse
from tda_backend.numerics.spectral.filters.krylov import Krylov
from tda_backend.numerics.spectral.filters.lissa import LissaMean
from tda_backend.studies.methods import METHODS, Hyperparameter, method
from tda_backend.studies.runs.planning import configurations, preview
from tda_backend.studies.study.file import checks, resolve
from tda_backend.studies.study.quick import quick

ITEMS = [(spec, item) for spec in METHODS.values() for item in spec.hyperparameters]


@pytest.mark.parametrize("spec", METHODS.values(), ids=METHODS)
def test_every_row_says_what_people_need(spec):
    assert METHODS[spec.name] is spec
    assert all([spec.title, spec.formula, spec.cost, spec.reference, spec.features, spec.curvature])
    assert spec.has_regularization == (spec.recipe != "scores")
    names = [item.name for item in spec.hyperparameters]
    assert len(set(names)) == len(names)
    assert list(checks()["methods"][spec.name]) == names
    assert not spec.hyperparameter("no-such-name")


@pytest.mark.parametrize(("spec", "item"), ITEMS, ids=[f"{spec.name}.{item.name}" for spec, item in ITEMS])
def test_defaults_and_grids_are_allowed_and_others_are_refused(spec, item):
    assert item.meaning
    values = () if item.default is None else item.default if isinstance(item.default, tuple) else (item.default,)
    assert item.kind == "epochs" or values
    assert isinstance(item.default, tuple) == (item.sweep and item.kind != "epochs")
    for value in (*values, *item.grid):
        assert item.check(item.name, value) == value
    wrong = {"choice": "lime", "flag": 1, "whole": item.low - 1, "real": item.low, "dimension": 0, "epochs": 0}[
        item.kind
    ]
    with pytest.raises(StudyError, match=item.name) as refused:
        item.check(item.name, wrong)
    assert item.range in refused.value.hint


@pytest.mark.parametrize(
    ("item", "value"),
    [
        (Hyperparameter("x", "whole", "m", (1,)), True),
        (Hyperparameter("x", "whole", "m", (1,), high=3), 4),
        (Hyperparameter("x", "whole", "m", (1,)), 1.5),
        (Hyperparameter("x", "real", "m", (0.5,), low=0, high=1), 1),
        (Hyperparameter("x", "real", "m", (0.5,), low=0), float("nan")),
        (Hyperparameter("x", "whole", "m", (1,)), 10**400),
        (Hyperparameter("x", "real", "m", (0.5,), low=0), 10**400),
        (Hyperparameter("x", "dimension", "m", (1,)), "all"),
        (Hyperparameter("x", "dimension", "m", (1,)), False),
    ],
)
def test_kinds_refuse_what_python_would_let_pass(item, value):
    with pytest.raises(StudyError):
        item.check("x", value)


def test_unknown_methods_and_settings_are_named_with_a_guess():
    with pytest.raises(UsageError, match="Did you mean 'ekfac'"):
        method("ekfak")
    with pytest.raises(StudyError, match=r"methods\.logra\.rank"):
        resolve({**_study("logra"), "methods": {"logra": {"ranks": [3]}}})
    with pytest.raises(StudyError, match=r"methods\.ekfac\.fisher"):
        resolve({**_study("ekfac"), "methods": {"ekfac": {"fisher": ["sampled"]}}})


def _study(name: str) -> dict:
    return {"name": "s", "task": "mnist-mlp", "training": {"epochs": [2, 8]}, "methods": {name: {}}}


@pytest.mark.parametrize("name", METHODS)
def test_defaults_give_configurations_with_labels_of_their_own(name):
    for content in (_study(name), quick(_study(name))):
        study = resolve(content)
        rows = configurations(study)
        assert rows
        assert len({row.configuration_id for row in rows}) == len(rows) == len({row.label for row in rows})
        for row in rows:
            assert "regularization" not in row.parameters or name.endswith("-run")
            assert METHODS[name].filter(row.parameters).name == METHODS[name].filter_name


@pytest.mark.parametrize("name", METHODS)
def test_every_combination_of_swept_values_is_one_configuration(name):
    spec = METHODS[name]
    settings = {item.name: list(dict.fromkeys([*item.default, *item.grid, *item.choices]))[:3] for item in spec.swept}
    study = resolve({**_study(name), "methods": {name: settings}})
    rows = configurations(study)
    epochs = 1 if name == "tracin" or spec.hyperparameter("epochs") is None else 2
    combinations = list(itertools.product(*study.methods[name].values())) if not spec.swept else None
    expected = epochs
    for item in spec.swept:
        expected *= len(study.methods[name][item.name])
    assert len(rows) == expected, combinations
    assert len({row.label for row in rows}) == expected


@pytest.mark.parametrize("seeds", [1, 2])
def test_models_of_half_subsets_are_told_apart_from_the_seeds_own(seeds: int):
    content = {**_study("trak"), "methods": {"trak": {"half_subset_models": [0, seeds]}}}
    rows = configurations(resolve({**content, "training": {"epochs": [2], "seeds": seeds}}))
    own, half = sorted(rows, key=lambda row: len(row.parameters))
    assert own.label != half.label
    assert own.title != half.title
    assert preview([half]) is None  # its models are not the seeds': a preview would attribute those
    assert preview(rows) is own


def test_filters_carry_the_configurations_parameters():
    assert METHODS["if-cg"].filter({"max_iter": 7}) == Krylov(7)
    assert METHODS["if-lissa"].filter({"scaling": 9, "depth": 4}) == LissaMean(9.0, 4)
    assert METHODS["if-explicit"].filter({}, 3, 10) == StrictDampedInverse(3, 10)
    assert METHODS["if-arnoldi"].filter({}, 3, 10) == StrictDampedInverse(3, 10)
    assert METHODS["ekfac"].filter({}).name == "damped_inverse"


def test_settings_read_as_people_say_them():
    assert Hyperparameter("max_iter", "whole", "m", (5,)).words(10) == "max iter 10"
    fisher = METHODS["ekfac"].hyperparameter("fisher")
    assert fisher is not None
    assert fisher.words("empirical") == "empirical Fisher"
    assert Hyperparameter("signed", "flag", "m", (True,)).words(False) == "no signed"
