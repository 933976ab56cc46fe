"""``tda plan``: what a study would compute, and what that costs, before anything is started."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from tda_backend.runs.counterfactual_plan import num_retrainings
from tda_backend.runs.printing import print_json, print_table
from tda_backend.runs.reporting import duration
from tda_backend.store.artifacts import ArtifactStore
from tda_backend.store.workspace import Workspace


@dataclass(frozen=True)
class PlannedStep:
    """One step and what it costs.

    Attributes:
        name: Key of the step table.
        label: For people.
        retrainings: Models that it trains, at most.
        seconds: Estimated cost, if nothing stops early.
        is_cached: Whether it is finished already.
    """

    name: str
    label: str
    retrainings: int
    seconds: float
    is_cached: bool


def planned_steps(plan: Any, store: ArtifactStore) -> list[PlannedStep]:
    """Return the steps of a plan (:class:`~tda_backend.runs.plan.Plan`) in order, with their cost."""
    return [
        PlannedStep(
            step.name, step.label, num_retrainings(step.name, step.settings, step.context), float(step.weight),
            store.usable(step.key),
        )
        for step in plan.steps
    ]  # fmt: skip


def retraining_line(steps: Sequence[PlannedStep]) -> str:
    """Return one sentence on what will be retrained and how long that takes; empty where nothing will."""
    training = [step for step in steps if step.retrainings]
    waiting = [step for step in training if not step.is_cached]
    num = sum(step.retrainings for step in waiting)
    if not num:
        return ""
    done = sum(step.retrainings for step in training if step.is_cached)
    known = f"; {done} are finished" if done else ""
    early = any(step.name == "removal" for step in waiting)
    most, tail = ("Up to ", ", fewer where queries flip early") if early else ("", "")
    models = "model" if num == 1 else "models"
    return f"{most}{num} {models} to train, about {duration(sum(s.seconds for s in waiting))}{tail}{known}."


def plan_command(arguments: argparse.Namespace, console: Console) -> int:
    """Print the plan of a study; nothing is computed and nothing written."""
    from tda_backend.runs.facts import task_facts
    from tda_backend.runs.plan import build_plan
    from tda_backend.runs.run_command import chosen_device, study_content
    from tda_backend.training.registry import load_task

    workspace = Workspace.at(arguments.db)
    study = study_content(arguments, workspace)
    facts = task_facts(load_task(study["task"]), study["task"])
    plan = build_plan(study, facts, chosen_device(arguments.device))
    steps = planned_steps(plan, ArtifactStore(workspace.artifacts))
    waiting = [step for step in steps if not step.is_cached]
    total = {
        "study": plan.name, "study_id": plan.study_id, "num_steps": len(steps), "num_cached": len(steps) - len(waiting),
        "retrainings": sum(step.retrainings for step in waiting), "seconds": sum(step.seconds for step in waiting),
    }  # fmt: skip
    if arguments.json:
        print_json({**total, "steps": [{"step": number + 1, **vars(step)} for number, step in enumerate(steps)]})
        return 0
    rows = [
        [number + 1, step.label, step.retrainings or "–", "finished" if step.is_cached else duration(step.seconds)]
        for number, step in enumerate(steps)
    ]
    print_table(console, ["step", "what", "models", "estimated time"], rows, f"{plan.name} ({plan.study_id})")
    console.print(
        f"{len(steps)} steps, {total['num_cached']} finished; about {duration(total['seconds'])} left. "
        f"{retraining_line(steps)}".rstrip(), highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    console.print("Estimates are of this project's test machine (two cores); nothing was started.", highlight=False)
    return 0
