"""What happens without some examples, and how well scores foretell it."""

from __future__ import annotations

from tda_backend.studies.store.tables.base import (
    BOOLEAN,
    DOUBLE,
    EVERY_ROW,
    FLOATS,
    INTEGER,
    STUDY,
    VARCHAR,
    Column,
    Table,
    given,
)

REMOVALS = Table(
    "removals",
    "Retraining without the most helpful training examples of a query; size 0: trained on everything",
    (
        STUDY,
        given("configuration_id", VARCHAR, "Who said what helps; NULL: random examples of the query's class"),
        given("label", VARCHAR, "Configuration and λ in words; one curve each"),
        Column("regularization", DOUBLE),
        Column("query", INTEGER),
        Column("size", INTEGER, "How many examples were removed; a query that has flipped is not retrained again"),
        Column(
            "available",
            INTEGER,
            "Examples that could be removed: those with a positive score (or of the query's class)",
        ),
        Column("num_seeds", INTEGER),
        Column(
            "mean_correct", DOUBLE, "Share of the retrained seeds that predict the query right; NULL without classes"
        ),
        Column("mean_goodness", DOUBLE),
        Column("flipped", BOOLEAN, "True where fewer than half of the seeds predict it right"),
    ),
    order="configuration_id IS NULL, label, query, size",
    shipped=EVERY_ROW,
)

LOO_EFFECTS = Table(
    "loo_effects",
    "What leaving out one training example really did: mean over seeds of f(D) - f(D without it)",
    (
        STUDY,
        Column("position", INTEGER, "Training position left out"),
        Column("num_seeds", INTEGER),
        Column("effects", FLOATS, "Effect on the goodness of every query; element i (1-based) is query i-1"),
        Column("standard_errors", FLOATS, "Of those means, over seeds; NaN with one seed"),
    ),
    order="position",
)

LOO_SCORES = Table(
    "loo_scores",
    "Spearman correlation of scores with leave-one-out effects, mean over queries",
    (
        STUDY,
        given("configuration_id", VARCHAR),
        Column("regularization", DOUBLE),
        Column("mean", DOUBLE),
        Column("ci_low", DOUBLE, "ci_low to ci_high: 95 % bootstrap over the examples left out"),
        Column("ci_high", DOUBLE),
        Column("per_example", DOUBLE, "The same correlation over queries, mean over the examples left out"),
        Column("ceiling", DOUBLE, "What perfect scores could reach, given the noise between seeds"),
        Column("num_undefined", INTEGER),
        Column("num_examples", INTEGER),
        Column("is_selected", BOOLEAN),
    ),
    shipped=EVERY_ROW,
)

NOISY_LABELS = Table(
    "noisy_labels",
    "Finding wrong labels by self-influence, highest first",
    (
        STUDY,
        given("configuration_id", VARCHAR),
        Column("regularization", DOUBLE),
        Column("is_selected", BOOLEAN),
        Column("auc", DOUBLE, "Area under the ROC curve; .5 is chance; auc_low to auc_high: 95 % over examples"),
        Column("auc_low", DOUBLE),
        Column("auc_high", DOUBLE),
        Column("recall", FLOATS, "Share of wrong labels among the first 10, 20 … 90 % inspected"),
        Column("recall_low", FLOATS),
        Column("recall_high", FLOATS),
        Column("num_flipped", INTEGER),
    ),
    shipped=EVERY_ROW,
)

TABLES = (REMOVALS, LOO_EFFECTS, LOO_SCORES, NOISY_LABELS)
