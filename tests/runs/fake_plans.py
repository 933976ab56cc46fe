"""Plans of trivial steps: each writes one number, sums what it reads, and may fail, wait or die on purpose."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from tda_backend.errors import MachineError, NumericalError, TDAError
from tda_backend.models.tasks.registry import load_task
from tda_backend.studies.config.study import (
    Data,
    Evaluation,
    GroundTruth,
    ProjectionSettings,
    RegularizationGrid,
    Study,
    Training,
)
from tda_backend.studies.pipeline.context import RunContext
from tda_backend.studies.pipeline.facts import task_facts
from tda_backend.studies.pipeline.plan import Plan, Steps
from tda_backend.studies.pipeline.step import Step, about, needs
from tda_backend.studies.store.artifacts import ArtifactWriter, content_key
from tests.runs.conftest import make_study


@dataclass(frozen=True, kw_only=True)
class Number(Step):
    """Writes its value and the sum of what it reads.

    Attributes:
        value: What it adds.
        behaviour: ``"fail"``, ``"disk"`` (an error that ends a run) or ``"wait"`` (until it is interrupted).
        group: Of steps that belong on one worker.
        killed: A file; the process that makes it is killed.
    """

    NAME: ClassVar[str] = "fake-number"
    VERSION: ClassVar[int] = 1

    value: float
    reads: tuple[Step, ...] = needs(default=())
    behaviour: str = about("")
    group: str = about("")
    killed: str = about("")

    def affinity(self) -> str:
        return self.group or self.key

    def run(self, context: RunContext, writer: ArtifactWriter) -> None:
        context.on_progress(1, 2)
        if self.killed and not Path(self.killed).exists():
            Path(self.killed).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.behaviour == "fail":
            raise NumericalError(f"{self.label} is broken.", "Mend it.")
        if self.behaviour == "disk":
            raise MachineError("The disk is full.", "Free some space.")
        while self.behaviour == "wait":
            time.sleep(0.05)
        total = self.value + sum(each.array("number").item() for each in context.open_all(tuple(self.all_inputs())))
        writer.array("number", np.array([total]))
        writer.facts["process"] = os.getpid()
        context.on_progress(2, 2)


@dataclass(frozen=True, kw_only=True)
class Base(Number):
    """A number without which nothing else has a meaning."""

    NAME: ClassVar[str] = "fake-base"
    IS_FOUNDATION: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Judge(Number):
    """A sum that has a meaning without some of its inputs, as long as one is left."""

    NAME: ClassVar[str] = "fake-judge"

    candidates: Mapping[str, Step] = needs(role="candidate {}", optional=True, default={})


def fake_plan(folder: Path, *drafts: Step) -> Plan:
    """Return the plan of some steps, whose inputs are named by those before them; keys are given here."""
    make_study(folder)
    spec = f"{folder / 'tiny_task.py'}:factory"
    facts = task_facts(load_task(spec), spec)
    steps, keyed = Steps(facts.fingerprint, "cpu"), {}
    for draft in drafts:
        reads = tuple(keyed[each.label] for each in getattr(draft, "reads", ()))
        changes = {"reads": reads}
        if isinstance(draft, Judge):
            changes["candidates"] = {name: keyed[each.label] for name, each in draft.candidates.items()}
        keyed[draft.label] = steps.add(replace(draft, **changes))
    study = Study(
        name="fake",
        task=spec,
        seed=0,
        data=Data(train=60, validation=12, queries=10),
        training=Training(epochs=[1]),
        ground_truth=GroundTruth(subsets=0),
        projection=ProjectionSettings(max_dim=8),
        regularization=RegularizationGrid(),
        methods={},
        evaluation=Evaluation(),
    )
    record = {
        "study_id": "fake00000000",
        "name": "fake",
        "config": study.to_json(),
        "info": {},
        "task": {
            "name": "tiny",
            "spec": spec,
            "fingerprint": facts.fingerprint,
            "num_classes": 3,
            "class_names": [],
            "measurement_sign": 1,
            "margin_identity": False,
            "training": {},
        },
        "counts": {"train": 60, "validation": 12, "queries": 10, "subsets": 0},
        "configurations": [],
        "steps": [{"key": step.key, "label": step.label, "context": step.context()} for step in steps.all()],
    }
    key = content_key(fake=[step.key for step in steps.all()])
    return Plan("fake00000000", study, facts, "cpu", steps.all(), record, key)


class Notes:
    """A listener that notes what it is told."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.progress: list[tuple[str, int, int]] = []
        self.finished: list[str] = []
        self.cached: list[str] = []
        self.failed: list[tuple[str, str]] = []
        self.remarks: list[tuple[str, str]] = []
        self.looked: list[tuple[int, int]] = []

    def planned(self, plan: Plan) -> None:
        pass

    def looked_at(self, done: int, total: int) -> None:
        self.looked.append((done, total))

    def begin(self, plan: Plan, cached: Mapping[str, bool]) -> None:
        pass

    def step_started(self, step: Step) -> None:
        self.started.append(step.label)

    def step_progress(self, step: Step, done: int, total: int) -> None:
        self.progress.append((step.label, done, total))

    def step_finished(self, step: Step, seconds: float, cached: bool) -> None:
        (self.cached if cached else self.finished).append(step.label)

    def step_remarked(self, step: Step, remark: str) -> None:
        self.remarks.append((step.label, remark))

    def step_failed(self, step: Step, error: TDAError) -> None:
        self.failed.append((step.label, error.message))
