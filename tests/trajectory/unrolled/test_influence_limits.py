"""Unrolled influence where the answer is known otherwise: assumptions, curvatures, limits, and what must not matter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import hessian

from tda_backend.errors import NumericalError, TaskError, UsageError
from tda_backend.models.tasks.data import take
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.trajectory.unrolled.influence import (
    ASSUMPTIONS,
    UnrolledInfluence,
    Variant,
    unrolled_influence,
    unrolled_influences,
)
from tda_backend.numerics.trajectory.unrolled.objective import BATCH_CURVATURES
from tda_backend.numerics.trajectory.unrolled.queries import Queries
from tda_backend.numerics.trajectory.unrolled.recording import record
from tda_backend.numerics.trajectory.unrolled.snapshots import GIB
from tda_backend.numerics.trajectory.unrolled.trajectory import Trajectory
from tda_backend.types import Task
from tests.helpers_numerics import assert_close
from tests.training.tiny import WIDTH
from tests.trajectory.unrolled.weighted import DECAYS, OPTIMIZERS, QUERIES, ROWS, SEED, WeightedTask


def run(task: WeightedTask, **options) -> Trajectory:
    return record(TrainingRun(task, task.datasets(), ROWS, SEED), **{"dtype": torch.float64, **options})


def scores(trajectory: Trajectory, **options) -> Tensor:
    return unrolled_influence(trajectory, Queries(QUERIES, quantity="loss"), Variant(**options)).scores


class SquaredTask(WeightedTask):
    """A linear model with squared error: its Gauss–Newton matrix is its Hessian."""

    def modules(self) -> nn.Module:
        return nn.Linear(WIDTH, 1)

    def outputs(self, model, batch):
        return model(batch["x"])[:, 0]

    def output_loss(self, outputs, batch):
        return (outputs - batch["y"]).square()

    def train_loss(self, model, batch):
        return self.output_loss(self.outputs(model, batch), batch)

    def measurement(self, model, batch):
        return self.outputs(model, batch)


class MuteTask(WeightedTask):
    """Does not say what its loss is a function of."""

    outputs = Task.outputs


def slow_sgd_influence(trajectory: Trajectory) -> Tensor:
    """Return Σ_t η_t ∇Lᵀ W_t g_z with dense matrices W_t = Π_{s>t}(κ_s I − η_s(H_s + ωI)), later factors left."""
    task, objective, optimizer = trajectory.task, trajectory.objective, trajectory.optimizer
    identity = torch.eye(trajectory.num_parameters, dtype=torch.float64)
    product, total = identity, torch.zeros(len(QUERIES), len(ROWS), dtype=torch.float64)
    query = trajectory.objective_of("test").example_gradients(trajectory.final_theta, torch.tensor(QUERIES))
    columns = {int(row): column for column, row in enumerate(ROWS)}
    for step in sorted(trajectory.forward(), key=lambda step: -step.step):
        batch = take(objective.data, step.rows)

        def mean_loss(theta: Tensor, batch=batch) -> Tensor:
            shapes = objective.layout.shapes
            parts = theta.split([shape.numel() for shape in shapes])
            named = {n: p.view(s) for n, p, s in zip(objective.layout.names, parts, shapes, strict=True)}
            logits = torch.func.functional_call(objective.model, named, (batch["x"],))
            return torch.nn.functional.cross_entropy(logits, batch["y"])

        for row, gradient in zip(step.rows.tolist(), objective.example_gradients(step.theta, step.rows), strict=True):
            total[:, columns[row]] += step.rate * (query @ product @ gradient) / len(step.rows)
        decay = optimizer.weight_decay
        curved = hessian(mean_loss)(step.theta) + (0 if optimizer.decoupled else decay) * identity
        shrink = 1 - step.rate * decay if optimizer.decoupled else 1.0
        product = product @ (shrink * identity - step.rate * curved)
    assert task.training is not None
    return total


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_sgd_influence_is_its_formula_on_any_run(optimizer: str, decay: str):
    trajectory = run(WeightedTask(**OPTIMIZERS[optimizer], **DECAYS[decay], schedule="cosine", clip_norm=1.0))
    assert_close(scores(trajectory, assume="sgd"), slow_sgd_influence(trajectory), 1e-11)


@pytest.mark.parametrize("decay", DECAYS)
def test_on_a_run_of_sgd_both_assumptions_are_one(decay: str):
    plain = run(WeightedTask(**OPTIMIZERS["sgd"], **DECAYS[decay]))
    assert torch.equal(scores(plain), scores(plain, assume="sgd"))
    adam = run(WeightedTask(**OPTIMIZERS["adam"], **DECAYS[decay]))
    matched, mismatched = scores(adam), scores(adam, assume="sgd")
    assert float((matched - mismatched).abs().max()) > 0.1 * float(matched.abs().max())


def test_adam_without_memory_that_divides_by_a_huge_epsilon_is_sgd():
    """β = 0 and ε → ∞ at the rate ηε: u = g/(|g| + ε) → g/ε."""
    huge = 1e9
    task = WeightedTask(momentum=0.0, optimizer="adam", betas=(0.0, 0.0), eps=huge, learning_rate=0.2 * huge)
    assert_close(scores(run(task)), scores(run(WeightedTask(**OPTIMIZERS["sgd"]))), 1e-7)


def test_momentum_without_memory_is_sgd():
    tiny = WeightedTask(**{**OPTIMIZERS["momentum"], "momentum": 1e-14, "learning_rate": 0.2})
    assert_close(scores(run(tiny)), scores(run(WeightedTask(**OPTIMIZERS["sgd"]))), 1e-12)


def test_gauss_newton_is_the_hessian_of_linear_models_with_squared_error():
    task = SquaredTask(momentum=0.0, optimizer="adamw", learning_rate=0.05, weight_decay=0.1)
    trajectory = run(task)
    exact, gauss_newton = scores(trajectory), scores(trajectory, curvature="gauss-newton")
    assert_close(gauss_newton, exact, 1e-11)
    assert float((exact - scores(trajectory, curvature="none")).abs().max()) > 1e-3 * float(exact.abs().max())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tiny_rates_leave_no_curvature(optimizer: str):
    """η → 0: all curvatures give Σ η_t·(what the optimizer lets through), in proportion to η."""
    options = {**OPTIMIZERS[optimizer], "learning_rate": 1e-7}
    if optimizer in ("adam", "rmsprop"):
        options["eps"] = 1e-2  # curvature acts through ∂u/∂g, which Adam's usual ε makes as large as 1e8
    trajectory = run(WeightedTask(**options))
    found = unrolled_influences(
        trajectory, Queries(QUERIES), [Variant(curvature=kind) for kind in ("hessian", "fisher", "none")]
    )
    exact, fisher, none = (value.scores for value in found.values())
    assert_close(exact, none, 1e-4)
    assert_close(fisher, none, 1e-4)
    half = unrolled_influence(run(WeightedTask(**{**options, "learning_rate": 5e-8})), Queries(QUERIES)).scores
    assert_close(2 * half, exact, 1e-4)


def test_parameters_without_any_gradient_stay_finite():
    """An input that is always 0: v̂ = 0 for its weights in every step."""

    class DeadTask(WeightedTask):
        def datasets(self):
            data = super().datasets()
            for batch in data.values():
                batch["x"][:, 3] = 0
            return data

    trajectory = run(DeadTask(momentum=0.0, optimizer="adamw", learning_rate=0.02, weight_decay=0.1))
    assert int((trajectory.final_state[1] == 0).sum()) == 4
    assert torch.isfinite(scores(trajectory)).all()
    single = record(
        TrainingRun(
            DeadTask(torch.float32, momentum=0.0, optimizer="adamw", learning_rate=0.02, weight_decay=0.1),
            trajectory.task.datasets(),
            ROWS,
            SEED,
        )
    )
    assert_close(scores(single), scores(trajectory), 0.02)


VARIANTS = [Variant(assume, kind) for assume in ASSUMPTIONS for kind in BATCH_CURVATURES if kind != "gauss-newton"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_neither_chunks_nor_blocks_nor_company_matter(optimizer: str, monkeypatch):
    trajectory = run(WeightedTask(**OPTIMIZERS[optimizer], clip_norm=1.0))
    together = unrolled_influences(trajectory, Queries(QUERIES), VARIANTS, query_chunk=3, trace_rows=[17])
    monkeypatch.setattr(
        "tda_backend.numerics.trajectory.unrolled.influence._GROUP_NUMBERS", 3 * trajectory.num_parameters
    )
    monkeypatch.setattr("tda_backend.numerics.trajectory.unrolled.influence._BLOCK_NUMBERS", 1)
    for variant in VARIANTS:
        alone = unrolled_influence(trajectory, Queries(QUERIES), variant)
        assert_close(alone.scores, together[variant].scores, 1e-12)
        assert alone.traces is None


def test_no_budget_changes_the_scores():
    task = WeightedTask(**OPTIMIZERS["adam"], num_epochs=10)
    whole, tight = run(task), run(task, budget_gib=12 * 3 * 67 * 8 / GIB)
    assert (whole.interval, tight.interval) == (1, 5)
    assert_close(scores(tight), scores(whole), 1e-11)


def test_queries_stand_alone_and_columns_follow_the_rows():
    task = WeightedTask(**OPTIMIZERS["adam"])
    trajectory = run(task)
    everyone = scores(trajectory)
    for number, query in enumerate(QUERIES):
        assert_close(
            unrolled_influence(trajectory, Queries([query], quantity="loss")).scores[0], everyone[number], 1e-12
        )
    own = unrolled_influence(trajectory, Queries(ROWS, split="train", quantity="loss")).scores
    assert (own.diagonal() > 0).all()  # each example's loss would rise without it
    assert own.argmax(dim=1).tolist() == list(range(len(ROWS)))


def test_traces_add_up_to_the_scores():
    trajectory = run(WeightedTask(**OPTIMIZERS["adam"]))
    rows = [17, 4]
    found: UnrolledInfluence = unrolled_influence(trajectory, Queries(QUERIES, quantity="loss"), trace_rows=rows)
    assert found.trace_rows == (17, 4)
    assert found.traces is not None
    assert found.traces.shape == (6, len(QUERIES), 2)
    for number, row in enumerate(rows):
        steps = [step - 1 for step in trajectory.steps_of(row)]
        column = ROWS.tolist().index(row)
        assert_close(found.traces[steps, :, number].sum(dim=0), found.scores[:, column], 1e-12)
        others = [step for step in range(6) if step not in steps]
        assert (found.traces[others, :, number] != 0).all()


def test_later_steps_do_not_see_the_decay_of_earlier_influence():
    """At the last step the score is the gradient product through R_T alone, by a one-step difference."""
    trajectory = run(WeightedTask(**OPTIMIZERS["adam"]))
    last = next(trajectory.backward())
    row, weight = int(last.rows[0]), 1e-5
    mean = trajectory.objective.mean_gradient(last.theta, last.rows)
    own = trajectory.objective.example_gradients(last.theta, last.rows[:1])[0] / len(last.rows)
    ends = [
        trajectory.optimizer.update(last.theta, last.state, mean - sign * weight * own, last.rate, last.step)[0]
        for sign in (1, -1)
    ]
    losses = [trajectory.objective_of("test").losses(end, torch.tensor(QUERIES)) for end in ends]
    found = unrolled_influence(trajectory, Queries(QUERIES, quantity="loss"), trace_rows=[row]).traces
    assert found is not None
    assert_close(found[-1, :, 0], (losses[0] - losses[1]) / (2 * weight), 1e-7)


def test_an_unstable_run_is_an_error_that_names_the_step():
    task = SquaredTask(momentum=0.0, learning_rate=1e30)  # θ grows to 1e186, and so does what looks at it
    with pytest.raises(NumericalError, match="leaves the range of numbers at step"):
        unrolled_influence(run(task), Queries(QUERIES, quantity="loss"))


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"rows": []}, UsageError, "no queries"),
        ({"rows": [21]}, UsageError, "index 21 is out of range"),
        ({"split": "validation"}, UsageError, "no split"),
        ({"quantity": "margin"}, UsageError, "no quantity"),
        ({"assume": "adam"}, UsageError, 'unrolling by "adam"'),
        ({"curvature": "kfac"}, UsageError, 'curvature "kfac"'),
        ({"query_chunk": 0}, UsageError, "query_chunk is 0"),
        ({"trace_rows": [0]}, UsageError, "Row 0 was not trained on"),
        ({"curvature": "gauss-newton"}, TaskError, "outputs"),
    ],
)
def test_bad_input_is_refused(change, kind, text):
    asked, way, rest = (
        {name: value for name, value in change.items() if name in names}
        for names in (("rows", "split", "quantity"), ("assume", "curvature"), ("query_chunk", "trace_rows"))
    )
    trajectory = run(MuteTask() if kind is TaskError else WeightedTask())
    with pytest.raises(kind, match=text):
        unrolled_influence(trajectory, Queries(**{"rows": QUERIES, **asked}), Variant(**way), **rest)


def test_no_variant_is_refused():
    with pytest.raises(UsageError, match="No way to unroll"):
        unrolled_influences(run(WeightedTask()), Queries(QUERIES), [])
