"""From finished artifacts to catalogue rows: drops, and one handler per kind of step.

A finished step leaves a *drop*: a small JSON file in the inbox that names the study and the artifact. Whoever may write
to the catalogue reads drops, one transaction each; a drop is deleted after its commit and reading it again changes
nothing, so a process may die anywhere in between.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import duckdb

from tda_backend.errors import ArtifactError, CatalogueError
from tda_backend.store import faults
from tda_backend.store.artifacts import Artifact, ArtifactStore
from tda_backend.store.catalogue import catalogue_error
from tda_backend.store.workspace import Workspace, read_json, write_json

STUDY_TABLES = (
    "studies", "tasks", "examples", "predictions", "checkpoints", "configurations", "spectra", "lds", "lds_query",
    "indicator", "selections", "rules", "tuning", "races", "verdicts", "retrainings", "top_examples", "removals",
    "loo_effects", "loo_scores", "noisy_labels", "noisy_rows", "trajectory_runs", "trajectory_agreement",
    "trajectory_gains", "trajectory_effects", "trajectory_errors", "trajectory_paths", "lookahead_runs",
    "lookahead_curves", "lookahead_tuned", "lookahead_gains", "lookahead_examples", "timings", "jobs", "ingested",
)  # fmt: skip


def write_drop(workspace: Workspace, content: Mapping[str, Any]) -> Path:
    """Put a drop into the inbox; names sort in order of writing."""
    path = workspace.inbox / f"{time.time_ns():020d}-{uuid.uuid4().hex[:6]}.json"
    write_json(path, content)
    return path


def pending_drops(workspace: Workspace) -> list[Path]:
    """Return the drops that wait, oldest first."""
    return sorted(path for path in workspace.inbox.glob("*.json") if not path.name.startswith("."))


def ingest_inbox(workspace: Workspace, connection: duckdb.DuckDBPyConnection) -> int:
    """Ingest every waiting drop and return how many there were.

    A drop that cannot be read, or whose artifact is damaged, is put aside as ``*.refused`` and the others go on; the
    next run of its study finds that the step is not in the catalogue, checks the artifact and drops it again.
    """
    count = 0
    store = ArtifactStore(workspace.artifacts)
    for path in pending_drops(workspace):
        content = read_json(path)
        try:
            if content is None:
                raise ArtifactError(f"The drop {path.name} cannot be read.")
            apply_drop(connection, store, content)
        except ArtifactError:
            path.replace(path.with_suffix(".refused"))
            continue
        except duckdb.Error as error:
            raise catalogue_error(error, workspace.catalogue) from error
        path.unlink(missing_ok=True)
        count += 1
    return count


def apply_drop(connection: duckdb.DuckDBPyConnection, store: ArtifactStore, content: Mapping[str, Any]) -> None:
    """Write the rows of one drop in one transaction.

    Args:
        connection: Open for writing.
        store: Where the artifact lies.
        content: ``kind`` = ``step`` (``study_id``, ``key``, ``label``, ``context``) or ``job`` (a row of ``jobs``).
    """
    connection.execute("BEGIN")
    try:
        if content.get("kind") == "job":
            _ingest_job(connection, content)
        elif content.get("kind") == "step":
            _ingest_step(connection, store, content)
        else:
            raise ArtifactError("A drop has no known kind.")
        faults.reach("ingest", "uncommitted")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    faults.reach("ingest", "committed")


def _ingest_job(connection: duckdb.DuckDBPyConnection, row: Mapping[str, Any]) -> None:
    connection.execute("DELETE FROM jobs WHERE job_id = ?", [row["job_id"]])
    connection.execute(
        "INSERT INTO jobs VALUES (?, ?, ?, to_timestamp(?), to_timestamp(?), ?, ?, ?, ?)",
        [row[key] for key in ("study_id", "job_id", "status", "started", "finished", "steps_computed", "steps_cached",
                              "seconds", "message")],
    )  # fmt: skip


def _ingest_step(connection: duckdb.DuckDBPyConnection, store: ArtifactStore, drop: Mapping[str, Any]) -> None:
    study_id, key, label = drop["study_id"], drop["key"], drop["label"]
    known = connection.execute("SELECT 1 FROM ingested WHERE study_id = ? AND artifact = ?", [study_id, key]).fetchall()
    context = drop.get("context") or {}
    if known and "missing" not in context:
        return
    artifact = store.open(key)
    if "replaces" in context:
        _forget(connection, study_id, label, context["replaces"])
    handler = HANDLERS.get(artifact.step)
    if handler is not None:
        handler(connection, artifact, study_id, context)
    if artifact.step != "study":
        manifest = artifact.manifest
        connection.execute(
            "INSERT INTO timings VALUES (?, ?, ?, ?, ?, ?, to_timestamp(?), ?)",
            [study_id, artifact.step, label, manifest["seconds"], manifest.get("peak_memory_mib"), artifact.num_bytes,
             manifest["finished"], manifest.get("device", "cpu")],
        )  # fmt: skip
    connection.execute("INSERT INTO ingested VALUES (?, ?, ?, now())", [study_id, key, label])


def _forget(
    connection: duckdb.DuckDBPyConnection, study_id: str, label: str, replaces: Mapping[str, Mapping[str, Any]]
) -> None:
    """Delete what a step has left that was computed without some inputs: its rows (table → columns), and itself."""
    for table, columns in {**replaces, "timings": {"label": label}, "ingested": {"label": label}}.items():
        where = {"study_id": study_id, **columns}
        connection.execute(
            f"DELETE FROM {table} WHERE {' AND '.join(f'{name} = ?' for name in where)}", list(where.values())
        )


def _insert(connection: duckdb.DuckDBPyConnection, table: str, artifact: Artifact, name: str, constants: dict) -> None:
    """Insert a parquet file of ``artifact`` into ``table`` by column names, with constant columns in front."""
    rows = artifact.table(name)
    columns = ", ".join(f'"{column}"' for column in [*constants, *rows.column_names])
    view = f"incoming_{uuid.uuid4().hex[:8]}"
    connection.register(view, rows)
    try:
        connection.execute(
            f"INSERT INTO {table} ({columns}) SELECT {', '.join('?' for _ in constants)}, * FROM {view}",
            list(constants.values()),
        )
    finally:
        connection.unregister(view)


def _ingest_study(connection: duckdb.DuckDBPyConnection, artifact: Artifact, study_id: str, context: dict) -> None:
    record = read_json(artifact.file("study.json"))
    if record is None:
        raise ArtifactError(f"study.json of {artifact.describe()} is not readable.")
    for table in STUDY_TABLES:  # the same study with other steps (the task's code changed) replaces the old one
        connection.execute(f"DELETE FROM {table} WHERE study_id = ?", [study_id])
    counts, task = record["counts"], record["task"]
    connection.execute(
        "INSERT INTO studies VALUES (?, ?, ?, ?, to_timestamp(?), ?, ?, ?, ?, ?, ?, ?)",
        [study_id, record["name"], artifact.key, task["name"], artifact.manifest["finished"],
         json.dumps(record["config"]), json.dumps(record["info"]), counts["train"], counts["validation"],
         counts["queries"], counts["subsets"], len(record["steps"])],
    )  # fmt: skip
    connection.execute(
        "INSERT INTO tasks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [study_id, task["name"], task["spec"], task["fingerprint"], task["num_classes"], task["class_names"],
         task["measurement_sign"], task["margin_identity"], json.dumps(task["training"])],
    )  # fmt: skip
    rows = [
        [study_id, row["configuration_id"], row["method"], row["title"], row["training_epoch"], row["projection_dim"],
         json.dumps(row["parameters"]), row["label"], row["has_regularization"], row["num_seeds"], row["num_sources"],
         ordinal]
        for ordinal, row in enumerate(record["configurations"])
    ]  # fmt: skip
    if rows:
        connection.executemany(f"INSERT INTO configurations VALUES ({', '.join('?' * 12)})", rows)


def _ingest_examples(connection: duckdb.DuckDBPyConnection, artifact: Artifact, study_id: str, context: dict) -> None:
    for table in ("examples", "noisy_rows"):
        if f"{table}.parquet" in artifact.manifest["files"]:
            _insert(connection, table, artifact, table, {"study_id": study_id})


def _ingest_train(connection: duckdb.DuckDBPyConnection, artifact: Artifact, study_id: str, context: dict) -> None:
    constants = {"study_id": study_id, "seed_index": context["seed_index"]}
    _insert(connection, "checkpoints", artifact, "checkpoints", {**constants, "artifact": artifact.key})
    _insert(connection, "predictions", artifact, "predictions", constants)


def _ingest_retrain(connection: duckdb.DuckDBPyConnection, artifact: Artifact, study_id: str, context: dict) -> None:
    constants = {"study_id": study_id, "alpha": context["alpha"], "artifact": artifact.key}
    _insert(connection, "retrainings", artifact, "retrainings", constants)


def _ingest_source(connection: duckdb.DuckDBPyConnection, artifact: Artifact, study_id: str, context: dict) -> None:
    eigenvalues = artifact.array("eigenvalues").tolist() if artifact.step != "scores" else []
    num_cut = int(artifact.manifest.get("num_cut", 0))
    for configuration_id in context["configurations"]:
        connection.execute(
            "INSERT INTO spectra VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [study_id, configuration_id, context["seed_index"], artifact.step, len(eigenvalues), num_cut, eigenvalues,
             artifact.key],
        )  # fmt: skip


def _ingest_evaluate(connection: duckdb.DuckDBPyConnection, artifact: Artifact, study_id: str, context: dict) -> None:
    """Insert curves and selections unless rows from more subsets are there already; fewer are replaced."""
    configuration_id, num_subsets = context["configuration_id"], context["num_subsets"]
    present = connection.execute(
        "SELECT max(num_subsets) FROM lds WHERE study_id = ? AND configuration_id = ?", [study_id, configuration_id]
    ).fetchall()[0][0]
    if present is not None and present > num_subsets:
        return
    constants = {"study_id": study_id, "configuration_id": configuration_id}
    for table in ("lds", "lds_query", "indicator", "selections", "top_examples"):
        connection.execute(
            f"DELETE FROM {table} WHERE study_id = ? AND configuration_id = ?", [study_id, configuration_id]
        )
        if f"{table}.parquet" in artifact.manifest["files"]:
            _insert(connection, table, artifact, table, constants)


def _ingest_claims(connection: duckdb.DuckDBPyConnection, artifact: Artifact, study_id: str, context: dict) -> None:
    _insert(connection, "verdicts", artifact, "verdicts", {"study_id": study_id})


def _ingest_removal(connection: duckdb.DuckDBPyConnection, artifact: Artifact, study_id: str, context: dict) -> None:
    constants = {"study_id": study_id, "configuration_id": context["configuration_id"], "label": context["label"]}
    _insert(connection, "removals", artifact, "removals", constants)


def _ingest_loo(connection: duckdb.DuckDBPyConnection, artifact: Artifact, study_id: str, context: dict) -> None:
    _insert(connection, "loo_effects", artifact, "loo_effects", {"study_id": study_id})


def _ingest_tables(*tables: str) -> Callable[[duckdb.DuckDBPyConnection, Artifact, str, dict], None]:
    """Return a handler that inserts those of ``tables`` that the artifact has, its run's columns in front."""

    def handle(connection: duckdb.DuckDBPyConnection, artifact: Artifact, study_id: str, context: dict) -> None:
        constants = {"study_id": study_id, **context.get("columns", {})}
        for table in tables:
            if f"{table}.parquet" in artifact.manifest["files"]:
                _insert(connection, table, artifact, table, constants)

    return handle


