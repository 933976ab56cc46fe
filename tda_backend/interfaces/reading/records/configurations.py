"""Configurations of a study and what their scores cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConfigurationRow:
    """One row of :meth:`Study.configurations`.

    Attributes:
        configuration_id: Of the configuration.
        method: Key of the method table.
        title: What pages call it.
        training_epoch: Checkpoint of the features.
        projection_dim: k; ``None`` for the unprojected answer.
        parameters: Settings as JSON.
        label: All settings in one line.
        has_regularization: Whether its scores form a curve over λ.
        has_lds: Whether it is evaluated on retrained subsets.
        num_seeds: Training seeds, or models of an ensemble.
    """

    configuration_id: str
    method: str
    title: str
    training_epoch: int
    projection_dim: int | None
    parameters: str
    label: str
    has_regularization: bool
    has_lds: bool
    num_seeds: int


@dataclass(frozen=True)
class SourceRow:
    """The stored spectrum or score matrix of one training seed of a configuration.

    Attributes:
        seed_index: Which training seed.
        kind: Of the step that made it.
        artifact: Its content key.
        num_eigenvalues: How many it has.
        trace_left_out: Share of the sum of all eigenvalues that is left out; ``None``: none is.
        largest_left_out: Estimate of the largest eigenvalue that is left out.
    """

    seed_index: int
    kind: str
    artifact: str
    num_eigenvalues: int
    trace_left_out: float | None
    largest_left_out: float | None


@dataclass(frozen=True)
class Cost:
    """Seconds of all steps behind the scores of a configuration."""

    configuration_id: str
    seconds: float
