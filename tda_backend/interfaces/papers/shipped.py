"""Results that travel with the project: small Parquet files of a finished study, shown before anything is computed.

``data/results/<study>/`` holds one file a table, as in the catalogue but without its study id, and ``study.parquet``,
one row that says what was run, when, on what, and with which code.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tda_backend.errors import DataError, StudyError, command
from tda_backend.interfaces.reading.reader import StudyReader
from tda_backend.interfaces.reading.records.base import Kind, record, records
from tda_backend.interfaces.reading.withdrawn import withdrawn
from tda_backend.models.tasks.data import data_folder
from tda_backend.studies.config.values import study_name
from tda_backend.studies.store import repository
from tda_backend.studies.store.tables.all import ALL
from tda_backend.studies.store.tables.rules import VERDICTS

_RESULTS = ("lds", "selections", "noisy_labels", "trajectory_agreement", "lookahead_tuned")
"""A study with any of these has something to show."""
_STUDY = "study.parquet"


@dataclass(frozen=True)
class Origin:
    """How shipped results were computed.

    Attributes:
        task: What was attributed.
        version: Of the program.
        created: When.
        torch: With which torch.
        device: On which device.
        seconds: How long it took.
    """

    task: str
    version: str
    created: str
    torch: str
    device: str
    seconds: float


@dataclass(frozen=True)
class ShippedResults:
    """The results of one study as shipped.

    Attributes:
        name: Its name.
        facts: ``name, study_id, task, config, info, version, seconds, created, python, torch, device``.
        tables: Table name → rows, those that are shipped and that the study has.
    """

    name: str
    facts: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]

    @property
    def config(self) -> dict[str, Any]:
        """The resolved study file."""
        return self.facts["config"]

    @property
    def origin(self) -> Origin:
        """How they were computed."""
        return record(self.facts, Origin)

    def read(self, table: str, kind: type[Kind]) -> list[Kind]:
        """Return a table's rows as records of a kind; none where the study has no such table."""
        return records(self.tables[table], kind) if table in self.tables else []


def results_folder() -> Path:
    """Return the folder of shipped results."""
    return data_folder() / "results"


def export_results(study: StudyReader, folder: Path) -> list[Path]:
    """Write a study's tables as Parquet files into ``folder/<study>`` and return their paths.

    Raises:
        StudyError: The study has no results yet.
    """
    workspace, study_id = study.workspace, study.study_id
    place = folder / study_name("The study's name", study.name)  # a catalogue may have been made elsewhere
    tables: dict[str, pa.Table] = {}
    present = set(repository.query(workspace, "SELECT table_name FROM duckdb_tables()").table_name)
    for table in [each for each in ALL if each.shipped and each.name in present]:
        frame = repository.query(workspace, table.select(order="rowid", only=table.shipped), [study_id])
        frame = withdrawn().applied(study.name, frame) if table is VERDICTS else frame
        if len(frame):
            tables[table.name] = pa.Table.from_pandas(frame, preserve_index=False)
    if not any(name in tables for name in _RESULTS):
        raise StudyError(
            f"Study {study.name} has no results to export.", f"Run it first: {command('run', study.name)}."
        )
    seconds = float(study.timings().seconds.sum()) if "timings" in tables else 0.0
    facts = {
        "name": study.name,
        "study_id": study_id,
        "task": study.info["task"],
        "config": json.dumps(study.config),
        "info": json.dumps(study.info),
        "version": study.info.get("code", "unknown"),
        "seconds": seconds,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "torch": study.info["torch"],
        "device": study.info["device"],
    }
    tables["study"] = pa.Table.from_pylist([facts])
    place.mkdir(parents=True, exist_ok=True)
    for stale in place.glob("*.parquet"):
        stale.unlink()
    paths = []
    for name, rows in tables.items():
        paths.append(place / f"{name}.parquet")
        pq.write_table(rows, paths[-1], compression="zstd", compression_level=19)
    return paths


def shipped_names(folder: Path | None = None) -> list[str]:
    """Return the studies whose results are shipped, by name."""
    place = folder or results_folder()
    return sorted(path.parent.name for path in place.glob(f"*/{_STUDY}"))


@cache
def shipped_results(name: str, folder: Path | None = None) -> ShippedResults:
    """Return the shipped results of one study.

    Raises:
        DataError: There are none, or a file is damaged.
    """
    place = (folder or results_folder()) / name
    if name not in shipped_names(folder):
        raise DataError(
            f"There are no shipped results of {name!r}.", f"Shipped: {', '.join(shipped_names(folder)) or 'none'}."
        )
    try:
        tables = {path.stem: pq.read_table(path).to_pandas() for path in sorted(place.glob("*.parquet"))}
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"Shipped results in {place} are damaged: {error}", "Restore the data/ folder.") from error
    facts = tables.pop("study").to_dict("records")[0]
    facts = {**facts, "config": json.loads(facts["config"]), "info": json.loads(facts["info"])}
    return ShippedResults(name, facts, tables)
