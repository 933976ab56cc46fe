"""SOURCE on small models against dense walks with explicitly built curvature matrices."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.linalg import expm
from torch import nn

from tda_backend.errors import DataError, NumericalError, TaskError, UsageError
from tda_backend.models.probe import Probe
from tda_backend.models.training.fit import train
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.attribution.ekfac import ekfac_spectrum
from tda_backend.numerics.curvature.kronecker.basis import average, eigenbasis, kronecker_moments
from tda_backend.numerics.curvature.kronecker.fisher import Fisher
from tda_backend.numerics.features.layers import tracked_layers
from tda_backend.numerics.spectral.contraction import scores as influence_scores
from tda_backend.numerics.trajectory.source.fit import fit_source
from tda_backend.numerics.trajectory.source.preconditioned import preconditioned_decay
from tda_backend.numerics.trajectory.source.segments import TrainingSegment, source_segments
from tda_backend.numerics.trajectory.source.settings import CheckpointedRun, SourceSettings
from tests.helpers_numerics import TASKS, ClassificationExample, assert_close, dense_gradients, split_probe
from tests.training.tiny import CLASSES, WIDTH, TinyTask
from tests.trajectory.dense import dense_ekfac, forward_change, model_of, reference, rows_in_layers
from tests.trajectory.test_walk import dense_response

ROWS, QUERIES = [0, 3, 5, 7, 8, 12, 20, 23, 11, 2], [1, 4, 15]
EPOCHS = (1, 2, 4, 6)
PLAN = (TrainingSegment((1, 2), 10, 0.8, 0.5, 0.01), TrainingSegment((4, 6), 10, 0.5, 0.5, 0.01))
KRONECKER = ("mlp", "cnn", "transformer", "positions", "regression")


def states_of(task, spread: float = 0.3):
    """Return checkpoints that differ, as those of a run do."""
    base = task.build_model(0).state_dict()
    generator = torch.Generator().manual_seed(2)
    states = {}
    for epoch in EPOCHS:
        states[epoch] = {
            name: value + spread * torch.randn(value.shape, generator=generator, dtype=value.dtype)
            if value.is_floating_point() and "running" not in name
            else value.clone()
            for name, value in base.items()
        }
    return states


def run(task, states, plan=PLAN, rows=ROWS, queries=QUERIES, **settings):
    settings = {"fisher": "empirical", "untracked": "leave-out", **settings}
    return fitted(task, states, plan, rows, **settings).scores(queries).values


def fitted(task, states, plan=PLAN, rows=ROWS, *, batch_size=512, preconditioners=None, **settings):
    run = CheckpointedRun(task, task.datasets(), states, plan, rows, batch_size=batch_size)
    return fit_source(run, SourceSettings(**settings), preconditioners=preconditioners)


@pytest.mark.parametrize("name", KRONECKER)
def test_ekfac_equals_the_dense_walk_with_explicit_kronecker_matrices(name: str):
    task = TASKS[name]
    states = states_of(task)
    scores = run(task, states)
    assert scores.dtype == torch.float64
    assert_close(scores, reference(task, states, PLAN, ROWS, QUERIES), 1e-8)


@pytest.mark.parametrize("kind", ["kfac", "diagonal"])
def test_cheaper_bases_equal_their_dense_walks(kind: str):
    task = TASKS["mlp"]
    states = states_of(task)
    assert_close(run(task, states, basis=kind), reference(task, states, PLAN, ROWS, QUERIES, kind), 1e-8)


@pytest.mark.parametrize("fast", [False, True])
def test_directions_without_inputs_are_left_out_where_all_segments_have_one_basis(fast: bool):
    task, rows = TASKS["mlp"], ROWS[:3]
    states = states_of(task)
    fit = fitted(task, states, rows=rows, fisher="empirical", fast=fast)
    (d_out, d_in), *others = (layer.shape for layer in tracked_layers(task.build_model(0)))
    assert d_in > len(rows)
    assert next(iter(fit.layout.columns.values())) == slice(0, d_out * len(rows))
    assert fit.layout.width == d_out * len(rows) + sum(outputs * inputs for outputs, inputs in others)
    if not fast:
        assert_close(fit.scores(QUERIES).values, reference(task, states, PLAN, rows, QUERIES), 1e-8)


def test_weight_decay_can_be_left_out():
    task = TASKS["mlp"]
    states = states_of(task)
    without = run(task, states, weight_decay=False)
    assert_close(without, reference(task, states, PLAN, ROWS, QUERIES, decay=False), 1e-8)
    assert (without - run(task, states)).abs().max() > 1e-4 * without.abs().max()


@pytest.mark.parametrize("name", ["linear", "mlp", "cnn", "regression"])
@pytest.mark.parametrize("curvature", ["ggn", "empirical-fisher", "hessian"])
def test_exact_basis_equals_a_dense_walk(name: str, curvature: str):
    task = TASKS[name]
    states = states_of(task, 0.1)
    train = {key: value[ROWS] for key, value in task.datasets()["train"].items()}
    curvatures, gradients = [], []
    for segment in PLAN:
        models = [model_of(task, states[epoch]) for epoch in segment.epochs]
        matrices = [dense_curvature(task, model, train, curvature) for model in models]
        identity = torch.eye(len(matrices[0]), dtype=torch.float64)
        curvatures.append(sum(matrices) / 2 + segment.weight_decay * identity)
        own = [dense_gradients(task, m, task.datasets()["train"], ROWS, "train_loss") for m in models]
        gradients.append(sum(own) / 2)
    query = dense_gradients(task, model_of(task, states[6]), task.datasets()["test"], QUERIES, "goodness")
    expected = query @ forward_change(curvatures, gradients, [s.duration for s in PLAN], [1, 1])
    assert_close(run(task, states, basis="exact", curvature=curvature), expected, 1e-8)


def dense_curvature(task, model, batch, kind):
    """Return the curvature of the mean loss over a batch by double autograd, ``[p, p]``."""
    parameters = [p for p in model.parameters() if p.requires_grad]

    def jacobian(values):
        rows = [torch.autograd.grad(v, parameters, retain_graph=True, create_graph=True) for v in values.flatten()]
        return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])

    size = len(batch["y"])
    if kind == "hessian":
        (gradient,) = jacobian(task.train_loss(model, batch).mean()[None])
        return torch.stack(
            [torch.cat([g.flatten() for g in torch.autograd.grad(v, parameters, retain_graph=True)]) for v in gradient]
        )
    if kind == "empirical-fisher":
        gradients = jacobian(task.train_loss(model, batch))
        return (gradients.T @ gradients / size).detach()
    outputs = task.outputs(model, batch)
    rows = jacobian(outputs).unflatten(0, (size, -1)).detach()
    total = torch.zeros(rows.shape[2], rows.shape[2], dtype=torch.float64)
    for index in range(size):
        one = {key: value[index : index + 1] for key, value in batch.items()}
        inner = torch.autograd.functional.hessian(
            lambda out, one=one, i=index: task.output_loss(out.view(outputs[i : i + 1].shape), one).sum(),
            outputs[index].detach().flatten(),
        )
        total += rows[index].T @ inner @ rows[index]
    return total / size


@pytest.mark.parametrize("basis", ["ekfac", "exact"])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_batches_and_chunks_change_nothing(name: str, basis: str):
    task = TASKS[name]
    states = states_of(task)
    settings = {"fisher": "true", "untracked": "leave-out", "basis": basis}
    fit = fitted(task, states, **settings)
    whole = fit.scores(QUERIES).values
    other = fitted(task, states, batch_size=3, **settings)
    chunked = replace(other, query_numbers=fit.layout.width * 2, gradient_numbers=fit.layout.width * 3)
    assert_close(chunked.scores(QUERIES).values, whole, 1e-9)
    assert_close(chunked.self_influence(), fit.self_influence(), 1e-9)
    assert_close(fit.scores(QUERIES[:1]).values, whole[:1], 1e-9)
    order = [3, 1, 0, 2, 9, 8, 4, 5, 7, 6]
    shuffled = fitted(task, states, rows=[ROWS[i] for i in order], **settings)
    assert_close(shuffled.scores(QUERIES).values, whole[:, order], 1e-9)


def test_layers_add_up_and_progress_is_told():
    task = TASKS["cnn"]
    fit = fit_source(
        CheckpointedRun(task, task.datasets(), states_of(task), PLAN, ROWS), SourceSettings(untracked="leave-out")
    )
    done = []
    parts = fit.layer_scores(QUERIES, lambda *p: done.append(p))
    assert sorted(parts) == ["conv", "out"]
    assert_close(sum(part.values for part in parts.values()), fit.scores(QUERIES).values, 1e-12)
    assert done == [(1, 2), (2, 2)]
    with pytest.raises(UsageError, match="no blocks"):
        fit_source(
            CheckpointedRun(task, task.datasets(), states_of(task), PLAN, ROWS), SourceSettings(basis="exact")
        ).layer_scores(QUERIES)


def test_drawn_labels_follow_the_seed():
    task = TASKS["mlp"]
    states = states_of(task)
    scores = [run(task, states, fisher="true", seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.equal(scores[0], scores[2])


def test_self_influence_is_the_score_on_the_own_loss():
    task = TASKS["regression"]
    states = states_of(task)
    fit = fit_source(CheckpointedRun(task, task.datasets(), states, PLAN, ROWS), SourceSettings(fisher="empirical"))
    last, response, survive = model_of(task, states[6]), [], []
    for segment in PLAN:
        h = dense_ekfac(task, [model_of(task, states[e]) for e in segment.epochs], ROWS)
        h = h + segment.weight_decay * torch.eye(len(h), dtype=h.dtype)
        response.append(dense_response(h, segment.duration))
        survive.append(torch.from_numpy(expm(-segment.duration * h.numpy())))
    own = -rows_in_layers(task, last, "train", ROWS, "train_loss")
    expected = torch.zeros(len(ROWS), dtype=torch.float64)
    for index in (1, 0):
        models = [model_of(task, states[e]) for e in PLAN[index].epochs]
        gradients = sum(rows_in_layers(task, m, "train", ROWS, "train_loss") for m in models) / 2
        expected -= (own @ response[index] * gradients).sum(1)
        own = own @ survive[index]
    assert_close(fit.self_influence(), expected, 1e-10)


@pytest.mark.parametrize("basis", ["ekfac", "exact"])
def test_fast_source_equals_source_where_checkpoints_coincide(basis: str):
    task = TASKS["mlp"]
    states = states_of(task)
    same = {1: states[1], 2: states[1], 4: states[4], 6: states[4]}
    assert_close(run(task, same, fast=True, basis=basis), run(task, same, basis=basis), 1e-10)
    assert not torch.allclose(run(task, states, fast=True, basis=basis), run(task, states, basis=basis), rtol=1e-3)


def test_fast_source_takes_queries_at_the_true_end():
    task = TASKS["mlp"]
    states = states_of(task)
    still = [replace(segment, learning_rate_sum=1e-12) for segment in PLAN]
    fast = run(task, states, still, fast=True) / still[0].duration
    query = rows_in_layers(task, model_of(task, states[6]), "test", QUERIES, "goodness")
    means = [{n: (states[a][n] + states[b][n]) / 2 for n in states[a]} for a, b in ((1, 2), (4, 6))]
    gradients = sum(rows_in_layers(task, model_of(task, s), "train", ROWS, "train_loss") for s in means)
    assert_close(fast, -query @ gradients.T, 1e-8)


@pytest.mark.parametrize("basis", ["ekfac", "exact"])
def test_stages_have_their_own_curvature_and_examples(basis: str):
    task = TASKS["mlp"]
    states = states_of(task)
    first, second = (0, 3, 5, 7, 8), (12, 20, 23, 11)
    plan = (replace(PLAN[0], data_indices=first), replace(PLAN[1], data_indices=second))
    scores = run(task, states, plan, basis=basis)
    if basis == "ekfac":
        assert_close(scores, reference(task, states, plan, ROWS, QUERIES), 1e-8)
    assert not scores[:, ROWS.index(2)].any()  # in neither stage
    alone = run(task, {4: states[4], 6: states[6]}, plan[1:], list(second), basis=basis)
    columns = [ROWS.index(row) for row in second]
    assert_close(scores[:, columns], alone * len(ROWS) / len(second), 1e-9)  # of the second stage: its term only


@pytest.mark.parametrize("decay_kind", ["l2", "decoupled"])
def test_preconditioned_kronecker_equals_its_dense_form(decay_kind: str):
    task = TASKS["mlp"]
    states = states_of(task)
    plan = [replace(s, decay_kind=decay_kind, weight_decay=0.05) for s in PLAN]
    final = model_of(task, states[6])
    generator = torch.Generator().manual_seed(9)
    named = [
        {n: torch.rand(p.shape, generator=generator, dtype=torch.float64) + 0.2 for n, p in final.named_parameters()}
        for _ in plan
    ]
    actual = run(task, states, plan, preconditioners=named)
    query = rows_in_layers(task, final, "test", QUERIES, "goodness")
    expected = torch.zeros(len(QUERIES), len(ROWS), dtype=torch.float64)
    layers = tracked_layers(final)
    for index in (1, 0):
        models = [model_of(task, states[e]) for e in plan[index].epochs]
        h = dense_ekfac(task, models, ROWS)
        p = torch.cat([layer.matrix(named[index]).flatten() for layer in layers])
        decay = preconditioned_decay(plan[index], p)
        diagonal = h.diagonal() + decay
        moments = [
            kronecker_moments(split_probe(task, m, task.datasets()["train"], ROWS), fisher=Fisher("empirical"))
            for m in models
        ]
        rotation = torch.block_diag(*(torch.kron(b.deltas, b.inputs) for b in eigenbasis(average(moments)).layers))
        values = (rotation.T @ (h + torch.diag(decay)) @ rotation).diagonal() + 1e-8
        moved = -torch.expm1(-plan[index].duration * diagonal * p) * query
        gradients = sum(rows_in_layers(task, m, "train", ROWS, "train_loss") for m in models) / 2
        expected -= (moved @ rotation / values) @ rotation.T @ gradients.T
        query = query * torch.exp(-plan[index].duration * diagonal * p)
    assert_close(actual, expected, 1e-7)


def test_preconditioned_exact_equals_nonsymmetric_exponentials():
    task = TASKS["linear"]
    states = states_of(task)
    plan = [replace(s, decay_kind="decoupled", weight_decay=0.05) for s in PLAN]
    size = sum(p.numel() for p in task.build_model(0).parameters())
    scales = torch.rand(2, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.2
    train = {key: value[ROWS] for key, value in task.datasets()["train"].items()}
    products, gradients = [], []
    for segment, p in zip(plan, scales, strict=True):
        models = [model_of(task, states[e]) for e in segment.epochs]
        h = sum(dense_curvature(task, m, train, "ggn") for m in models) / 2
        products.append(p[:, None] * h + 0.05 * torch.eye(size, dtype=torch.float64))
        own = sum(dense_gradients(task, m, task.datasets()["train"], ROWS, "train_loss") for m in models) / 2
        gradients.append(own * p)
    query = dense_gradients(task, model_of(task, states[6]), task.datasets()["test"], QUERIES, "goodness")
    expected = query @ forward_change(products, gradients, [s.duration for s in plan], [1, 1])
    actual = run(task, states, plan, basis="exact", preconditioners=list(scales))
    assert_close(actual, expected, 1e-8)


def test_missing_checkpoints_are_named():
    task = TASKS["mlp"]
    states = states_of(task)
    with pytest.raises(DataError, match="not there: epochs 2, 6"):
        run(task, {1: states[1], 4: states[4]})


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"basis": "lissa"}, UsageError, "Unknown basis 'lissa'"),
        ({"fisher": "half"}, UsageError, "Unknown Fisher"),
        ({"basis": "exact", "curvature": "none"}, UsageError, "'none'"),
        ({"preconditioners": [torch.ones(3)]}, UsageError, "1 preconditioners for 2 segments"),
        ({"preconditioners": [torch.ones(3)] * 2}, UsageError, r"shape \(3,\)"),
        ({"preconditioners": [torch.zeros(73)] * 2}, NumericalError, "not positive"),
        ({"queries": []}, UsageError, "no queries"),
        ({"rows": [99]}, UsageError, "out of range"),
        ({"plan": (replace(PLAN[0], data_indices=(99,)), PLAN[1])}, UsageError, "out of range"),
    ],
)
def test_bad_input_is_refused(change, kind, text):
    task = TASKS["mlp"]
    with pytest.raises(kind, match=text):
        run(task, states_of(task), **change)


def test_a_large_model_is_refused_with_its_size():
    task = ClassificationExample("large", lambda: nn.Linear(6, 1500))
    with pytest.raises(UsageError, match="10500 parameters"):
        run(task, states_of(task), basis="exact")


def test_untracked_parameters_are_refused_unless_left_out():
    task = TASKS["transformer"]
    with pytest.raises(TaskError, match="cannot track"):
        run(task, states_of(task), untracked="refuse")


@pytest.mark.parametrize("basis", ["ekfac", "exact"])
def test_broken_gradients_name_the_checkpoint(basis: str):
    task = TASKS["mlp"]
    states = states_of(task)
    states[4]["0.weight"] = states[4]["0.weight"] * 1e200
    states[4]["3.weight"] = states[4]["3.weight"] * 1e200
    with pytest.raises(NumericalError, match="At epoch 4"):
        run(task, states, basis=basis)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_endless_training_with_decay_is_ekfac_influence_damped_by_it(name: str):
    """F_r(Λ + ω) → 1/(Λ + ω): the same labels are drawn, so the scores are those of λ = ω to rounding."""
    task = TASKS[name]
    states = states_of(task)
    plan = (TrainingSegment((1, 2), 10, 3.0), TrainingSegment((6,), 10, 1e4, 0.0, 0.1))
    scores = run(task, states, plan, fisher="true", seed=5)
    probe = Probe(task, model_of(task, states[6]), task.datasets(), ROWS, [0], QUERIES)
    spectrum = ekfac_spectrum(probe, fisher=Fisher(seed=5), untracked="leave-out")
    assert_close(scores, influence_scores([spectrum], 0.1), 1e-9)


def test_source_of_a_real_run_follows_what_upweighting_does():
    """A small logistic regression, trained with one example's loss at weight 1 + ε: scores are n·dgoodness/dε."""
    task = TinyTask(num_epochs=6, batch_size=60, learning_rate=0.05, momentum=0.0, weight_decay=0.02)
    task.modules = lambda: nn.Linear(WIDTH, CLASSES)
    rows, data = list(range(60)), task.datasets()
    run_of = {c.epoch: c.state for c in train(TrainingRun(task, data, rows, 0, route="loop"), range(1, 7))}
    segments = source_segments(task.training, 60, None, 6, 6)
    scores = (
        fit_source(CheckpointedRun(task, data, run_of, segments, rows), SourceSettings(basis="exact"))
        .scores(QUERIES)
        .values
    )

    def goodness(weights):  # gradient descent on all 60 examples at once, so that batches play no part
        model = model_of(task, task.build_model(0).state_dict())
        for _ in range(6):
            loss = (weights * task.train_loss(model, data["train"])).mean()
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, g in zip(model.parameters(), gradients, strict=True):
                    p -= 0.05 * (g + 0.02 * p)
        return task.measurement(model, {key: value[QUERIES] for key, value in data["test"].items()}).detach()

    one, change = torch.ones(60, dtype=torch.float64), []
    for row in range(60):
        step = 1e-4 * torch.eye(60, dtype=torch.float64)[row]
        change.append(60 * (goodness(one + step) - goodness(one - step)) / 2e-4)
    truth = torch.stack(change, dim=1)
    assert float(torch.corrcoef(torch.stack([scores.flatten(), truth.flatten()]))[0, 1]) > 0.999
    assert_close(scores, truth, 0.1)  # checkpoints stand at the segments' ends, 1 − ησ for e^{−ησ}
