"""What training left: checkpoints, spectra of the attributed models, and models of random subsets."""

from __future__ import annotations

from tda_backend.studies.store.tables.base import (
    DOUBLE,
    DOUBLES,
    FLOAT,
    INTEGER,
    STUDY,
    VARCHAR,
    Column,
    Table,
    columns,
    given,
)

CHECKPOINTS = Table(
    "checkpoints",
    "Saved parameters: where attribution features are taken",
    (
        STUDY,
        given("seed_index", INTEGER),
        Column("training_epoch", INTEGER),
        Column("learning_rate", DOUBLE, "Learning rate in force at that epoch's end (η of TracIn)"),
        given("artifact", VARCHAR),
        Column("file", VARCHAR),
    ),
)

SPECTRA = Table(
    "spectra",
    "One row per training seed of a configuration; coordinates lie in the artifact",
    (
        STUDY,
        Column("configuration_id", VARCHAR),
        given("seed_index", INTEGER),
        Column("kind", VARCHAR, "Step that made it: spectrum, curvature or kronecker; scores without λ"),
        Column("num_eigenvalues", INTEGER),
        Column("num_cut", INTEGER, "Eigenvalues that the pseudo-inverse at λ = 0 leaves out (σ ≤ n·ε·σ_max)"),
        Column("trace_left_out", DOUBLE, "Share of the sum of all eigenvalues that a truncated spectrum leaves out"),
        Column("largest_left_out", DOUBLE, "Estimate of the largest eigenvalue that a truncated spectrum leaves out"),
        Column(
            "eigenvalues",
            DOUBLES,
            "Of the mean curvature, descending by block; relative to the block's mean under relative damping",
        ),
        given("artifact", VARCHAR),
    ),
    order="seed_index",
)

RETRAININGS = Table(
    "retrainings",
    "Models retrained on random subsets; outputs per test example lie in the artifact",
    (
        STUDY,
        given("alpha", DOUBLE),
        *columns(INTEGER, "subset_index", "repeat", "subset_size"),
        Column("mean_goodness", FLOAT, "Mean goodness over the whole test set"),
        given("artifact", VARCHAR),
    ),
)

TABLES = (CHECKPOINTS, SPECTRA, RETRAININGS)
