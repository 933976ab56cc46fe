"""What methods have in common that may keep the largest eigenvalues of a checkpoint's gradients alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tda_backend.errors import StudyError
from tda_backend.studies.config.configuration import Parameters
from tda_backend.studies.config.hyperparameter import NONE, Hyperparameter
from tda_backend.studies.config.study import Study
from tda_backend.studies.contract.method import Settings
from tda_backend.studies.methods.hyperparameters import PROJECTION
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.steps.spectrum import KEPT, DecomposesGradients

_QUICK_EIGENVALUES = 32
"""Eigenvalues that a quick study keeps at most where its projections stay what they are."""
LEADING = Hyperparameter(
    KEPT,
    "whole",
    "largest eigenvalues that are kept, found without decomposing the whole matrix; 0: all",
    (0,),
    (0, 512, 2048),
    low=0,
    noun="eigenvalues",
    title="eigenvalues",
    zero="all",
    may_be_absent=True,
)


@dataclass(frozen=True, kw_only=True)
class Truncating(DecomposesGradients):
    """A method that may keep the largest eigenvalues alone."""

    def parameters(self, values: Parameters, settings: Settings, epoch: int) -> dict[str, Any]:
        """Return the values, of numbers that are 0 where they leave nothing out none."""
        return {name: value for name, value in values.items() if value}

    def check(self, settings: Settings, study: Study, facts: TaskFacts) -> None:
        """Raise a StudyError where task or model do not fit, or more eigenvalues are to be kept than there are."""
        super().check(settings, study, facts)
        dims = [study.data.train if dim == NONE else dim for dim in settings[PROJECTION.name]]
        largest, count = max(settings.get(LEADING.name, [0])), min([study.data.train, *dims])
        if largest >= count:
            raise StudyError(
                f"methods.{self.name}.{LEADING.name} = {largest} leaves nothing out: some of its configurations have "
                f"{count} eigenvalues.",
                f"Set it below {count}, or to 0 for all of them.",
            )

    def quick(self, settings: Settings, epochs: Sequence[int], dim: int, num_parameters: int) -> dict[str, Any]:
        """Return its settings with small numbers: at most half as many eigenvalues as the small projection has."""
        return _keeping(super().quick(settings, epochs, dim, num_parameters), max(1, dim // 2))

    def shortened(self, settings: Settings) -> dict[str, Any]:
        """Return its settings for few examples: no more eigenvalues than these have."""
        return _keeping(super().shortened(settings), _QUICK_EIGENVALUES)


def _keeping(settings: dict[str, Any], most: int) -> dict[str, Any]:
    """Return settings in which no more eigenvalues are kept; they are changed."""
    if LEADING.name in settings:
        settings[LEADING.name] = list(dict.fromkeys(min(value, most) for value in settings[LEADING.name]))
    return settings
