"""Studies of a catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tda_backend.interfaces.reading.records.base import record


@dataclass(frozen=True)
class StudyRow:
    """One row of :func:`list_studies`.

    Attributes:
        study_id: Content key of the study.
        name: What people call it.
        task: Of its study file.
        status: ``running``, ``complete``, ``failed`` or ``partial``.
        progress: Share of its steps that are done, 0..1.
        steps_done: Of ``steps_total``.
        steps_total: Steps of its plan.
        created: When it was planned.
        num_configurations: That can be asked for by now.
        num_train: n.
        num_queries: m.
        num_subsets: Retrained subsets that are planned.
        best_method: Label of the configuration with the best LDS.
        best_lds: That LDS.
        best_lds_low: Low end of its 95 % interval.
        best_lds_high: High end.
        lambda_selected: λ* of the configuration whose λ* does best.
        lds_selected: LDS there.
    """

    study_id: str
    name: str
    task: str
    status: str
    progress: float
    steps_done: int
    steps_total: int
    created: Any
    num_configurations: int
    num_train: int
    num_queries: int
    num_subsets: int
    best_method: str | None
    best_lds: float | None
    best_lds_low: float | None
    best_lds_high: float | None
    lambda_selected: float | None
    lds_selected: float | None


@dataclass(frozen=True)
class StudyFacts:
    """What was planned: some of :attr:`Study.info`.

    Attributes:
        task: What is attributed.
        task_spec: How to load the task again.
        num_train: n.
        num_validation: Points that ξ is measured on.
        num_queries: m.
        num_subsets: Retrained subsets that are planned.
        epochs: Saved checkpoints.
        regularizations: The grid of λ, ascending.
        measurement: What a query's goodness is, in words.
    """

    task: str
    task_spec: str
    num_train: int
    num_validation: int
    num_queries: int
    num_subsets: int
    epochs: list[int]
    regularizations: list[float]
    measurement: str

    @property
    def positive(self) -> list[float]:
        """Values of the grid above 0."""
        return [value for value in self.regularizations if value > 0]


def facts_of(info: Mapping[str, Any]) -> StudyFacts:
    """Return the facts of a study from its ``info``."""
    return record(info, StudyFacts)
