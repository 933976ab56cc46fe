"""The step that draws which examples take part and how each is displayed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from torch import Tensor

from tda_backend.errors import TaskError
from tda_backend.models.checking.verification import verify_before_training
from tda_backend.models.probe import Probe
from tda_backend.models.tasks.contract import built, persons_code
from tda_backend.models.tasks.examples import Draw, LabelNoise, label_noise, split_indices
from tda_backend.studies.config.study import Study
from tda_backend.studies.pipeline.context import Positions, RunContext
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.pipeline.plan import Steps
from tda_backend.studies.pipeline.sizes import GIB, Sizes
from tda_backend.studies.pipeline.step import Cost, Step, setting
from tda_backend.studies.pipeline.times import LEAST_SECONDS, SHOWN_SECONDS, forward, verifying
from tda_backend.studies.store.artifacts import ArtifactWriter
from tda_backend.studies.store.drop import Drop
from tda_backend.studies.store.tables.examples import EXAMPLES, NOISY_ROWS
from tda_backend.types import Display, Task

TRAIN, TEST = "train", "test"
"""The splits of a task's data; validation and queries are drawn from the second, which is shown whole too."""
DISPLAYS = "displays"
"""Fact of an artifact: by which displays of the task its texts and pictures were made."""
_SHOWN_BYTES = 1500
"""Of what the table of examples holds of one of them, while it is made."""
_MOST_TARGETS = 8  # of one example, written out as its label


@dataclass(frozen=True, kw_only=True)
class Examples(Step):
    """Which examples take part, and how each is displayed.

    Attributes:
        train: How many of the train split.
        validation: How many of the test split, for ξ.
        queries: How many others of it, to be explained.
        flip_labels: Share of the training rows that get another class.
        seed: Of the draws.
    """

    NAME: ClassVar[str] = "examples"
    VERSION: ClassVar[int] = 1
    UNIT: ClassVar[str] = "examples"
    TABLES = (EXAMPLES, NOISY_ROWS)
    IS_FOUNDATION: ClassVar[bool] = True
    IS_SHARED: ClassVar[bool] = True

    train: int
    validation: int
    queries: int
    flip_labels: float | None = setting(None)
    seed: int

    @classmethod
    def ingest(cls, drop: Drop) -> None:
        """Insert the rows, unless there are some: computed again after damage, it must not undo a newer display."""
        if not drop.holds(EXAMPLES):
            drop.insert_tables(cls.TABLES)

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        """Draw the split, verify the task's contract on it, and store how its examples look.

        Raises:
            TaskError: The task breaks its contract, so that nothing is trained.
        """
        facts = context.facts
        draw = Draw(self.train, self.validation, self.queries, self.seed)
        split = split_indices(draw, facts.num_train, facts.num_test)
        indices = {each.name: getattr(split, each.name) for each in fields(split)}
        taken = Positions(split.train, split.validation, split.queries).tensors()
        verify_before_training(Probe(context.task, built(context.task, 0), context.data, *taken, context.device))
        for name, values in indices.items():
            writer.array(name, values)
        noise = _noise(context, split.train)
        if noise is not None:
            writer.array("noisy", noise.positions)
        write_shown(context, indices, writer)


def write_shown(context: RunContext, indices: Mapping[str, np.ndarray], writer: ArtifactWriter) -> None:
    """Store how examples look, and how the labels looked that are wrong.

    Args:
        context: Of the run.
        indices: Name of a split → rows of the task's data.
        writer: Gets the tables.
    """
    noise = _noise(context, indices[TRAIN])
    originals = {} if noise is None else _originals(context.task, noise)
    if noise is not None:
        records = [{"position": key, "original_label": text} for key, text in originals.items()]
        writer.table(NOISY_ROWS.name, NOISY_ROWS.rows(records))
    shown = {**indices, TEST: np.arange(context.facts.num_test)}
    writer.table(EXAMPLES.name, EXAMPLES.rows(list(_rows(context, shown, originals))))
    if context.facts.displays is not None:  # they may change without the rest
        writer.facts[DISPLAYS] = context.facts.displays


