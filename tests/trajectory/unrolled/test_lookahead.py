"""Look-ahead scores against the real training loop; choosing and keeping; runs against ordinary training."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import Tensor

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.models.tasks.data import take, validate_data
from tda_backend.models.tasks.noise import flip_labels
from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.fit import train
from tda_backend.models.training.routes.optimizer import optimizer_step, torch_optimizer
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.trajectory.lookahead.results import SelectionData
from tda_backend.numerics.trajectory.lookahead.runs import SelectionTask, planned_steps, select_while_training
from tda_backend.numerics.trajectory.lookahead.scorer import PlannedStep, Scorer
from tda_backend.numerics.trajectory.lookahead.strategy import Strategy, keep
from tda_backend.numerics.trajectory.unrolled.influence import Variant, unrolled_influence
from tda_backend.numerics.trajectory.unrolled.objective import Objective
from tda_backend.numerics.trajectory.unrolled.optimizers import optimizer_of
from tda_backend.numerics.trajectory.unrolled.queries import Queries
from tda_backend.numerics.trajectory.unrolled.recording import record
from tests.training.tiny import TinyTask
from tests.trajectory.unrolled.reweighted import CASES, Smooth

NUM, SEED, WIDTH = 32, 3, 2e-5
ADAMW = "adamw, decay, clipped, cosine, warm-up"


def parts(task: TinyTask, num: int = NUM) -> SelectionData:
    """Return candidates and three held-out parts of the tiny task's data."""
    data = validate_data(task)
    return SelectionData(
        candidates=take(data["train"], torch.arange(num)),
        selection=take(data["train"], torch.arange(num, num + 9)),
        tuning=take(data["test"], torch.arange(10)),
        test=take(data["test"], torch.arange(10, 21)),
    )


@cache
def setting(name: str) -> SimpleNamespace:
    """Return everything a window of a run needs, in float64, by the optimizer's case."""
    task = Smooth(**CASES[name])
    model, data = task.build_model(SEED), parts(task)
    candidates = Objective(task, model, data.candidates, dtype=torch.float64)
    held_out = Objective(task, model, data.selection, dtype=torch.float64)
    plan = planned_steps(training_settings(task), NUM, SEED)
    return SimpleNamespace(
        task=task, candidates=candidates, held_out=held_out, plan=plan, optimizer=optimizer_of(task.training)
    )


def held_out_gradient(case: SimpleNamespace, theta: Tensor) -> Tensor:
    return case.held_out.mean_gradient(theta, torch.arange(9))


def before(case: SimpleNamespace, step: int) -> tuple[Tensor, Tensor]:
    """Return (θ, state) before ``step`` (from 1) of plain training."""
    theta = case.candidates.theta()
    state = case.optimizer.initial(theta)
    for planned in case.plan[: step - 1]:
        gradient = case.candidates.mean_gradient(theta, planned.rows)
        theta, state = case.optimizer.update(theta, state, gradient, planned.rate, planned.number)
    return theta, state


def scored(case: SimpleNamespace, first: int, last: int, budget_gib: float = 1.0, **strategy) -> list[Tensor]:
    """Return the scores of the window ``first`` … ``last``, from 1."""
    scorer = Scorer(case.candidates, case.held_out, case.optimizer, Strategy(**strategy), SEED, budget_gib)
    found = scorer.scores(case.plan[first - 1 : last], *before(case, first))
    assert found is not None
    return found


def really(case: SimpleNamespace, last: int, step: int, place: int, weight: float) -> float:
    """Return L_val after ``last`` real steps of PyTorch's optimizer with a weight on one occurrence."""
    model, data = case.task.build_model(SEED), parts(case.task)
    parameters = list(model.parameters())
    optimizer = torch_optimizer(case.task.training, parameters)
    for planned in case.plan[:last]:
        optimizer.param_groups[0]["lr"] = planned.rate
        optimizer.zero_grad()
        weights = torch.ones(len(planned.rows), dtype=torch.float64)
        if planned.number == step:
            weights[place] = weight
        losses = case.task.train_loss(model, take(data.candidates, planned.rows))
        (losses * weights).mean().backward()
        optimizer_step(case.task.training, optimizer, parameters)
    return float(case.task.train_loss(model, data.selection).detach().mean())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("first", "last"), [(1, 1), (4, 4), (2, 5), (3, 9)])  # 3…9 crosses a partial batch
