"""The matrix over all methods: every row of ``matrix.py`` goes through every test here."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tda_backend.errors import NumericalError, StudyError
from tda_backend.models.precision import BF16, FULL
from tda_backend.models.probe import Probe
from tda_backend.studies.methods import METHODS
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.steps.evaluate import Evaluate
from tda_backend.studies.steps.rules import Rules
from tda_backend.studies.steps.source import SourceStep
from tests.device.standin import NAME as STAND_IN
from tests.device.standin import watching, without_float64
from tests.helpers_numerics import assert_close
from tests.methods.matrix import (
    COPIES,
    LARGE,
    ROWS,
    TRAIN,
    TWICE,
    WRONG,
    Answer,
    Asked,
    N,
    Truth,
    answer,
    facts,
    study_of,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SAME = 2e-6
"""Largest difference, relative to the largest score, of what is the same but for float32 in the artifacts."""
BASE = Asked()
ROUNDED = 0.01
"""Largest difference, relative to all scores, that gradients in bfloat16 make where λ is not small."""
AGAIN = "runs the training again"
FLOAT32_ALONE = {"if-explicit": "forms the whole matrix", "hydra-fast": AGAIN, "unrolled-influence": AGAIN}
"""Methods that are refused in less than float32, with these settings, and what they do instead."""
WITHOUT_GRADIENTS = {"repsim", "nearest-inputs", "empirical-influence", "random"}
"""Methods that no precision of gradients changes."""
SHARE = 0.95
"""Of the products and decompositions, those of training among them, that run on the study's device."""

pytestmark = pytest.mark.parametrize("name", ROWS)


@pytest.fixture(scope="module")
def truth() -> Truth:
    return Truth()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def ask(folder: Path):
    """Compute what is asked once."""

    @functools.cache
    def asked(name: str, which: str, question: Asked) -> Answer:
        settings = getattr(ROWS[name], which)
        return answer(folder / name, name, settings, question)

    return asked


def values_of(name: str) -> tuple[float | None, ...]:
    return ROWS[name].values


def skip_beyond(name: str, test: str) -> None:
    if test in ROWS[name].beyond:
        pytest.skip(ROWS[name].beyond[test])


@pytest.mark.parametrize("device", DEVICES)
def test_scores_are_those_of_a_dense_reference(name: str, device: str, ask, truth: Truth):
    row, found = ROWS[name], ask(name, "settings", replace(BASE, device=device))
    for value in row.values:
        assert_close(found.scores(value), row.reference(truth, found, value).detach(), row.tolerance)


def test_another_device_gives_the_same_scores_and_does_the_work(name: str, ask):
    row, expected = ROWS[name], ask(name, "settings", BASE)
    with watching() as watch:
        found = ask(name, "settings", replace(BASE, device=STAND_IN))
        values = {value: found.scores(value) for value in row.values}
    for value, scores in values.items():
        assert_close(scores, expected.scores(value), max(row.tolerance, SAME))
    assert watch.cpu <= (1 - SHARE) * (watch.cpu + watch.device), f"{watch.share:.2f} on the device; {watch.most}"


def test_a_device_without_float64_gives_the_same_scores(name: str, ask):
    """Passes run there in float32; what needs float64 runs on the CPU beside it."""
    row, expected = ROWS[name], ask(name, "settings", replace(BASE, task="single"))
    with without_float64(), watching() as watch:
        found = ask(name, "settings", replace(BASE, task="single", device=STAND_IN))
        values = {value: found.scores(value) for value in row.values}
    assert watch.device > 0
    for value, scores in values.items():
        assert_close(scores, expected.scores(value), max(row.tolerance, SAME))


def test_gradients_in_bfloat16_give_about_the_same_scores_or_are_refused_by_name(name: str, ask):
    """At the largest λ: at small ones the smallest eigenvalues count, which rounding makes anew."""
    half = replace(BASE, task="single", precision=BF16)
    if name in FLOAT32_ALONE:
        with pytest.raises(StudyError, match=f"is not for method {name}: it {FLOAT32_ALONE[name]}"):
            ask(name, "settings", half)
        return
    value = ROWS[name].values[-1]
    found, exact = (ask(name, "settings", each).scores(value) for each in (half, replace(half, precision=FULL)))
    error = float((found - exact).norm() / exact.norm())
    assert error < ROUNDED
    assert (error == 0) == (name in WITHOUT_GRADIENTS)


def test_a_copy_of_a_query_helps_it_and_one_with_another_label_hurts_it(name: str, ask):
    skip_beyond(name, "sign")
    row, value = ROWS[name], ROWS[name].values[-1]
    own = ask(name, "settings", replace(BASE, queries=COPIES)).scores(value).diagonal()
    other = ask(name, "settings", replace(BASE, queries=WRONG)).scores(value).diagonal()
    if row.helps_on_average:
        own, other = own.mean(), other.mean()
    assert bool((own > 0).all())
    assert bool((other < 0).all()) == row.sees_labels


