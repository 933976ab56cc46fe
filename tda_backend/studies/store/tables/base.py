"""A table of the catalogue, declared once: SQL, Arrow schema, insert, select and documentation follow from it."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd
    from _typeshed import DataclassInstance

    Record = Mapping[str, Any] | DataclassInstance

STUDY_ID = "study_id"


@dataclasses.dataclass(frozen=True)
class Type:
    """A type of column.

    Attributes:
        sql: As DuckDB calls it.
        arrow: What a step writes into its Parquet file.
    """

    sql: str
    arrow: pa.DataType

    def list(self) -> Type:
        """Return the type of a list of these."""
        return Type(f"{self.sql}[]", pa.list_(self.arrow))


VARCHAR = Type("VARCHAR", pa.string())
JSON = Type("JSON", pa.string())
BLOB = Type("BLOB", pa.binary())
BOOLEAN = Type("BOOLEAN", pa.bool_())
INTEGER = Type("INTEGER", pa.int32())
BIGINT = Type("BIGINT", pa.int64())
FLOAT = Type("FLOAT", pa.float32())
DOUBLE = Type("DOUBLE", pa.float64())
TIMESTAMP = Type("TIMESTAMP", pa.timestamp("us", tz="UTC"))  # DuckDB turns it into local time as it is inserted
VARCHARS, INTEGERS, FLOATS, DOUBLES = (each.list() for each in (VARCHAR, INTEGER, FLOAT, DOUBLE))


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        name: Its name, in SQL and in Parquet.
        type: Its type.
        meaning: What it holds, where the name does not say it.
        nullable: An integer that may be NULL; pandas then holds it as ``Int64``.
        given: The drop says it (which study, which run); the step does not write it.
    """

    name: str
    type: Type
    meaning: str = ""
    nullable: bool = False
    given: bool = False

    @property
    def holds_json(self) -> bool:
        """Whether its values are JSON, written as text."""
        return self.type is JSON


def given(name: str, type: Type, meaning: str = "", nullable: bool = False) -> Column:
    """Return a column that the drop fills."""
    return Column(name, type, meaning, nullable, given=True)


def columns(type: Type, *names: str) -> tuple[Column, ...]:
    """Return columns of one type whose names say what they hold."""
    return tuple(Column(name, type) for name in names)


