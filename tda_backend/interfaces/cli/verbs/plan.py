"""``tda plan``: what a study would compute, and what that costs, before anything is started."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.interfaces.cli.verb import add_json, add_request

if TYPE_CHECKING:
    from rich.console import Console


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb\'s arguments."""
    add_request(parser)
    add_json(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the plan of a study; nothing is computed and nothing written."""
    from tda_backend.interfaces.cli.printing import duration, print_json, print_line, print_table, size
    from tda_backend.interfaces.cli.request import requested_plan, requested_study, retraining_line
    from tda_backend.studies.pipeline.plan import planned_steps
    from tda_backend.studies.pipeline.sizes import GIB, in_words
    from tda_backend.studies.runs.rounds import is_open
    from tda_backend.studies.store.artifacts import ArtifactStore
    from tda_backend.studies.store.workspace import Workspace

    workspace = Workspace.at(arguments.db)
    store = ArtifactStore(workspace.artifacts)
    plan = requested_plan(arguments, requested_study(arguments, workspace), store)
    steps = planned_steps(plan, store)
    waiting = [step for step in steps if not step.is_cached]
    seconds = sum(step.seconds for step in waiting)
    total = {
        "study": plan.name,
        "study_id": plan.study_id,
        "num_steps": len(steps),
        "num_cached": len(steps) - len(waiting),
        "retrainings": sum(step.retrainings for step in waiting),
        "seconds": seconds,
        "memory_gib": max((step.memory_gib for step in waiting), default=0.0),
        "disk_gib": sum(step.disk_gib for step in waiting),
    }
    if arguments.json:
        print_json({**total, "steps": [{"step": number + 1, **vars(step)} for number, step in enumerate(steps)]})
        return 0
    rows = [
        [
            number + 1,
            step.label,
            step.retrainings or "–",
            "finished" if step.is_cached else duration(step.seconds),
            "–" if step.is_cached else f"{in_words(step.memory_gib)} GiB",
            "–" if step.is_cached else size(step.disk_gib * GIB),
        ]
        for number, step in enumerate(steps)
    ]
    columns = ["step", "what", "models", "estimated time", "memory", "disk"]
    print_table(console, columns, rows, f"{plan.name} ({plan.study_id})")
    needs = f", {in_words(total['memory_gib'])} GiB of memory and {size(total['disk_gib'] * GIB)} of disk"
    left = f"{'at most' if is_open(plan, store) else 'about'} {duration(seconds)}{needs if waiting else ''} left"
    summary = f"{len(steps)} steps, {len(steps) - len(waiting)} finished; {left}. "
    print_line(console, f"{summary}{retraining_line(plan, store)}".rstrip())
    print_line(
        console, "Estimates rest on some rows of the task, measured on this machine just now; nothing was started."
    )
    return 0