def test_score_is_the_slope_of_the_real_loop(name: str, first: int, last: int):
    case = setting(name)
    scores = scored(case, first, last, horizon=last - first + 1)
    largest = max(float(values.abs().max()) for values in scores)
    for step in {first, (first + last) // 2, last}:
        for place in (0, 3):
            up, down = (really(case, last, step, place, 1 + sign * WIDTH) for sign in (1, -1))
            slope = -(up - down) / (2 * WIDTH)  # the score is of taking the example out
            assert float(scores[step - first][place]) == pytest.approx(slope, rel=1e-6, abs=1e-7 * largest)


@pytest.mark.parametrize("name", CASES)
def test_one_step_ahead_is_its_closed_form(name: str):
    case = setting(name)
    step, (theta, state) = case.plan[6], before(case, 7)
    gradient = case.candidates.mean_gradient(theta, step.rows)
    after, _ = case.optimizer.update(theta, state, gradient, step.rate, step.number)
    # R_t by autograd of the update itself, not by its linearisation
    response = torch.autograd.functional.vjp(
        lambda g: case.optimizer.update(theta, state, g, step.rate, step.number)[0],
        gradient,
        held_out_gradient(case, after),
    )[1]
    expected = -case.candidates.example_gradients(theta, step.rows) @ response / len(step.rows)
    torch.testing.assert_close(scored(case, 7, 7)[0], expected, rtol=1e-9, atol=1e-14)


def test_one_step_ahead_assuming_sgd_is_the_gradient_product_at_the_next_parameters():
    case = setting("adamw")
    theta, _ = before(case, 6)
    after, _ = before(case, 7)
    step = case.plan[5]
    gradients = case.candidates.example_gradients(theta, step.rows) / len(step.rows)
    expected = step.rate * gradients @ held_out_gradient(case, after)
    torch.testing.assert_close(scored(case, 6, 6, assume="sgd")[0], expected, rtol=1e-9, atol=1e-14)
    now = gradients @ held_out_gradient(case, theta)
    torch.testing.assert_close(scored(case, 6, 6, kind="alignment")[0], now, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("assume", ["as trained", "sgd"])
@pytest.mark.parametrize("curvature", ["hessian", "gauss-newton", "fisher", "none"])
def test_the_whole_run_is_unrolled_influence(assume: str, curvature: str):
    case = setting(ADAMW)
    trajectory = record(
        TrainingRun(case.task, {"train": case.candidates.data, "test": case.held_out.data}, range(NUM), SEED),
        dtype=torch.float64,
    )
    influence = unrolled_influence(
        trajectory, Queries(range(9), quantity="loss"), Variant(assume=assume, curvature=curvature)
    )
    scores = scored(case, 1, len(case.plan), assume=assume, curvature=curvature)
    total = torch.zeros(NUM, dtype=torch.float64)
    for step, values in zip(case.plan, scores, strict=True):
        total.index_add_(0, step.rows, values)
    torch.testing.assert_close(total, influence.scores.mean(dim=0), rtol=1e-8, atol=1e-13)


def test_scores_within_a_small_budget_are_the_same():
    case = setting("adamw")
    free = scored(case, 1, 10)
    state = (2 + 2) * case.candidates.num_parameters * 8 / 2**30
    tight = scored(case, 1, 10, budget_gib=8.5 * state)  # of the 12 that all steps take
    for one, other in zip(free, tight, strict=True):
        assert torch.equal(one, other)


def test_removing_from_a_shrinking_batch_changes_scores_by_what_the_docstring_says():
    """(s − mean s)·|B|/(|B| − 1) is the slope where the others share the removed weight, so the order is the same."""
    case = setting("adamw")
    step, (theta, state) = case.plan[2], before(case, 3)

    def val(place: int, weight: float) -> float:
        weights = torch.ones(1, len(step.rows), dtype=torch.float64)
        weights[0, place] = weight
        gradient = case.candidates.weighted_gradients(theta[None], step.rows, weights / weights.sum())[0]
        after, _ = case.optimizer.update(theta, state, gradient, step.rate, step.number)
        return float(case.held_out.losses(after, torch.arange(9)).mean())

    (scores,) = scored(case, 3, 3)
    expected = scores - scores.mean()
    for place in range(len(step.rows)):
        slope = -(val(place, 1 + WIDTH) - val(place, 1 - WIDTH)) / (2 * WIDTH)
        assert slope == pytest.approx(float(expected[place]), rel=1e-5, abs=1e-10)


# Keeping


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=9), min_size=1, max_size=4),
    st.floats(0.01, 1),
    st.sampled_from(["batch", "window"]),
)
@examples(deadline=None)
def test_what_is_kept_is_the_top_share(values: list[list[int]], fraction: float, scope: str):
    scores = [torch.tensor(row, dtype=torch.float64) for row in values]
    masks = keep(scores, fraction, scope)
    assert [len(mask) for mask in masks] == [len(row) for row in values]
    assert all(bool(mask.any()) for mask in masks)
    for row, mask in zip(scores, masks, strict=True):
        assert not (~mask).any() or row[mask].min() >= row[~mask].max()  # also per window: its order is a batch's
    counts = [int(mask.sum()) for mask in masks]
    if scope == "batch":
        for count, row in zip(counts, values, strict=True):
            assert abs(count - fraction * len(row)) <= 0.5 or count == 1
    else:
        total = sum(len(row) for row in values)
        assert abs(sum(counts) - fraction * total) <= 0.5 or sum(counts) == len(values)


