"""Queries on the catalogue, each answered as a pandas DataFrame or a record. The only SQL that readers use."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from tda_backend.errors import UsageError, command
from tda_backend.studies.store.catalogue import reading
from tda_backend.studies.store.tables.all import table_named
from tda_backend.studies.store.tables.base import Table
from tda_backend.studies.store.tables.bookkeeping import INGESTED, TIMINGS
from tda_backend.studies.store.tables.counterfactual import LOO_EFFECTS, LOO_SCORES, NOISY_LABELS, REMOVALS
from tda_backend.studies.store.tables.evaluation import INDICATOR, LDS
from tda_backend.studies.store.tables.examples import EXAMPLES, NOISY_ROWS
from tda_backend.studies.store.tables.models import SPECTRA
from tda_backend.studies.store.tables.rules import TUNING, VERDICTS
from tda_backend.studies.store.tables.studies import CONFIGURATIONS
from tda_backend.studies.store.workspace import Workspace


def query(workspace: Workspace, sql: str, parameters: Sequence[Any] = ()) -> pd.DataFrame:
    """Run one SELECT and return its rows; list columns become NumPy arrays."""
    with reading(workspace) as connection:
        # Through Arrow: DuckDB's own .df() relies on pandas internals that pandas 3 deprecates.
        relation = connection.sql(sql, params=list(parameters))
        return relation.to_arrow_table().to_pandas(date_as_object=False)


def rows(workspace: Workspace, table: Table, columns: Sequence[str] | None = None, **where: Any) -> pd.DataFrame:
    """Return the rows of a table whose columns have these values, in the order that the table declares.

    Args:
        workspace: Where the catalogue lies.
        table: Which table.
        columns: What to read; ``None``: all but the study's id.
        **where: Values by column.
    """
    return _typed(query(workspace, table.select(tuple(where), columns), list(where.values())), table)


def _typed(frame: pd.DataFrame, table: Table) -> pd.DataFrame:
    """Return ``frame`` with the integers of ``table`` that may be NULL as ``Int64``."""
    return frame.astype({name: "Int64" for name in table.nullable if name in frame})


def studies(workspace: Workspace) -> pd.DataFrame:
    """Return one row per study, newest first, with progress and best results."""
    return query(
        workspace,
        """
        WITH done AS (
            SELECT study_id, count(*) - 1 AS steps_done FROM ingested GROUP BY study_id),
        counted AS (
            SELECT study_id, count(*) AS num_configurations FROM configurations c
            WHERE c.num_sources <= (SELECT count(*) FROM spectra s WHERE s.study_id = c.study_id
                                    AND s.configuration_id = c.configuration_id) GROUP BY study_id),
        best AS (
            SELECT study_id, arg_max(c.label, mean) AS best_method, max(mean) AS best_lds,
                   arg_max(ci_low, mean) AS best_lds_low, arg_max(ci_high, mean) AS best_lds_high
            FROM lds JOIN configurations c USING (study_id, configuration_id) WHERE isfinite(mean) GROUP BY study_id),
        chosen AS (
            SELECT study_id, arg_max(lambda_selected, lds_selected) AS lambda_selected,
                   max(lds_selected) AS lds_selected
            FROM selections WHERE isfinite(lds_selected) GROUP BY study_id),
        last_job AS (
            SELECT study_id, arg_max(status, finished) AS last_status, arg_max(message, finished) AS last_message
            FROM jobs GROUP BY study_id)
        SELECT s.study_id, s.name, s.task, s.created, coalesce(d.steps_done, 0)::INTEGER AS steps_done, s.steps_total,
               coalesce(k.num_configurations, 0)::INTEGER AS num_configurations, s.num_train, s.num_queries,
               s.num_subsets, b.best_method, b.best_lds, b.best_lds_low, b.best_lds_high, c.lambda_selected,
               c.lds_selected, j.last_status, j.last_message
        FROM studies s LEFT JOIN done d USING (study_id) LEFT JOIN counted k USING (study_id)
             LEFT JOIN best b USING (study_id) LEFT JOIN chosen c USING (study_id) LEFT JOIN last_job j USING (study_id)
        ORDER BY s.created DESC
        """,
    )


@dataclass(frozen=True)
class KnownStudy:
    """A study of the catalogue.

    Attributes:
        study_id: Content key.
        name: What people call it; several may have the same name.
        config: The resolved study file.
        info: What pages show of it.
    """

    study_id: str
    name: str
    config: dict[str, Any]
    info: dict[str, Any]


def known_studies(workspace: Workspace) -> list[KnownStudy]:
    """Return the studies of the catalogue, newest first."""
    frame = query(workspace, "SELECT study_id, name, config, info FROM studies ORDER BY created DESC")
    found = frame.itertuples(index=False, name=None)
    return [KnownStudy(str(key), str(name), json.loads(config), json.loads(info)) for key, name, config, info in found]


def find_study(workspace: Workspace, name: str) -> KnownStudy:
    """Return the newest study called ``name``, the one whose id starts with it, or its ``--quick`` version.

    Raises:
        UsageError: There is none; the hint lists the names that exist.
    """
    found = known_studies(workspace)
    tests: tuple[Callable[[KnownStudy], bool], ...] = (
        lambda row: row.name == name,
        lambda row: row.study_id == name,
        lambda row: row.name == f"{name}-quick",
        lambda row: len(name) >= 4 and row.study_id.startswith(name),
    )
    for test in tests:
        for row in filter(test, found):
            return row
    names = list(dict.fromkeys(row.name for row in found))
    known = f"Studies here: {', '.join(names)}." if names else "This catalogue is empty."
    raise UsageError(
        f"There is no study {name!r} in {workspace.catalogue}.", f"{known} `{command('run', name)}` computes one."
    )


def ingested(workspace: Workspace, study_id: str) -> set[str]:
    """Return the keys of the artifacts of this study that the catalogue holds."""
    return {key for (key,) in rows(workspace, INGESTED, ("artifact",), study_id=study_id).itertuples(index=False)}


@dataclass(frozen=True)
class IngestedStep:
    """A finished step that the catalogue holds.

    Attributes:
        key: Of its artifact.
        label: For people.
    """

    key: str
    label: str


def ingested_steps(workspace: Workspace, study_id: str) -> list[IngestedStep]:
    """Return the finished steps of a study that the catalogue holds."""
    found = rows(workspace, INGESTED, ("artifact", "label"), study_id=study_id)
    return [IngestedStep(str(key), str(label)) for key, label in found.itertuples(index=False, name=None)]


def newest_fingerprint(workspace: Workspace, name: str) -> str | None:
    """Return the fingerprint of the task of the newest study of a name; ``None``: there is no such study."""
    found = query(
        workspace,
        """
        SELECT t.fingerprint FROM studies s JOIN tasks t ON t.study_id = s.study_id
        WHERE s.name = ? ORDER BY s.created DESC LIMIT 1
        """,
        [name],
    )
    return None if found.empty else str(found["fingerprint"][0])


def configurations(workspace: Workspace, study_id: str) -> pd.DataFrame:
    """Return the configurations whose spectra (or scores) are complete, in the order of the plan."""
    frame = query(
        workspace,
        """
        SELECT c.configuration_id, c.method, c.title, c.training_epoch, c.projection_dim,
               c.parameters::VARCHAR AS parameters, c.label, c.has_regularization,
               EXISTS (SELECT 1 FROM lds l WHERE l.study_id = c.study_id
                       AND l.configuration_id = c.configuration_id) AS has_lds, c.num_seeds
        FROM configurations c
        WHERE c.study_id = ? AND c.num_sources <= (
            SELECT count(*) FROM spectra s WHERE s.study_id = c.study_id AND s.configuration_id = c.configuration_id)
        ORDER BY c.ordinal
        """,
        [study_id],
    )
    return _typed(frame, CONFIGURATIONS)


def sources(workspace: Workspace, study_id: str, configuration_id: str) -> pd.DataFrame:
    """Return each training seed's spectrum or scores: kind, artifact, what is left out; by seed index."""
    columns = ("seed_index", "kind", "artifact", "num_eigenvalues", "trace_left_out", "largest_left_out")
    return rows(workspace, SPECTRA, columns, study_id=study_id, configuration_id=configuration_id)


