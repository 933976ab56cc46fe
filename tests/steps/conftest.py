"""The study of every kind of step, computed once a session."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tda_backend.errors import TDAError
from tda_backend.models.tasks.registry import load_task
from tda_backend.studies.pipeline.executor import Outcome, execute
from tda_backend.studies.pipeline.facts import task_facts
from tda_backend.studies.pipeline.plan import Plan
from tda_backend.studies.pipeline.step import Step
from tda_backend.studies.runs.planning import build_plan
from tda_backend.studies.steps.table import KINDS
from tda_backend.studies.store.artifacts import ArtifactStore
from tda_backend.studies.store.workspace import Workspace
from tda_backend.studies.study.file import read_study_file, resolve
from tests.steps.one_of_each import write_study


class Silent:
    """Is told of a run's progress and tells nobody; a step that fails ends the test."""

    def planned(self, plan: Plan) -> None: ...

    def looked_at(self, done: int, total: int) -> None: ...

    def begin(self, plan: Plan, cached) -> None: ...

    def step_started(self, step: Step) -> None: ...

    def step_progress(self, step: Step, done: int, total: int) -> None: ...

    def step_finished(self, step: Step, seconds: float, cached: bool) -> None: ...

    def step_remarked(self, step: Step, remark: str) -> None: ...

    def step_failed(self, step: Step, error: TDAError) -> None:
        raise error


@dataclass(frozen=True)
class Everything:
    """The study of every kind: its plan, where it lies, and what its first run did."""

    plan: Plan
    workspace: Workspace
    outcome: Outcome

    @property
    def store(self) -> ArtifactStore:
        """Its artifacts."""
        return ArtifactStore(self.workspace.artifacts)

    def of(self, kind: str) -> list[Step]:
        """Return its steps of a kind."""
        return [step for step in self.plan.steps if kind == step.NAME]

    def run(self, workspace: Workspace | None = None) -> Outcome:
        """Run it once more."""
        return execute(self.plan, workspace or self.workspace, Silent(), KINDS)


@pytest.fixture(scope="session")
def everything(tmp_path_factory) -> Everything:
    """Do not write to it."""
    folder = tmp_path_factory.mktemp("each")
    study = resolve(read_study_file(write_study(folder)))
    plan = build_plan(study, task_facts(load_task(study.task), study.task))
    workspace = Workspace.at(folder / "workspace" / "catalogue.duckdb")
    return Everything(plan, workspace, execute(plan, workspace, Silent(), KINDS))
