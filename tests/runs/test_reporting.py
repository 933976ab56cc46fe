"""What a run says about itself while it works, where steps are computed one by one or several at once."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tda_backend.errors import NumericalError
from tda_backend.interfaces.cli.report import RunReport
from tda_backend.studies.jobs.progress import JobFile
from tda_backend.studies.store.workspace import Workspace
from tests.runs.fake_plans import Judge, Number, fake_plan


def test_several_steps_at_once_are_told_apart(tmp_path: Path):
    one, two = Number(label="one", value=1), Number(label="two", value=2)
    plan = fake_plan(tmp_path, one, two, Judge(label="judge", value=0, candidates={"one": one, "two": two}))
    job, text = JobFile(Workspace.at(tmp_path / "w" / "c.duckdb"), "fake"), io.StringIO()
    report = RunReport(Console(file=text, width=200), job)
    one, two, judge = plan.steps
    report.planned(plan)
    report.looked_at(2, 3)
    assert (job.state.step, job.state.step_done, job.state.step_total) == ("verifying stored results", 2, 3)
    report.begin(plan, {step.key: False for step in plan.steps})
    report.step_started(one)
    report.step_started(two)
    assert job.state.step == "two"
    report.step_progress(one, 1, 2)
    assert (job.state.step, job.state.step_done, job.state.step_total) == ("one", 1, 2)
    report.step_progress(two, 1, 4)
    assert job.state.fraction == (1 / 2 + 1 / 4) / 3
    report.step_finished(two, 2.0, False)
    report.step_failed(one, NumericalError("It is broken.", "Mend it."))
    alone = judge.without({"candidate one": "it failed"})
    report.step_started(alone)
    assert job.state.fraction == pytest.approx(2 / 3)  # nothing is left of what failed
    report.step_progress(alone, 1, 1)
    report.step_finished(judge, 1.0, False)
    report.end()
    job.close("failed")
    lines = text.getvalue().splitlines()
    assert lines[0].startswith("[1/3] two: 2.0 s")
    assert lines[1] == "FAILED one: It is broken. Mend it."
    assert lines[2].startswith("[2/3] judge: 1.0 s")
    assert json.loads(job.path.read_text())["fraction"] == 1.0