def curve(workspace: Workspace, study_id: str, configuration_id: str, alpha: float) -> pd.DataFrame:
    """Return the LDS rows of one configuration, by λ."""
    columns = ("regularization", "mean", "ci_low", "ci_high", "num_subsets", "num_undefined", "is_selected")
    return rows(workspace, LDS, columns, study_id=study_id, configuration_id=configuration_id, alpha=alpha)


def query_curve(
    workspace: Workspace, study_id: str, configuration_id: str, position: int, alpha: float
) -> pd.DataFrame:
    """Return the LDS of one query, by λ."""
    return query(
        workspace,
        """SELECT regularization, lds[?]::DOUBLE AS lds FROM lds_query
           WHERE study_id = ? AND configuration_id = ? AND alpha = ? ORDER BY regularization""",
        [position + 1, study_id, configuration_id, alpha],
    )


def indicator(workspace: Workspace, study_id: str, configuration_id: str) -> pd.DataFrame:
    """Return ξ over λ with its quantiles over validation points."""
    return rows(workspace, INDICATOR, INDICATOR.schema.names, study_id=study_id, configuration_id=configuration_id)


def grid_edges(workspace: Workspace, study_id: str) -> pd.DataFrame:
    """Return the smallest and largest λ > 0 of the grid of every configuration: configuration_id, low, high."""
    return query(
        workspace,
        """SELECT configuration_id, min(regularization) AS low, max(regularization) AS high FROM indicator
           WHERE study_id = ? AND NOT is_selected AND regularization > 0 GROUP BY configuration_id""",
        [study_id],
    )


