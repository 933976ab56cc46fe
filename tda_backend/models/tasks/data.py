"""Data on its way in: the shipped files, datasets as batches of tensors, and the checks every split passes first."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from tda_backend.errors import DataError, TaskError
from tda_backend.models.tasks.contract import one_line, persons_code
from tda_backend.models.tasks.threads import one_thread
from tda_backend.types import Batch, Task

SPLITS = ("train", "test")
_MEMO = "_tda_validated_data"  # on the task itself: a task may be an unhashable dataclass


def data_folder() -> Path:
    """Return the folder of the shipped data: ``$TDA_DATA``, else ``data/`` beside the package, else inside it.

    Raises:
        DataError: None of the three is a folder.
    """
    package = Path(__file__).resolve().parents[2]
    chosen = os.environ.get("TDA_DATA")
    for folder in [Path(chosen)] if chosen else [package.parent / "data", package / "data"]:
        if folder.is_dir():
            return folder
    where = f"TDA_DATA names {chosen}, which is no folder." if chosen else "The folder of the shipped data is missing."
    raise DataError(where, "Set TDA_DATA to the data/ folder of the source tree.")


def shipped_digest(name: str) -> str:
    """Return the SHA-256 that a shipped file must have.

    Raises:
        DataError: ``checksums.json`` is missing or does not name the file.
    """
    folder = data_folder()
    try:
        return json.loads((folder / "checksums.json").read_text())[name]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder / name} cannot be read or has no checksum.", "Restore the data/ folder.") from error


def shipped_bytes(name: str) -> bytes:
    """Return a shipped file's bytes after checking their SHA-256 against ``checksums.json``.

    Raises:
        DataError: The file or its checksum is missing, or the bytes differ.
    """
    expected, path = shipped_digest(name), data_folder() / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read or has no checksum.", "Restore the data/ folder.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise DataError(
            f"{path} is damaged: SHA-256 {found[:12]}…, expected {expected[:12]}….", "Restore it from the source tree."
        )
    return content


@cache
def shipped_arrays(name: str) -> Mapping[str, np.ndarray]:
    """Return the arrays of a shipped ``.npz`` file; as :func:`shipped_bytes`."""
    content = shipped_bytes(name)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, ValueError, zipfile.BadZipFile) as error:  # only if the checksum itself was made of a bad file
        raise DataError(
            f"{data_folder() / name} is no readable npz file.", "Restore it from the source tree."
        ) from error


def as_batch(dataset: Any) -> dict[str, Tensor]:
    """Return a dataset as one batch: a dict of tensors that share the leading axis N.

    Args:
        dataset: A mapping of tensors (or arrays), or a mapping-style set: ``len`` and ``[index] -> dict`` of rows.

    Raises:
        DataError: The rows have no common keys or shapes, or the tensors differ in length.
    """
    if isinstance(dataset, Mapping):
        try:
            batch = {key: torch.as_tensor(value) for key, value in dataset.items()}
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"A dataset holds something that is no tensor: {one_line(error)}",
                "Turn text and categories into numbers in datasets(); show() may keep the original.",
            ) from error
    else:
        try:
            rows = [dataset[index] for index in range(len(dataset))]
        except TypeError as error:
            raise DataError(
                f"A dataset of type {type(dataset).__name__} has no length or index.",
                "Return a dict of equally long tensors, or a set with __len__ and __getitem__ that returns dicts.",
            ) from error
        if not rows or not all(isinstance(row, Mapping) for row in rows):
            kind = type(rows[0]).__name__ if rows else "nothing"
            raise DataError(f"The rows of a dataset must be dicts; found {kind}.", 'Return e.g. {"x": …, "y": …}.')
        try:
            batch = default_collate(rows)
        except (RuntimeError, TypeError, KeyError) as error:
            raise DataError(
                f"The rows of a dataset do not stack into tensors: {one_line(error)}", "Pad them to one shape."
            ) from error
        texts = [key for key, value in batch.items() if not isinstance(value, Tensor)]
        if texts:
            raise DataError(
                f'"{texts[0]}" of a dataset is no tensor.', "Turn text and categories into numbers in datasets()."
            )
    if not batch:
        raise DataError("A dataset is an empty dict.", 'Return e.g. {"x": …, "y": …}.')
    lengths = {key: (len(value) if value.ndim else 0) for key, value in batch.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(
            f"The tensors of a dataset differ in length: {lengths}.", "Every key needs one row per example."
        )
    return batch


def take(batch: Batch, indices: Tensor | np.ndarray | slice) -> dict[str, Tensor]:
    """Return the rows ``indices`` of every tensor of ``batch`` (on the batch's device)."""
    if isinstance(indices, np.ndarray):
        indices = torch.from_numpy(np.ascontiguousarray(indices))
    if isinstance(indices, Tensor):
        return {key: value[indices.to(value.device)] for key, value in batch.items()}
    return {key: value[indices] for key, value in batch.items()}


def num_rows(batch: Batch) -> int:
    """Return N, the number of examples of a batch."""
    return len(next(iter(batch.values())))


def _check_finite(split: str, batch: Batch) -> None:
    for key, value in batch.items():
        if not value.is_floating_point():
            continue
        bad = ~torch.isfinite(value).reshape(len(value), -1).all(dim=1)
        if bad.any():
            raise DataError(
                f'{int(bad.sum())} examples of split "{split}" hold NaN or infinity in "{key}"; '
                f"the first is index {int(bad.nonzero()[0])}.",
                "Remove or repair these examples in the task's datasets().",
            )


def _check_labels(split: str, labels: Tensor, num_classes: int) -> None:
    if labels.is_floating_point():
        one_hot = labels.ndim == 2 and labels.shape[1] == num_classes
        raise DataError(
            f'The labels of split "{split}" are {labels.dtype}{f", one-hot [n, {num_classes}]" if one_hot else ""}.',
            f"Classification needs integer labels (int64){': take argmax(1)' if one_hot else ''}.",
        )
    bad = ((labels < 0) | (labels >= num_classes)).reshape(len(labels), -1).any(dim=1)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise DataError(
            f'{int(bad.sum())} labels of split "{split}" lie outside 0…{num_classes - 1}; '
            f"the first is {labels[first].tolist()} at index {first}.",
            "Correct the labels, or num_classes of the task.",
        )


def _check_stage_numbers(task: Task, split: str, batch: Batch) -> None:
    """Raise :class:`DataError` unless every example of a split names one of the task's stages."""
    numbers = batch.get(task.stage_key)
    if numbers is None:
        raise DataError(
            f'Split "{split}" has no "{task.stage_key}"; its keys are {sorted(batch)}.',
            "A task with stages says which stage each example belongs to, from 0.",
        )
    good = not numbers.is_floating_point() and numbers.ndim == 1
    if not good or int(numbers.min()) < 0 or int(numbers.max()) >= len(task.stages):
        raise DataError(
            f'The stage numbers of split "{split}" are {numbers.dtype} {tuple(numbers.shape)} in '
            f"{numbers.min().item():g}…{numbers.max().item():g}.",
            f"Give one whole number 0…{len(task.stages) - 1} per example.",
        )


def loaded(task: Task) -> Any:
    """Return what ``datasets()`` gives, on one thread: a mean over all rows has the same bits on every machine."""
    with persons_code(task, "datasets()"), one_thread():
        return task.datasets()


def validate_data(task: Task) -> dict[str, dict[str, Tensor]]:
    """Return ``{"train": batch, "test": batch}`` of a task after checking both; remembered per task.

    Raises:
        TaskError: ``datasets()`` does not return both splits, or the classes and their names differ in number.
        DataError: Unequal lengths, differing keys, empty splits, NaN or infinity, labels out of range; the message
            gives split, count and first index.
    """
    remembered = vars(task).get(_MEMO)
    if remembered is not None:
        return remembered
    datasets = loaded(task)
    names, classes = task.class_names, task.num_classes
    if classes is not None and names is not None and len(names) not in (0, classes):
        raise TaskError(
            f'Task "{task.name}" has {len(names)} class_names for {classes} classes.',
            "Give one name per class, or none.",
        )
    missing = [split for split in SPLITS if not isinstance(datasets, Mapping) or split not in datasets]
    if missing:
        raise TaskError(
            f'datasets() of task "{task.name}" lacks {" and ".join(missing)}.', 'Return {"train": …, "test": …}.'
        )
    data = {split: as_batch(datasets[split]) for split in SPLITS}
    if set(data["train"]) != set(data["test"]):
        raise DataError(
            f"The splits have different keys: train {sorted(data['train'])}, test {sorted(data['test'])}.",
            "Both splits need the same tensors.",
        )
    for split, batch in data.items():
        if num_rows(batch) == 0:
            raise DataError(f'Split "{split}" is empty.', "Return at least one example.")
        _check_finite(split, batch)
        if task.num_classes is not None:
            if task.label_key not in batch:
                raise DataError(
                    f'Split "{split}" has no "{task.label_key}"; its keys are {sorted(batch)}.',
                    "Name the labels' key in label_key of the task.",
                )
            _check_labels(split, batch[task.label_key], task.num_classes)
        if task.stages:
            _check_stage_numbers(task, split, batch)
    object.__setattr__(task, _MEMO, data)
    return data
