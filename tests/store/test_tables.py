"""A table is declared once: what a step writes, what the catalogue holds and what readers get follow from it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store.tables.all import ALL, VIEWS, table_named
from tda_backend.studies.store.tables.base import (
    BLOB,
    BOOLEAN,
    DOUBLE,
    EVERY_ROW,
    FLOATS,
    INTEGER,
    JSON,
    STUDY,
    STUDY_ID,
    TIMESTAMP,
    VARCHAR,
    VARCHARS,
    Column,
    Table,
    given,
    utc,
)
from tda_backend.studies.store.tables.documentation import tables_markdown

ROOT = Path(__file__).resolve().parents[2]
TABLE = Table(
    "some",
    "Rows of a test; it's quoted",
    (
        STUDY,
        Column("index", INTEGER, "A word of SQL"),
        given("seed_index", INTEGER),
        Column("text", VARCHAR),
        Column("content", JSON),
        Column("picture", BLOB),
        Column("yes", BOOLEAN),
        Column("value", DOUBLE),
        Column("values", FLOATS),
        Column("words", VARCHARS),
    ),
)


@dataclass(frozen=True)
class Row:
    index: int
    text: str | None


@pytest.fixture
def connection():
    with duckdb.connect() as opened:
        yield opened


def test_every_table_has_a_name_of_its_own_and_says_what_it_holds():
    names = [each.name for each in (*ALL, *VIEWS)]
    assert max(Counter(names).values()) == 1
    assert all(each.meaning for each in (*ALL, *VIEWS))
    assert [table.name for table in ALL if STUDY_ID not in table.names] == ["meta"]
    assert all(table_named(table.name) is table for table in ALL)


def sample(column: Column) -> object:
    """Return a value that a column can hold and that is not NULL."""
    arrow = column.type.arrow
    if pa.types.is_list(arrow):
        return ["a", "b"] if column.type is VARCHARS else [1, 2]
    if pa.types.is_integer(arrow):
        return 3
    exact = {VARCHAR: "words", JSON: '{"a":1}', BLOB: b"png", BOOLEAN: True, TIMESTAMP: utc(86400.0)}
    return exact.get(column.type, 2.5)


@pytest.mark.parametrize("table", ALL, ids=lambda table: table.name)
def test_what_a_step_writes_is_what_readers_get(table: Table, connection: duckdb.DuckDBPyConnection):
    """One row of every type goes through Parquet, the catalogue and the select, and comes out equal."""
    row = {column.name: sample(column) for column in table.columns if not column.given}
    rows = table.rows([row])
    assert rows.schema == table.schema
    connection.execute(table.create())
    table.insert(connection, rows, **dict.fromkeys(table.context))
    found = connection.sql(table.select(where=(), columns=table.schema.names)).to_arrow_table()
    for name in table.schema.names:
        if not pa.types.is_timestamp(table.schema.field(name).type):  # the catalogue holds local time
            assert found[name].to_pylist() == rows[name].to_pylist(), name


def test_rows_come_from_mappings_and_dataclasses_and_lack_nothing_they_name():
    assert TABLE.rows([Row(1, "a"), {"index": 2}]).select(["index", "text"]).to_pylist() == [
        {"index": 1, "text": "a"},
        {"index": 2, "text": None},
    ]
    assert TABLE.rows([]).schema == TABLE.schema
    with pytest.raises(ValueError, match="some has no column for colour"):
        TABLE.rows([{"index": 1, "colour": "green"}])
    with pytest.raises(ValueError, match="no column for seed_index"):  # the drop says it, not the step
        TABLE.rows([{"seed_index": 1}])


def test_rows_are_found_counted_and_deleted_by_their_columns(connection: duckdb.DuckDBPyConnection):
    connection.execute(TABLE.create())
    connection.execute(TABLE.create(absent=True))
    for study, index in (("a", 1), ("a", 5), ("b", 9)):
        TABLE.insert(connection, TABLE.rows([{"index": index}]), study_id=study, seed_index=0)
    assert TABLE.maximum(connection, "index", study_id="a") == 5
    assert TABLE.maximum(connection, "index", study_id="c") is None
    assert TABLE.holds(connection, study_id="b", index=9)
    assert not TABLE.holds(connection, study_id="b", index=5)
    TABLE.delete(connection, study_id="a", index=5)
    select = TABLE.select(columns=("index", "seed_index"), only="seed_index = 0")
    assert connection.execute(select, ["a"]).fetchall() == [(1, 0)]
    assert connection.execute(TABLE.select(where=(), columns=("index",), order='"index" DESC')).fetchall() == [
        (9,),
        (1,),
    ]


def test_every_kind_of_step_writes_declared_tables_and_some_kind_writes_each():
    written = {table for kind in KINDS.values() for table in kind.TABLES}
    assert written <= {*ALL}
    assert {table.name for table in {*ALL} - written} == {
        "meta",
        "studies",
        "tasks",
        "configurations",
        "timings",
        "jobs",
        "ingested",
    }


def test_shipped_files_hold_columns_of_their_tables():
    paths = [path for path in (ROOT / "data" / "results").glob("*/*.parquet") if path.stem != "study"]
    assert {path.stem for path in paths} <= {table.name for table in ALL if table.shipped}
    for path in paths:
        assert {*pq.read_schema(path).names} <= {*table_named(path.stem).names} - {STUDY_ID}, path
    assert {table.name for table in ALL if table.shipped not in ("", EVERY_ROW)} == {"trajectory_effects"}


def test_the_documentation_is_that_of_the_tables():
    """Write it anew: (ROOT / "docs" / "tables.md").write_text(tables_markdown())."""
    assert (ROOT / "docs" / "tables.md").read_text() == tables_markdown()
