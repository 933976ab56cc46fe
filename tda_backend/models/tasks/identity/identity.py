"""What identifies a task: results are kept under it, and belong to whatever has the same identity."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from tda_backend.errors import TaskError
from tda_backend.models.tasks.contract import persons_code
from tda_backend.models.tasks.identity.code import DISPLAY, normal_code
from tda_backend.models.tasks.identity.values import function_values, plain, state_digest, tensor_digest, with_arrays
from tda_backend.models.tasks.patience import patience
from tda_backend.models.tasks.source_text import class_file, own_classes, task_files
from tda_backend.types import Batch, Task

_SCHEME = "a person's task, 1"
"""Changes when the identity of persons' tasks is made from other things."""
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Where a function that a module shows lies in memory: other in every process."""
_SHOWN = 4
"""Examples of each split whose display is looked at."""
_CONTRACT = ("name", "measurement_sign", "margin_identity", "num_classes", "label_key", "pretrained", "stage_key")
"""Settings of a task that count as values: code may compute them."""


@dataclass(frozen=True)
class Identity:
    """What a task is.

    Attributes:
        fingerprint: SHA-256 of what it computes.
        displays: SHA-256 of how it shows examples, classes and values; ``None``: a task of the program shows them in
            one way only.
    """

    fingerprint: str
    displays: str | None


def task_identity(task: Task, spec: str, model: nn.Module, data: Mapping[str, Batch]) -> Identity:
    """Return the identity of a task.

    Tasks of the program are identified by their text: a release fixes it. A person's own task is identified by its code
    in normal form and by the values that this code gives, so that another file of weights, targets or settings makes
    another task, and a comment or another picture does not.

    Args:
        task: The task.
        spec: How it was loaded: its name, or ``file.py:factory`` or ``package.module:factory``.
        model: What ``build_model(0)`` gives.
        data: Its splits.

    Raises:
        TaskError: A checkpoint file is missing.
    """
    own, files = own_classes(task), task_files(task, spec)
    if not own and not files:
        return Identity(_shipped(task, spec, model, data), None)
    digest = hashlib.sha256(_SCHEME.encode())

    def add(what: str, value: object) -> None:
        digest.update(f"\n{what}: {value}".encode())

    for name in _CONTRACT:
        add(name, repr(getattr(task, name)))
    add("training", f"{task.training!r} {tuple(task.stages)!r}")
    add("factory", spec.rpartition(":")[2])
    add("settings", _settings({name: value for name, value in vars(task).items() if name not in DISPLAY}))
    add("code", normal_code(files, {each.__name__ for each in own}))
    if type(task).source is not Task.source or class_file(type(task)) not in files:
        add("source", task.source())
    add("model", f"{_ADDRESS.sub('', repr(model))}\n{state_digest(model)}")
    for path in task.checkpoint_files:
        add("checkpoint", hashlib.sha256(_checkpoint(task, path)).hexdigest())
    for split in sorted(data):
        for key, value in sorted(data[split].items()):
            add(f"{split} {key}", tensor_digest(value))
    with persons_code(task, "noisy_rows()"):
        noisy = task.noisy_rows()
    add("noisy rows", tensor_digest(noisy) if isinstance(noisy, Tensor) else noisy)
    with persons_code(task, "train_loss()"):
        add("values", function_values(task, model, data))
    add("arrays", _arrays(task, own))  # last: what the functions keep when first called is there each time
    return Identity(digest.hexdigest(), _displays(task, files, data, digest.hexdigest()))


def _displays(task: Task, files: list[Path], data: Mapping[str, Batch], fingerprint: str) -> str:
    """Return the digest of all of a task's text, of the names of its classes, and of how its first examples look."""
    digest = hashlib.sha256(f"{fingerprint} {_settings(vars(task))} {list(task.class_names)}".encode())
    for path in files:
        digest.update(path.read_bytes())
    for split in sorted(data):
        for index in range(min(_SHOWN, *(len(value) for value in data[split].values()))):
            try:
                with patience(f'show({split!r}, {index}) of task "{task.name}"'):
                    shown = task.show(split, index)
                looks = _settings(vars(shown))
            except TaskError:  # it does not come back, or ends the program
                raise
            except Exception as error:  # said where examples are shown
                looks = type(error).__name__
            digest.update(f"\n{split} {index}: {looks}".encode())
    return digest.hexdigest()


def _arrays(task: Task, own: Sequence[type]) -> str:
    """Return the digests of tensors and arrays that a task's modules hold, and its private attributes.

    Weights of examples may be read from a file; the rows that are evaluated see few of them.
    """
    modules = {each.__module__ for each in own} & sys.modules.keys()
    places = [vars(task), *(vars(sys.modules[name]) for name in modules)]
    found = [
        f"{key} {with_arrays(value)}"
        for values in places
        for key, value in values.items()
        if isinstance(value, Tensor | np.ndarray) and key not in DISPLAY
    ]
    return "\n".join(sorted(found))


def _settings(values: Mapping[str, object]) -> str:
    known = {name: value for name, value in values.items() if not name.startswith("_")}
    return repr(plain(with_arrays(known)))


def _shipped(task: Task, spec: str, model: nn.Module, data: Mapping[str, Batch]) -> str:
    """Return the fingerprint of a task of the program. Results are shipped under it: it must stay as it is."""
    digest = hashlib.sha256(task.source().encode())
    digest.update(repr((spec.rpartition(":")[2], plain(vars(task)))).encode())
    shapes = [(name, tuple(value.shape), str(value.dtype)) for name, value in model.state_dict().items()]
    digest.update(f"{model!r} {shapes}".encode())
    for path in task.checkpoint_files:
        digest.update(_checkpoint(task, path))
    for split in sorted(data):
        for name, values in sorted(data[split].items()):
            digest.update(f"{split} {name} {values.dtype} {tuple(values.shape)}".encode())
            digest.update(values.contiguous().numpy().data)
    return digest.hexdigest()


def _checkpoint(task: Task, path: Path) -> bytes:
    if not Path(path).is_file():
        raise TaskError(
            f'The checkpoint file {path} of task "{task.name}" does not exist.',
            "checkpoint_files names state dicts, oldest first; a relative path is relative to the current folder.",
        )
    return Path(path).read_bytes()
