"""The reader's documentation of the catalogue, made from the declared tables."""

from __future__ import annotations

from collections.abc import Iterator

from tda_backend.studies.store.tables.all import TOPICS, VIEWS
from tda_backend.studies.store.tables.base import Table

_HEAD = """# Tables of the catalogue

The catalogue is a DuckDB file. The artifacts are the truth: `tda rebuild` makes all of this again from them.

Positive scores help. `regularization` is λ in units of the mean Gram F = JᵀJ/n. `position` counts the rows of a split
from 0. A configuration never contains λ. Every table but `meta` has `study_id`. Tables marked *shipped* travel with the
project as Parquet files (`tda export STUDY`), without `study_id`.
"""


def tables_markdown() -> str:
    """Return every table of the catalogue with its columns, as Markdown (``docs/tables.md``)."""
    lines = [_HEAD]
    for topic in TOPICS:
        lines.append(f"## {(topic.__doc__ or '').rstrip('.')}\n")
        for table in topic.TABLES:
            lines += _table(table)
    lines.append("## Views\n")
    lines += [f"- `{view.name}`: {view.meaning}" for view in VIEWS]
    return "\n".join(lines) + "\n"


def _table(table: Table) -> Iterator[str]:
    yield f"### {table.name}{' (shipped)' if table.shipped else ''}\n"
    yield f"{table.meaning}.\n"
    yield "| column | type | meaning |"
    yield "|---|---|---|"
    for column in table.columns:
        meaning = column.meaning.replace("|", "\\|")
        yield f"| `{column.name}` | {column.type.sql} | {meaning} |"
    yield ""
