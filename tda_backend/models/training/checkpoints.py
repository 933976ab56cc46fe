"""Checkpoints of models trained elsewhere."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tda_backend.errors import TaskError
from tda_backend.finite import all_finite
from tda_backend.models.tasks.contract import built, one_line
from tda_backend.models.training.fit import check_state
from tda_backend.types import Checkpoint, Task

_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts usually keep the parameters


def load_checkpoints(task: Task, seed_index: int = 0) -> list[Checkpoint]:
    """Return the task's ``checkpoint_files`` as checkpoints, oldest first, with epochs 1, 2, ….

    Files are safetensors (``.safetensors``) or state dicts written by ``torch.save``, alone or under ``state_dict``,
    ``model_state_dict`` or ``model``; they are read with ``weights_only=True``. The learning rate is that of the
    task's training settings, or 1.

    Raises:
        TaskError: No files, an unreadable file, or names and shapes that do not fit ``build_model()``.
    """
    if not task.checkpoint_files:
        raise TaskError(f'Task "{task.name}" names no checkpoint_files.', "List the files of the trained model.")
    model = built(task, 0)
    rate = task.training.learning_rate if task.training is not None else 1.0
    checkpoints = []
    for epoch, file in enumerate(task.checkpoint_files, start=1):
        path = Path(file)
        state = _read_state(path)
        check_state(task, model, state, f"Checkpoint {path.name}")
        kinds = {name: value.dtype for name, value in model.state_dict().items()}
        converted = {name: state[name].to(kinds[name]) for name in kinds}
        bad = [name for name, v in converted.items() if v.is_floating_point() and not all_finite(v)]
        if bad:
            raise TaskError(f"Checkpoint {path.name} holds NaN or infinity in {bad[0]}.", "Save it again.")
        checkpoints.append(Checkpoint(seed_index, epoch, rate, converted))
    return checkpoints


def _read_state(path: Path) -> Mapping[str, Tensor]:
    if not path.is_file():
        raise TaskError(f"There is no checkpoint file {path}.", "Correct checkpoint_files of the task.")
    try:
        if path.suffix == ".safetensors":
            content: Any = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        raise TaskError(
            f"Checkpoint {path} cannot be read: {one_line(error)[:160]}",
            "Save model.state_dict() with torch.save, or as safetensors; whole pickled models are not loaded.",
        ) from error
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise TaskError(f"Checkpoint {path} holds no state dict.", "Save model.state_dict() alone.")
    return content