def selections(workspace: Workspace, study_id: str, alpha: float | None) -> pd.DataFrame:
    """Return λ* with its baselines for every configuration that has λ."""
    return query(
        workspace,
        """SELECT c.method, c.training_epoch, c.projection_dim, s.* EXCLUDE (study_id, quantiles),
                  s.quantiles::VARCHAR AS quantiles, c.label
           FROM selections s JOIN configurations c USING (study_id, configuration_id)
           WHERE s.study_id = ? AND (s.alpha = ? OR ?) ORDER BY c.ordinal, s.alpha""",
        [study_id, alpha, alpha is None],
    )


def rules(workspace: Workspace, study_id: str, alpha: float) -> pd.DataFrame:
    """Return what every rule for λ chose in every configuration."""
    return query(
        workspace,
        """SELECT c.label, c.method, c.training_epoch, c.projection_dim, r.* EXCLUDE (study_id)
           FROM rules r JOIN configurations c USING (study_id, configuration_id)
           WHERE r.study_id = ? AND r.alpha = ? ORDER BY c.ordinal, r.rowid""",
        [study_id, alpha],
    )


def tuning(workspace: Workspace, study_id: str, alpha: float) -> pd.DataFrame:
    """Return what rules without retraining chose among epochs and projection dimensions."""
    return rows(workspace, TUNING, study_id=study_id, alpha=alpha)


def races(workspace: Workspace, study_id: str, alpha: float) -> pd.DataFrame:
    """Return how the race of all configurations over the retrainings ended."""
    return query(
        workspace,
        """SELECT c.label, c.method, r.* EXCLUDE (study_id)
           FROM races r JOIN configurations c USING (study_id, configuration_id)
           WHERE r.study_id = ? AND r.alpha = ?""",
        [study_id, alpha],
    )


def verdicts(workspace: Workspace, study_id: str) -> pd.DataFrame:
    """Return the verdicts on a study's claims, in the order of the study file."""
    return rows(workspace, VERDICTS, study_id=study_id)


def eigenvalues(workspace: Workspace, study_id: str, configuration_id: str) -> pd.DataFrame:
    """Return the eigenvalues of each training seed."""
    return rows(workspace, SPECTRA, ("eigenvalues",), study_id=study_id, configuration_id=configuration_id)


