"""What a plan needs to know of a task, and what the catalogue is told of a study."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import tda_backend
from tda_backend.errors import StudyError, TaskError
from tda_backend.features.factors import untracked_parameters
from tda_backend.features.layers import untracked
from tda_backend.runs.study import regularizations
from tda_backend.runs.task_sources import task_files
from tda_backend.store.artifacts import content_key
from tda_backend.training.contract import persons_code
from tda_backend.training.data import num_rows, validate_data
from tda_backend.training.registry import task_spec
from tda_backend.types import Task


@dataclass(frozen=True)
class TaskFacts:
    """What the plan needs to know of a task.

    Attributes:
        task: The task.
        spec: How to load it again.
        fingerprint: SHA-256 of its code and its data.
        num_train: Rows of its train set.
        num_test: Rows of its test set.
        num_epochs: Epochs of a full training run, or the number of given checkpoints.
        trains: False for an already trained model.
        num_parameters: p, trainable.
        without_factors: Trainable parameters outside plain Linear layers: no rank-one factors.
        untracked: (name, size) of trainable parameters that no Kronecker factors describe.
    """

    task: Task
    spec: str
    fingerprint: str
    num_train: int
    num_test: int
    num_epochs: int
    trains: bool
    num_parameters: int
    without_factors: tuple[str, ...]
    untracked: tuple[tuple[str, int], ...]


def task_facts(task: Task, spec: str) -> TaskFacts:
    """Check a task's data and return its facts.

    Raises:
        TaskError: A checkpoint file is missing, or the task breaks its contract.
        DataError: The data are not usable.
    """
    data = validate_data(task)
    spec = task_spec(task) or spec
    digest = hashlib.sha256(task.source().encode())
    digest.update(repr((spec.rpartition(":")[2], _plain(vars(task)))).encode())
    for path in task_files(task, spec):
        digest.update(path.read_bytes())
    with persons_code(task, "build_model()"):
        model = task.build_model(0)
    shapes = [(name, tuple(value.shape), str(value.dtype)) for name, value in model.state_dict().items()]
    digest.update(f"{model!r} {shapes}".encode())
    for path in task.checkpoint_files:
        if not Path(path).is_file():
            raise TaskError(
                f'The checkpoint file {path} of task "{task.name}" does not exist.',
                "checkpoint_files names state dicts, oldest first; a relative path is relative to the current folder.",
            )
        digest.update(Path(path).read_bytes())
    for split in sorted(data):
        for name, values in sorted(data[split].items()):
            digest.update(f"{split} {name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.contiguous().numpy().data)
    trains = task.training is not None
    num_epochs = task.training.num_epochs if task.training is not None else len(task.checkpoint_files)
    return TaskFacts(
        task,
        spec,
        digest.hexdigest(),
        num_rows(data["train"]),
        num_rows(data["test"]),
        num_epochs,
        trains,
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        tuple(untracked_parameters(model)),
        tuple(untracked(model)),
    )


def _plain(value: Any) -> Any:
    """Return the part of a value whose ``repr`` says the same in every process: numbers, text and their containers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in sorted(value.items(), key=str) if not str(key).startswith("_")}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | Path | None) else type(value).__qualname__


