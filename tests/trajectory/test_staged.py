"""SOURCE's segments of a run in stages are cut where the stages meet, and predict what retraining says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from tda_backend.errors import UsageError
from tda_backend.models.tasks import ClassificationTask
from tda_backend.models.tasks.base import perceptron
from tda_backend.models.tasks.data import validate_data
from tda_backend.models.training.fit import model_from, train
from tda_backend.models.training.outputs import goodness_of
from tda_backend.models.training.retraining.plan import Retraining
from tda_backend.models.training.retraining.retraining import retrain_subsets
from tda_backend.models.training.retraining.subsets import subset_masks
from tda_backend.models.training.routes.stages import attributed_rows
from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.trajectory.source.fit import fit_source
from tda_backend.numerics.trajectory.source.segments import source_segments
from tda_backend.numerics.trajectory.source.settings import CheckpointedRun, SourceSettings
from tda_backend.numerics.trajectory.source.staged import run_segments
from tda_backend.types import Stage, TrainingSettings
from tests.training.tiny import CLASSES, WIDTH, TinyTask, made

NUM_TRAIN = 120
STAGE = (torch.arange(NUM_TRAIN) % 3 == 2).long()
FIRST, SECOND = np.flatnonzero(STAGE == 0), np.flatnonzero(STAGE == 1)


class Linear(ClassificationTask):
    """Logistic regression, 6 + 4 epochs; the second stage alone would forget nothing of the first."""

    name = "staged-linear"
    num_classes = CLASSES
    training = TrainingSettings(num_epochs=10, batch_size=10, learning_rate=0.05)
    stages = (Stage("first", 6), Stage("second", 4, 0.02))

    def datasets(self):
        train, test = made(1, NUM_TRAIN, torch.float64), made(2, 40, torch.float64)
        noise = torch.randn(NUM_TRAIN, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        train["x"] = train["x"] + 0.7 * noise  # else the classes are separable and the margin grows without end
        return {
            "train": {**train, "stage": STAGE},
            "test": {**test, "stage": torch.ones(40, dtype=torch.int64)},
        }

    def build_model(self, seed):
        return perceptron((WIDTH, CLASSES), 0).double()  # one start: the path is all that differs


def test_cuts_lie_at_the_boundary():
    task = Linear()
    data = validate_data(task)["train"]
    rows = np.arange(10, 110)
    segments = run_segments(task, data, rows, None, 2, 4)
    assert [s.epochs for s in segments] == [(3, 6), (8, 10)]
    assert [s.data_indices for s in segments] == [
        tuple(np.intersect1d(rows, part).tolist()) for part in (FIRST, SECOND)
    ]
    steps = [-(-len(np.intersect1d(rows, part)) // 10) for part in (FIRST, SECOND)]
    assert [s.num_steps for s in segments] == [6 * steps[0], 4 * steps[1]]
    assert segments[0].learning_rate_sum == pytest.approx(0.05 * 6 * steps[0])
    assert segments[1].learning_rate_sum == pytest.approx(0.02 * 4 * steps[1])


@pytest.mark.parametrize(
    ("last", "numbers", "epochs"),
    [
        (10, (3, 6), [(3, 6), (8, 10)]),  # three segments over two stages: one each, two checkpoints each
        (10, (4, 4), [(3,), (6,), (8,), (10,)]),
        (10, (1, 2), [(3, 6), (8, 10)]),
        (7, (3, 6), [(3, 6), (7,)]),  # one epoch into the second stage
        (6, (3, 6), [(3, 6)]),
        (10, (2, 10), [(1, 2, 4, 5, 6), (7, 8, 9, 10)]),  # as many checkpoints as the stage has epochs
    ],
)
def test_segments_and_checkpoints_of_each_stage(last, numbers, epochs):
    task = Linear()
    found = run_segments(task, validate_data(task)["train"], np.arange(NUM_TRAIN), last, *numbers)
    assert [s.epochs for s in found] == epochs


def test_without_stages_nothing_changes():
    task = TinyTask(num_epochs=6)
    found = run_segments(task, validate_data(task)["train"], np.arange(50), 6, 2, 4)
    assert found == source_segments(task.training, 50, 6, 2, 4)


def test_an_optimum_has_no_path():
    task = TinyTask()
    task.training = replace(task.training, num_epochs=1, weight_decay=0.1, optimizer="lbfgs")
    with pytest.raises(UsageError, match="no path"):
        run_segments(task, validate_data(task)["train"], np.arange(50), 1, 1, 1)


def test_staged_source_predicts_retraining_without_first_stage_examples():
    """Subsets of the first stage against SOURCE's sums: good on this convex problem, and better than one segment.

    The wrong model (one segment over all examples, as if there were no stages) must not do as well.
    """
    task = Linear()
    data = validate_data(task)
    rows, queries = np.arange(NUM_TRAIN), np.arange(40)
    run = {c.epoch: c.state for c in train(TrainingRun(task, data, rows, 0), range(1, 11))}
    drawn = attributed_rows(task, data["train"], rows)
    masks = subset_masks(NUM_TRAIN, 0.5, 24, 0, drawn)
    outputs = retrain_subsets(Retraining(task, data, rows, masks, range(24), repeats=4, seed=0), num_processes=1).mean(
        axis=1
    )

    def lds(segments):
        fit = fit_source(CheckpointedRun(task, data, run, segments, rows), SourceSettings(basis="exact"))
        scores = fit.scores(queries).values.numpy()
        sums = masks @ scores.T
        return scores, np.mean([spearmanr(sums[:, q], outputs[:, q]).statistic for q in queries])

    scores, staged = lds(run_segments(task, data["train"], rows, None, 2, 4))
    _, plain = lds(source_segments(task.training, NUM_TRAIN, None, 2, 4))
    assert staged > 0.9
    assert staged > plain
    # size: removing one first-stage example, by the same path of all others
    whole = goodness_of(task, model_from(task, run[10]), data["test"])
    assert len(whole) == 40
    full = retrain_subsets(
        Retraining(task, data, rows, np.ones((1, NUM_TRAIN), dtype=bool), [0], repeats=8, seed=1), num_processes=1
    ).mean(axis=(0, 1))
    effect = full - outputs.mean(axis=0)  # half of the first stage gone, on average over subsets
    predicted = scores[:, FIRST].sum(axis=1) / NUM_TRAIN / 2
    assert spearmanr(effect, predicted).statistic > 0.8
