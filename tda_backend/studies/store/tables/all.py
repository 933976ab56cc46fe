"""All tables of the catalogue, by topic. A new table is declared in the module of its topic, or in a new one here."""

from __future__ import annotations

from tda_backend.studies.store.tables import (
    bookkeeping,
    counterfactual,
    evaluation,
    examples,
    lookahead,
    models,
    rules,
    studies,
    trajectory,
)
from tda_backend.studies.store.tables.base import Table, View

TOPICS = (studies, examples, models, evaluation, rules, counterfactual, trajectory, lookahead, bookkeeping)
ALL: tuple[Table, ...] = tuple(table for topic in TOPICS for table in topic.TABLES)
VIEWS: tuple[View, ...] = evaluation.VIEWS


def table_named(name: str) -> Table:
    """Return a table by its name."""
    return next(table for table in ALL if table.name == name)
