"""The step that draws which examples take part and how each is displayed."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image
from torch import Tensor

from tda_backend.errors import TaskError
from tda_backend.runs.context import RunContext
from tda_backend.runs.plan import Step
from tda_backend.runs.study_data import label_noise, split_indices
from tda_backend.store.artifacts import ArtifactWriter
from tda_backend.training.contract import persons_code
from tda_backend.types import Display, Task

_MOST_TARGETS = 8  # of one example, written out as its label


def run_examples(context: RunContext, step: Step, writer: ArtifactWriter) -> None:
    """Draw the split and store how its examples look."""
    facts, task = context.plan.facts, context.task
    indices = split_indices(step.settings, facts.num_train, facts.num_test)
    for name, values in indices.items():
        writer.array(name, values)
    noise = label_noise(task, context.clean_labels, context.data, indices["train"])
    originals: dict[int, str | None] = {}
    if noise is not None:
        known = [None] * len(noise.positions) if noise.originals is None else noise.originals
        texts = [None if value is None else label_text(task, value) for value in known]
        originals = dict(zip(noise.positions.tolist(), texts, strict=True))
        writer.array("noisy", noise.positions)
        schema = pa.schema([("position", pa.int32()), ("original_label", pa.string())])
        rows_of_noise = [{"position": key, "original_label": text} for key, text in originals.items()]
        writer.table("noisy_rows", pa.Table.from_pylist(rows_of_noise, schema=schema))
    shown: dict[tuple[str, int], dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    for split, values in {**indices, "test": np.arange(facts.num_test)}.items():
        source = "train" if split == "train" else "test"
        labels = context.data[source].get(task.label_key)
        for position, index in enumerate(values.tolist()):
            if (source, index) not in shown:
                shown[source, index] = display_row(task, source, index)
            label = "" if labels is None else label_text(task, labels[index])
            row = {"split": split, "position": position, "index": index, "label": label, **shown[source, index]}
            if split == "train" and position in originals:
                row["caption"] = wrong_label_caption(row["caption"], originals[position])
            rows.append(row)
        context.on_progress(len(rows), sum(map(len, indices.values())) + facts.num_test)
    schema = pa.schema([
        ("split", pa.string()), ("position", pa.int32()), ("index", pa.int32()), ("label", pa.string()),
        ("kind", pa.string()), ("caption", pa.string()), ("image", pa.binary()), ("text", pa.string()),
    ])  # fmt: skip
    writer.table("examples", pa.Table.from_pylist(rows, schema=schema))


def wrong_label_caption(caption: str, original: str | None) -> str:
    """Return the caption of an example whose label is wrong on purpose."""
    what = "wrong label" if original is None else f"wrong label, was {original}"
    return f"{caption} ({what})" if caption else what


def label_text(task: Task, value: Tensor) -> str:
    """Return the text form of a label or a prediction: a class name, or a number."""
    if value.numel() != 1:  # a sequence's targets are the text that is shown anyway
        return str(value.tolist()) if value.numel() <= _MOST_TARGETS else ""
    number = value.item()
    if task.num_classes is not None:
        if not 0 <= number < task.num_classes:  # a label passed validate_data, so this is a prediction
            raise TaskError(
                f"predict of task {task.name!r} gives the class {number:g}.",
                f"Classes are 0 to {task.num_classes - 1}.",
            )
        return str(task.class_names[int(number)]) if task.class_names else str(int(number))
    return task.target_text(number)


def display_row(task: Task, split: str, index: int) -> dict[str, Any]:
    """Return how an example looks: kind, caption, image (PNG bytes) and text.

    Raises:
        TaskError: The task gives no usable display.
    """
    with persons_code(task, f"show({split!r}, {index})"):
        return _display_fields(task, split, index)


def _display_fields(task: Task, split: str, index: int) -> dict[str, Any]:
    display: Any = task.show(split, index)
    if not isinstance(display, Display):
        raise TaskError(
            f"show({split!r}, {index}) of task {task.name!r} returns a {type(display).__name__}.", "Return a Display."
        )
    for name in ("caption", "text"):
        if not isinstance(getattr(display, name), str):
            found = type(getattr(display, name)).__name__
            raise TaskError(
                f"The {name} of show({split!r}, {index}) of task {task.name!r} is a {found}.", "Give a string."
            )
    row: dict[str, Any] = {"kind": display.kind, "caption": display.caption, "image": None, "text": None}
    if display.kind == "image":
        if display.image is None or display.image.dtype != np.uint8 or display.image.ndim not in (2, 3):
            raise TaskError(
                f"show({split!r}, {index}) of task {task.name!r} gives no uint8 [h, w] or [h, w, 3] image.",
                "Scale pixels to 0…255 and convert with .astype('uint8').",
            )
        buffer = io.BytesIO()
        Image.fromarray(display.image).save(buffer, format="PNG")
        row["image"] = buffer.getvalue()
    elif display.kind == "row":
        row["text"] = json.dumps(dict(display.row), default=str)
    else:
        row["text"] = display.text
    return row
