"""What a study asks of its task and model, checked before anything is computed."""

from __future__ import annotations

import math

from tda_backend.errors import StudyError
from tda_backend.models.precision import refuse_precision
from tda_backend.studies.config.study import Study
from tda_backend.studies.methods import METHODS
from tda_backend.studies.pipeline.facts import TaskFacts


def check_methods(study: Study, facts: TaskFacts) -> None:
    """Raise a StudyError where a method needs what the task does not have."""
    for name, settings in study.methods.items():
        METHODS[name].check(settings, study, facts)


def check_device(study: Study, facts: TaskFacts, device: str) -> None:
    """Raise a UsageError where gradients cannot be passed in the study's precision: on this device, of this model."""
    if study.precision is not None:
        refuse_precision(study.precision, device, facts.number_bytes)


def check_against_task(study: Study, facts: TaskFacts) -> None:
    """Raise a StudyError where the study asks for more than the task has."""
    _check_counts(study, facts)
    _check_trained(study, facts)
    _check_flips(study, facts)
    _check_subsets(study)


def _check_counts(study: Study, facts: TaskFacts) -> None:
    data = study.data
    if data.train > facts.num_train:
        raise StudyError(f"data.train = {data.train} is too many.", f"The task has {facts.num_train} train examples.")
    if data.validation + data.queries > facts.num_test:
        raise StudyError(
            f"data.validation + data.queries = {data.validation + data.queries} is too many: they are disjoint.",
            f"The task has {facts.num_test} test examples.",
        )
    late = [epoch for epoch in study.training.epochs if epoch > facts.num_epochs]
    if late:
        what = "trains" if facts.trains else "gives checkpoints of"
        count = "epoch 1 alone" if facts.num_epochs == 1 else f"epochs 1 to {facts.num_epochs}"
        raise StudyError(f"training.epochs has {late}.", f"The task {what} {count}: name some of these.")


def _check_trained(study: Study, facts: TaskFacts) -> None:
    if not facts.trains and (study.ground_truth.subsets or study.training.seeds > 1):
        raise StudyError(
            "The task is an already trained model, so nothing can be retrained.",
            "Set ground_truth.subsets = 0 and training.seeds = 1.",
        )
    if not facts.trains and (study.removal or study.loo or study.data.flip_labels is not None):
        raise StudyError(
            "The task is an already trained model, so nothing can be retrained.",
            "Leave out [removal], [loo] and data.flip_labels.",
        )


def _check_flips(study: Study, facts: TaskFacts) -> None:
    data = study.data
    if data.flip_labels is not None:
        if facts.task.num_classes is None or facts.task.num_classes < 2:
            raise StudyError(
                "data.flip_labels needs classes, and the task has none.", "Leave it out, or take a classification task."
            )
        if math.floor(data.flip_labels * data.train + 1e-9) < 1:
            raise StudyError(
                f"data.flip_labels = {data.flip_labels:g} flips no label of {data.train}.", "Give a larger share."
            )


def _check_subsets(study: Study) -> None:
    data, truth = study.data, study.ground_truth
    if truth.subsets == 1:
        raise StudyError("ground_truth.subsets = 1 gives no rank correlation.", "Give 0 (no LDS), or at least 2.")
    for alpha in truth.alphas if truth.subsets else []:
        size = math.floor(alpha * data.train + 0.5)
        if not 1 <= size < data.train:
            raise StudyError(
                f"ground_truth.alphas has {alpha:g}: a subset would have {size} of {data.train} training examples.",
                f"A subset leaves out at least one: α from {1 / data.train:.3g} to {1 - 1 / data.train:.6g}.",
            )
