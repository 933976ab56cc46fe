"""Is a workspace what an undisturbed run left? All tables row by row, and the checksum of every stored file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace

NOT_RESULTS = {
    ("ingested", "ingested"),
    ("studies", "created"),
    ("studies", "info"),
    ("timings", "seconds"),
    ("timings", "peak_memory_mib"),
    ("timings", "finished"),
}
"""Columns that say when something was done, by which code, and what it cost; so do the tables ``jobs`` and ``meta``."""


@dataclass(frozen=True)
class State:
    """Everything that a workspace holds of its studies' results.

    Attributes:
        tables: Rows of each table, sorted.
        files: SHA-256 of each file of each artifact.
    """

    tables: dict[str, list[tuple[Any, ...]]]
    files: dict[str, str]

    @classmethod
    def of(cls, workspace: Workspace) -> State:
        """Read a workspace; every file of it is verified."""
        return cls(_tables(workspace.catalogue), _files(ArtifactStore(workspace.artifacts)))

    def differences(self, other: State) -> list[str]:
        """Return what is not the same, in words."""
        found = [f"table {name}" for name in self.tables if self.tables[name] != other.tables.get(name)]
        names = sorted(self.files.keys() | other.files.keys())
        return found + [name for name in names if self.files.get(name) != other.files.get(name)]


def _tables(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        sql = """SELECT table_name, column_name FROM duckdb_columns() JOIN duckdb_tables() USING (table_name)
                 WHERE table_name NOT IN ('jobs', 'meta') ORDER BY column_index"""
        known = [pair for pair in connection.execute(sql).fetchall() if pair not in NOT_RESULTS]
        by_table = {name: ", ".join(f'"{column}"' for table, column in known if table == name) for name, _ in known}
        return {
            name: connection.execute(f'SELECT {columns} FROM "{name}" ORDER BY ALL').fetchall()
            for name, columns in sorted(by_table.items())
        }


def _files(store: ArtifactStore) -> dict[str, str]:
    found = {}
    for key in store.all_keys():
        artifact = store.peek(key)
        assert artifact.problems(thorough=True) == []
        if artifact.step != "study":  # it says when, and by which code
            found |= {f"{artifact.step} {key[:12]} {name}": file.sha256 for name, file in artifact.files.items()}
    return found
