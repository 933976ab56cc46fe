"""The examples as pages show them, what the models say of them, and which labels are wrong."""

from __future__ import annotations

from tda_backend.studies.store.tables.base import BLOB, FLOAT, INTEGER, STUDY, VARCHAR, Column, Table, given

EXAMPLES = Table(
    "examples",
    "Training, validation, query and test examples as they are displayed",
    (
        STUDY,
        Column("split", VARCHAR, "train, validation, queries or test (the whole test set)"),
        Column("position", INTEGER, "Row of the split from 0; axis of score matrices"),
        Column("index", INTEGER, "Index in the task's data set (train: its train set; others: its test set)"),
        Column("label", VARCHAR),
        Column("kind", VARCHAR, "image (PNG in image), text (text) or row (JSON in text)"),
        Column("caption", VARCHAR),
        Column("image", BLOB),
        Column("text", VARCHAR),
    ),
    order="position",
)

PREDICTIONS = Table(
    "predictions",
    "What the final checkpoint of each training seed says of each example",
    (
        STUDY,
        given("seed_index", INTEGER),
        Column("split", VARCHAR, "train or test"),
        Column("index", INTEGER),
        Column("prediction", VARCHAR),
        Column("goodness", FLOAT, "measurement_sign times the measurement: larger is better"),
        Column("loss", FLOAT),
    ),
)

NOISY_ROWS = Table(
    "noisy_rows",
    "Training positions whose label is known to be wrong",
    (
        STUDY,
        Column("position", INTEGER),
        Column("original_label", VARCHAR, "Label before the study flipped it; NULL where the task does not say"),
    ),
    order="position",
)

TABLES = (EXAMPLES, PREDICTIONS, NOISY_ROWS)