def _ingest_of_configuration(table: str) -> Callable[[duckdb.DuckDBPyConnection, Artifact, str, dict], None]:
    """Return a handler that inserts the artifact's rows of one table for one configuration."""

    def handle(connection: duckdb.DuckDBPyConnection, artifact: Artifact, study_id: str, context: dict) -> None:
        constants = {"study_id": study_id, "configuration_id": context["configuration_id"]}
        _insert(connection, table, artifact, table, constants)

    return handle


HANDLERS: dict[str, Callable[[duckdb.DuckDBPyConnection, Artifact, str, dict], None]] = {
    "study": _ingest_study,
    "examples": _ingest_examples,
    "train": _ingest_train,
    "retrain": _ingest_retrain,
    "spectrum": _ingest_source,
    "curvature": _ingest_source,
    "kronecker": _ingest_source,
    "scores": _ingest_source,
    "evaluate": _ingest_evaluate,
    "claims": _ingest_claims,
    "rules": _ingest_tables("rules", "tuning", "races"),
    "removal-order": _ingest_removal,
    "removal": _ingest_removal,
    "loo": _ingest_loo,
    "loo-scores": _ingest_of_configuration("loo_scores"),
    "detect": _ingest_of_configuration("noisy_labels"),
    "trajectory-comparison": _ingest_tables(
        "trajectory_runs",
        "trajectory_agreement",
        "trajectory_gains",
        "trajectory_effects",
        "trajectory_errors",
        "trajectory_paths",
    ),
    "trajectory-summary": _ingest_tables("trajectory_agreement", "trajectory_gains", "trajectory_errors"),
    "lookahead": _ingest_tables("lookahead_runs", "lookahead_curves"),
    "lookahead-summary": _ingest_tables("lookahead_tuned", "lookahead_gains", "lookahead_examples"),
}


def check_writable(workspace: Workspace, connection: duckdb.DuckDBPyConnection) -> None:
    """Raise a CatalogueError if the file does not hold the tables that drops are written to."""
    names = {row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
    missing = sorted({*STUDY_TABLES} - names)
    if missing:
        raise CatalogueError(
            f"The catalogue {workspace.catalogue} lacks the tables {', '.join(missing)}.",
            f"Make it again from the artifacts: tda rebuild --db {workspace.catalogue}",
        )
