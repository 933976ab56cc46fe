"""The segments of a task's run, whether it trains in one go or in stages."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from tda_backend.errors import UsageError
from tda_backend.models.training.routes.stages import stage_plan
from tda_backend.numerics.trajectory.source.segments import (
    TrainingSegment,
    TrainingStage,
    multi_stage_segments,
    source_segments,
)
from tda_backend.types import Batch, Task


def run_segments(
    task: Task,
    data: Batch,
    train_rows: Sequence[int] | np.ndarray | Tensor,
    last_epoch: int | None = None,
    num_segments: int = 3,
    num_checkpoints: int = 6,
) -> tuple[TrainingSegment, ...]:
    """Return the segments of the task's run on ``train_rows`` up to ``last_epoch``.

    A task without stages has L segments of C/L checkpoints (:func:`source_segments`). With stages the cuts lie at the
    stage boundaries: each stage has ⌊L / stages⌋ segments, at least one, of C/L checkpoints each, fewer where a stage
    is too short, and its own data set (SOURCE, arXiv 2405.12186, §3.3). Stages that begin after ``last_epoch`` are
    left out.

    Args:
        task: Settings and stages.
        data: The training split.
        train_rows: Rows that the run trains on, ``[n]``.
        last_epoch: E, ``None`` for the last.
        num_segments: L.
        num_checkpoints: C, a multiple of L.

    Raises:
        UsageError: As :func:`source_segments`; or the task is trained to its optimum, without a path, or by
            another optimizer than plain SGD.
    """
    rows = np.asarray(train_rows, dtype=np.int64)
    settings = task.training
    if settings is not None and settings.finds_optimum:
        raise UsageError(
            f'Task "{task.name}" is trained to its optimum: there is no path to unroll.',
            "Take influence functions there, or a task trained by SGD.",
        )
    if settings is not None and not settings.is_plain_sgd:
        raise UsageError(
            f'SOURCE assumes SGD here; task "{task.name}" is trained by {settings.optimizer_text}.',
            "Give the segments of a preconditioned optimizer yourself (preconditioned.py), or unroll the run exactly.",
        )
    whole = source_segments(settings, max(len(rows), 1), last_epoch, num_segments, num_checkpoints)
    plan = stage_plan(task)
    if plan is None:
        return whole
    left = whole[-1].epochs[-1]
    each = num_checkpoints // num_segments
    stages = []
    for own, part in zip(plan.settings, plan.rows(data, rows), strict=True):
        end = min(left, own.num_epochs)
        if end == 0:
            break
        left -= end
        segments = min(max(1, num_segments // len(plan.settings)), end)
        checkpoints = segments * min(each, end // segments)
        stages.append(TrainingStage(own, part.tolist(), end, segments, checkpoints))
    return multi_stage_segments(stages)
