"""Stacked runs without one example against one plain training run each."""

from __future__ import annotations

import pytest
import torch

from tda_backend.errors import NumericalError, UsageError
from tda_backend.models.tasks.data import validate_data
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.trajectory.unrolled.queries import Queries
from tda_backend.numerics.trajectory.unrolled.recording import record
from tda_backend.numerics.trajectory.unrolled.removal import VARIANTS, removal_effects
from tests.trajectory.unrolled.reweighted import CASES, PLAIN, POINTS, REMOVED, Smooth, outcome, recorded, reweighted

HORIZONS = [10, 1, 4, 7]
AFTER = torch.tensor(HORIZONS) - 1


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CASES)
def test_equals_one_training_run_per_example(name: str, variant):
    run = recorded(name)
    found = removal_effects(run, REMOVED, Queries(POINTS, quantity="loss"), variant=variant, horizons=HORIZONS)
    base = outcome(run, reweighted(run, {}))
    torch.testing.assert_close(found.base, base[-1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.base_at_horizons, base.mean(dim=1)[AFTER], rtol=1e-10, atol=1e-12)
    for place, row in enumerate(REMOVED.tolist()):
        expected = outcome(run, reweighted(run, {row: 0.0}, smaller=variant == "smaller")) - base
        assert float(expected[-1].abs().max()) > 1e-5
        torch.testing.assert_close(found.effects[place], expected[-1], rtol=1e-7, atol=1e-10)
        torch.testing.assert_close(found.at_horizons[:, place], expected.mean(dim=1)[AFTER], rtol=1e-7, atol=1e-10)
        first = run.steps_of(row)[0]
        assert int(found.first_steps[place]) == first
        assert all((found.at_horizons[number, place] == 0) == (after < first) for number, after in enumerate(HORIZONS))


def test_goodness_falls_where_an_example_helped():
    run = recorded("adamw")
    found = removal_effects(run, REMOVED[:2], Queries(POINTS, quantity="goodness"))
    expected = outcome(run, run.final_theta, "goodness") - outcome(run, reweighted(run, {30: 0.0})[-1], "goodness")
    torch.testing.assert_close(found.effects[0], expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks_change_nothing(chunk: int):
    run = recorded("adamw, decay, clipped, cosine, warm-up")
    whole = removal_effects(run, REMOVED, Queries(POINTS, quantity="loss"), horizons=HORIZONS)
    seen = []
    parts = removal_effects(
        run,
        REMOVED,
        Queries(POINTS, quantity="loss"),
        horizons=HORIZONS,
        chunk=chunk,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    torch.testing.assert_close(parts.effects, whole.effects, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(parts.at_horizons, whole.at_horizons, rtol=1e-9, atol=1e-13)
    assert [done for done, _ in seen] == list(range(1, seen[0][1] + 1))
    assert {total for _, total in seen} == {len(seen)}


def test_a_batch_of_one_leaves_the_optimizer_stepping():
    """Without z its batch's gradient is 0 in both variants: momentum and decay go on."""
    task = Smooth(**{**PLAIN, "momentum": 0.8, "weight_decay": 0.2, "batch_size": 8})
    run = record(TrainingRun(task, validate_data(task), list(range(17)), 3), dtype=torch.float64)
    alone = next(int(rows[0]) for rows in run.batches if len(rows) == 1)
    expected = outcome(run, reweighted(run, {alone: 0.0}, smaller=True)[-1]) - outcome(run, run.final_theta)
    found = removal_effects(run, [alone], Queries(POINTS, quantity="loss"), variant="smaller")
    torch.testing.assert_close(found.effects[0], expected, rtol=1e-7, atol=1e-10)


def test_a_base_before_anybody_joined_is_still_given():
    run = recorded("adamw")
    late = max(run.train_indices.tolist(), key=lambda row: run.steps_of(row)[0])
    found = removal_effects(run, [late], Queries(POINTS, quantity="loss"), horizons=[1])
    assert run.steps_of(late)[0] > 1
    assert float(found.at_horizons[0, 0]) == 0
    expected = outcome(run, reweighted(run, {})[0]).mean()
    torch.testing.assert_close(found.base_at_horizons[0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("rows", "options", "text"),
    [
        ([3], {}, "Row 3 was not trained on"),
        ([], {}, "Rows of shape"),
        ([0.5], {}, "Rows of shape"),
        ([7], {"horizons": [0]}, "Horizons"),
        ([7], {"horizons": [11]}, "Horizons"),
        ([7], {"variant": "none"}, "Variant"),
        ([7], {"quantity": "margin"}, "quantity"),
        ([7], {"chunk": 0}, "side by side"),
    ],
)
def test_what_cannot_be_done_is_said(rows, options, text: str):
    run, options = recorded("adamw"), dict(options)
    quantity = options.pop("quantity", "loss")
    with pytest.raises(UsageError, match=text):
        removal_effects(run, rows, Queries(POINTS, quantity=quantity), **options)


def test_a_run_that_diverges_is_named(monkeypatch: pytest.MonkeyPatch):
    run = recorded("sgd")
    monkeypatch.setattr(run.objective, "weighted_gradients", lambda thetas, rows, weights: thetas * torch.inf)
    with pytest.raises(NumericalError, match="without row 12"):
        removal_effects(run, [12], Queries(POINTS, quantity="loss"))
