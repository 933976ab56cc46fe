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

from tda_backend.errors import DataError, StudyError
from tda_backend.runs.study_reader import StudyReader
from tda_backend.store import repository
from tda_backend.store.trajectory_repository import TRAJECTORY_TABLES
from tda_backend.training.data import data_folder

TABLES = (
    "configurations", "verdicts", "lds", "selections", "indicator", "removals", "loo_scores", "noisy_labels", "rules",
    "tuning", "races", *TRAJECTORY_TABLES, "timings",
)  # fmt: skip
"""What is exported, as far as a study has it; all of it is small."""
_ONLY = {"trajectory_effects": "query IS NULL OR query < 6"}
"""Rows that are exported of larger tables."""
_RESULTS = ("lds", "selections", "noisy_labels", "trajectory_agreement", "lookahead_tuned")
"""A study with any of these has something to show."""
_STUDY = "study.parquet"


@dataclass(frozen=True)
class ShippedResults:
    """The results of one study as shipped.

    Attributes:
        name: Its name.
        facts: ``task, config, info, version, code, created, seconds, machine``.
        tables: Table name → rows, those of ``TABLES`` that the study has.
    """

    name: str
    facts: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]


def results_folder() -> Path:
    """Return the folder of shipped results."""
    return data_folder() / "results"


def export_results(study: StudyReader, folder: Path) -> list[Path]:
    """Write a study's tables as Parquet files into ``folder/<study>`` and return their paths.

    Raises:
        StudyError: The study has no results yet.
    """
    workspace, study_id = study.workspace, study.study_id
    place = folder / study.name
    tables: dict[str, pa.Table] = {}
    present = set(repository.query(workspace, "SELECT table_name FROM duckdb_tables()")["table_name"])
    for name in [each for each in TABLES if each in present]:
        condition = f"study_id = ? AND ({_ONLY.get(name, 'TRUE')})"
        frame = repository.query(workspace, f"SELECT * EXCLUDE (study_id) FROM {name} WHERE {condition}", [study_id])
        if len(frame):
            tables[name] = pa.Table.from_pandas(frame, preserve_index=False)
    if not any(name in tables for name in _RESULTS):
        raise StudyError(f"Study {study.name} has no results to export.", f"Run it first: tda run {study.name}.")
    seconds = float(tables["timings"].to_pandas()["seconds"].sum()) if "timings" in tables else 0.0
    facts = {
        "name": study.name, "study_id": study_id, "task": study.info["task"], "config": json.dumps(study.config),
        "info": json.dumps(study.info), "version": study.info.get("code", "unknown"), "seconds": seconds,
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "python": platform.python_version(),
        "torch": study.info["torch"], "device": study.info["device"],
    }  # fmt: skip
    tables["study"] = pa.Table.from_pylist([facts])
    place.mkdir(parents=True, exist_ok=True)
    for stale in place.glob("*.parquet"):
        stale.unlink()
    paths = []
    for name, table in tables.items():
        paths.append(place / f"{name}.parquet")
        pq.write_table(table, paths[-1], compression="zstd", compression_level=19)
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
    if not (place / _STUDY).is_file():
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
