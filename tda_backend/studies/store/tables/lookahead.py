"""Training on examples that were selected by looking ahead."""

from __future__ import annotations

from tda_backend.studies.store.tables.base import (
    BIGINT,
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

LOOKAHEAD_RUNS = Table(
    "lookahead_runs",
    "Training on examples selected while training, one row a run and split",
    (
        STUDY,
        Column("strategy", VARCHAR, "look-ahead, look-ahead (sgd), alignment, random or full"),
        Column("horizon", INTEGER, "K: steps looked ahead; NULL where the strategy has none", nullable=True),
        given("learning_rate", DOUBLE),
        given("seed_index", INTEGER, nullable=True),
        Column("fraction", DOUBLE, "Share of each batch that is kept"),
        Column("num_steps", INTEGER),
        Column(
            "split",
            VARCHAR,
            "selection (its gradient selects), tuning (chooses K and learning rate) or test (seen by neither)",
        ),
        Column("loss", DOUBLE),
        Column("accuracy", DOUBLE),
        Column("gradient_evaluations", BIGINT, "Examples differentiated, selection included"),
        Column("hessian_products", BIGINT),
        Column("relative_cost", DOUBLE, "Operations relative to training on all examples"),
        Column("seconds", DOUBLE),
    ),
    order="strategy, horizon, learning_rate DESC, seed_index, split",
    shipped=EVERY_ROW,
)

LOOKAHEAD_CURVES = Table(
    "lookahead_curves",
    "Losses of the same runs while they train",
    (
        STUDY,
        Column("strategy", VARCHAR),
        Column("horizon", INTEGER, nullable=True),
        given("learning_rate", DOUBLE),
        given("seed_index", INTEGER, nullable=True),
        Column("steps", INTEGERS),
        Column("tuning_losses", FLOATS),
        Column("test_losses", FLOATS),
    ),
    order="strategy, horizon, learning_rate DESC, seed_index",
    shipped=EVERY_ROW,
)

LOOKAHEAD_TUNED = Table(
    "lookahead_tuned",
    "Each strategy with the K and learning rate of its lowest loss on the tuning set",
    (
        STUDY,
        Column("strategy", VARCHAR),
        Column("horizon", INTEGER, nullable=True),
        *columns(DOUBLE, "learning_rate", "tuning_loss", "test_loss"),
        Column("loss_low", DOUBLE, "loss_low to loss_high: 95 % over seeds and test examples, given what was chosen"),
        *columns(DOUBLE, "loss_high", "test_accuracy", "accuracy_low", "accuracy_high"),
        Column("num_seeds", INTEGER),
    ),
    order="test_loss",
    shipped=EVERY_ROW,
)

LOOKAHEAD_GAINS = Table(
    "lookahead_gains",
    "Tuned strategies compared on the test set in pairs of seeds and test examples; positive: strategy is better",
    (
        STUDY,
        Column("strategy", VARCHAR),
        Column("against", VARCHAR),
        *columns(DOUBLE, "loss_gain", "loss_low", "loss_high", "accuracy_gain", "accuracy_low", "accuracy_high"),
    ),
    order="strategy, against",
    shipped=EVERY_ROW,
)

LOOKAHEAD_EXAMPLES = Table(
    "lookahead_examples",
    "Which training examples the tuned strategies kept and dropped, over all seeds",
    (
        STUDY,
        Column("strategy", VARCHAR),
        Column("horizon", INTEGER, nullable=True),
        Column("learning_rate", DOUBLE),
        *columns(INTEGER, "position", "times_seen", "times_kept"),
        Column(
            "mean_score",
            DOUBLE,
            "Mean over the times seen; positive: training on it lowers the loss of the selection set",
        ),
    ),
    order="strategy, position",
    shipped=EVERY_ROW,
)

TABLES = (LOOKAHEAD_RUNS, LOOKAHEAD_CURVES, LOOKAHEAD_TUNED, LOOKAHEAD_GAINS, LOOKAHEAD_EXAMPLES)