STUDY = given(STUDY_ID, VARCHAR)
EVERY_ROW = "TRUE"
"""The condition that ships a whole table."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the catalogue.

    Attributes:
        name: Its name; a step writes it into ``<name>.parquet``.
        meaning: What it holds.
        columns: In the order of the catalogue.
        order: SQL expressions by which readers get its rows, with commas; empty: as they were inserted.
        shipped: Condition on the rows that travel with the project as shipped results; empty: none do.
    """

    name: str
    meaning: str
    columns: tuple[Column, ...]
    order: str = ""
    shipped: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all columns."""
        return tuple(column.name for column in self.columns)

    @property
    def context(self) -> tuple[str, ...]:
        """Names of the columns that the drop fills."""
        return tuple(column.name for column in self.columns if column.given)

    @property
    def nullable(self) -> tuple[str, ...]:
        """Names of the integer columns that may be NULL."""
        return tuple(column.name for column in self.columns if column.nullable)

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of what a step writes: all columns that the drop does not fill."""
        return pa.schema([(column.name, column.type.arrow) for column in self.columns if not column.given])

    def create(self, absent: bool = False) -> str:
        """Return the statements that make the table, with its meaning and its columns' as comments.

        Args:
            absent: Do nothing if the catalogue has it.
        """
        body = ", ".join(f"{quoted(column.name)} {column.type.sql}" for column in self.columns)
        statements = [
            f"CREATE TABLE {'IF NOT EXISTS ' if absent else ''}{quoted(self.name)} ({body})",
            f"COMMENT ON TABLE {quoted(self.name)} IS {_text(self.meaning)}",
        ]
        statements += [
            f"COMMENT ON COLUMN {quoted(self.name)}.{quoted(column.name)} IS {_text(column.meaning)}"
            for column in self.columns
            if column.meaning
        ]
        return ";\n".join(statements) + ";\n"

    def rows(self, records: Iterable[Record]) -> pa.Table:
        """Return what a step writes: one row per mapping or dataclass instance; what one lacks is NULL.

        Raises:
            ValueError: A record has a field that no column is for.
        """
        rows = [dict(each) if isinstance(each, Mapping) else _fields(each) for each in records]
        unknown = {name for row in rows for name in row} - {*self.schema.names}
        if unknown:
            raise ValueError(f"Table {self.name} has no column for {', '.join(sorted(unknown))}.")
        return pa.Table.from_pylist(rows, schema=self.schema)

    def of_frame(self, frame: pd.DataFrame) -> pa.Table:
        """Return what a step writes from a frame that has all of its columns: each with its declared type."""
        return pa.Table.from_pandas(frame, schema=self.schema, preserve_index=False)

    def record(self, source: object, **more: Any) -> dict[str, Any]:
        """Return one row: those attributes of ``source`` that the table has columns for, and ``more``."""
        return {name: getattr(source, name) for name in self.schema.names if hasattr(source, name)} | more

    def insert(self, connection: duckdb.DuckDBPyConnection, rows: pa.Table, **constants: Any) -> None:
        """Insert rows by column names, each with the same ``constants`` in further columns."""
        names = ", ".join(quoted(name) for name in [*constants, *rows.column_names])
        view = f"incoming_{uuid.uuid4().hex[:8]}"
        connection.register(view, rows)
        try:
            connection.execute(
                f"INSERT INTO {quoted(self.name)} ({names}) SELECT {', '.join('?' for _ in constants)}"
                f"{', ' if constants else ''}* FROM {view}",
                list(constants.values()),
            )
        finally:
            with contextlib.suppress(duckdb.Error):  # refused in a transaction that has failed, which hides the reason
                connection.unregister(view)

    def delete(self, connection: duckdb.DuckDBPyConnection, **where: Any) -> None:
        """Delete the rows whose columns have these values."""
        delete_rows(connection, self.name, where)

    def holds(self, connection: duckdb.DuckDBPyConnection, **where: Any) -> bool:
        """Return whether there is a row whose columns have these values."""
        sql = f"SELECT 1 FROM {quoted(self.name)}{_where(where)} LIMIT 1"
        return bool(connection.execute(sql, list(where.values())).fetchall())

    def maximum(self, connection: duckdb.DuckDBPyConnection, column: str, **where: Any) -> Any:
        """Return the largest value of a column among the rows with these values, or ``None`` if there is none."""
        sql = f"SELECT max({quoted(column)}) FROM {quoted(self.name)}{_where(where)}"
        return connection.execute(sql, list(where.values())).fetchall()[0][0]

    def select(
        self, where: Sequence[str] = (STUDY_ID,), columns: Sequence[str] | None = None, order: str = "", only: str = ""
    ) -> str:
        """Return a SELECT with one placeholder for each column in ``where``.

        Args:
            where: Columns that must equal the placeholders.
            columns: What to select; ``None``: all but the study's id. JSON comes as text.
            order: SQL expressions to order by; empty: as the table declares.
            only: A further condition on the rows.
        """
        by = {column.name: column for column in self.columns}
        wanted = [by[name] for name in columns or [name for name in self.names if name != STUDY_ID]]
        parts = ", ".join(
            f"{quoted(column.name)}::VARCHAR AS {quoted(column.name)}" if column.holds_json else quoted(column.name)
            for column in wanted
        )
        conditions = _where(dict.fromkeys(where), only)
        return f"SELECT {parts} FROM {quoted(self.name)}{conditions} ORDER BY {order or self.order or 'rowid'}"


@dataclasses.dataclass(frozen=True)
class View:
    """A view of the catalogue.

    Attributes:
        name: Its name.
        meaning: What it shows.
        sql: The SELECT behind it.
    """

    name: str
    meaning: str
    sql: str

    def create(self) -> str:
        """Return the statements that make the view."""
        return (
            f"CREATE VIEW {quoted(self.name)} AS {self.sql};\n"
            f"COMMENT ON VIEW {quoted(self.name)} IS {_text(self.meaning)};\n"
        )


def utc(seconds: float) -> datetime:
    """Return a time given in seconds since 1970, for a TIMESTAMP column, as `to_timestamp` of DuckDB."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=round(seconds * 1e6))


def delete_rows(connection: duckdb.DuckDBPyConnection, table: str, where: Mapping[str, Any]) -> None:
    """Delete the rows of a table whose columns have these values."""
    connection.execute(f"DELETE FROM {quoted(table)}{_where(where)}", list(where.values()))


def _fields(record: DataclassInstance) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}


def _where(columns: Mapping[str, Any], only: str = "") -> str:
    conditions = [f"{quoted(name)} = ?" for name in columns] + ([f"({only})"] if only else [])
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def quoted(name: str) -> str:
    """Return a name as SQL has it, whatever it is: names may come from a file that somebody else made."""
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


def _text(words: str) -> str:
    return "'" + words.replace("'", "''") + "'"
