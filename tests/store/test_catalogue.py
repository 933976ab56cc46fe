"""Opening the catalogue: locked, missing, truncated, foreign and newer files each say what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from tda_backend.errors import CatalogueError
from tda_backend.studies.store import catalogue, repository
from tda_backend.studies.store.workspace import Workspace

HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print("open", flush=True)
sys.stdin.read()
"""
TRY = """
import sys, duckdb
try:
    duckdb.connect(sys.argv[1])
    print("opened")
except duckdb.Error:
    print("refused")
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    place = Workspace.at(tmp_path / "catalogue.duckdb")
    with catalogue.writing(place):
        pass
    return place


@contextmanager
def held_by_another_process(path: Path, how: str) -> Iterator[None]:
    """Hold the file open in a second process."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    try:
        yield
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def another_process_may_write(path: Path) -> bool:
    result = subprocess.run([sys.executable, "-c", TRY, str(path)], capture_output=True, text=True, check=True)
    return result.stdout == "opened\n"


def described(workspace: Workspace) -> dict[str, dict[str, object]]:
    """Return comments and columns of all tables and views of a catalogue, by name."""
    with catalogue.reading(workspace) as connection:
        columns = connection.execute(
            """SELECT table_name, column_name, data_type, comment FROM duckdb_columns()
               WHERE schema_name = 'main' AND NOT internal ORDER BY table_name, column_index"""
        ).fetchall()
        tables = connection.execute("SELECT table_name, comment FROM duckdb_tables()").fetchall()
        views = connection.execute("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").fetchall()

    def of(named: list[tuple]) -> dict[str, object]:
        return {
            name: {"comment": comment, "columns": [list(rest) for table, *rest in columns if table == name]}
            for name, comment in named
        }

    return {"tables": of(tables), "views": of(views)}


def test_the_catalogue_is_that_of_its_schema_version(workspace: Workspace):
    """Names, order, types and comments; whoever changes them raises SCHEMA_VERSION and writes the file anew."""
    golden = json.loads((Path(__file__).parent / "golden_catalogue.json").read_text())
    assert golden.pop("schema_version") == str(catalogue.SCHEMA_VERSION)
    assert described(workspace) == golden


def test_a_writer_in_another_process_is_named(workspace: Workspace, monkeypatch):
    monkeypatch.setattr(catalogue, "READ_PATIENCE_SECONDS", 0.2)
    with held_by_another_process(workspace.catalogue, "write"):
        with pytest.raises(catalogue.LockedError, match=r"in use by process \d+.*Close the program"):
            catalogue.connect_writer(workspace)
        with pytest.raises(catalogue.LockedError), catalogue.reading(workspace):
            pass


def test_readers_use_the_snapshot_while_the_file_is_held(workspace: Workspace, monkeypatch):
    monkeypatch.setattr(catalogue, "READ_PATIENCE_SECONDS", 0.2)
    catalogue.own(workspace)
    catalogue.publish_snapshot(workspace)
    catalogue.disown(workspace)
    with held_by_another_process(workspace.catalogue, "write"):
        assert len(repository.query(workspace, "SELECT * FROM meta")) == 2


def test_two_readers_do_not_mind_each_other(workspace: Workspace):
    with held_by_another_process(workspace.catalogue, "read"):
        assert len(repository.query(workspace, "SELECT * FROM meta")) == 2


def test_a_held_catalogue_is_opened_once_and_let_go(workspace: Workspace, monkeypatch):
    opened = []
    real = catalogue._reader
    monkeypatch.setattr(catalogue, "_reader", lambda path: (opened.append(path), real(path))[1])
    with catalogue.held(workspace), catalogue.held(workspace):
        for _ in range(3):
            assert len(repository.studies(workspace)) == 0
        assert not another_process_may_write(workspace.catalogue)
    assert opened == [workspace.catalogue]
    assert another_process_may_write(workspace.catalogue)
    with catalogue.writing(workspace), pytest.raises(ZeroDivisionError), catalogue.held(workspace):
        raise ZeroDivisionError


