"""``tda plan``: what a study would compute, and what that costs, before anything is started."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tda_backend.interfaces.cli.verb import add_json, add_request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from tda_backend.studies.pipeline.plan import Plan, PlannedStep
    from tda_backend.studies.store.artifacts import ArtifactStore


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb\'s arguments."""
    add_request(parser)
    parser.add_argument(
        "--machine",
        metavar="FILE",
        help="estimate times of another machine too: FILE is what `tda machine --json` has printed there",
    )
    add_json(parser)


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Print the plan of a study; nothing is computed and nothing written."""
    from tda_backend.interfaces.cli.printing import print_json
    from tda_backend.interfaces.cli.request import requested_plan, requested_study
    from tda_backend.models.measuring.files import read_machine
    from tda_backend.studies.pipeline.plan import planned_steps
    from tda_backend.studies.store.artifacts import ArtifactStore
    from tda_backend.studies.store.workspace import Workspace

    workspace = Workspace.at(arguments.db)
    other = read_machine(arguments.machine) if arguments.machine else None
    study, store = requested_study(arguments, workspace), ArtifactStore(workspace.artifacts)
    plan = requested_plan(arguments, study, store)
    steps = planned_steps(plan, store)
    there: list[float] = []
    if other is not None:
        there = [step.cost.seconds for step in requested_plan(arguments, study, store, other.rates).steps]
    if not arguments.json:
        _print(console, plan, store, steps, None if other is None else other.name, there)
        return 0
    waiting = [step for step in steps if not step.is_cached]
    total = {
        "study": plan.name,
        "study_id": plan.study_id,
        "num_steps": len(steps),
        "num_cached": len(steps) - len(waiting),
        "retrainings": sum(step.retrainings for step in waiting),
        "seconds": sum(step.seconds for step in waiting),
        "memory_gib": max((step.memory_gib for step in waiting), default=0.0),
        "disk_gib": sum(step.disk_gib for step in waiting),
    }
    listed = [{"step": number + 1, **vars(step)} for number, step in enumerate(steps)]
    if other is not None:
        total |= {"machine": other.name, "seconds_there": _left(steps, there)}
        listed = [{**row, "seconds_there": seconds} for row, seconds in zip(listed, there, strict=True)]
    print_json({**total, "steps": listed})
    return 0


def _left(steps: Sequence[PlannedStep], seconds: Sequence[float]) -> float:
    """Return the seconds of the steps that wait."""
    return sum(each for step, each in zip(steps, seconds, strict=True) if not step.is_cached)


def _print(
    console: Console,
    plan: Plan,
    store: ArtifactStore,
    steps: Sequence[PlannedStep],
    other: str | None,
    there: Sequence[float],
) -> None:
    """Print a plan for people.

    Args:
        console: Where.
        plan: The plan.
        store: Of its workspace.
        steps: Of the plan.
        other: Name of another machine; ``None``: none is asked for.
        there: Seconds of each step on it.
    """
    from tda_backend.interfaces.cli.printing import duration, print_line, print_table, size
    from tda_backend.interfaces.cli.request import retraining_line
    from tda_backend.studies.pipeline.sizes import GIB, in_words
    from tda_backend.studies.runs.rounds import is_open

    columns = ["step", "what", "models", "estimated time", "memory", "disk"]
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
    if other is not None:
        columns.append(f"time on {other}")
        for row, step, took in zip(rows, steps, there, strict=True):
            row.append("finished" if step.is_cached else duration(took))
    print_table(console, columns, rows, f"{plan.name} ({plan.study_id})")
    waiting = [step for step in steps if not step.is_cached]
    memory, disk = max((step.memory_gib for step in waiting), default=0.0), sum(step.disk_gib for step in waiting)
    needs = f", {in_words(memory)} GiB of memory and {size(disk * GIB)} of disk" if waiting else ""
    word, seconds = "at most" if is_open(plan, store) else "about", sum(step.seconds for step in waiting)
    left = f"{word} {duration(seconds)}{needs} left"
    summary = f"{len(steps)} steps, {len(steps) - len(waiting)} finished; {left}. "
    print_line(console, f"{summary}{retraining_line(plan, store)}".rstrip())
    measured = "measured on this machine just now; nothing was started."
    print_line(console, f"Estimates rest on some rows of the task, {measured}")
    if other is not None:
        known = duration(_left(steps, there))
        print_line(console, f"On {other} about {known}: what was measured here, at the rates in its file.")