def lds_table(workspace: Workspace, study_id: str, alpha: float) -> pd.DataFrame:
    """Return grid λ × configuration in long form."""
    frame = query(
        workspace,
        """SELECT configuration_id, c.method, c.title, c.training_epoch, c.projection_dim, c.label,
                  c.has_regularization, l.regularization, l.mean, l.ci_low, l.ci_high, l.num_subsets
           FROM lds l JOIN configurations c USING (study_id, configuration_id)
           WHERE l.study_id = ? AND l.alpha = ? AND NOT l.is_selected ORDER BY c.ordinal, l.regularization""",
        [study_id, alpha],
    )
    return _typed(frame, CONFIGURATIONS)


def examples(workspace: Workspace, study_id: str, split: str, seed_index: int = 0) -> pd.DataFrame:
    """Return the examples of a split with what the final checkpoint says of them."""
    return query(
        workspace,
        """SELECT e.position, e."index", e.label, p.prediction, p.goodness, p.loss, e.image, e."text", e.kind, e.caption
           FROM examples e LEFT JOIN predictions p ON p.study_id = e.study_id AND p."index" = e."index"
                AND p.seed_index = ? AND p.split = CASE WHEN e.split = 'train' THEN 'train' ELSE 'test' END
           WHERE e.study_id = ? AND e.split = ? ORDER BY e.position""",
        [seed_index, study_id, split],
    )


def timings(workspace: Workspace, study_id: str) -> pd.DataFrame:
    """Return what each step cost, in order of finishing."""
    return rows(workspace, TIMINGS, study_id=study_id)


def retrainings(workspace: Workspace, study_id: str, alpha: float) -> pd.DataFrame:
    """Return which artifact holds each retrained subset's outputs."""
    return query(
        workspace,
        """SELECT artifact, min(subset_index) AS first_subset, count(DISTINCT subset_index) AS num_subsets
           FROM retrainings WHERE study_id = ? AND alpha = ? GROUP BY artifact ORDER BY first_subset""",
        [study_id, alpha],
    )


def split_indices(workspace: Workspace, study_id: str, split: str) -> pd.DataFrame:
    """Return the data-set index of each position of a split."""
    return rows(workspace, EXAMPLES, ("index",), study_id=study_id, split=split)


def removals(workspace: Workspace, study_id: str) -> pd.DataFrame:
    """Return every retraining without some examples, in the order of the plan's labels, queries and sizes."""
    return rows(workspace, REMOVALS, study_id=study_id)


def _of_configurations(workspace: Workspace, study_id: str, table: Table) -> pd.DataFrame:
    frame = query(
        workspace,
        f"""SELECT configuration_id, c.method, c.label, c.training_epoch, c.projection_dim,
                  t.* EXCLUDE (study_id, configuration_id)
           FROM {table.name} t JOIN configurations c USING (study_id, configuration_id)
           WHERE study_id = ? ORDER BY c.ordinal, t.regularization, t.is_selected""",
        [study_id],
    )
    return _typed(frame, CONFIGURATIONS)


def loo_scores(workspace: Workspace, study_id: str) -> pd.DataFrame:
    """Return the correlations of scores with leave-one-out effects, by configuration and λ."""
    return _of_configurations(workspace, study_id, LOO_SCORES)


def noisy_labels(workspace: Workspace, study_id: str) -> pd.DataFrame:
    """Return how well self-influence finds wrong labels, by configuration and λ."""
    return _of_configurations(workspace, study_id, NOISY_LABELS)


def loo_effects(workspace: Workspace, study_id: str) -> pd.DataFrame:
    """Return what leaving out each example did to every query."""
    return rows(workspace, LOO_EFFECTS, study_id=study_id)


def noisy_rows(workspace: Workspace, study_id: str) -> pd.DataFrame:
    """Return the training positions with a wrong label, and the label before the study flipped it."""
    return rows(workspace, NOISY_ROWS, study_id=study_id)


def trajectory_rows(
    workspace: Workspace, study_id: str, table: str, learning_rate: float | None = None, seed_index: int | None = None
) -> pd.DataFrame:
    """Return a study's rows of a table about unrolled runs or look-ahead selection, by its name; or those of a run."""
    run = {"learning_rate": learning_rate, "seed_index": seed_index}
    wanted = {name: value for name, value in run.items() if value is not None}
    return rows(workspace, table_named(table), study_id=study_id, **wanted)
