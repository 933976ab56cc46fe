"""Bring the catalogue of an earlier version up to date: every table as it is declared now, with all of its rows.

What a version adds is added: tables and columns, which older rows leave empty. A change that needs more than that is
one function in :data:`CHANGES`, under the schema version that it leads to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import duckdb

from tda_backend.studies.store.tables.all import ALL, VIEWS
from tda_backend.studies.store.tables.base import Table, quoted

OLDEST = 1
CHANGES: Mapping[int, Callable[[duckdb.DuckDBPyConnection], None]] = {}
"""By the version that it leads to: what must be done to the tables of the version before."""


def migrate(connection: duckdb.DuckDBPyConnection, version: int, wanted: int) -> None:
    """Bring the tables from one schema version to another, all or nothing.

    Args:
        connection: Open for writing.
        version: Of the file, :data:`OLDEST` or later.
        wanted: The version of the declared tables.
    """
    connection.execute("BEGIN")
    try:
        for number in range(version + 1, wanted + 1):
            if number in CHANGES:
                CHANGES[number](connection)
        for (view,) in connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall():
            connection.execute(f"DROP VIEW {quoted(view)}")
        for table in ALL:
            _renew(connection, table)
        for view in VIEWS:
            connection.execute(view.create())
        connection.execute("UPDATE meta SET value = ? WHERE key = 'schema_version'", [str(wanted)])
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _renew(connection: duckdb.DuckDBPyConnection, table: Table) -> None:
    """Make a table as it is declared, with the rows that it had."""
    sql = "SELECT column_name FROM duckdb_columns() WHERE table_name = ? AND NOT internal"
    had = {name for (name,) in connection.execute(sql, [table.name]).fetchall()}
    before = f"{table.name}_before"
    if had:
        connection.execute(f'ALTER TABLE "{table.name}" RENAME TO "{before}"')
    connection.execute(table.create())
    if had:
        kept = ", ".join(f'"{name}"' for name in table.names if name in had)
        connection.execute(f'INSERT INTO "{table.name}" ({kept}) SELECT {kept} FROM "{before}" ORDER BY rowid')
        connection.execute(f'DROP TABLE "{before}"')
