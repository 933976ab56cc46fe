"""What was studied: the study, its task and its configurations."""

from __future__ import annotations

from tda_backend.studies.store.tables.base import (
    BOOLEAN,
    EVERY_ROW,
    INTEGER,
    JSON,
    STUDY,
    TIMESTAMP,
    VARCHAR,
    VARCHARS,
    Column,
    Table,
    columns,
    given,
)

STUDIES = Table(
    "studies",
    "A task, a grid of hyper-parameters, ground-truth settings and seeds",
    (
        given("study_id", VARCHAR, "First 12 hex digits of the SHA-256 of the resolved study"),
        Column("name", VARCHAR, "A name means the newest study of that name"),
        Column("plan_key", VARCHAR, "Hash of all step keys: changes when the task's code or a step version changes"),
        Column("task", VARCHAR),
        Column("created", TIMESTAMP),
        Column("config", JSON, "The resolved study file"),
        Column("info", JSON, "What pages show beside it: class names, measurement, training settings, machine"),
        *columns(INTEGER, "num_train", "num_validation", "num_queries"),
        Column(
            "num_subsets",
            INTEGER,
            "Retrained subsets per α when the study is complete",
        ),
        Column("steps_total", INTEGER, "Number of steps of the plan; `ingested` counts the finished ones"),
    ),
    order="created DESC",
)

TASKS = Table(
    "tasks",
    "What is attributed",
    (
        STUDY,
        Column("name", VARCHAR),
        Column("spec", VARCHAR, "How to load it again: built-in name, package.module:factory or file.py:factory"),
        Column("fingerprint", VARCHAR, "SHA-256 of the task's source and of its data"),
        Column("num_classes", INTEGER),
        Column("class_names", VARCHARS),
        Column("measurement_sign", INTEGER, "+1 where a larger measurement is better, -1 where smaller is better"),
        Column("margin_identity", BOOLEAN, "True when the loss gradient is -(1-p) times the gradient of the margin"),
        Column("training", JSON),
    ),
)

CONFIGURATIONS = Table(
    "configurations",
    "One attribution configuration: everything but λ",
    (
        STUDY,
        *columns(VARCHAR, "configuration_id", "method", "title"),
        Column("training_epoch", INTEGER),
        Column("projection_dim", INTEGER, "Random projection dimension k; NULL: unprojected, exact", nullable=True),
        Column("parameters", JSON),
        Column("label", VARCHAR),
        Column("has_regularization", BOOLEAN),
        Column("num_seeds", INTEGER),
        Column("num_sources", INTEGER, "Spectra (or score matrices) it is the ensemble of"),
        Column("ordinal", INTEGER),
    ),
    order="ordinal",
    shipped=EVERY_ROW,
)

TABLES = (STUDIES, TASKS, CONFIGURATIONS)
