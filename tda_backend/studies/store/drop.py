"""One finished step as its rows go into the catalogue, and what a kind of step says about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import duckdb
import pyarrow as pa

from tda_backend.errors import ArtifactError
from tda_backend.studies.store.artifact import Artifact
from tda_backend.studies.store.inbox import FinishedStep
from tda_backend.studies.store.tables.base import Table

if TYPE_CHECKING:
    from tda_backend.studies.store.tables.base import Record


@dataclass(frozen=True)
class Drop:
    """A finished step with its artifact, inside the transaction that takes it in.

    Attributes:
        connection: To the catalogue.
        step: What the drop says.
        artifact: What the step wrote.
    """

    connection: duckdb.DuckDBPyConnection
    step: FinishedStep
    artifact: Artifact

    @property
    def values(self) -> Mapping[str, Any]:
        """What the drop knows by name: study, artifact, and its context, those under ``columns`` included."""
        context = self.step.context
        columns = context.get("columns", {})
        return {**context, **columns, "study_id": self.step.study_id, "artifact": self.step.key}

    def value(self, name: str) -> Any:
        """Return one of :attr:`values`.

        Raises:
            ArtifactError: The drop does not say it.
        """
        if name not in self.values:
            raise ArtifactError(f"The drop of {self.artifact.describe()} does not say {name}.")
        return self.values[name]

    def insert_tables(self, tables: Iterable[Table]) -> None:
        """Insert every table that the artifact has a Parquet file of."""
        for table in tables:
            if self.artifact.has(f"{table.name}.parquet"):
                self.insert(table, self.artifact.table(table.name))

    def insert_records(self, table: Table, records: Iterable[Record]) -> None:
        """Insert rows that no file holds."""
        self.insert(table, table.rows(records))

    def insert(self, table: Table, rows: pa.Table) -> None:
        """Insert rows; the columns that they lack are filled with what the drop says of them."""
        values = self.values
        filled = {name: values[name] for name in table.context if name in values and name not in rows.column_names}
        table.insert(self.connection, rows, **filled)

    def holds(self, table: Table, **where: Any) -> bool:
        """Return whether the study has a row whose columns have these values."""
        return table.holds(self.connection, study_id=self.step.study_id, **where)

    def delete(self, table: Table, **where: Any) -> None:
        """Delete the study's rows whose columns have these values."""
        table.delete(self.connection, study_id=self.step.study_id, **where)

    def maximum(self, table: Table, column: str, **where: Any) -> Any:
        """Return the largest value of a column among the study's rows that have these values, or ``None``."""
        return table.maximum(self.connection, column, study_id=self.step.study_id, **where)


class Kind:
    """A kind of step, as far as its rows go. By default its Parquet files are rows of the tables of the same names.

    Attributes:
        TABLES: What its artifacts may hold rows of.
    """

    TABLES: ClassVar[tuple[Table, ...]] = ()

    @classmethod
    def ingest(cls, drop: Drop) -> None:
        """Write the rows of one finished step; columns that the drop fills are filled."""
        drop.insert_tables(cls.TABLES)


Kinds = Mapping[str, type[Kind]]
"""Kinds of step by name. A step of another kind was made by another version, and is refused."""
