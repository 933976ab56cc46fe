"""Training runs that were unrolled, and how well their predictions hold."""

from __future__ import annotations

from tda_backend.studies.store.tables.base import (
    BOOLEAN,
    DOUBLE,
    EVERY_ROW,
    FLOATS,
    INTEGER,
    INTEGERS,
    STUDY,
    VARCHAR,
    Column,
    Table,
    columns,
    given,
)

TRAJECTORY_RUNS = Table(
    "trajectory_runs",
    "Training runs that were recorded and unrolled",
    (
        STUDY,
        given("learning_rate", DOUBLE, "η₀ of the run; rates has η of every step"),
        given("seed_index", INTEGER, nullable=True),
        Column("optimizer", VARCHAR, "In words, as AdamW (betas 0.9, 0.95)"),
        *columns(INTEGER, "num_steps", "steps_per_epoch", "num_parameters"),
        Column("rates", FLOATS),
        Column("steps", INTEGERS),
        Column("losses", FLOATS, "Mean loss of the queries after steps[i] steps"),
    ),
    order="learning_rate DESC, seed_index",
    shipped=EVERY_ROW,
)

TRAJECTORY_AGREEMENT = Table(
    "trajectory_agreement",
    "Spearman correlation over removed examples of predicted and true effects, mean over queries",
    (
        STUDY,
        given("learning_rate", DOUBLE),
        given("seed_index", INTEGER, "NULL: mean over seeds", nullable=True),
        Column("assumed", VARCHAR, "as trained, or sgd: the optimizer that the prediction assumes"),
        Column("curvature", VARCHAR, "Second derivative of a batch: hessian, gauss-newton, fisher or none"),
        Column("variant", VARCHAR, "Truth: fixed (batch size kept in the mean) or smaller (one less)"),
        Column("mean", DOUBLE),
        Column("ci_low", DOUBLE, "ci_low to ci_high: 95 % bootstrap over removed examples"),
        Column("ci_high", DOUBLE),
        *columns(INTEGER, "num_removed", "num_queries", "num_undefined"),
    ),
    order="learning_rate DESC, seed_index NULLS FIRST, assumed, curvature, variant",
    shipped=EVERY_ROW,
)

TRAJECTORY_GAINS = Table(
    "trajectory_gains",
    "What it brings to assume the optimizer as trained instead of SGD, in pairs",
    (
        STUDY,
        given("learning_rate", DOUBLE),
        given("seed_index", INTEGER, "NULL: mean over seeds", nullable=True),
        Column("curvature", VARCHAR),
        Column("variant", VARCHAR),
        *columns(
            DOUBLE,
            "matched",
            "mismatched",
            "difference",
            "difference_low",
            "difference_high",
            "ratio",
            "ratio_low",
            "ratio_high",
        ),
    ),
    order="learning_rate DESC, seed_index NULLS FIRST, curvature, variant",
    shipped=EVERY_ROW,
)

TRAJECTORY_EFFECTS = Table(
    "trajectory_effects",
    "Effect of removing one training example on the loss of one query; positive: it helps",
    (
        STUDY,
        given("learning_rate", DOUBLE),
        given("seed_index", INTEGER, nullable=True),
        Column("query", INTEGER, "NULL: mean over all queries; the first queries also one by one", nullable=True),
        Column("positions", INTEGERS, "Training positions removed, one at a time; axis of the other lists"),
        *columns(FLOATS, "truth", "truth_smaller", "predicted", "predicted_sgd"),
        Column(
            "proxy", FLOATS, "Second-order estimate of truth - predicted, without retraining; cheap: its first term"
        ),
        Column("cheap", FLOATS),
    ),
    order="learning_rate DESC, seed_index, query NULLS FIRST",
    shipped="query IS NULL OR query < 6",
)

TRAJECTORY_ERRORS = Table(
    "trajectory_errors",
    "How the error of the prediction grows with the steps, and how well an estimate follows it",
    (
        STUDY,
        given("learning_rate", DOUBLE),
        given("seed_index", INTEGER, nullable=True),
        Column("step", INTEGER, "Steps trained: effects on the mean loss of the queries after them"),
        Column("mean_effect", DOUBLE),
        Column("mean_error", DOUBLE),
        Column("relative_error", DOUBLE, "mean |truth - predicted| / mean |truth|, over removed examples seen by then"),
        Column("error_low", DOUBLE),
        Column("error_high", DOUBLE),
        Column(
            "estimator",
            VARCHAR,
            "proxy (full second order), cheap (its first term), or sound: the "
            "proxy at the end, where it is at most half of the prediction",
        ),
        *columns(DOUBLE, "pearson", "pearson_low", "pearson_high", "spearman", "spearman_low", "spearman_high"),
        Column("slope", DOUBLE, "Of estimate against real error, least squares through 0"),
        Column(
            "num_removed",
            INTEGER,
            "Removed examples behind the row: those seen by then, for sound those with a small proxy",
        ),
    ),
    order="learning_rate DESC, seed_index NULLS FIRST, estimator DESC, step",
    shipped=EVERY_ROW,
)

TRAJECTORY_PATHS = Table(
    "trajectory_paths",
    "Effect of one training example on the mean loss of the queries, over the steps of the run",
    (
        STUDY,
        given("learning_rate", DOUBLE),
        given("seed_index", INTEGER, nullable=True),
        Column("position", INTEGER),
        Column(
            "sound",
            BOOLEAN,
            "The proxy is at most half of the prediction, in the mean over "
            "queries: the second order is a correction of the first",
        ),
        Column("seen", INTEGERS, "Steps (from 1) whose batch holds it"),
        Column("steps", INTEGERS, "Steps trained; axis of truth, predicted, proxy and cheap"),
        *columns(FLOATS, "truth", "predicted", "proxy", "cheap"),
    ),
    order="learning_rate DESC, seed_index, position",
    shipped=EVERY_ROW,
)

TABLES = (
    TRAJECTORY_RUNS,
    TRAJECTORY_AGREEMENT,
    TRAJECTORY_GAINS,
    TRAJECTORY_EFFECTS,
    TRAJECTORY_ERRORS,
    TRAJECTORY_PATHS,
)
