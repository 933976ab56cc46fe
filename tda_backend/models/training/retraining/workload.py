"""What all jobs of one retraining share, as it is sent to the training processes."""

from __future__ import annotations

from dataclasses import dataclass

from tda_backend.models.training.routes.perceptron import MLPArchitecture
from tda_backend.models.training.routes.stages import StagePlan
from tda_backend.types import TrainingSettings


@dataclass(frozen=True)
class Workload:
    """Settings, and the architecture or the task.

    Attributes:
        settings: Training settings.
        architecture: Of perceptrons, which need no task; initial parameters come with each job.
        spec: From where another process loads the task; ``None`` where it cannot.
        folder: Where the task's module is looked up first.
        stages: The task's stages.
    """

    settings: TrainingSettings
    architecture: MLPArchitecture | None
    spec: str | None
    folder: str | None
    stages: StagePlan | None
