"""The examples behind shipped results, drawn again from the program's own data: results travel without pictures.

Which examples a study has is a pure function of its seed and sizes, and so are the labels that it flips.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tda_backend.interfaces.papers.shipped import shipped_results
from tda_backend.interfaces.reading.records.examples import Example
from tda_backend.models.tasks import BUILT_IN
from tda_backend.models.tasks.contract import Task
from tda_backend.models.tasks.data import validate_data
from tda_backend.models.tasks.examples import Draw, label_noise, split_indices, study_labels
from tda_backend.studies.config.study import Study
from tda_backend.studies.steps.examples import display_row, label_text


@dataclass(frozen=True)
class ShippedExamples:
    """Examples of a study whose results are shipped.

    Attributes:
        train: Training examples; without prediction and goodness, for no model is shipped.
        queries: Likewise.
        noisy: Training position → its label before the study flipped it (``None``: nobody knows).
    """

    train: list[Example]
    queries: list[Example]
    noisy: dict[int, str | None]


@cache
def shipped_examples(name: str, folder: Path | None = None) -> ShippedExamples | None:
    """Return the examples of a shipped study; ``None`` if its task does not come with the program.

    Raises:
        DataError: There are no such results, or the program's data are damaged.
    """
    study = Study.from_json(shipped_results(name, folder).config)
    if study.task not in BUILT_IN:
        return None
    task = BUILT_IN[study.task]()
    data = validate_data(task)
    draw = Draw(**study.data.to_json(), seed=study.seed)
    sizes = [len(data[split][task.label_key]) for split in ("train", "test")]
    split = split_indices(draw, *sizes)
    clean, labels = None, data["train"][task.label_key]
    if draw.flip_labels is not None:
        clean, labels = labels, study_labels(task, labels, draw, split.train)
    queries = _examples(task, "test", data["test"][task.label_key], split.queries.tolist())
    train = _examples(task, "train", labels, split.train.tolist())
    noise = label_noise(task, clean, labels, split.train)
    noisy: dict[int, str | None] = {}
    if noise is not None:
        known = [None] * len(noise.positions) if noise.originals is None else noise.originals
        texts = [None if value is None else label_text(task, value) for value in known]
        noisy = dict(zip((int(position) for position in noise.positions), texts, strict=True))
    return ShippedExamples(train=train, queries=queries, noisy=noisy)


def _examples(task: Task, source: str, labels: Any, indices: list[int]) -> list[Example]:
    """Return the examples of one split; ``source`` is the task's own split that they are drawn from."""
    found = []
    for position, index in enumerate(indices):
        shown = display_row(task, source, index)
        found.append(
            Example(
                position=position,
                index=index,
                label=label_text(task, labels[index]),
                prediction=None,
                goodness=None,
                loss=None,
                payload=shown.text if shown.image is None else shown.image,
                kind=shown.kind,
                caption=shown.caption,
                has_classes=task.num_classes is not None,
            )
        )
    return found
