"""Rows about the configurations that a paper's claim names, computed here or shipped."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True)
class ComparedConfiguration:
    """A configuration: a row of the table ``configurations``.

    Attributes:
        configuration_id: Which.
        method: Key of the method table.
        title: How pages call it.
        label: In words.
        training_epoch: Checkpoint of the features.
        projection_dim: k; ``None``: unprojected.
        parameters: Hyper-parameters as JSON.
        has_regularization: Whether it has λ.
        num_seeds: Training seeds of the study.
        num_sources: Spectra or score matrices that it is the ensemble of.
    """

    configuration_id: str
    method: str
    title: str
    label: str
    training_epoch: int
    projection_dim: int | None
    parameters: str
    has_regularization: bool
    num_seeds: int
    num_sources: int

    @property
    def is_relative(self) -> bool:
        """Whether λ counts in units of each layer's mean curvature."""
        return json.loads(self.parameters).get("damping") == "relative"


@dataclass(frozen=True)
class ComparedLds:
    """LDS of a configuration at one λ (``None``: it has none), with its 95 % interval over subsets (table ``lds``)."""

    configuration_id: str
    alpha: float
    regularization: float | None
    mean: float | None
    ci_low: float | None
    ci_high: float | None
    num_subsets: int
    is_selected: bool


@dataclass(frozen=True)
class ComparedSelection:
    """λ* of a configuration beside its baselines; ``quantiles`` is JSON: quantile → ``{lambda, lds, regret}``."""

    configuration_id: str
    alpha: float
    lambda_selected: float | None
    lds_selected: float | None
    lambda_best: float | None
    lds_best: float | None
    lds_at_zero: float | None
    quantiles: str | None


@dataclass(frozen=True)
class ComparedIndicator:
    """Mean surrogate indicator of a configuration at one λ, with the middle half of the validation points."""

    configuration_id: str
    regularization: float
    mean: float
    q25: float
    q75: float
    is_selected: bool
