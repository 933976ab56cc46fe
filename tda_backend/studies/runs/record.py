"""What the catalogue is told of a study."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tda_backend.studies.config.configuration import Configuration
from tda_backend.studies.config.study import Study
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.store.artifacts import content_key
from tda_backend.version import __version__


@dataclass(frozen=True)
class Round:
    """How much of a study's retraining a plan has.

    Attributes:
        num_subsets: Retrained at each α.
        continues: Key of the plan with fewer subsets whose results are kept; ``None``: there is none.
    """

    num_subsets: int
    continues: str | None = None


def code_version() -> str:
    """Return the package's version and a hash of its code: twelve hex digits over every Python and SQL file."""
    package = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.sql")]):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def study_record(
    study: Study,
    facts: TaskFacts,
    device: str,
    configurations: Sequence[Configuration],
    steps: Sequence[Step],
    part: Round,
) -> dict[str, Any]:
    """Return the study's artifact: everything the catalogue needs to know, so that it can be made again from it."""
    task = facts.task
    training = None if task.training is None else dict(vars(task.training))
    config = {**study.to_json(), "task": facts.spec}
    about_task = {
        "name": task.name,
        "spec": facts.spec,
        "fingerprint": facts.fingerprint,
        "num_classes": task.num_classes,
        "class_names": list(task.class_names) or [str(number) for number in range(task.num_classes or 0)],
        "measurement_sign": task.measurement_sign,
        "margin_identity": task.margin_identity,
        "training": training,
    }
    record = {
        "name": study.name,
        "study_id": content_key(study=config, fingerprint=facts.fingerprint)[:12],
        "config": config,
        "info": _info(study, facts, device, about_task, part.num_subsets),
        "task": about_task,
        "counts": {**study.data.to_json(), "subsets": part.num_subsets},
        "configurations": [each.to_json() for each in configurations],
        "steps": [{"key": step.key, "label": step.label, "context": step.context()} for step in steps],
    }
    return record if part.continues is None else {**record, "continues": part.continues}


def _info(study: Study, facts: TaskFacts, device: str, about_task: dict[str, Any], num_subsets: int) -> dict[str, Any]:
    """Return what pages show of a study beside its results."""
    data, truth = study.data, study.ground_truth
    stopping = {} if truth.until is None else {"until": truth.until, "most_subsets": truth.subsets}
    shared = ("class_names", "num_classes", "measurement_sign", "margin_identity", "training")
    return {
        "task": facts.task.name,
        "task_spec": facts.spec,
        "seed": study.seed,
        "num_train": data.train,
        "num_validation": data.validation,
        "num_queries": data.queries,
        "num_rows": facts.num_train,
        "num_test": facts.num_test,
        "num_parameters": facts.num_parameters,
        "untracked": [list(each) for each in facts.untracked],
        "num_subsets": num_subsets,
        **stopping,
        "repeats": truth.repeats,
        "alphas": list(truth.alphas),
        "num_seeds": study.training.seeds,
        "epochs": list(study.training.epochs),
        "regularizations": study.regularizations,
        "threshold": study.evaluation.threshold,
        "quantiles": list(study.evaluation.quantiles),
        "projection": study.projection.to_json(),
        "measurement": "classification margin" if facts.task.margin_identity else "measurement of the task",
        "device": device,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "code": code_version(),
        **{name: about_task[name] for name in shared},
    }