def _noise(context: RunContext, train: np.ndarray) -> LabelNoise | None:
    labels = context.train_split[context.task.label_key]
    return label_noise(context.task, context.clean_labels, labels, train)


def _originals(task: Task, noise: LabelNoise) -> dict[int, str | None]:
    """Return the right label of every training position whose label is wrong; ``None`` where nobody knows it."""
    known = [None] * len(noise.positions) if noise.originals is None else noise.originals
    texts = [None if value is None else label_text(task, value) for value in known]
    return dict(zip(noise.positions.tolist(), texts, strict=True))


def _rows(
    context: RunContext, indices: Mapping[str, np.ndarray], originals: Mapping[int, str | None]
) -> Iterator[dict[str, Any]]:
    """Yield the row of ``examples`` of every example of every split."""
    seen: dict[tuple[str, int], Shown] = {}
    done, total = 0, sum(map(len, indices.values()))
    for split, values in indices.items():
        source = TRAIN if split == TRAIN else TEST
        labels = context.data[source].get(context.task.label_key)
        wrong = {} if source == TEST else originals
        for position, index in enumerate(values.tolist()):
            if (source, index) not in seen:
                seen[source, index] = display_row(context.task, source, index)
            shown = seen[source, index]
            if position in wrong:
                shown = replace(shown, caption=wrong_label_caption(shown.caption, wrong[position]))
            label = "" if labels is None else label_text(context.task, labels[index])
            yield {"split": split, "position": position, "index": index, "label": label, **vars(shown)}
        done += len(values)
        context.on_progress(done, total)


def plan_examples(steps: Steps, study: Study, facts: TaskFacts) -> Examples:
    """Add the draw of the examples that take part."""
    data, sizes = study.data, Sizes.of(study, facts)
    shown = (data.train + data.validation + data.queries) * _SHOWN_BYTES / GIB
    return steps.add(
        Examples(
            train=data.train,
            validation=data.validation,
            queries=data.queries,
            flip_labels=data.flip_labels,
            seed=study.seed,
            label="examples",
            cost=Cost(_seconds(sizes), max(shown, sizes.verifying)),
        )
    )


def _seconds(sizes: Sizes) -> float:
    """Return what two forward passes over all rows, the margin identity, and writing down the rows take."""
    rows = sizes.num_train + sizes.num_others
    passes = 2 * forward(sizes, rows) + verifying(sizes, 1)
    return LEAST_SECONDS + SHOWN_SECONDS * (rows + sizes.num_others) + passes


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


@dataclass(frozen=True)
class Shown:
    """How an example looks.

    Attributes:
        kind: ``image``, ``row`` or ``text``.
        caption: Beside it.
        image: PNG bytes of an image.
        text: Of everything else; of a row as JSON.
    """

    kind: str
    caption: str
    image: bytes | None = None
    text: str | None = None


def display_row(task: Task, split: str, index: int) -> Shown:
    """Return how an example looks.

    Raises:
        TaskError: The task gives no usable display.
    """
    with persons_code(task, f"show({split!r}, {index})"):
        return _display_fields(task, split, index)


def _display_fields(task: Task, split: str, index: int) -> Shown:
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
    shown = Shown(display.kind, display.caption)
    if display.kind == "image":
        if display.image is None or display.image.dtype != np.uint8 or display.image.ndim not in (2, 3):
            raise TaskError(
                f"show({split!r}, {index}) of task {task.name!r} gives no uint8 [h, w] or [h, w, 3] image.",
                "Scale pixels to 0…255 and convert with .astype('uint8').",
            )
        buffer = io.BytesIO()
        Image.fromarray(display.image).save(buffer, format="PNG")
        return replace(shown, image=buffer.getvalue())
    if display.kind == "row":
        return replace(shown, text=json.dumps(dict(display.row), default=str))
    return replace(shown, text=display.text)
