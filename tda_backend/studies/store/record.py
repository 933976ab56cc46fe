"""A study as its own artifact tells it: what the catalogue needs to know, and what a rebuild starts from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import duckdb

from tda_backend.errors import ArtifactError
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.artifacts import MANIFEST, ArtifactStore, provisional_key
from tda_backend.studies.store.catalogue import delete_study
from tda_backend.studies.store.drop import Drop
from tda_backend.studies.store.inbox import FinishedStep
from tda_backend.studies.store.tables.base import Table, utc
from tda_backend.studies.store.tables.bookkeeping import INGESTED, TIMINGS
from tda_backend.studies.store.tables.studies import CONFIGURATIONS, STUDIES, TASKS
from tda_backend.studies.store.workspace import read_json

_STEP = "study"
_FILE = "study"


@dataclass(frozen=True)
class StudyRecord:
    """A study with its plan.

    Attributes:
        artifact: Where it was read from.
        study_id: Its id.
        name: Its name.
        config: The resolved study file.
        info: What pages show beside it.
        task: A row of ``tasks``.
        counts: Training examples, validation points, queries and subsets.
        configurations: Rows of ``configurations``.
        steps: Every step of the plan, as it is dropped when it is finished.
        continues: Key of the record of the same study with fewer subsets, whose results stay; ``None``: none do.
    """

    artifact: Artifact
    study_id: str
    name: str
    config: Mapping[str, Any]
    info: Mapping[str, Any]
    task: Mapping[str, Any]
    counts: Mapping[str, int]
    configurations: Sequence[Mapping[str, Any]]
    steps: Sequence[FinishedStep]
    continues: str | None = None

    @classmethod
    def read(cls, artifact: Artifact) -> Self:
        """Return what a study's artifact tells.

        Raises:
            ArtifactError: It is damaged.
            MachineError: It cannot be read at the moment.
        """
        content = artifact.json(_FILE)
        if content is None:
            raise ArtifactError(f"{_FILE}.json of {artifact.describe()} is not readable.")
        names = {each.name for each in dataclasses.fields(cls)} & content.keys()
        try:
            known = {name: content[name] for name in names}
            study_id, steps = known["study_id"], known.pop("steps")
            return cls(artifact, steps=[FinishedStep.read({**step, "study_id": study_id}) for step in steps], **known)
        except (KeyError, TypeError) as error:
            raise ArtifactError(f"{_FILE}.json of {artifact.describe()} is not complete: {error}.") from error

    @property
    def study(self) -> FinishedStep:
        """The drop of the study itself."""
        return FinishedStep(self.study_id, self.artifact.key, "study")

    @property
    def keys(self) -> set[str]:
        """Keys of all artifacts that the study refers to, its own included."""
        keys = [step.key for step in self.steps]
        return {self.artifact.key, *keys, *map(provisional_key, keys)}

    def clear(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Delete what the catalogue holds of another plan of the study: all, or what the plan that it continues lost.

        Rows of an evaluation by fewer subsets stay until the new one replaces them.
        """
        if self.continues is None or not INGESTED.holds(connection, study_id=self.study_id, artifact=self.continues):
            delete_study(connection, self.study_id)
            return
        for table in (STUDIES, TASKS, CONFIGURATIONS):
            table.delete(connection, study_id=self.study_id)
        kept = {step.key: step.label for step in self.steps}
        known = connection.execute(INGESTED.select(columns=("artifact", "label")), [self.study_id]).fetchall()
        for key, label in known:
            if kept.get(key) != label:
                INGESTED.delete(connection, study_id=self.study_id, artifact=key)
                TIMINGS.delete(connection, study_id=self.study_id, label=label)

    def ingest(self, drop: Drop) -> None:
        """Write the rows of the study, its task and its configurations."""
        counts = {f"num_{name}": self.counts[name] for name in ("train", "validation", "queries", "subsets")}
        drop.insert_records(
            STUDIES,
            [
                {
                    "name": self.name,
                    "plan_key": self.artifact.key,
                    "task": self.task["name"],
                    "created": utc(self.artifact.finished),
                    "config": json.dumps(self.config),
                    "info": json.dumps(self.info),
                    **counts,
                    "steps_total": len(self.steps),
                }
            ],
        )
        drop.insert_records(TASKS, [_row(TASKS, self.task)])
        rows = [{**row, "ordinal": number} for number, row in enumerate(self.configurations)]
        drop.insert_records(CONFIGURATIONS, [_row(CONFIGURATIONS, row) for row in rows])


def _row(table: Table, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of ``record`` that are columns of ``table``, JSON as text."""
    return {
        column.name: json.dumps(record[column.name]) if column.holds_json else record[column.name]
        for column in table.columns
        if not column.given
    }


def is_study(artifact: Artifact) -> bool:
    """Return whether an artifact tells of a study (it is no step of one)."""
    return artifact.step == _STEP


def write_study_record(store: ArtifactStore, key: str, study_id: str, content: Mapping[str, Any]) -> None:
    """Write a study's own artifact, unless it is there.

    Args:
        store: Where to.
        key: Its content key.
        study_id: Which study.
        content: The fields of :class:`StudyRecord`, as JSON.
    """
    if not store.usable(key):
        with store.writing(key, _STEP, {"study_id": study_id}, []) as writer:
            writer.json(_FILE, content)


def damaged_records(store: ArtifactStore, records: Sequence[StudyRecord]) -> list[str]:
    """Return the short keys of artifacts, those set aside included, that are a study's record but none of ``records``.

    Nobody knows what such a study refers to.
    """
    known = {record.artifact.key for record in records}
    folders = [*store.folder.glob("??/*"), *store.set_aside_folders()]
    keys = {key for folder in folders if _is_record(folder) and (key := folder.name.partition("-")[0]) not in known}
    return sorted(key[:12] for key in keys)


def _is_record(folder: Path) -> bool:
    return (folder / f"{_FILE}.json").exists() or (read_json(folder / MANIFEST) or {}).get("step") == _STEP


def study_records(store: ArtifactStore) -> list[StudyRecord]:
    """Return every study in the artifacts, oldest first; those that are damaged are left out.

    Raises:
        MachineError: One cannot be read at the moment.
    """
    found = []
    for key in store.all_keys():
        try:
            artifact = store.open(key)
            if is_study(artifact):
                found.append(StudyRecord.read(artifact))
        except ArtifactError:
            continue
    return sorted(found, key=lambda record: record.artifact.finished)
