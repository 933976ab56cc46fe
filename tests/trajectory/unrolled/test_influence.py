"""Unrolled influence against central differences of the real training loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tda_backend.models.training.run import TrainingRun
from tda_backend.numerics.trajectory.unrolled.influence import unrolled_influence
from tda_backend.numerics.trajectory.unrolled.queries import Queries
from tda_backend.numerics.trajectory.unrolled.recording import record
from tda_backend.numerics.trajectory.unrolled.trajectory import Trajectory
from tda_backend.types import TrainingSettings
from tests.helpers_numerics import TinyTransformer, TokenExample, assert_close
from tests.trajectory.unrolled.reweighted import reweighted
from tests.trajectory.unrolled.weighted import (
    CLIPS,
    DECAYS,
    NUM_STEPS,
    OPTIMIZERS,
    QUERIES,
    ROWS,
    SCHEDULES,
    SEED,
    WeightedTask,
    derivative,
    over_rows,
)


def run(task: WeightedTask, **options) -> Trajectory:
    return record(TrainingRun(task, task.datasets(), ROWS, SEED), **{"dtype": torch.float64, **options})


def gradient_norms(trajectory: Trajectory) -> torch.Tensor:
    steps = trajectory.forward()
    return torch.stack([trajectory.objective.mean_gradient(s.theta, s.rows).norm() for s in steps])


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_derivative_of_the_real_training_loop(optimizer: str, decay: str, schedule: str, clip: str):
    task = WeightedTask(**OPTIMIZERS[optimizer], **DECAYS[decay], **SCHEDULES[schedule], **CLIPS[clip])
    trajectory = run(task)
    if task.training.clip_norm is not None:
        clipped = int((gradient_norms(trajectory) > task.training.clip_norm).sum())
        assert clipped == NUM_STEPS if clip == "all clipped" else 0 < clipped < NUM_STEPS
    scores = unrolled_influence(trajectory, Queries(QUERIES, quantity="loss")).scores
    direction = torch.randn(len(ROWS), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert_close(scores @ -direction, derivative(task, over_rows(direction)), 1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_goodness_falls_when_what_helps_is_removed(optimizer: str):
    task = WeightedTask(**OPTIMIZERS[optimizer])
    scores = unrolled_influence(run(task), Queries(QUERIES)).scores
    for column in (0, 5):
        direction = torch.eye(len(ROWS), dtype=torch.float64)[column]
        assert_close(scores[:, column], derivative(task, over_rows(direction), "goodness"), 1e-6)


def test_attention_tied_weights_and_frozen_parameters():
    """A transformer whose embedding is its head too, LayerNorm frozen, trained by AdamW with everything at once."""

    def build() -> nn.Module:
        model = TinyTransformer()
        model.norm.requires_grad_(False)
        return model

    task = TokenExample("tied", build)
    task.training = TrainingSettings(
        2, 3, 0.02, weight_decay=0.1, schedule="cosine", optimizer="adamw", clip_norm=1.0, warmup=0.3
    )
    rows, queries = np.arange(3, 11), torch.arange(4)
    trajectory = record(TrainingRun(task, task.datasets(), rows, SEED), dtype=torch.float64)
    assert trajectory.num_parameters == 5 * 4 + 4 * 12 + 12 + 2 * (4 * 4 + 4)
    scores = unrolled_influence(trajectory, Queries(queries, quantity="loss")).scores
    weights = torch.randn(len(rows), dtype=torch.float64, generator=torch.Generator().manual_seed(2)).tolist()

    def losses(h: float) -> torch.Tensor:
        path = reweighted(trajectory, {int(row): 1 + h * weight for row, weight in zip(rows, weights, strict=True)})
        return trajectory.objective_of("test").losses(path[-1], queries)

    coarse, fine = ((losses(h) - losses(-h)) / (2 * h) for h in (2e-4, 1e-4))
    assert_close(scores @ -torch.tensor(weights, dtype=torch.float64), (4 * fine - coarse) / 3, 1e-6)