def test_per_window_compares_after_subtracting_the_batch_mean():
    scores = [torch.tensor([10.0, 11.0, 10.5, 10.4]), torch.tensor([-5.0, 5.0, 4.0, -4.0])]
    masks = keep(scores, 0.5, "window")
    assert [mask.tolist() for mask in masks] == [[False, True, True, False], [False, True, True, False]]
    masks = keep(scores, 0.375, "window")
    assert [mask.tolist() for mask in masks] == [[False, True, False, False], [False, True, True, False]]


def test_of_equal_scores_the_earlier_are_kept():
    assert keep([torch.zeros(5)], 0.4)[0].tolist() == [True, True, False, False, False]


# Runs


def run(task: TinyTask, seed: int = SEED, num_evaluations: int = 10, **strategy):
    return select_while_training(
        SelectionTask(task, parts(task), dtype=torch.float64),
        Strategy(**strategy),
        seed,
        num_evaluations=num_evaluations,
    )


@pytest.mark.parametrize("name", ["sgd, L2 decay, clipped", "momentum, L2 decay", ADAMW, "rmsprop, L2 decay"])
def test_keeping_all_is_ordinary_training(name: str):
    task = Smooth(**CASES[name])
    full = run(task, kind="full")
    state = train(TrainingRun(task, {"train": parts(task).candidates}, range(NUM), SEED, route="loop"), [2])[0].state
    expected = torch.cat([value.flatten() for value in state.values()])
    torch.testing.assert_close(full.theta, expected, rtol=1e-12, atol=1e-13)
    for kind in ("look-ahead", "alignment", "random"):
        assert torch.equal(run(task, kind=kind, horizon=3, fraction=1.0).theta, full.theta)
    assert full.kept.all()
    assert np.isnan(full.scores).all()
    assert full.cost.relative == 1


def test_strategies_share_batches_and_count_alike():
    task = Smooth(**CASES["adamw"])
    runs = [run(task, kind=kind, horizon=4) for kind in ("look-ahead", "alignment", "random", "full")]
    for each in runs:
        assert np.array_equal(each.rows, runs[0].rows)
        assert np.array_equal(each.steps, runs[0].steps)
        assert each.num_steps == 10
        assert (each.times_seen == 2).all()
        assert each.courses["test"].loss[0] == runs[0].courses["test"].loss[0]
        assert each.courses["test"].steps.tolist() == list(range(11))
        assert each.courses["test"].loss[-1] == pytest.approx(each.test_losses.mean())
    for each in runs[:3]:
        kept = np.bincount(each.steps, weights=each.kept)[1:]
        assert kept.tolist() == [4, 4, 4, 4, 2] * 2  # half of 7, 7, 7, 7, 4
    assert not np.array_equal(runs[0].theta, runs[1].theta)
    assert np.isfinite(runs[0].mean_scores).all()
    assert np.isnan(runs[2].scores).all()


