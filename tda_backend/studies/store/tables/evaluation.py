"""How well a configuration predicts: LDS, ξ, λ*, and the examples that it names."""

from __future__ import annotations

from tda_backend.studies.store.tables.base import (
    BOOLEAN,
    DOUBLE,
    EVERY_ROW,
    FLOATS,
    INTEGER,
    INTEGERS,
    JSON,
    STUDY,
    VARCHAR,
    VARCHARS,
    Column,
    Table,
    View,
    columns,
    given,
)

LDS = Table(
    "lds",
    "Linear datamodelling score: mean over queries with a 95 % bootstrap interval over subsets",
    (
        STUDY,
        given("configuration_id", VARCHAR),
        Column("alpha", DOUBLE),
        Column("regularization", DOUBLE, "λ; NULL for methods without one"),
        *columns(DOUBLE, "mean", "ci_low", "ci_high"),
        Column("num_undefined", INTEGER, "Queries dropped because a rank correlation has no value (constant side)"),
        Column("num_subsets", INTEGER, "Retrained subsets behind this number; fewer while a study is running"),
        Column("is_selected", BOOLEAN, "True for the row at λ*, false for the grid"),
    ),
    order="regularization, is_selected",
    shipped=EVERY_ROW,
)

LDS_QUERY = Table(
    "lds_query",
    "LDS of every query; element i (1-based) belongs to query position i-1; NaN: undefined",
    (
        STUDY,
        given("configuration_id", VARCHAR),
        Column("alpha", DOUBLE),
        Column("regularization", DOUBLE),
        Column("num_subsets", INTEGER),
        Column("lds", FLOATS),
    ),
    order="regularization",
)

INDICATOR = Table(
    "indicator",
    "Surrogate indicator ξ over the validation points",
    (
        STUDY,
        given("configuration_id", VARCHAR),
        *columns(DOUBLE, "regularization", "mean", "q05", "q25", "q50", "q75", "q95"),
        Column("num_dropped", INTEGER, "Validation points without a value (no component in the spectrum)"),
        Column("is_selected", BOOLEAN),
    ),
    order="regularization, is_selected",
    shipped=EVERY_ROW,
)

SELECTIONS = Table(
    "selections",
    "λ* of Algorithm 1 beside the spectrum quantiles and the best λ of grid and λ*",
    (
        STUDY,
        given("configuration_id", VARCHAR),
        *columns(DOUBLE, "alpha", "lambda_selected", "xi_at_selected", "threshold"),
        Column("num_crossings", INTEGER),
        Column("warnings", VARCHARS),
        *columns(DOUBLE, "lds_selected", "lds_selected_low", "lds_selected_high", "lambda_best", "lds_best"),
        Column("regret", DOUBLE, "lds_best - lds_selected, never negative"),
        Column("lds_at_zero", DOUBLE),
        Column("quantiles", JSON, "quantile → {lambda, lds, regret}"),
        Column("num_subsets", INTEGER),
    ),
    shipped=EVERY_ROW,
)

TOP_EXAMPLES = Table(
    "top_examples",
    "Training positions with the highest and lowest scores of each query at λ*",
    (
        STUDY,
        given("configuration_id", VARCHAR),
        Column("query", INTEGER),
        Column("regularization", DOUBLE),
        Column("helpful", INTEGERS, "Training positions, most helpful first"),
        Column("helpful_scores", FLOATS),
        Column("harmful", INTEGERS, "Training positions, most harmful first"),
        Column("harmful_scores", FLOATS),
    ),
)

LDS_PER_QUERY = View(
    "lds_per_query",
    "lds_query, one row per query",
    "SELECT study_id, configuration_id, alpha, regularization, num_subsets, "
    "unnest(range(len(lds)))::INTEGER AS query, unnest(lds) AS lds FROM lds_query",
)

TABLES = (LDS, LDS_QUERY, INDICATOR, SELECTIONS, TOP_EXAMPLES)
VIEWS = (LDS_PER_QUERY,)
