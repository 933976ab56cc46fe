"""One attribution configuration: everything but λ, which is a filter on what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from tda_backend.studies.config.hyperparameter import Hyperparameter

Parameters = Mapping[str, Any]
"""Hyper-parameters of one configuration by name, JSON-compatible; which there are, the method says."""


@dataclass(frozen=True)
class Scorer:
    """What decides a configuration's filter: stored with steps that read its sources.

    Attributes:
        method: Key of the method table.
        parameters: Hyper-parameters beside λ.
        version: Of the method's code, from 2 on.
    """

    method: str
    parameters: Parameters = field(default_factory=dict)
    version: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as steps store it."""
        version = {} if self.version is None else {"version": self.version}
        return {"method": self.method, "parameters": dict(self.parameters), **version}


@dataclass(frozen=True)
class Configuration:
    """One configuration of a study.

    Attributes:
        method: Key of the method table.
        title: How pages call it.
        training_epoch: Checkpoint where features are taken (for sums over checkpoints the last of them).
        projection_dim: k, or ``None`` for the unprojected answer.
        parameters: Hyper-parameters beside λ.
        label: All settings in words.
        has_regularization: Whether its scores form a curve over λ.
        num_seeds: Training seeds of the study.
        num_sources: Spectra or score matrices that it is the ensemble of.
        configuration_id: Twelve hex digits over what tells it apart.
    """

    method: str
    title: str
    training_epoch: int
    projection_dim: int | None
    parameters: Parameters
    label: str
    has_regularization: bool
    num_seeds: int
    num_sources: int
    configuration_id: str = ""

    def value(self, item: Hyperparameter) -> Any:
        """Return the value of one of the method's hyper-parameters."""
        return self.parameters[item.name]

    def to_json(self) -> dict[str, Any]:
        """Return it as the study's record holds it."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"parameters": dict(self.parameters)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the configuration that a record holds; entries of later versions are left out."""
        known = {each.name for each in fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in known})