def test_what_a_run_reports_is_what_its_scores_say():
    task = Smooth(**CASES["adamw"])
    found = run(task, horizon=4)
    for step in range(1, 11):
        mine = found.steps == step
        assert np.array_equal(found.kept[mine], keep([torch.from_numpy(found.scores[mine])], 0.5)[0].numpy())
    row = int(found.rows[3])
    assert found.mean_scores[row] == pytest.approx(found.scores[found.rows == row].mean())
    assert found.times_kept[row] == found.kept[found.rows == row].sum()
    marked = np.zeros(NUM, dtype=bool)
    marked[[1, 5, row]] = True
    assert found.share_kept(marked) == pytest.approx(found.times_kept[marked].sum() / 6)
    assert np.isnan(found.share_kept(np.zeros(NUM, dtype=bool)))


@pytest.mark.parametrize("scope", ["batch", "window"])
def test_a_run_is_its_windows_one_after_the_other(scope: str):
    """Windows of 4, 4 and 2 steps, by hand."""
    case = setting(ADAMW)
    found = select_while_training(
        SelectionTask(case.task, parts(case.task), dtype=torch.float64), Strategy(horizon=4, scope=scope), SEED
    )
    theta = case.candidates.theta()
    state = case.optimizer.initial(theta)
    scorer = Scorer(case.candidates, case.held_out, case.optimizer, Strategy(horizon=4), SEED)
    kept = []
    for window in (case.plan[:4], case.plan[4:8], case.plan[8:]):
        scores = scorer.scores(window, theta, state)
        assert scores is not None
        for step, mask in zip(window, keep(scores, 0.5, scope), strict=True):
            kept.append(mask)
            gradient = case.candidates.example_gradients(theta, step.rows[mask]).mean(dim=0)
            theta, state = case.optimizer.update(theta, state, gradient, step.rate, step.number)
    assert np.array_equal(torch.cat(kept).numpy(), found.kept)
    torch.testing.assert_close(found.theta, theta, rtol=1e-10, atol=1e-12)


def test_little_dropped_at_a_small_rate_does_what_the_scores_say():
    """To first order; and the check counts windows, costs nothing in work, and changes nothing."""
    task = Smooth(**{**CASES["momentum, L2 decay"], "batch_size": 16})
    found = {
        rate: select_while_training(
            SelectionTask(task, parts(task), dtype=torch.float64),
            Strategy(horizon=3, fraction=0.94),
            SEED,
            rate=rate,
            check_windows=True,
        )
        for rate in (0.01, 0.001)
    }
    for rate, each in found.items():
        assert each.check is not None
        assert each.check.first_steps.tolist() == [1, 4]
        np.testing.assert_allclose(each.check.predicted, each.check.real, rtol=30 * rate)
        assert (each.check.predicted < 0).all()
    plain = select_while_training(
        SelectionTask(task, parts(task), dtype=torch.float64), Strategy(horizon=3, fraction=0.94), SEED, rate=0.01
    )
    assert plain.check is None
    assert torch.equal(plain.theta, found[0.01].theta)
    assert plain.cost.in_gradients == found[0.01].cost.in_gradients
    assert run(task, kind="alignment").check is None


def test_horizons_beyond_the_run_are_the_whole_run():
    task = Smooth(**CASES["adamw"])
    whole = run(task, horizon=None)
    for horizon in (10, 11, 1000):
        assert torch.equal(run(task, horizon=horizon).theta, whole.theta)
    assert not torch.equal(run(task, horizon=3).theta, whole.theta)
    assert whole.strategy.name == "Look-ahead, K = T"


def test_random_draws_are_unbiased_and_differ_by_step_and_seed():
    task = Smooth(**CASES["sgd"])
    counts = sum(run(task, seed, 1, kind="random").times_kept for seed in range(40))
    share = counts / 80
    assert share.mean() == pytest.approx(18 / 32)  # 4 of 7 four times, 2 of 4
    assert np.abs(share - 18 / 32).max() < 4.5 * np.sqrt(18 / 32 * 14 / 32 / 80)
    one = run(task, kind="random")
    assert np.array_equal(one.kept, run(task, kind="random").kept)
    assert not np.array_equal(one.kept[:7], one.kept[32:39])


