"""What every shipped study plans: names, labels and content keys, as a file says that later versions are held to.

A key that changes makes everything computed under the old one be computed again, so it changes on purpose only: with
the ``VERSION`` of a step, or with a study file. Then ``python -m tests.runs.golden_plans`` writes the file again, and
its diff shows which steps are new.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tda_backend.models.tasks.registry import load_task
from tda_backend.studies.pipeline.facts import num_parameters, task_facts
from tda_backend.studies.runs.planning import build_plan, configurations
from tda_backend.studies.study.file import embedded_studies, read_study_file, resolve
from tda_backend.studies.study.quick import quick

FILE = Path(__file__).parent / "golden_plans.json"
TORCH = "2.13"
"""The release that the keys of the file were made with: keys depend on it."""
DIGITS = 12
"""Of a step's key, in the file; the plan's key there is made from all of them in full."""


def described(name: str, is_quick: bool) -> dict[str, Any]:
    """Return what a shipped study plans for the processor: ids, and every step's key, name and label, in order."""
    content = read_study_file(embedded_studies()[name])
    task = load_task(str(content["task"]))
    study = resolve(quick(content, num_parameters(task)) if is_quick else content)
    plan = build_plan(study, task_facts(task, study.task), "cpu")
    return {
        "study_id": plan.study_id,
        "plan_key": plan.key,
        "configurations": [f"{each.configuration_id} {each.label}" for each in configurations(study)],
        "steps": [f"{step.key[:DIGITS]} {step.NAME}: {step.label}" for step in plan.steps],
    }


def golden() -> dict[str, dict[str, Any]]:
    """Return the content of the file: study → what it plans; quick ones as ``NAME --quick``."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def title(name: str, is_quick: bool) -> str:
    """Return what the file calls a study."""
    return f"{name} --quick" if is_quick else name


if __name__ == "__main__":
    found = {title(name, small): described(name, small) for name in embedded_studies() for small in (False, True)}
    FILE.write_text(json.dumps(found, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
