"""Queries of the tables about unrolled training runs and look-ahead selection."""

from __future__ import annotations

import pandas as pd

from tda_backend.store.repository import query
from tda_backend.store.workspace import Workspace

_ORDER = {
    "trajectory_runs": "learning_rate DESC, seed_index",
    "trajectory_agreement": "learning_rate DESC, seed_index NULLS FIRST, assumed, curvature, variant",
    "trajectory_gains": "learning_rate DESC, seed_index NULLS FIRST, curvature, variant",
    "trajectory_effects": "learning_rate DESC, seed_index, query NULLS FIRST",
    "trajectory_errors": "learning_rate DESC, seed_index NULLS FIRST, estimator DESC, step",
    "trajectory_paths": "learning_rate DESC, seed_index, position",
    "lookahead_runs": "strategy, horizon, learning_rate DESC, seed_index, split",
    "lookahead_curves": "strategy, horizon, learning_rate DESC, seed_index",
    "lookahead_tuned": "test_loss",
    "lookahead_gains": "strategy, against",
    "lookahead_examples": "strategy, position",
}
TRAJECTORY_TABLES = tuple(_ORDER)


def trajectory_rows(
    workspace: Workspace, study_id: str, table: str, learning_rate: float | None = None, seed_index: int | None = None
) -> pd.DataFrame:
    """Return a study's rows of one of ``TRAJECTORY_TABLES``, all columns but the study's id.

    Args:
        workspace: Where the catalogue lies.
        study_id: Whose rows.
        table: Which table.
        learning_rate: Only of this run.
        seed_index: Only of this run.
    """
    conditions: list[str] = ["study_id = ?"]
    values: list[str | float] = [study_id]
    for column, value in (("learning_rate", learning_rate), ("seed_index", seed_index)):
        if value is not None:
            conditions.append(f"{column} = ?")
            values.append(value)
    frame = query(
        workspace,
        f"SELECT * EXCLUDE (study_id) FROM {table} WHERE {' AND '.join(conditions)} ORDER BY {_ORDER[table]}",
        values,
    )
    for column in ("seed_index", "horizon", "query"):
        if column in frame:
            frame[column] = frame[column].astype("Int64")
    return frame