@pytest.mark.parametrize("kind", ["look-ahead", "alignment"])
def test_single_precision_gives_the_same_scores_to_its_digits(kind: str):
    case = setting("adamw")
    single = SimpleNamespace(
        candidates=Objective(case.task, case.task.build_model(SEED), case.candidates.data, dtype=torch.float32),
        held_out=Objective(case.task, case.task.build_model(SEED), case.held_out.data, dtype=torch.float32),
        plan=case.plan,
        optimizer=case.optimizer,
    )
    for double, values in zip(scored(case, 2, 6, kind=kind), scored(single, 2, 6, kind=kind), strict=True):
        assert values.dtype == torch.float32
        assert (values - double).abs().max() <= 1e-4 * double.abs().max()
    found = select_while_training(SelectionTask(case.task, parts(case.task)), Strategy(kind, 2), SEED)
    assert found.theta.dtype == torch.float32


def test_cost_counts_what_was_done():
    task = Smooth(**CASES["adamw"])
    cost = run(task, horizon=4).cost
    # windows 7·4, 4 + 7·3, 7 + 4 of all 64 candidates, 36 kept, 3 gradients of 9 held-out examples
    assert (cost.gradients, cost.slopes) == (64 + 36 + 3 * 9, 64)
    assert cost.products == 64 - (7 + 4 + 7)  # the first step of each window needs none
    assert cost.in_gradients == pytest.approx(127 + 2 * 46 + 2 / 3 * 64)
    assert cost.seconds > 0
    aligned = run(task, kind="alignment").cost
    assert (aligned.gradients, aligned.slopes, aligned.products) == (36 + 10 * 9, 64, 0)
    assert run(task, kind="random").cost.relative == pytest.approx(36 / 64)


def test_selection_avoids_wrong_labels_and_helps_where_there_are_many():
    """Seeds at random decide little: look-ahead is better than random in each of three."""
    task = Smooth(**{**CASES["adamw"], "num_epochs": 6})
    data = parts(task)
    noisy, flipped = flip_labels(data.candidates["y"], range(NUM), 0.4, 3, 1)
    data = replace(data, candidates={**data.candidates, "y": noisy})
    for seed in range(3):
        ahead, drawn = (
            select_while_training(SelectionTask(task, data, dtype=torch.float64), Strategy(kind, 2), seed)
            for kind in ("look-ahead", "random")
        )
        assert ahead.courses["selection"].loss[-1] < drawn.courses["selection"].loss[-1]
        assert ahead.share_kept(flipped.numpy()) < 0.75 * ahead.share_kept(~flipped.numpy())


def test_what_cannot_be_is_refused():
    task = Smooth(**CASES["sgd"])
    for wrong in (
        {"horizon": 0},
        {"fraction": 0.0},
        {"fraction": 1.1},
        {"kind": "best"},
        {"scope": "epoch"},
        {"assume": "adam"},
        {"curvature": "exact"},
    ):
        with pytest.raises(UsageError):
            Strategy(**wrong)
    with pytest.raises(UsageError, match="learning rate"):
        select_while_training(SelectionTask(task, parts(task)), Strategy(), 0, rate=0.0)
    with pytest.raises(UsageError, match="evaluations"):
        select_while_training(SelectionTask(task, parts(task)), Strategy(), 0, num_evaluations=0)
    with pytest.raises(UsageError, match="tuning"):
        replace(parts(task), tuning={"x": torch.zeros(0, 12), "y": torch.zeros(0)})
    with pytest.raises(NumericalError, match="diverged"):
        select_while_training(
            SelectionTask(Smooth(**CASES["momentum, L2 decay"]), parts(task)), Strategy(), 0, rate=1e30
        )
    with pytest.raises(TaskError, match="random numbers"):
        select_while_training(SelectionTask(TinyTask(), parts(task)), Strategy(), 0)
    staged = Smooth(**CASES["sgd"])
    staged.stages = (object(),)
    with pytest.raises(TaskError):
        select_while_training(SelectionTask(staged, parts(task)), Strategy(), 0)


def test_planned_steps_are_those_of_ordinary_training():
    plan = setting(ADAMW).plan
    assert [step.number for step in plan] == list(range(1, 11))
    assert isinstance(plan[0], PlannedStep)
    assert sorted(torch.cat([step.rows for step in plan[:5]]).tolist()) == list(range(NUM))
    assert len(plan[4].rows) == 4
    assert plan[0].rate < plan[2].rate > plan[-1].rate