def test_what_cannot_be_held_is_said_by_the_query(tmp_path: Path):
    missing = Workspace.at(tmp_path / "catalogue.duckdb")
    with catalogue.held(missing), pytest.raises(CatalogueError, match="There is no catalogue"):
        repository.studies(missing)


def test_an_owner_holds_its_catalogue_already(workspace: Workspace):
    catalogue.own(workspace)
    with catalogue.held(workspace):
        assert len(repository.studies(workspace)) == 0
    assert catalogue.owned_here(workspace)
    catalogue.disown(workspace)


def test_publishing_a_snapshot_keeps_other_writers_out(workspace: Workspace):
    """Reading the file in the owning process would drop its POSIX lock: a second writer could then open it."""
    catalogue.own(workspace)
    try:
        assert not another_process_may_write(workspace.catalogue)
        catalogue.publish_snapshot(workspace)
        assert not another_process_may_write(workspace.catalogue)
    finally:
        catalogue.disown(workspace)
    assert another_process_may_write(workspace.catalogue)


@pytest.mark.parametrize("copier", [True, False])
def test_a_snapshot_holds_what_the_owner_wrote(workspace: Workspace, copier: bool, monkeypatch):
    if not copier:
        monkeypatch.setattr(catalogue.shutil, "which", lambda name: None)
    catalogue.own(workspace)
    try:
        with catalogue.writing(workspace) as connection:
            connection.execute("INSERT INTO meta VALUES ('colour', 'green')")
        catalogue.publish_snapshot(workspace)
        with duckdb.connect(str(workspace.snapshot), read_only=True) as reader:
            assert reader.execute("SELECT value FROM meta WHERE key = 'colour'").fetchall() == [("green",)]
        assert not [path for path in workspace.folder.iterdir() if path.name.startswith(".catalogue")]
    finally:
        catalogue.disown(workspace)


def test_a_missing_catalogue_says_how_to_make_one(tmp_path: Path):
    workspace = Workspace.at(tmp_path / "none.duckdb")
    with pytest.raises(CatalogueError, match=r"no catalogue.*tda run"), catalogue.reading(workspace):
        pass
    (workspace.artifacts / "ab" / ("ab" * 32)).mkdir(parents=True)
    with pytest.raises(CatalogueError, match="tda rebuild"), catalogue.reading(workspace):
        pass


@pytest.mark.parametrize("content", [b"", b"x" * 5000, "half", "tenth"])
@pytest.mark.parametrize("way", ["read", "write"])
def test_a_truncated_or_foreign_file_leads_to_rebuild(workspace: Workspace, content: bytes | str, way: str):
    whole = workspace.catalogue.read_bytes()
    cut = {"half": whole[: 4096 * 3 + 100], "tenth": whole[:100]}
    workspace.catalogue.write_bytes(cut[content] if isinstance(content, str) else content)
    if content == b"" and way == "write":
        pytest.skip("DuckDB takes an empty file for a new one, or refuses it: either is fine")
    opening = catalogue.reading if way == "read" else catalogue.writing
    with pytest.raises(CatalogueError, match="tda rebuild"), opening(workspace) as connection:
        connection.execute("SELECT * FROM studies").fetchall()


@pytest.mark.parametrize(("version", "expected"), [("7", "this program knows"), ("0", "needs version")])
def test_another_schema_version_says_what_to_do(workspace: Workspace, version: str, expected: str):
    with catalogue.writing(workspace) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", [version])
    for opening in (catalogue.reading, catalogue.writing):
        with pytest.raises(CatalogueError, match=f"{expected}.*tda rebuild"), opening(workspace):
            pass


def test_a_database_of_another_program_is_refused(tmp_path: Path):
    workspace = Workspace.at(tmp_path / "other.duckdb")
    with duckdb.connect(str(workspace.catalogue)) as connection:
        connection.execute("CREATE TABLE theirs (a INTEGER)")
    with pytest.raises(CatalogueError, match="not a catalogue of this program"):
        catalogue.connect_writer(workspace)


def test_wrong_sql_is_not_mistaken_for_a_damaged_file(workspace: Workspace):
    with pytest.raises(duckdb.ParserException):
        repository.query(workspace, "SELEC 1")