def test_copies_help_where_smaller_measurements_are_better(name: str, ask):
    """On average: along a run an error may change its sign."""
    skip_beyond(name, "sign")
    if {"margin", "labels"} & set(METHODS[name].needs):
        pytest.skip("it needs classes")
    asked = replace(BASE, queries=TRAIN, task="errors")
    assert float(ask(name, "settings", asked).scores(ROWS[name].values[-1]).diagonal().mean()) > 0


def test_scores_follow_their_examples_in_any_order(name: str, ask):
    skip_beyond(name, "order")
    order = np.random.default_rng(0).permutation(N)
    shuffled = ask(name, "settings", replace(BASE, rows=tuple(order.tolist())))
    for value in values_of(name):
        assert_close(shuffled.scores(value), ask(name, "settings", BASE).scores(value)[:, order], SAME)


def test_every_example_twice_leaves_scores_where_they_were(name: str, ask):
    """Scores and λ are in units of the mean: of the Gram matrix, of the training loss."""
    skip_beyond(name, "scale")
    twice = ask(name, "settings", replace(BASE, rows=TWICE))
    for value in values_of(name):
        expected = ask(name, "settings", BASE).scores(value)
        assert_close(twice.scores(value), torch.cat([expected, expected], 1), SAME)


def test_batches_change_nothing(name: str, ask, folder: Path, monkeypatch: pytest.MonkeyPatch):
    begin, sizes = Probe.__init__, []

    def in_small_batches(self: Probe, *given, **named) -> None:
        begin(self, *given, **named)
        object.__setattr__(self, "batch_size", min(5, self.batch_size))
        sizes.append(self.batch_size)

    monkeypatch.setattr(Probe, "__init__", in_small_batches)
    small = answer(folder / name / "small", name, ROWS[name].settings)
    monkeypatch.undo()
    for value in values_of(name):
        assert_close(small.scores(value), ask(name, "settings", BASE).scores(value), SAME)


def test_a_large_regularization_leaves_the_dot_product(name: str, ask, truth: Truth):
    if ROWS[name].large is None:
        assert not METHODS[name].has_regularization
        assert METHODS[name].hyperparameter("regularization") is None
        pytest.skip("it has no λ")
    assert_close(LARGE * ask(name, "large", BASE).scores(LARGE), truth.dot, 1e-4)


def test_a_small_regularization_leads_to_the_pseudo_inverse_or_is_refused(name: str, ask):
    if not METHODS[name].has_regularization:
        pytest.skip("it has no curve over λ")
    found = ask(name, "settings", BASE)
    if ROWS[name].refuses_zero:
        with pytest.raises(NumericalError, match="singular"):
            found.scores(0.0)
    else:
        assert_close(found.scores(1e-15), found.scores(0.0), 1e-4)


def test_seeds_matter_where_something_is_drawn_and_nowhere_else(name: str, ask):
    row, value = ROWS[name], ROWS[name].values[-1]
    again = replace(BASE, seed=1)
    if row.drawn != row.settings:
        assert_close(ask(name, "settings", again).scores(value), ask(name, "settings", BASE).scores(value), SAME)
    if row.drawn is not None:
        first, second = (ask(name, "drawn", asked).scores(value) for asked in (BASE, again))
        assert float((first - second).abs().max()) > 1e-3 * float(first.abs().max())


def test_another_version_leads_to_other_keys(name: str, monkeypatch: pytest.MonkeyPatch):
    study = study_of(name, ROWS[name].settings, BASE)
    before = build_plan(study, facts()).steps
    monkeypatch.setitem(METHODS, name, replace(METHODS[name], version=METHODS[name].version + 1))
    after = build_plan(study, facts()).steps
    assert [step.label for step in after] == [step.label for step in before]
    changed = {step.NAME for step, other in zip(after, before, strict=True) if step.key != other.key}
    sources = {step.NAME for step in after if isinstance(step, SourceStep) and made_by(step) == name}
    chooses = {step.NAME for step in after if isinstance(step, Rules)}  # among what the evaluations say
    assert changed == sources | {Evaluate.NAME} | chooses


def made_by(step: Any) -> str:
    """Return the method whose code makes the result of a step; others may share it."""
    return next(getattr(step, each) for each in ("gradients", "recipe", "kind", "method") if hasattr(step, each))


def test_every_method_has_a_row_and_every_row_a_method(name: str):
    assert list(ROWS) == list(METHODS)
    assert all(ROWS[name].beyond.values())