def device_type(device: str) -> str:
    """Return the device to use for ``auto``, ``cpu``, ``cuda`` or ``mps``."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def check_against_task(study: Mapping[str, Any], facts: TaskFacts) -> None:
    """Raise a StudyError where the study asks for more than the task has."""
    data = study["data"]
    if data["train"] > facts.num_train:
        raise StudyError(
            f"data.train = {data['train']} is too many.", f"The task has {facts.num_train} train examples."
        )
    if data["validation"] + data["queries"] > facts.num_test:
        raise StudyError(
            f"data.validation + data.queries = {data['validation'] + data['queries']} is too many: they are disjoint.",
            f"The task has {facts.num_test} test examples.",
        )
    late = [epoch for epoch in study["training"]["epochs"] if epoch > facts.num_epochs]
    if late:
        what = "trains" if facts.trains else "gives checkpoints for"
        raise StudyError(f"training.epochs has {late}.", f"The task {what} {facts.num_epochs} epochs.")
    if not facts.trains and (study["ground_truth"]["subsets"] or study["training"]["seeds"] > 1):
        raise StudyError(
            "The task is an already trained model, so nothing can be retrained.",
            "Set ground_truth.subsets = 0 and training.seeds = 1.",
        )
    if not facts.trains and ("removal" in study or "loo" in study or "flip_labels" in data):
        raise StudyError(
            "The task is an already trained model, so nothing can be retrained.",
            "Leave out [removal], [loo] and data.flip_labels.",
        )
    if "flip_labels" in data:
        if facts.task.num_classes is None or facts.task.num_classes < 2:
            raise StudyError(
                "data.flip_labels needs classes, and the task has none.", "Leave it out, or take a classification task."
            )
        if math.floor(data["flip_labels"] * data["train"] + 1e-9) < 1:
            raise StudyError(
                f"data.flip_labels = {data['flip_labels']:g} flips no label of {data['train']}.", "Give a larger share."
            )
    truth = study["ground_truth"]
    if truth["subsets"] == 1:
        raise StudyError("ground_truth.subsets = 1 gives no rank correlation.", "Give 0 (no LDS), or at least 2.")
    for alpha in truth["alphas"] if truth["subsets"] else []:
        size = math.floor(alpha * data["train"] + 0.5)
        if not 1 <= size < data["train"]:
            raise StudyError(
                f"ground_truth.alphas has {alpha:g}: a subset would have {size} of {data['train']} training examples.",
                f"A subset leaves out at least one: α from {1 / data['train']:.3g} to {1 - 1 / data['train']:.6g}.",
            )


def code_version() -> str:
    """Return the package's version and a hash of its code: twelve hex digits over every Python and SQL file."""
    package = Path(tda_backend.__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*package.rglob("*.py"), *package.rglob("*.sql")]):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return f"{tda_backend.__version__}+{digest.hexdigest()[:12]}"


def study_record(
    study: Mapping[str, Any], facts: TaskFacts, device: str, configurations: list[dict[str, Any]], steps: list[dict]
) -> dict[str, Any]:
    """Return the study's artifact: everything the catalogue needs to know, so that it can be made again from it."""
    task = facts.task
    training = None if task.training is None else dict(vars(task.training))
    config = {**study, "task": facts.spec}
    names = list(task.class_names) or [str(number) for number in range(task.num_classes or 0)]
    truth, data = study["ground_truth"], study["data"]
    info = {
        "task": task.name, "task_spec": facts.spec, "seed": study["seed"],
        "num_train": data["train"], "num_validation": data["validation"], "num_queries": data["queries"],
        "num_test": facts.num_test, "num_subsets": truth["subsets"], "repeats": truth["repeats"],
        "alphas": truth["alphas"], "num_seeds": study["training"]["seeds"], "epochs": study["training"]["epochs"],
        "regularizations": regularizations(study), "threshold": study["evaluation"]["threshold"],
        "quantiles": study["evaluation"]["quantiles"], "projection": study["projection"],
        "class_names": names, "num_classes": task.num_classes,
        "measurement": "classification margin" if task.margin_identity else "measurement of the task",
        "measurement_sign": task.measurement_sign, "margin_identity": task.margin_identity, "training": training,
        "device": device, "torch": torch.__version__, "machine": platform.processor() or platform.machine(),
        "code": code_version(),
    }  # fmt: skip
    about_task = {
        "name": task.name, "spec": facts.spec, "fingerprint": facts.fingerprint, "num_classes": task.num_classes,
        "class_names": names, "measurement_sign": task.measurement_sign, "margin_identity": task.margin_identity,
        "training": training,
    }  # fmt: skip
    return {
        "name": study["name"],
        "study_id": content_key(study=config, fingerprint=facts.fingerprint)[:12],
        "config": config,
        "info": info,
        "task": about_task,
        "counts": {**data, "subsets": truth["subsets"]},
        "configurations": configurations,
        "steps": steps,
    }
