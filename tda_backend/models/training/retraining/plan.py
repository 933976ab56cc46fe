"""What is retrained: a study's subsets, and the single runs that they amount to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tda_backend.errors import UsageError
from tda_backend.models.tasks.contract import built
from tda_backend.models.tasks.data import num_rows, take
from tda_backend.models.tasks.settings import training_settings
from tda_backend.models.training.retraining.subsets import retraining_seed
from tda_backend.models.training.routes.perceptron import MLPArchitecture, mlp_architecture
from tda_backend.models.training.routes.stages import StagePlan, stage_plan
from tda_backend.models.training.run import Route, Rows, TrainingRun, check_route, row_numbers
from tda_backend.types import Batch, Task, TrainingSettings, to_device


@dataclass(frozen=True)
class Retraining:
    """Retraining of one task on subsets of a study's training examples.

    Attributes:
        task: Task with training settings.
        data: ``train`` and ``test`` splits.
        rows: The study's training rows within the train split, ``[n]``.
        masks: Membership of these n examples in each subset, bool ``[c, n]``.
        subset_ids: Number of each subset within the study, ``[c]``; decides its seeds.
        repeats: R retrainings per subset, with different training seeds.
        seed: Seed of the study.
        device: Where to train.
        route: ``loop`` (autograd, one by one), ``mlp`` (hand-written, one by one), ``stacked`` (M models as one), or
            ``auto``: stacked on an accelerator, else mlp, else loop; what cannot be stacked falls back by itself.
    """

    task: Task
    data: Mapping[str, Batch]
    rows: Rows
    masks: np.ndarray | Tensor
    subset_ids: Sequence[int]
    repeats: int
    seed: int
    device: torch.device | str = "cpu"
    route: Route = "auto"


@dataclass(frozen=True)
class Job:
    """One retraining: where its result goes, its training seed, and its rows within the study's training set."""

    row: int
    repeat: int
    seed: int
    indices: np.ndarray


@dataclass(frozen=True)
class RetrainingPlan:
    """Everything the routes need to know.

    Attributes:
        task: What is trained.
        settings: Its settings.
        data: The study's training examples, on the device.
        jobs: All retrainings, subset by subset.
        architecture: Of the models, if the hand-written loop can train them.
        device: Where to train.
    """

    task: Task
    settings: TrainingSettings
    data: Batch
    jobs: tuple[Job, ...]
    architecture: MLPArchitecture | None
    device: torch.device

    @property
    def stages(self) -> StagePlan | None:
        """The task's stages."""
        return stage_plan(self.task)

    def run(self, job: Job, route: Route) -> TrainingRun:
        """Return one retraining as a run on the study's training examples."""
        return TrainingRun(self.task, {"train": self.data}, job.indices, job.seed, self.device, route)


def planned(retraining: Retraining) -> RetrainingPlan:
    """Return the single runs of a retraining, after checking that its shapes match.

    Raises:
        UsageError: Shapes that do not match, an empty subset, an unknown route, or a route the model does not allow.
    """
    check_route(retraining.route)
    task, train, ids = retraining.task, retraining.data["train"], retraining.subset_ids
    settings = training_settings(task)
    rows = row_numbers(retraining.rows, num_rows(train))
    members = np.asarray(retraining.masks, dtype=bool)
    if members.ndim != 2 or members.shape[1] != len(rows) or len(ids) != len(members):
        raise UsageError(
            f"Masks {members.shape} do not fit {len(rows)} training examples and {len(ids)} subset ids.",
            "Masks are bool [subsets, training examples], with one id per subset.",
        )
    if retraining.repeats < 1:
        raise UsageError(f"{retraining.repeats} repeats are asked for.", "At least 1 is needed.")
    empty = np.flatnonzero(~members.any(axis=1))
    if len(empty):
        raise UsageError(f"Subset {ids[empty[0]]} is empty.", "A model needs at least one example.")
    jobs = tuple(
        Job(row, repeat, retraining_seed(retraining.seed, int(ids[row]), repeat), np.flatnonzero(members[row]))
        for row in range(len(members))
        for repeat in range(retraining.repeats)
    )
    chosen = to_device(take(train, rows), retraining.device)
    model = built(task, 0)
    architecture = mlp_architecture(task, model, chosen) if retraining.route != "loop" else None
    if retraining.route == "mlp" and architecture is None:
        raise UsageError(
            f'The model of task "{task.name}" is not a plain perceptron with cross-entropy or squared error, trained '
            "by plain SGD.",
            'Take route "auto".',
        )
    return RetrainingPlan(task, settings, chosen, jobs, architecture, torch.device(retraining.device))
