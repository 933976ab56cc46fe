"""Retraining on subsets: the ground truth of LDS, by the fastest route that a model and a machine allow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from tda_backend.models.tasks.contract import built
from tda_backend.models.training.fit import Progress
from tda_backend.models.training.outputs import goodness_of
from tda_backend.models.training.retraining.plan import Retraining, planned
from tda_backend.models.training.retraining.routes import final_states
from tda_backend.types import Batch, Task, to_device

Reader = Callable[[Task, nn.Module, Batch, torch.device], Tensor]
"""(task, retrained model in eval mode, test split, device) → what is kept of it, on the CPU."""


def retrain_subsets(
    retraining: Retraining,
    *,
    num_processes: int | None = None,
    on_progress: Progress | None = None,
    read: Reader = goodness_of,
) -> np.ndarray:
    """Retrain on each subset and return the goodness of the whole test split at the final epoch.

    A result is a function of (task, data, subset, study seed, subset id, repeat, device, route): not of the number of
    processes, of how subsets are divided into calls, or of the machine's cores. To the bit one by one; stacked, a
    model's place in its stack may decide the last bits of float32.

    Args:
        retraining: What to retrain, and by which route.
        num_processes: Processes on the CPU; default: one per core when the work is worth it. 1: in this process.
        on_progress: Called with model-epochs done and in total, at least about twice a second when processes train.
        read: What is read of each model on the test split.

    Returns:
        float32 ``[c, R, N_test]``, or ``[c, R]`` and the shape of what ``read`` returns.

    Raises:
        UsageError: Shapes that do not match, an unknown route, or a route the model does not allow.
        NumericalError: A training run diverged.
        MachineError: A process was ended from outside.
    """
    plan = planned(retraining)
    task, shape = retraining.task, (len(retraining.masks), retraining.repeats)
    total = len(plan.jobs) * plan.settings.num_epochs
    report = on_progress or (lambda done, total: None)
    outputs = np.empty((*shape, 0), dtype=np.float32)
    states = final_states(plan, retraining.route, num_processes, lambda done: report(done, total))
    model, test = built(task, 0).eval(), to_device(retraining.data["test"], plan.device)
    with contextlib.closing(states):  # an error here must end what computes for us
        for number, state in states:
            job = plan.jobs[number]
            model.load_state_dict(state)
            values = read(task, model, test, plan.device).numpy()
            if not outputs.size:
                outputs = np.full((*shape, *values.shape), np.nan, dtype=np.float32)
            outputs[job.row, job.repeat] = values
    report(total, total)
    return outputs
