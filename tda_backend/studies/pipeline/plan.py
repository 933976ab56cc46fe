"""A plan: the steps of a study in order, each once, with their keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from tda_backend.errors import StudyError
from tda_backend.studies.config.study import Study
from tda_backend.studies.pipeline.facts import TaskFacts
from tda_backend.studies.pipeline.sizes import GIB, LEAST_SHARE
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.store.artifacts import ArtifactStore

DTYPE = "float32"
MOST_STEPS = 20_000
PROGRAM_GIB = 0.44
"""Memory of the program itself on a processor: libraries (0.35), and what gradients and catalogue load."""
COMPILER_GIB = 0.07
"""Memory of the compiler that PyTorch's optimizers load, whether they use it or not."""

S = TypeVar("S", bound=Step)


@dataclass(frozen=True)
class Plan:
    """All steps of a study, in order, and the record that the catalogue takes in first.

    Attributes:
        study_id: Twelve hex digits.
        study: What is computed.
        facts: The task's.
        device: Where.
        steps: In order of computing.
        record: JSON-compatible.
        key: Of the record's artifact: changes with every step.
        block_share: Size of the blocks in which dense gradients are taken, as a share of the usual one.
        now: Keys of the steps that a run computes of it; ``None``: all. The others wait for what these show.
        what_fits: GiB → changes of the study with which it fits into so much memory, in words; ``None``: nobody knows.
    """

    study_id: str
    study: Study
    facts: TaskFacts
    device: str
    steps: tuple[Step, ...]
    record: Mapping[str, Any]
    key: str
    block_share: float = 1.0
    now: frozenset[str] | None = None
    what_fits: Callable[[float], Sequence[str]] | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The study's name."""
        return self.study.name

    @property
    def num_subsets(self) -> int:
        """Retrained subsets at each α in this plan, which may be fewer than the study allows."""
        return self.record["counts"]["subsets"]

    @property
    def present_steps(self) -> list[Step]:
        """The steps that a run computes of it, in order."""
        return [step for step in self.steps if self.now is None or step.key in self.now]

    @property
    def base_gib(self) -> float:
        """What a run holds throughout: program and data."""
        loaded = 0.0 if self.facts.is_perceptron or not self.facts.trains else COMPILER_GIB
        return PROGRAM_GIB + loaded + self.facts.data_bytes / GIB

    @property
    def largest(self) -> Step:
        """The step that takes the most memory."""
        return max(self.steps, key=lambda step: step.cost.memory_gib)

    def memory_gib(self, block_share: float = 1.0, steps: Sequence[Step] | None = None) -> float:
        """Return the estimated peak of a run: the largest step beside program and data.

        Args:
            block_share: Size of blocks, as a share of the usual one, from ``LEAST_SHARE`` to 1.
            steps: Those that are computed; ``None``: all of the plan.
        """
        saved = (1 - block_share) / (1 - LEAST_SHARE)
        chosen = self.steps if steps is None else steps
        return self.base_gib + max((step.cost.memory_gib - saved * step.cost.saved_gib for step in chosen), default=0.0)


def torch_release() -> str:
    """Return torch's version, as far as results depend on it, e.g. ``2.13``."""
    return ".".join(torch.__version__.split("+")[0].split(".")[:2])


class Steps:
    """Collects the steps of a plan; what has the same key is one step.

    Args:
        fingerprint: Of the task.
        device: Where steps are computed.
        layout: Memory format in which models are trained on a CPU; ``None``: as they are built.
    """

    def __init__(self, fingerprint: str, device: str, layout: str | None = None) -> None:
        self._fingerprint, self._device, self._layout = fingerprint, device, layout
        kind = torch.device(device).type
        self._common = {"task": fingerprint, "dtype": DTYPE, "device": kind, "torch": torch_release()}
        if layout is not None and kind == "cpu":
            self._common |= {"layout": layout}
        self._steps: dict[str, Step] = {}
        self._shared: set[tuple[str, ...]] = set()

    def add(self, step: S) -> S:
        """Add a step, unless its like is there, and return it with its key.

        Raises:
            StudyError: There are more than ``MOST_STEPS``.
        """
        keyed = step.keyed(self._common)
        known: Any = self._steps.get(keyed.key)
        self._steps[keyed.key] = keyed if known is None else known.joined(keyed)
        if len(self._steps) > MOST_STEPS:
            raise StudyError(f"The study has more than {MOST_STEPS} steps.", "Sweep less, or make several studies.")
        return keyed

    def is_first(self, *parts: str) -> bool:
        """Return whether no step before has made what steps hold in memory for each other; it does now.

        Args:
            parts: Names it.
        """
        found = parts not in self._shared
        self._shared.add(parts)
        return found

    def apart(self) -> Steps:
        """Return an empty collection whose steps get the same keys."""
        return Steps(self._fingerprint, self._device, self._layout)

    def all(self) -> tuple[Step, ...]:
        """Return all steps, in the order in which they were first added."""
        return tuple(self._steps.values())


@dataclass(frozen=True)
class PlannedStep:
    """One step and what it costs.

    Attributes:
        name: Of its kind.
        label: For people.
        retrainings: Models that it trains, at most.
        seconds: Estimated cost, if nothing stops early.
        is_cached: Whether it is finished already.
        memory_gib: Estimated peak, with program and data.
        disk_gib: Estimated size of its artifact.
    """

    name: str
    label: str
    retrainings: int
    seconds: float
    is_cached: bool
    memory_gib: float
    disk_gib: float


def planned_steps(plan: Plan, store: ArtifactStore) -> list[PlannedStep]:
    """Return the steps of a plan in order, with their cost."""
    return [
        PlannedStep(
            step.NAME,
            step.label,
            step.cost.models,
            step.cost.seconds,
            store.usable(step.key),
            plan.base_gib + step.cost.memory_gib,
            step.cost.stored_gib,
        )
        for step in plan.steps
    ]


def may_end_early(plan: Plan, store: ArtifactStore) -> bool:
    """Return whether a step that waits may train fewer models than it counts."""
    return any(step.ENDS_EARLY and not store.usable(step.key) for step in plan.steps)


def retraining_counts(steps: Sequence[PlannedStep]) -> tuple[int, int, float]:
    """Return how many models wait to be trained, how many are trained, and the seconds of those that wait."""
    training = [step for step in steps if step.retrainings]
    waiting = [step for step in training if not step.is_cached]
    done = sum(step.retrainings for step in training if step.is_cached)
    return sum(step.retrainings for step in waiting), done, sum(step.seconds for step in waiting)
