"""HyDRA-fast against a slow explicit loop, and the replay against the stored run bit by bit."""

from __future__ import annotations

import pytest
import torch

from tda_backend.errors import DataError, TaskError, UsageError
from tda_backend.models.training.fit import model_from, train
from tda_backend.models.training.routes.schedule import learning_rate, training_order
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.trajectory.hydra import hydra_scores
from tests.helpers_numerics import assert_close, dense_gradients
from tests.training.tiny import NormTask, OwnRandomnessTask, RegressionTask, ResidualTask, TinyTask

SEED, ROWS, QUERIES = 7, [3, 0, 11, 8, 25, 40, 41, 59, 17, 16, 2], [4, 0, 9, 20]
KINDS = {
    "perceptron": TinyTask,  # hand-written route, rank-one factors
    "residual": ResidualTask,  # a frozen parameter and dropout called twice: factors by autograd's route
    "norm": NormTask,  # running statistics: dense gradients
    "own randomness": OwnRandomnessTask,  # draws from PyTorch's generator while training
}


def slow_hydra(task, rows, queries, seed, epochs):
    """Return the scores by storing the model before every step and differentiating one example at a time."""
    from tda_backend.models.training.routes.loop import LoopTrainer

    data, settings = task.datasets(), task.training
    trainer = LoopTrainer(TrainingRun(task, data, torch.tensor(rows).numpy(), seed), task.build_model(seed), settings)
    seen = []
    trainer.on_step = lambda state, batch, rate: seen.append(({k: v.clone() for k, v in state.items()}, batch))
    for epoch in range(1, epochs + 1):
        trainer.train_epoch(epoch)
    query = dense_gradients(task, model_from(task, trainer.states()[0]), data["test"], queries, "goodness")
    scores = torch.zeros(len(queries), len(rows), dtype=torch.float64)
    steps = -(-len(rows) // settings.batch_size)
    for step, (state, _) in enumerate(seen):
        epoch, within = divmod(step, steps)
        order = training_order(seed, epoch + 1, len(rows))
        columns = order[within * settings.batch_size : (within + 1) * settings.batch_size]
        gradients = dense_gradients(
            task, model_from(task, state), data["train"], [rows[c] for c in columns], "train_loss"
        )
        rate = learning_rate(settings, step, steps * settings.num_epochs)
        for column, gradient in zip(columns, gradients, strict=True):
            scores[:, column] -= rate / len(columns) * (query @ gradient)
    return len(rows) * scores


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_a_slow_explicit_loop(kind: str):
    task = KINDS[kind](schedule="cosine", weight_decay=0.01)
    actual = hydra_scores(TrainingRun(task, task.datasets(), ROWS, SEED, route="loop"), QUERIES).values
    assert actual.dtype == torch.float64
    assert_close(actual, slow_hydra(task, ROWS, QUERIES, SEED, 3), 1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_replay_ends_in_the_bits_of_the_stored_run(kind: str, dtype: torch.dtype):
    task = KINDS[kind](dtype)
    stored = train(TrainingRun(task, task.datasets(), ROWS, SEED), [2, 3])
    full = hydra_scores(
        TrainingRun(task, task.datasets(), ROWS, SEED), QUERIES, final_state=stored[-1].state
    )  # raises otherwise
    early = hydra_scores(
        TrainingRun(task, task.datasets(), ROWS, SEED), QUERIES, final_state=stored[0].state, last_epoch=2
    )
    assert full.values.dtype == dtype
    assert not torch.equal(full.values, early.values)


def test_both_routes_agree():
    task = TinyTask()
    both = [
        hydra_scores(TrainingRun(task, task.datasets(), ROWS, SEED, route=route), QUERIES).values
        for route in ("loop", "mlp")
    ]
    assert_close(both[0], both[1], 1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_of_queries_change_nothing(kind: str):
    task = KINDS[kind]()
    whole = hydra_scores(TrainingRun(task, task.datasets(), ROWS, SEED), QUERIES).values
    done = []
    chunks = hydra_scores(
        TrainingRun(task, task.datasets(), ROWS, SEED),
        QUERIES,
        batch_size=1,
        query_numbers=300,
        on_progress=lambda *p: done.append(p),
    ).values
    assert_close(chunks, whole, 1e-12)
    assert done[-1][0] == done[-1][1] == len(done)
    assert len(done) == (12 if kind == "norm" else 3)  # factors are small: one replay


def test_smaller_is_better_flips_with_the_measurement():
    task = RegressionTask()
    scores = hydra_scores(TrainingRun(task, task.datasets(), ROWS, SEED), QUERIES).values
    assert_close(scores, slow_hydra(task, ROWS, QUERIES, SEED, 2), 1e-4)


def test_an_example_helps_itself():
    task = TinyTask(momentum=0.0)
    data = {"train": task.datasets()["train"], "test": task.datasets()["train"]}
    scores = hydra_scores(TrainingRun(task, data, ROWS, SEED), ROWS).values
    assert (scores.diagonal() > 0).float().mean() > 0.8


def test_order_of_rows_is_part_of_the_run_and_columns_follow_it():
    task = TinyTask()
    stored = train(TrainingRun(task, task.datasets(), ROWS, SEED), [3])[0].state
    with pytest.raises(DataError, match="ends elsewhere"):
        hydra_scores(TrainingRun(task, task.datasets(), ROWS[::-1], SEED), QUERIES, final_state=stored)


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"last_epoch": 4}, UsageError, "last epoch is 4"),
        ({"rows": [1, 1, 2]}, UsageError, "named twice"),
        ({"rows": [60]}, UsageError, "out of range"),
        ({"query_indices": []}, UsageError, "no queries"),
        ({"route": "fast"}, UsageError, "route"),
    ],
)
def test_bad_input_is_refused(change, kind, text):
    task = TinyTask()
    arguments = {"rows": ROWS, "query_indices": QUERIES, "route": "auto", **change}
    run = TrainingRun(task, task.datasets(), arguments.pop("rows"), SEED, route=arguments.pop("route"))
    with pytest.raises(kind, match=text):
        hydra_scores(run, **arguments)


def test_a_model_trained_elsewhere_has_no_learning_rates():
    task = TinyTask()
    task.training = None
    with pytest.raises(TaskError, match="no training settings"):
        hydra_scores(TrainingRun(task, TinyTask().datasets(), ROWS, SEED), QUERIES)
