"""What rules choose, and what papers claim."""

from __future__ import annotations

from tda_backend.studies.store.tables.base import (
    BOOLEAN,
    DOUBLE,
    EVERY_ROW,
    INTEGER,
    JSON,
    STUDY,
    VARCHAR,
    VARCHARS,
    Column,
    Table,
    columns,
)

RULES = Table(
    "rules",
    "What each rule for λ chose in each configuration, and what it lost against the best",
    (
        STUDY,
        Column("configuration_id", VARCHAR),
        Column("alpha", DOUBLE),
        Column(
            "rule",
            VARCHAR,
            "zero, default (of the papers), q0.5 (spectrum quantile), xi0.5 (threshold), racing, oracle",
        ),
        *columns(DOUBLE, "regularization", "lds", "regret"),
        Column("num_retrainings", INTEGER, "Retrainings that the choice needed"),
    ),
    shipped=EVERY_ROW,
)

TUNING = Table(
    "tuning",
    "What rules without retraining chose among epochs, or projection dimensions, with λ by ξ",
    (
        STUDY,
        Column("alpha", DOUBLE),
        Column("what", VARCHAR, "training_epoch or projection_dim"),
        Column("method", VARCHAR),
        Column("among", VARCHAR, "What the configurations have in common"),
        Column("rule", VARCHAR, "last (the papers'), lowest-loss, progress; default (512, the papers'), widest"),
        Column("chosen", VARCHAR),
        Column("configuration_id", VARCHAR),
        Column("lds", DOUBLE),
        Column("regret", DOUBLE, "Against the best of them, each at its own λ*"),
    ),
    shipped=EVERY_ROW,
)

RACES = Table(
    "races",
    "All configurations and λ raced over the study's retrainings: the winner and what it took",
    (
        STUDY,
        Column("alpha", DOUBLE),
        Column("configuration_id", VARCHAR),
        *columns(DOUBLE, "regularization", "lds", "regret"),
        *columns(INTEGER, "num_candidates", "num_retrainings", "num_subsets"),
        Column("decided", BOOLEAN, "The winner is within the tolerance of the best at the confidence asked for"),
        Column("sentence", VARCHAR),
    ),
    shipped=EVERY_ROW,
)

VERDICTS = Table(
    "verdicts",
    "What a paper states, and whether this study's figures show it",
    (
        STUDY,
        *columns(VARCHAR, "claim_id", "paper", "place", "statement", "check_name"),
        Column("verdict", VARCHAR, "reproduced, not reproduced or inconclusive (95 % intervals over subsets)"),
        Column("value", DOUBLE, "The comparison nearest to its bound (or farthest beyond it); low and high: 95 %"),
        *columns(DOUBLE, "low", "high", "bound"),
        Column("numbers", VARCHARS, "Every comparison in words, with its numbers"),
        Column("comparisons", JSON, "The same as a list: left, left_value, operator, right, right_value, value …"),
        Column("note", VARCHAR),
        Column("configuration_ids", VARCHARS, "What was compared, the left side first"),
        Column("num_subsets", INTEGER),
    ),
    shipped=EVERY_ROW,
)

TABLES = (RULES, TUNING, RACES, VERDICTS)
