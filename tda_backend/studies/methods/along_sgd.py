"""What methods along a run of SGD have in common."""

from __future__ import annotations

from tda_backend.errors import StudyError
from tda_backend.studies.config.study import Study
from tda_backend.studies.contract.method import Settings
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.steps.scores import ScoreMethod


class AlongSGD(ScoreMethod):
    """A method along the steps of a run of SGD."""

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise a StudyError where the task has no such run."""
        super().check(settings, study, facts)
        task = facts.task
        if task.training is None:
            return
        if task.training.optimizer == "lbfgs":
            raise StudyError(
                f"Method {self.name} follows the training run; the task {task.name!r} is trained to its optimum, "
                "without one.",
                f"Leave [methods.{self.name}] out: influence functions are exact there.",
            )
        if not task.training.is_plain_sgd:
            raise StudyError(
                f"Method {self.name} assumes SGD; the task {task.name!r} is trained by {task.training.optimizer_text}.",
                f"Leave [methods.{self.name}] out; influence functions and TracIn take any optimizer. SOURCE for AdamW "
                "is there as library functions: docs/interface.md.",
            )
