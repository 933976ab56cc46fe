"""What the catalogue says of itself: its version, what was taken in, what it cost, which runs ended."""

from __future__ import annotations

from tda_backend.studies.store.tables.base import (
    BIGINT,
    DOUBLE,
    EVERY_ROW,
    INTEGER,
    STUDY,
    TIMESTAMP,
    VARCHAR,
    Column,
    Table,
    given,
)

META = Table(
    "meta",
    "Facts about this file",
    (
        Column("key", VARCHAR, "schema_version, created, program_version"),
        Column("value", VARCHAR),
    ),
)

TIMINGS = Table(
    "timings",
    "What each step cost when it was computed; peak_memory_mib is of the process so far",
    (
        STUDY,
        Column("step", VARCHAR),
        Column("label", VARCHAR),
        Column("seconds", DOUBLE),
        Column("peak_memory_mib", DOUBLE),
        Column("bytes", BIGINT),
        Column("finished", TIMESTAMP),
        Column("device", VARCHAR),
        Column(
            "remark",
            VARCHAR,
            "What gradients in less than float32 cost, where memory ran out and how it went on; NULL: nothing to say",
        ),
    ),
    order="finished",
    shipped=EVERY_ROW,
)

JOBS = Table(
    "jobs",
    "Runs that ended; running ones are files in the workspace",
    (
        Column("study_id", VARCHAR),
        Column("job_id", VARCHAR),
        Column("status", VARCHAR),
        Column("started", TIMESTAMP),
        Column("finished", TIMESTAMP),
        Column("steps_computed", INTEGER),
        Column("steps_cached", INTEGER),
        Column("seconds", DOUBLE),
        Column("message", VARCHAR),
    ),
)

INGESTED = Table(
    "ingested",
    "Finished steps of each study whose results are in this catalogue",
    (
        STUDY,
        given("artifact", VARCHAR),
        Column("label", VARCHAR),
        Column("ingested", TIMESTAMP),
    ),
)

TABLES = (META, TIMINGS, JOBS, INGESTED)
