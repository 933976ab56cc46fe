"""Catalogues of every schema version there was are brought up to date as they are opened, with all of their rows.

``schemas/version-N.duckdb.xz`` is the catalogue of the study of ``tests/runs/conftest.py`` as the program wrote it at
commits 3b1461f (version 1), 7f2fc38 (version 2), 2fd4e08 (version 3), which ``tests/runs/old_workspace.tar.xz`` has
too, and 0283140 (version 4).
"""

from __future__ import annotations

import json
import lzma
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from tda_backend.errors import CatalogueError
from tda_backend.interfaces.cli.main import main
from tda_backend.interfaces.reading.study import open_study
from tda_backend.studies.store import catalogue, migration, repository
from tda_backend.studies.store.ingest import check_writable
from tda_backend.studies.store.tables.all import ALL
from tda_backend.studies.store.workspace import Workspace
from tests.store.test_catalogue import described

HERE = Path(__file__).parent
VERSIONS = range(migration.OLDEST, catalogue.SCHEMA_VERSION)
Rows = dict[str, tuple[list[str], list[tuple]]]


@pytest.fixture(params=VERSIONS, ids=lambda version: f"version-{version}")
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Workspace:
    packed = HERE / "schemas" / f"version-{request.param}.duckdb.xz"
    workspace = Workspace.at(tmp_path / "c.duckdb")
    workspace.catalogue.write_bytes(lzma.decompress(packed.read_bytes()))
    assert schema_version(workspace) == str(request.param)
    return workspace


def schema_version(workspace: Workspace) -> str:
    with duckdb.connect(str(workspace.catalogue), read_only=True) as connection:
        return connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchall()[0][0]


def contents(workspace: Workspace, like: Rows | None = None) -> Rows:
    """Return columns and rows of every table but ``meta``; with ``like``, of its tables and columns."""
    with duckdb.connect(str(workspace.catalogue), read_only=True) as connection:
        if like is None:
            found = connection.execute("SELECT table_name FROM duckdb_tables() WHERE table_name <> 'meta'").fetchall()
            sql = "SELECT column_name FROM duckdb_columns() WHERE table_name = ? AND NOT internal"
            names = {name: [column for (column,) in connection.execute(sql, [name]).fetchall()] for (name,) in found}
        else:
            names = {name: columns for name, (columns, _) in like.items()}
        return {
            name: (columns, connection.execute(f"SELECT {_list(columns)} FROM {name} ORDER BY rowid").fetchall())
            for name, columns in sorted(names.items())
        }


def _list(columns: list[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


def test_every_version_before_this_one_is_tested():
    packed = sorted(path.name for path in (HERE / "schemas").iterdir())
    assert packed == [f"version-{version}.duckdb.xz" for version in VERSIONS]


@pytest.mark.parametrize("way", ["read", "write"])
def test_opening_brings_it_up_to_date_with_all_rows(old: Workspace, way: str):
    before = contents(old)
    assert sum(len(rows) for _, rows in before.values()) > 800
    with catalogue.reading(old) if way == "read" else catalogue.writing(old):
        pass
    assert schema_version(old) == str(catalogue.SCHEMA_VERSION)
    assert contents(old, before) == before
    golden = json.loads((HERE / "golden_catalogue.json").read_text())
    golden.pop("schema_version")
    assert described(old) == golden
    with catalogue.writing(old) as connection:
        check_writable(old, connection)


def test_who_only_reads_does_not_bring_it_up_to_date(old: Workspace):
    before = old.catalogue.read_bytes()
    with (
        pytest.raises(CatalogueError, match="only read here") as caught,
        catalogue.reading(replace(old, read_only=True)),
    ):
        pass
    assert "may write there" in caught.value.hint
    assert old.catalogue.read_bytes() == before


def test_its_study_is_shown(old: Workspace, capsys):
    assert main(["select", "tiny", "--json", "--db", str(old.catalogue)]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 2 * 7
    study = open_study("tiny", old)
    assert len(study.configurations()) == len(study.lds_table()["configuration_id"].unique())
    assert len(study.verdicts()) == 0
    assert study.lds_table()["mean"].max() > 0.2


def test_a_migration_that_fails_changes_nothing(old: Workspace, monkeypatch):
    before, version = contents(old), schema_version(old)

    def fail(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("DROP TABLE lds")
        raise duckdb.ConversionException("no")

    monkeypatch.setattr(migration, "CHANGES", {catalogue.SCHEMA_VERSION: fail})
    with pytest.raises(CatalogueError, match="no"):
        catalogue.connect_writer(old)
    assert (contents(old), schema_version(old)) == (before, version)


def test_every_table_can_be_read_and_written_afterwards(old: Workspace):
    for table in ALL:
        with catalogue.writing(old) as connection:
            connection.execute(table.select(()))
    assert len(repository.studies(old)) == 1
